"""What the original's text suggests to try: numbers it compares with, and settings it reads."""

from __future__ import annotations

import ast

import pytest
import torch
from refactor.verify.recipes import Hints
from refactor.verify.worker.clues import Clues
from refactor.verify.worker.inputs import tensor


def read(text: str) -> Clues:
    found = Clues()
    found.add(ast.parse(text))
    return found


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        pytest.param("if x.shape[0] > 5 or len(x) == 3: pass", [], id="sizes are no thresholds"),
        pytest.param("if x is None or k in (1, 2): pass", [], id="identity and membership are none"),
        pytest.param("y = x * 3 + 1", [], id="arithmetic alone is none"),
        pytest.param("if x.max() <= 10: pass", [10], id="literal"),
        pytest.param("if x.max() < -0.5: pass", [-0.5], id="negative literal"),
        pytest.param("if 0 < x.max() < 2.0: pass", [2.0, 0], id="chain, zero last"),
        pytest.param("LIMIT = 4.0\nif x.max() > LIMIT: pass", [4.0], id="named constant"),
        pytest.param("def f(x, *, top=6.0):\n    return x > 2 * top", [12.0], id="product with a default"),
        pytest.param("y = torch.where(x.ge(0.25), x, 0)", [0.25], id="method"),
        pytest.param("if x.max() > self.limit: pass", [3.5], id="attribute of the instance"),
    ],
)
def test_numbers_compared_with_are_thresholds(text: str, numbers: list[float]) -> None:
    assert read(text).thresholds([("limit", 3.5)]) == numbers


SETTINGS = """
class Net:
    def __init__(self):
        self.only_built_with = 1.0

    def forward(self, x):
        self.steps = self.steps + 1
        if self.how == "sum" or self.how in ("mean", "max"):
            x = x.view(self.heads, -1)[: self.rows]
        if self.flag and x.shape[0] == self.room:
            x = x * self.gain ** self.power
        return x
"""


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        pytest.param("only_built_with", 1.0, None, id="read in no method"),
        pytest.param("steps", 3, None, id="written by the program itself"),
        pytest.param("heads", 4, None, id="a size in a call"),
        pytest.param("rows", 4, None, id="a size in a subscript"),
        pytest.param("room", 4, None, id="a capacity"),
        pytest.param("gain", 2.0, [1.0, 4.0, 2.25], id="float"),
        pytest.param("flag", True, [False], id="flag"),
        pytest.param("power", 2, [3, 4], id="whole factor"),
        pytest.param("how", "sum", ["mean", "max"], id="text compared with texts"),
    ],
)
def test_settings_are_what_methods_read_and_do_not_write(
    name: str, value: object, others: list[object] | None
) -> None:
    found = read(SETTINGS).settings([("block", name, value)])
    expected = [] if others is None else [{"at": "block", "name": name, "values": [value, *others]}]
    assert found == expected


@pytest.mark.parametrize("number", [10, 0.1, -2.5])
@pytest.mark.parametrize("bounds", [{}, {"lo": -20, "hi": 20}], ids=["unbounded", "bounded"])
def test_fills_reach_a_threshold_exactly_and_by_every_reduction(
    number: float, bounds: dict[str, float]
) -> None:
    made = [
        tensor({"t": "float32", "shape": [3, 4], "fill": fill, "seed": 5, **bounds})
        for fill in Hints(thresholds=(number,)).edges
    ]
    extreme = torch.tensor(number)
    reach = [t.amax() if number > 0 else t.amin() for t in made]
    assert sum(bool(r == extreme) for r in reach) >= 3
    assert any(bool(t.sum() == extreme) for t in made)
    assert any(bool((t == extreme).all()) for t in made)


def test_whole_numbers_at_a_threshold_stay_in_their_range() -> None:
    for fill in Hints(thresholds=(5, 40)).edges:
        t = tensor({"t": "int64", "shape": [6], "fill": fill, "seed": 1, "lo": 1, "hi": 9})
        assert 1 <= int(t.min()) <= int(t.max()) <= 9
