"""What every target is given, whatever is drawn: each threshold of its program and each extreme value."""

from __future__ import annotations

import time
from typing import Any

import pytest
from refactor.verify.explore import explore
from refactor.verify.recipes import Hints
from refactor.verify.scenarios import scenarios
from refactor.verify.session import Outcome
from refactor.verify.spec import parse
from refactor.verify.targets import Target

Json = dict[str, Any]
TARGET = Target("t", "m:M", (("x", parse("float32[8]", "x")),))


@pytest.mark.parametrize(
    "fill",
    [
        {"k": "nan"},
        {"k": "inf"},
        {"k": "huge"},
        {"k": "edge", "s": -10},
        {"k": "peak", "s": 10},
        {"k": "alone", "s": 0.25},
    ],
    ids=str,
)
def test_a_difference_at_one_kind_of_value_is_found_for_every_seed(fill: Json) -> None:
    def run(steps: list[Json]) -> Outcome:
        hit = [i for i, s in enumerate(steps) if s["a"]["x"]["fill"] == fill]
        return Outcome("differs", "here", hit[0]) if hit else Outcome("equal")

    values = scenarios(TARGET, Hints(thresholds=(10, 0.25)))[0]
    for seed in range(3):
        found = explore(values, 1, seed, run, time.monotonic() + 60)
        assert found.failing is not None
        assert found.outcome == run(found.failing)
