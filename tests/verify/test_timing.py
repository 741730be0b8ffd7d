"""What may be claimed from times: nothing from an interval with 1 in it, nothing within the noise."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refactor.verify.session import Outcome
from refactor.verify.spec import parse
from refactor.verify.targets import Target
from refactor.verify.timing import MOST_CYCLES, conclude, measure, per_call


def batches(
    before: float, after: float, noise: float, control: float | None = None
) -> dict[str, list[float]]:
    generator = random.Random(5)

    def draw(mean: float) -> list[float]:
        return [mean * (1 + noise * generator.uniform(-1, 1)) for _ in range(24)]

    return {"before": draw(before), "after": draw(after), "control": draw(control or before)}


def told(times: dict[str, list[float]], start: float = 0.0) -> tuple[float | None, int | None]:
    firsts = {side: [5.0 + (start if side == "after" else 0.0)] for side in times}
    steady = dict.fromkeys(times, 5.0)
    timing = conclude(times, firsts, steady, None, 0, False)
    return timing.speedup, timing.break_even_calls


def test_equal_times_claim_nothing() -> None:
    assert told(batches(5.0, 5.0, 0.1)) == (None, None)


def test_a_difference_as_large_as_between_two_runs_of_the_original_claims_nothing() -> None:
    assert told(batches(5.0, 4.4, 0.02, control=4.3))[0] is None


def test_a_clear_gain_is_told_with_the_calls_it_takes_to_pay() -> None:
    speedup, even = told(batches(5.0, 1.0, 0.05), start=40.0)
    assert speedup is not None
    assert 4.5 < speedup < 5.5
    assert even is not None
    assert 9 <= even <= 11


def test_a_clear_loss_is_told_and_never_pays() -> None:
    speedup, even = told(batches(1.0, 2.0, 0.05), start=10.0)
    assert speedup is not None
    assert speedup < 0.6
    assert even is None


def test_calls_of_several_sizes_weigh_the_same_and_an_outlier_does_not_count() -> None:
    assert per_call([1.0, 10.0, 1.0, 10.0, 99.0, 10.0], 2) == 5.5


Json = dict[str, Any]


class Machine:
    """Stands for the workers: 5 ms a call, 1 ms for the rewrite once ``key`` of the call has its graph."""

    def __init__(self, key: Callable[[Json], object], sight: int = 1) -> None:
        inputs = {"x": "float32[B, 4]", "lengths": "int64[B] in 1..9"}
        specs = tuple((name, parse(text, name)) for name, text in inputs.items())
        self.target = Target("t", "m:M", specs, dims=(("B", (1, 8)),))
        self.key, self.sight = key, sight
        self.seen: dict[object, int] = {}
        self.warm, self.late = 0, 0  # captures in the first calls, and in timed batches
        self.calls: list[Json] = []
        self.folder, self.last_number = Path(), 1

    def control(self) -> None:
        pass

    def _after(self, step: Json, timed: bool) -> float:
        key = repr(self.key(step["a"]))
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.seen[key] != self.sight:
            return 1.0 if self.seen[key] > self.sight else 5.0
        self.late, self.warm = self.late + timed, self.warm + (not timed)
        return 60.0

    def time(self, side: str, steps: list[Json], **more: Any) -> Json:
        noise = 1 + 0.01 * random.Random(len(steps)).random()
        if side == "after":
            self.calls += steps
        times = [noise * (self._after(s, "last" in more) if side == "after" else 5.0) for s in steps]
        return {"times": times, "memory": 0, "captures": self.warm + self.late}

    def judge_timed(self, steps: list[Json], number: int) -> Outcome:
        assert steps == self.calls
        return Outcome("equal")


def shapes(given: Json) -> object:
    return given["x"]["shape"]


def values(given: Json) -> object:
    return given["x"]["shape"], given["lengths"]["seed"]


def masks(given: Json) -> object:
    return given["x"]["shape"], given["x"]["seed"]


@pytest.mark.parametrize(
    ("key", "sight"),
    [
        pytest.param(shapes, 1, id="graphs for shapes"),
        pytest.param(shapes, 3, id="graphs for shapes seen three times"),
        pytest.param(values, 1, id="graphs for lengths given as values"),
        pytest.param(values, 3, id="graphs for lengths seen three times"),
        pytest.param(masks, 1, id="graphs for what a mask of floats selects"),
    ],
)
def test_no_graph_is_captured_while_the_clock_counts(key: Callable[[Json], object], sight: int) -> None:
    machine = Machine(key, sight)
    timing = measure(machine, 0, False).timing  # type: ignore[arg-type]  # the part of a pair that is used
    assert machine.late == 0
    assert machine.warm >= 3
    assert timing is not None
    assert timing.speedup == pytest.approx(5.0, rel=0.05)
    assert timing.break_even_calls is not None
    paid = machine.warm * 55 / 4  # what a capture costs over a call, by what a replay saves
    assert timing.break_even_calls <= paid + 3 * MOST_CYCLES


def test_values_of_timed_calls_are_fresh_where_they_decide_no_shape() -> None:
    machine = Machine(shapes)
    measure(machine, 0, False)  # type: ignore[arg-type]  # the part of a pair that is used
    floats = [c["a"]["x"]["seed"] for c in machine.calls]
    lengths = {(c["a"]["x"]["shape"][0], c["a"]["lengths"]["seed"]) for c in machine.calls}
    assert len(set(floats)) == len(floats)
    assert len(lengths) == 3 * 4
