"""``refactor apply --interactive``: one question for each rewrite, as ``git add -p`` asks.

Every question shows exactly what saying yes adds to what was accepted before. Rewrites that only work
together are asked about together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

import click

from refactor.analysis.model import Facts
from refactor.cli.session import Session
from refactor.cli.streams import say
from refactor.engine import Accepted, Examiner, Order, Result, Rewritten
from refactor.findings import Finding, Outcome
from refactor.report.diff import Hunk, hunks, to_diff
from refactor.rewrite.model import Edit, Patch
from refactor.source import SourceError, load, parse

_HELP = """\
y - apply this rewrite
n - do not apply it
a - apply this and all later rewrites in the file
d - apply neither this nor any later rewrite in the file
q - quit: apply neither this nor any other rewrite left
e - edit the rewrite, then apply it
? - print this"""
_DECLINED = "declined in the review"
_EDITING = """\
# Change the lines that start with "+"; leave those that start with " " or "-" as they are.
# Lines that start with "#" are left out. An empty file: do not apply this rewrite.
"""


@dataclass
class _File:
    """The review of one file: what was accepted, and what the user wrote instead."""

    examiner: Examiner
    order: Order
    facts: Facts
    accepted: list[Accepted] = field(default_factory=list)
    written: list[tuple[bytes, bytes]] = field(default_factory=list)
    """``(file as generated, file as the user made it)`` of every edited rewrite."""

    def made(self, more: Sequence[Accepted] = ()) -> Rewritten:
        """The rewrite with what was accepted, and more."""
        chosen = sorted((*self.accepted, *more), key=lambda row: row[2])
        return self.examiner.rewritten(self.order, self.facts, chosen)

    def text(self) -> bytes:
        """The file with what was accepted."""
        patch = self.made().patch
        return patch.new if patch else self.facts.source.data


def reviewed(session: Session) -> Session:
    """The session with only the rewrites that the user accepts."""
    examiner = Examiner(session.task)
    results: list[Result] = []
    quitting = False
    for result in session.results:
        if result.made is None or result.patch is None or not _applied(result.patch):
            results.append(result)
        elif quitting:
            results.append(replace(result, made=_decided(result.made, result.patch, {})))
        else:
            made, quitting = _review(examiner, result.made, result.patch)
            results.append(replace(result, made=made))
    return replace(session, results=tuple(results))


def _applied(patch: Patch) -> set[Finding]:
    return {row.finding for row in patch.outcomes if row.status == "applied"}


def _review(examiner: Examiner, full: Rewritten, patch: Patch) -> tuple[Rewritten, bool]:
    """Review one file; True if the user wants no more questions."""
    facts, candidates = examiner.candidates(full.order)
    file = _File(examiner, full.order, facts)
    offered = _applied(patch)
    waiting = [row for row in candidates if row[2] in offered]
    answer = ""
    while waiting and answer not in ("d", "q"):
        bundle, made = _bundle(file, waiting)
        waiting = waiting[len(bundle) :]
        if made.patch is not None and made.patch.new == file.text():
            file.accepted += bundle  # what was accepted does it already
            continue
        answer = answer if answer == "a" else _ask(file, made, {row[2] for row in bundle})
        if answer in ("y", "a"):
            file.accepted += bundle
    made = file.made()
    if made.patch is None:
        return _decided(full, patch, {}), answer == "q"
    done = _decided(full, patch, {row.finding: row for row in made.patch.outcomes})
    new = _with_edits(file, made.patch.new)
    edits = made.patch.edits if new == made.patch.new else (Edit(0, len(facts.source.data), new),)
    assert done.patch is not None
    kept = replace(made.patch, new=new, edits=edits, outcomes=done.patch.outcomes)
    return replace(made, patch=kept), answer == "q"


def _decided(full: Rewritten, patch: Patch, decided: Mapping[Finding, Outcome]) -> Rewritten:
    """The whole rewrite with the outcomes that were decided on; the others were declined."""
    rows = []
    for row in patch.outcomes:
        declined = row.status == "applied" and row.finding not in decided
        rows.append(
            replace(row, status="refused", reason=_DECLINED) if declined else decided.get(row.finding, row)
        )
    left = replace(
        patch, new=patch.source.data, edits=(), outcomes=tuple(rows), runtime=frozenset(), regions=()
    )
    return replace(full, patch=left, drafts=())


def _bundle(file: _File, waiting: Sequence[Accepted]) -> tuple[list[Accepted], Rewritten]:
    """The fewest rewrites from the front that work with what was accepted."""
    bundle: list[Accepted] = []
    for row in waiting:
        bundle.append(row)
        made = file.made(bundle)
        wanted = {finding for _, _, finding in (*file.accepted, *bundle)}
        if made.patch is not None and wanted <= _applied(made.patch):
            break
    return bundle, made


def _with_edits(file: _File, new: bytes) -> bytes:
    for generated, wanted in file.written:
        merged = _merged(generated, wanted, new)
        if merged is None:
            say(f"{file.order.job.file}: a later rewrite touches your edit; it is kept as generated")
        new = new if merged is None else merged
    return new


def _merged(base: bytes, mine: bytes, theirs: bytes) -> bytes | None:
    """``theirs`` with the changes from ``base`` to ``mine``; None if both change the same lines."""
    a, b, c = (text.splitlines(keepends=True) for text in (base, mine, theirs))
    same = SequenceMatcher(None, a, c, autojunk=False).get_matching_blocks()
    for tag, start, end, first, last in reversed(SequenceMatcher(None, a, b, autojunk=False).get_opcodes()):
        if tag == "equal":
            continue
        block = next((m for m in same if m.a <= start and end <= m.a + m.size), None)
        if block is None:
            return None
        offset = block.b - block.a
        c[start + offset : end + offset] = b[first:last]
    return b"".join(c)


def _ask(file: _File, made: Rewritten, findings: Collection[Finding]) -> str:
    """Show a rewrite and return the answer: one of ``y n a d q``."""
    assert made.patch is not None
    before = file.text()
    patch = to_diff(file.order.job.file, before, made.patch.new, ())
    for row in made.patch.outcomes:
        if row.finding in findings:
            place = f"{row.finding.file}:{row.finding.line}"
            say(f"{place}: {row.finding.code} {row.finding.name}: {row.finding.message}")
            say(f"  {row.note}")
    say(patch.decode(made.patch.source.encoding, "replace").rstrip("\n"))
    while True:
        try:
            answer = click.prompt("Apply this rewrite [y,n,a,d,q,e,?]", err=True, prompt_suffix="? ")
        except click.Abort:
            say("")
            return "q"
        answer = answer.strip().lower()[:1]
        if answer == "e":
            edited = _edited(file, before, made)
            if edited is not None:
                return edited
        elif answer and answer in "ynadq":
            return str(answer)
        else:
            say(_HELP)


def _edited(file: _File, before: bytes, made: Rewritten) -> str | None:
    """The answer after the user edited the rewrite; None to ask again.

    Hunks are put back by their place: the same lines may stand in a file more than once.
    """
    assert made.patch is not None
    source = made.patch.source
    lines = [line + b"\n" for line in made.patch.new.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    edits: list[tuple[Hunk, bytes]] = []
    for hunk in hunks(before, made.patch.new):
        body = (line if line.endswith(b"\n") else line + b"\n" for line in hunk.body)
        text = b"".join(body).decode(source.encoding)
        try:
            answer = click.edit(_EDITING + text, extension=".diff", require_save=False)
            if answer is None or not answer.strip():
                return "n"
            edits.append((hunk, _new_side(hunk, answer, source.encoding)))
        except (ValueError, click.ClickException) as error:
            say(error.message if isinstance(error, click.ClickException) else str(error))
            return None
    for hunk, wanted in reversed(edits):
        lines[hunk.new_start - 1 : hunk.new_start - 1 + len(hunk.new)] = [wanted]
    new = b"".join(lines)
    try:
        parse(load(source.path, new))
    except SourceError as error:
        say(f"{file.order.job.file}:{error.line}: with your edit the file {error.message}")
        return None
    file.written.append((made.patch.new, new))
    return "y"


def _new_side(hunk: Hunk, text: str, encoding: str) -> bytes:
    """The new lines of an edited hunk.

    Raises:
        ValueError: the old lines are no longer those of the file.
    """
    lines = [line for line in text.encode(encoding).split(b"\n") if not line.startswith(b"#")]
    if lines and not lines[-1]:
        lines.pop()
    marked = [(line[:1] or b" ", line[1:] + b"\n") for line in lines]
    ends = hunk.old[-1:] and not hunk.old[-1].endswith(b"\n")
    old = b"".join(line for mark, line in marked if mark in b" -")
    if old.rstrip(b"\n") != b"".join(hunk.old).rstrip(b"\n"):
        raise ValueError('only lines that start with "+" can be changed')
    new = b"".join(line for mark, line in marked if mark in b" +")
    return new.rstrip(b"\n") if ends and not hunk.new[-1].endswith(b"\n") else new
