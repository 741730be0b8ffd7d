"""Comments that suppress findings: ``# refactor: ignore[CG301]`` and ``# refactor: ignore-file``.

A comment at the end of the first or last line of a statement (its header) counts for all of it, on a line in
between for what spans that line, and on a line of its own for the next statement.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
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
    """Both from 1, in code points; ``start`` and ``end`` in bytes of the file."""
    start: int
    end: int
    text: str
    row: str
    """The line it stands on."""
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
    open_: list[tokenize.TokenInfo] = []  # comments whose statement has not ended yet
    start: int | None = None
    quiet = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source.text, newline="").readline):
            if token.type == tokenize.COMMENT:
                open_.append(token)
            elif token.type == tokenize.NEWLINE and start is not None:
                for comment in open_:
                    found += _suppressions(source, comment, (start, token.start[0]))
                open_, start = [], None
            elif token.type not in quiet and start is None:
                start = token.start[0]
    except (tokenize.TokenError, SyntaxError):
        return ()
    for comment in open_:
        found += _suppressions(source, comment, (comment.start[0], comment.start[0]))
    return tuple(sorted(found, key=lambda item: item.start))


def _suppressions(source: Source, token: tokenize.TokenInfo, lines: tuple[int, int]) -> Iterator[Suppression]:
    """What one comment suppresses, if it is such a comment, within a statement's lines."""
    match = _COMMENT.search(token.string)
    if match is None:
        return
    line, column = token.start[0], token.start[1] + match.start()
    offset, row = source.lines[line - 1]
    start = offset + len(row[:column].encode(source.encoding))
    yield Suppression(
        line=line,
        column=column + 1,
        start=start,
        end=start + len(match.group().encode(source.encoding)),
        text=match.group(),
        row=row,
        codes=tuple(code.strip() for code in (match["codes"] or "").split(",") if code.strip()),
        lines=None if match["file"] else lines,
        spans_only=lines[0] < line < lines[1],
    )


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
