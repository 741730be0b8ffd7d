"""Diffs: whatever the bytes, the hunks lead from the old file to the new one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from refactor.report.diff import hunks
from refactor.rewrite.model import Edit

LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"\r\n", b"x\r", b"\x0c\n", b"c"]), max_size=30).map(
    b"".join
)


def patched(before: bytes, found) -> bytes:
    """What `patch` makes of the hunks, checking every old line."""
    lines = before.split(b"\n")
    old = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    new: list[bytes] = []
    position = 0
    for hunk in found:
        start = hunk.start - 1
        new += old[position:start]
        assert len(new) == hunk.new_start - 1
        assert (
            tuple(line[1:] for line in hunk.body if line[:1] in b" -")
            == hunk.old
            == tuple(old[start : start + len(hunk.old)])
        )
        assert tuple(line[1:] for line in hunk.body if line[:1] in b" +") == hunk.new
        new += hunk.new
        position = start + len(hunk.old)
    return b"".join([*new, *old[position:]])


@given(LINES, LINES)
def test_hunks_lead_from_one_file_to_the_other(before, after):
    found = list(hunks(before, after))
    assert patched(before, found) == after
    assert bool(found) == (before != after)


@given(LINES, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8), LINES), max_size=4))
def test_known_edits_give_the_same_result_without_comparing_the_whole_file(before, wanted):
    edits, position = [], 0
    for gap, length, new in wanted:
        start = min(position + gap, len(before))
        position = min(start + length, len(before))
        edits.append(Edit(start, position, new))
    after, position = b"", 0
    for edit in edits:
        after += before[position : edit.start] + edit.new
        position = edit.end
    after += before[position:]
    assert patched(before, hunks(before, after, edits)) == after
