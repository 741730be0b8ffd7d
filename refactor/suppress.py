"""Comments that suppress findings: ``# refactor: ignore[CG301]`` and ``# refactor: ignore-file``.

A comment at the end of the first or last line of a statement (its header) counts for all of it, on a line in
between for what spans that line, and on a line of its own for the next statement.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refactor.config import match_length
from refactor.findings import Applicability, Finding, Severity
from refactor.rule import Example, Rule
from refactor.source import Source

_COMMENT = re.compile(r"#\s*refactor:\s*ignore(?P<file>-file)?(?:\[(?P<codes>[^\]]*)\])?(?=[\s#]|$)", re.I)

UNUSED = Rule(
    code="CG001",
    name="unused-suppression",
    summary="A suppression comment that suppresses nothing",
    severity=Severity.COST,
    applicability=Applicability.MANUAL,
    detect=lambda facts: (),
    what="Reports `# refactor: ignore[…]` and `# refactor: ignore-file` comments that no finding needs. "
    "Codes that are switched off in this run are not judged.",
    why="A comment that outlives its reason hides the next hazard on the same line.",
    instead="Remove the comment, or the codes the message names.",
    valid=(Example("import torch  # a comment about refactor: nothing to ignore\n"),),
    invalid=(Example("x = 1  # refactor: ignore[CG301]  # !\n"),),
)


@dataclass(frozen=True)
class Suppression:
    """One comment: where it stands, the lines it covers (None: the file) and the codes (none: all)."""

    line: int
    column: int
    end_column: int
    text: str
    codes: tuple[str, ...]
    lines: tuple[int, int] | None
    spans_only: bool = False
    """It stands inside a statement: only findings that span its line are meant."""

    def matches(self, finding: Finding) -> bool:
        """Whether this comment suppresses a finding."""
        if self.codes and not any(match_length(code, finding.code, finding.name) for code in self.codes):
            return False
        if self.lines is None:
            return True
        if self.spans_only:
            return finding.line <= self.line <= finding.end_line
        return self.lines[0] <= finding.line <= self.lines[1]


def suppressions(source: Source) -> tuple[Suppression, ...]:
    """The suppression comments of a file; none where it has no complete tokens."""
    if b"refactor:" not in source.data:
        return ()
    found: list[Suppression] = []
    waiting: list[tuple[tokenize.TokenInfo, re.Match[str]]] = []  # own lines, until the next statement
    inside: list[tuple[tokenize.TokenInfo, re.Match[str]]] = []
    start: int | None = None
    quiet = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source.text, newline="").readline):
            if token.type == tokenize.COMMENT:
                match = _COMMENT.search(token.string)
                if match and match["file"]:
                    found.append(_suppression(token, match, None))
                elif match:
                    (waiting if start is None else inside).append((token, match))
            elif token.type == tokenize.NEWLINE and start is not None:
                lines = (start, token.start[0])
                found += [_suppression(t, m, lines) for t, m in waiting]
                found += [_suppression(t, m, lines, t.start[0] not in lines) for t, m in inside]
                waiting, inside, start = [], [], None
            elif token.type not in quiet and start is None:
                start = token.start[0]
    except (tokenize.TokenError, SyntaxError):
        return ()
    found += [_suppression(t, m, (t.start[0], t.start[0])) for t, m in (*waiting, *inside)]
    return tuple(sorted(found, key=lambda item: (item.line, item.column)))


def _suppression(
    token: tokenize.TokenInfo, match: re.Match[str], lines: tuple[int, int] | None, spans_only: bool = False
) -> Suppression:
    codes = tuple(code.strip() for code in (match["codes"] or "").split(",") if code.strip())
    line, column = token.start[0], token.start[1] + match.start() + 1
    return Suppression(line, column, column + len(match.group()), match.group(), codes, lines, spans_only)


def split(
    findings: Iterable[Finding], comments: Sequence[Suppression]
) -> tuple[list[Finding], list[tuple[Finding, str]], list[tuple[Suppression, tuple[str, ...]]]]:
    """Findings that stay, those suppressed with the reason, and comments (with codes) that nothing needs."""
    kept: list[Finding] = []
    dropped: list[tuple[Finding, str]] = []
    used: dict[Suppression, set[str]] = {comment: set() for comment in comments}
    for finding in findings:
        first = None
        for comment in comments:
            if comment.matches(finding):
                first = first or comment
                used[comment] |= {
                    code for code in comment.codes if match_length(code, finding.code, finding.name)
                } or {"all"}
        if first is None:
            kept.append(finding)
        else:
            dropped.append((finding, f"suppressed by the comment in line {first.line}"))
    unused = [
        (comment, tuple(code for code in comment.codes if code not in used[comment]))
        for comment in comments
        if not used[comment] or any(code not in used[comment] for code in comment.codes)
    ]
    return kept, dropped, unused
