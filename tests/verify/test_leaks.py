"""What calls leave behind: a rise in every window that the original does not have."""

from __future__ import annotations

from typing import Any

import pytest
from refactor.verify.leaks import ROUNDS, leaked, rising

CALLS = [24, 24, 24]


def levels(*tensors: int, **more: int) -> list[dict[str, int]]:
    return [{"tensors": n, "bytes": 4 * n, **more} for n in tensors]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(levels(9, 9, 9), levels(50, 50, 50), id="a cache that is full"),
        pytest.param(levels(9, 9, 9), levels(50, 74, 74), id="a cache that has just filled"),
        pytest.param(levels(9, 33, 57), levels(50, 74, 98), id="the original remembers as much"),
        pytest.param(levels(9, 9, 9), levels(50, 53, 56), id="a few by chance"),
        pytest.param(levels(9, 33, 57), levels(50, 50, 50), id="the rewrite remembers less"),
        pytest.param(levels(9, 9, 9, threads=1), levels(9, 9, 9), id="one side alone can tell"),
    ],
)
def test_no_leak(before: list[dict[str, int]], after: list[dict[str, int]]) -> None:
    assert rising(before, after, CALLS) == ""


def test_a_rise_in_every_window_is_told_with_its_size() -> None:
    text = rising(levels(9, 9, 9), levels(9, 57, 105), CALLS)
    assert (
        text == "every call of the rewrite leaves 2 tensors and 8 bytes of tensors behind that "
        "the original frees"
    )


def test_a_bounded_cache_gets_more_calls_before_it_is_called_a_leak() -> None:
    asked: list[list[int]] = []

    class Bounded:
        """A rewrite that remembers a hundred results."""

        def levels(self, steps: Any, rounds: list[int]) -> Any:
            asked.append(rounds)
            counts = [sum(rounds[: k + 1]) * len(steps) for k in range(3)]
            return levels(9, 9, 9), levels(*(9 + 9 * min(100, n) for n in counts))

    assert leaked(Bounded(), [{}, {}, {}], 10) == ""  # type: ignore[arg-type]
    assert asked == [list(r) for r in ROUNDS]
