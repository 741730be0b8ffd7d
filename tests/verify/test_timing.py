"""What may be claimed from times: nothing from an interval with 1 in it, nothing within the noise."""

from __future__ import annotations

import random

from refactor.verify.timing import conclude, per_call


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
