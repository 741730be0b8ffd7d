"""Integers without declared bounds: what the original takes is tried, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from refactor.verify.certain import Certain
from refactor.verify.ranges import covered, ranges, wholes
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


def counting(low: int, high: int) -> Callable[[Sequence[Any]], list[Probed]]:
    """An original that raises for a plain integer outside these bounds."""
    return lambda steps: [Probed({}, {}, not low <= s["a"]["ids"]["v"] <= high) for s in steps]


def operations(steps: Sequence[Any]) -> int:
    """As many as a loop of so many turns has."""
    return int(abs(steps[0]["a"]["ids"]["v"]))


def test_a_plain_integer_with_bounds_keeps_to_them() -> None:
    assert wholes(target("int in 0..9"), Hints(), counting(-100, 100), operations).wholes == ()
    assert wholes(target("float"), Hints(), counting(-100, 100), operations).wholes == ()


def test_a_plain_integer_goes_as_far_as_the_original_takes_it() -> None:
    known = Hints(operations=10)
    assert wholes(target("int"), known, counting(0, 40), operations).wholes == (9, 33)
    assert wholes(target("int"), known, counting(-3, 8), operations).wholes == (-1,)
    assert wholes(target("int"), known, lambda steps: [], operations).wholes == ()


def test_a_number_that_makes_a_call_far_longer_is_left_out() -> None:
    assert wholes(target("int"), Hints(operations=2), counting(0, 999), operations).wholes == (9, 33)


def test_undeclared_numbers_are_tried_alone_and_told() -> None:
    known = Hints(wholes=(-1, 33))
    steps = [s for steps in Certain(target("int"), known).arguments() for s in steps]
    assert {s["a"]["ids"]["v"] for s in steps if s.get("wide")} == {-1, 33}
    assert all(0 <= s["a"]["ids"]["v"] <= 8 for s in steps if not s.get("wide"))
    (told,) = covered(known)
    assert "from -1 to 33" in told
    assert covered(Hints()) == []
