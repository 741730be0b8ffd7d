"""``refactor apply --interactive``: one question for each rewrite, as ``git add -p`` asks.

Every question shows exactly what saying yes adds to what was accepted before. Rewrites that only work
together are asked about together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

import click

from refactor.cli.session import Session
from refactor.cli.streams import say
from refactor.engine import Accepted, Examiner, Result
from refactor.findings import Outcome
from refactor.report.diff import Hunk, hunks, to_diff
from refactor.rewrite.model import Edit
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
    result: Result
    facts: object
    accepted: list[Accepted] = field(default_factory=list)
    written: list[tuple[bytes, bytes]] = field(default_factory=list)
    """``(file as generated, file as the user made it)`` of every edited rewrite."""

    def made(self, more: Sequence[Accepted] = ()) -> Result:
        chosen = sorted((*self.accepted, *more), key=lambda row: row[2])
        return self.examiner.rewritten(self.result, self.facts, chosen)  # type: ignore[arg-type]


def reviewed(session: Session) -> Session:
    """The session with only the rewrites that the user accepts."""
    examiner = Examiner(session.task)
    results = list(session.results)
    waiting = [index for index, result in enumerate(results) if _applied(result)]
    quitting = False
    for index in waiting:
        if quitting:
            results[index] = _declined(results[index])
        else:
            quitting = not _review(examiner, results, index)
    return replace(session, results=tuple(results))


def _applied(result: Result) -> list[Outcome]:
    return [row for row in result.outcomes if row.status == "applied"]


def _declined(result: Result) -> Result:
    """A result with none of the rewrites that are still undecided."""
    if result.patch is None:
        return result
    rows = tuple(
        replace(row, status="refused", reason=_DECLINED) if row.status == "applied" else row
        for row in result.patch.outcomes
    )
    return replace(
        result, patch=replace(result.patch, new=result.patch.source.data, edits=(), outcomes=rows), drafts=()
    )


def _review(examiner: Examiner, results: list[Result], index: int) -> bool:
    """Review one file and store its result; False to stop."""
    full = results[index]
    result, facts, accepted = examiner.candidates(full.job)
    file = _File(examiner, result, facts)
    offered = {row.finding for row in _applied(full)}
    waiting = [row for row in accepted if row[2] in offered]
    goes_on, take_all = True, False
    while waiting and goes_on:
        bundle, made = _bundle(file, waiting)
        answer = "y" if take_all else _ask(file, made, [row[2] for row in bundle])
        waiting = waiting[len(bundle) :]
        take_all = take_all or answer == "a"
        goes_on = answer != "q"
        if answer in "ya":
            file.accepted += bundle
        if answer in "dq":
            break
    results[index] = _finished(file, full)
    return goes_on


def _bundle(file: _File, waiting: Sequence[Accepted]) -> tuple[list[Accepted], Result]:
    """The fewest rewrites from the front that work with what was accepted."""
    for size in range(1, len(waiting) + 1):
        bundle = list(waiting[:size])
        made = file.made(bundle)
        done = {row.finding for row in _applied(made)}
        if all(finding in done for _, _, finding in (*file.accepted, *bundle)):
            return bundle, made
    return list(waiting), made


def _finished(file: _File, full: Result) -> Result:
    """The result with what was accepted; every other rewrite was declined."""
    made = file.made()
    if full.patch is None or not made.patch:
        return _declined(full)
    patch = made.patch
    decided = {row.finding: row for row in patch.outcomes}
    rows = []
    for row in full.patch.outcomes:
        declined = row.status == "applied" and row.finding not in decided
        rows.append(
            replace(row, status="refused", reason=_DECLINED) if declined else decided.get(row.finding, row)
        )
    new = _with_edits(file, patch.new)
    edits = patch.edits if new == patch.new else (Edit(0, len(patch.source.data), new),)
    return replace(made, patch=replace(patch, new=new, edits=edits, outcomes=tuple(rows)), site=full.site)


def _with_edits(file: _File, new: bytes) -> bytes:
    for generated, wanted in file.written:
        merged = _merged(generated, wanted, new)
        if merged is None:
            say(f"{file.result.job.file}: a later rewrite touches your edit; it is kept as generated")
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


def _ask(file: _File, made: Result, findings: Sequence[object]) -> str:
    """Show a rewrite and return the answer: one of ``y n a d q``."""
    assert made.patch is not None
    base = file.made().patch
    before = base.new if base else made.patch.source.data
    patch = to_diff(file.result.job.file, before, made.patch.new, ())
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


def _edited(file: _File, before: bytes, made: Result) -> str | None:
    """The answer after the user edited the rewrite; None to ask again."""
    assert made.patch is not None
    source = made.patch.source
    new = made.patch.new
    for hunk in hunks(before, new):
        text = b"".join(hunk.body).decode(source.encoding)
        answer = click.edit(_EDITING + text, extension=".diff", require_save=False)
        if answer is None or not answer.strip():
            return "n"
        try:
            wanted = _new_side(hunk, answer, source.encoding)
        except ValueError as error:
            say(str(error))
            return None
        new = new.replace(b"".join(hunk.new), wanted, 1)
    try:
        parse(load(source.path, new))
    except SourceError as error:
        say(f"{file.result.job.file}:{error.line}: with your edit the file {error.message}")
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
