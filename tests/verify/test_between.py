"""Calls near to where a branch turns, and fills that lie at and beside a number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refactor.verify.between import HALVINGS, between, mixed
from refactor.verify.recipes import Hints
from refactor.verify.session import Probed
from refactor.verify.worker.inputs import is_placed, tensor


def call(value: float, **more: Any) -> dict[str, Any]:
    fill = {"k": "const", "s": value}
    return {"op": "call", "a": {"x": {"t": "float32", "shape": [2, 2], "fill": fill, "seed": 3}, **more}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(call(0.0, k={"v": 1}), call(1.0, k={"v": 2}), id="another number"),
        pytest.param(call(0.0), call(1.0, y={"v": 1}), id="other arguments"),
        pytest.param(call(0.0, y={"list": []}), call(1.0, y={"dict": {}}), id="another container"),
    ],
)
def test_calls_that_do_not_fit_together_are_not_mixed(first: Any, second: Any) -> None:
    assert mixed(first, second, 0.5) is None


def test_mixtures_come_ever_nearer_to_the_turn_from_both_sides() -> None:
    def probe(steps: Any) -> list[Probed]:
        return [Probed({"f:1": [bool(tensor(s["a"]["x"]).mean() > 0.05)]}, {}) for s in steps]

    found = between("f:1", call(-3.0), call(4.0), probe)
    means = [float(tensor(step["a"]["x"]).mean()) for step in found]
    assert len(means) == HALVINGS
    assert min(m for m in means if m > 0.05) - max(m for m in means if m <= 0.05) < 0.001
    assert between("f:1", call(-3.0), call(4.0), lambda steps: [Probed({}, {})]) == []


def test_fills_beside_a_number_lie_on_both_sides_of_it_and_counts_are_what_they_say() -> None:
    near = tensor({"t": "float32", "shape": [5, 8], "fill": {"k": "near", "s": 0.6}})
    assert (near > 0.6).any()
    assert (near < 0.6).any()
    assert ((near - 0.6).abs() < 1e-6).any()
    counted = tensor({"t": "float32", "shape": [3, 4], "fill": {"k": "count", "s": 5}, "seed": 1})
    assert int((counted > 1).sum()) == 5
    whole = tensor({"t": "int64", "shape": [6], "fill": {"k": "near", "s": 4}, "lo": 0, "hi": 9})
    assert whole.tolist() == [3, 4, 5, 3, 4, 5]
    kinds = [f["k"] for f in Hints(thresholds=(3, 0.5)).neighbours]
    assert kinds == ["near", "edge", "edge", "count", "count", "near", "edge", "edge"]


def test_what_was_placed_at_a_number_is_told_from_what_was_drawn() -> None:
    step = {"x": {"t": "float32", "shape": [1], "fill": {"k": "edge", "s": 1.0}}}
    assert is_placed({"pair": {"list": [step]}})
    assert not is_placed(call(1.0))
    assert torch.equal(tensor(step["x"]), torch.ones(1))
