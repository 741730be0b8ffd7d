"""Integers without declared bounds: what the original takes is tried, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from refactor.verify.certain import Certain
from refactor.verify.ranges import ranges
from refactor.verify.recipes import RANGES, Hints, within
from refactor.verify.session import Probed
from refactor.verify.spec import parse
from refactor.verify.targets import Target

Json = dict[str, Any]


def target(spec: str) -> Target:
    """One argument."""
    return Target("t", "m:f", (("ids", parse(spec, "ids")),), dims=(("N", (1, 4)),))


def taking(low: int, high: int) -> Callable[[Sequence[Any]], list[Probed]]:
    """An original that raises for integers outside these bounds."""

    def probe(steps: Sequence[Any]) -> list[Probed]:
        given = [s["a"]["ids"] for s in steps]
        return [Probed({}, {}, not low <= g["lo"] <= g["hi"] <= high) for g in given]

    return probe


def test_declared_bounds_are_never_left() -> None:
    def never(steps: Sequence[Any]) -> list[Probed]:
        raise AssertionError

    assert ranges(target("int64[N] in 0..9"), Hints(), never).ranges == ()
    assert ranges(target("float32[N]"), Hints(), never).ranges == ()


def test_an_index_keeps_to_what_the_original_takes() -> None:
    assert ranges(target("int64[N]"), Hints(), taking(0, 9)).ranges == ()
    assert ranges(target("int64[N]"), Hints(), taking(0, 300)).ranges == ((0, 300),)


def test_any_integer_is_tried_where_the_original_takes_any() -> None:
    known = ranges(target("int64[N]"), Hints(), taking(-(2**63), 2**63))
    assert known.ranges == RANGES
    wide = [s for steps in Certain(target("int64[N]"), known).values() for s in steps if s.get("wide")]
    assert {(s["a"]["ids"]["lo"], s["a"]["ids"]["hi"]) for s in wide} == set(RANGES)


def test_a_range_is_cut_to_its_dtype() -> None:
    cut = within({"t": "uint8"}, RANGES[-1])
    assert (cut["lo"], cut["hi"]) == (0, 255)


def test_a_worker_that_dies_of_a_range_ends_the_trial() -> None:
    asked = []

    def dying(steps: Sequence[Any]) -> list[Probed]:
        asked.append(steps)
        return []

    assert ranges(target("int64[N]"), Hints(), dying).ranges == ()
    assert len(asked) == 2
