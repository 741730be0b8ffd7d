"""Room for deep recursion: results and errors come out of it, and memory is not mapped again and again."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from refactor.stack import deeply, roomily

resource = pytest.importorskip("resource")


def _down(levels: int, work: Callable[[], object] | None) -> None:
    if levels:
        _down(levels - 1, work)
    elif work is not None:
        work()


def _up_and_down() -> None:
    """At every depth, go some frames deeper many times: at one of them a block of frames ends."""
    for depth in range(0, 400, 4):
        _down(depth, lambda: [_down(8, None) for _ in range(200)])


def _faults(work: Callable[[], None]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def test_what_the_work_gives_comes_out() -> None:
    assert roomily(lambda: 3) == 3
    assert deeply(lambda: 4) == 4


def test_what_the_work_raises_comes_out() -> None:
    def fails() -> None:
        raise ValueError("mine")

    for place in (roomily, deeply):
        with pytest.raises(ValueError, match="mine"):
            place(fails)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="every frame is an object of its own")
@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_calls_across_the_end_of_a_block_map_no_memory() -> None:
    plain = _faults(_up_and_down)
    assert plain > 1000, "this interpreter keeps blocks: leave the room out"
    assert _faults(lambda: roomily(_up_and_down)) < plain / 10
