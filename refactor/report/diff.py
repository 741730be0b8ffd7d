"""Unified diffs that ``git apply`` and ``patch -p1`` accept, in the bytes of the files they change.

The headers are those of a plain patch (no ``diff --git`` line): ``git apply`` takes the names in one as
relative to the working directory, as they are meant, also in a subfolder of a repository.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
from typing import TYPE_CHECKING

from refactor.findings import Outcome

if TYPE_CHECKING:
    from refactor.rewrite.model import Edit

Opcode = tuple[str, int, int, int, int]

_CONTEXT = 3
_NO_NEWLINE = b"\n\\ No newline at end of file\n"
_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')
_ESCAPES = {
    0x07: b"\\a",
    0x08: b"\\b",
    0x09: b"\\t",
    0x0A: b"\\n",
    0x0B: b"\\v",
    0x0C: b"\\f",
    0x0D: b"\\r",
    0x22: b'\\"',
    0x5C: b"\\\\",
}


@dataclass(frozen=True)
class Hunk:
    """One changed stretch with its context; ``start`` and ``end`` are lines of the old file, from 1."""

    start: int
    end: int
    new_start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    body: tuple[bytes, ...]
    """Lines with their ``" "``, ``"-"`` or ``"+"``, line ends kept."""

    def rendered(self, heading: str = "") -> bytes:
        """The hunk as it stands in a patch."""
        old, new = _range(self.start, len(self.old)), _range(self.new_start, len(self.new))
        head = f"@@ -{old} +{new} @@{f' {heading}' if heading else ''}\n".encode("utf-8", "replace")
        return head + b"".join(
            line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in self.body
        )


def _range(start: int, length: int) -> str:
    return f"{start if length else start - 1},{length}" if length != 1 else str(start)


def hunks(before: bytes, after: bytes, edits: Sequence[Edit] = ()) -> Iterator[Hunk]:
    """The hunks between two versions of a file; only line feeds end a line, as in git.

    Args:
        before: the old file.
        after: the new file.
        edits: what makes one of the other, if it is known: then only the lines they touch are compared.
    """
    a, b = _lines(before), _lines(after)
    for group in _grouped(_opcodes(a, b, edits)):
        body: list[bytes] = []
        for tag, i, j, k, m in group:
            if tag == "equal":
                body += [b" " + line for line in a[i:j]]
            else:
                body += [b"-" + line for line in a[i:j]]
                body += [b"+" + line for line in b[k:m]]
        start, end, new_start, new_end = group[0][1], group[-1][2], group[0][3], group[-1][4]
        old, new = tuple(a[start:end]), tuple(b[new_start:new_end])
        yield Hunk(start + 1, end, new_start + 1, old, new, tuple(body))


def _grouped(codes: list[Opcode]) -> Iterator[list[Opcode]]:
    """As `SequenceMatcher.get_grouped_opcodes`: the changes with their context."""
    group: list[Opcode] = []
    for index, (tag, i, j, k, m) in enumerate(codes):
        if tag != "equal":
            group.append((tag, i, j, k, m))
            continue
        if group:
            shown = min(j, i + _CONTEXT)
            if j - i <= 2 * _CONTEXT and index + 1 < len(codes):
                group.append((tag, i, j, k, m))
                continue
            group.append((tag, i, shown, k, k + shown - i))
            yield group
        start = max(i, j - _CONTEXT)
        group = [(tag, start, j, k + start - i, m)] if index + 1 < len(codes) else []
    if any(code[0] != "equal" for code in group):
        yield group


def _opcodes(a: list[bytes], b: list[bytes], edits: Sequence[Edit]) -> list[Opcode]:
    """As `SequenceMatcher.get_opcodes`, which takes time in the square of equal lines for a whole file."""
    codes: list[Opcode] = []
    old = new = 0  # lines that are dealt with
    for first, last, lines in (*_touched(a, edits), (len(a), len(a), [])) if edits else ((0, len(a), b),):
        skipped = first - old
        codes.append(("equal", old, first, new, new + skipped))
        old, new = last, new + skipped
        matcher = SequenceMatcher(None, a[first:last], lines, autojunk=False)
        for tag, i, j, k, m in matcher.get_opcodes():
            codes.append((tag, first + i, first + j, new + k, new + m))
        new += len(lines)
    return list(_joined(codes))


def _joined(codes: list[Opcode]) -> Iterator[Opcode]:
    """The codes without empty ones, neighbours of the same kind as one."""
    last: Opcode | None = None
    for code in codes:
        if code[1] == code[2] and code[3] == code[4]:
            continue
        if last is not None and last[0] == code[0]:
            last = (last[0], last[1], code[2], last[3], code[4])
            continue
        if last is not None:
            yield last
        last = code
    if last is not None:
        yield last


def _touched(a: list[bytes], edits: Sequence[Edit]) -> Iterator[tuple[int, int, list[bytes]]]:
    """``(first line, line behind the last, new lines)`` of stretches that hold all edits."""
    starts = [0, *accumulate(map(len, a))]
    stretches: list[tuple[int, int, list[Edit]]] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        first = bisect_right(starts, edit.start) - 1
        if first == len(a) and a and not a[-1].endswith(b"\n"):
            first -= 1  # it continues the last line
        last = min(bisect_right(starts, edit.end), len(a))
        if stretches and first < stretches[-1][1]:
            first, reached, inside = stretches.pop()
            stretches.append((first, max(last, reached), [*inside, edit]))
        else:
            stretches.append((first, last, [edit]))
    for first, last, inside in stretches:
        text, position, pieces = b"".join(a[first:last]), 0, []
        for edit in inside:
            pieces += [text[position : edit.start - starts[first]], edit.new]
            position = edit.end - starts[first]
        yield first, last, _lines(b"".join([*pieces, text[position:]]))


def _lines(data: bytes) -> list[bytes]:
    *whole, last = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([last] if last else [])


def to_diff(
    file: str,
    before: bytes | None,
    after: bytes,
    outcomes: Sequence[Outcome] = (),
    edits: Sequence[Edit] = (),
) -> bytes:
    """The patch of one file; each hunk is headed by the rules it follows.

    Args:
        file: name relative to the working directory, with forward slashes.
        before: None for a file that is created.
        after: what it becomes.
        outcomes: of the file's findings.
        edits: that make ``after`` of ``before``, if they are known.
    """
    parts = [
        b"--- " + (b"/dev/null" if before is None else _name("a/" + file)) + b"\n",
        b"+++ " + _name("b/" + file) + b"\n",
    ]
    parts += [hunk.rendered(_heading(hunk, outcomes)) for hunk in hunks(before or b"", after, edits)]
    return b"".join(parts) if len(parts) > 2 else b""


def _heading(hunk: Hunk, outcomes: Sequence[Outcome]) -> str:
    """The rules a hunk follows, each with its reason; then what is done and has to be verified."""
    applied = [row for row in outcomes if row.status == "applied"]
    inside = [row for row in applied if row.finding.line <= hunk.end and row.finding.end_line >= hunk.start]
    why = (f"{row.finding.code} {row.finding.name}: {row.finding.message}" for row in inside)
    done = (row.note for row in inside if row.note)
    return "; ".join([*dict.fromkeys(why), *dict.fromkeys(done)])


def _name(path: str) -> bytes:
    """As git quotes names; one with a space is ended by a tab."""
    raw = os.fsencode(path)
    if all(byte in _PLAIN for byte in raw):
        return raw + (b"\t" if b" " in raw else b"")
    return b'"' + b"".join(map(_quoted, raw)) + b'"'


def _quoted(byte: int) -> bytes:
    if byte in _PLAIN:
        return bytes([byte])
    return _ESCAPES.get(byte) or b"\\%03o" % byte
