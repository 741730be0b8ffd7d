"""Callables that come back are called with what the call was given, where it fits."""

from __future__ import annotations

import functools

import torch
from refactor.verify.worker.calling import called
from refactor.verify.worker.observe import Recorder
from torch import nn

ROWS = torch.ones(2, 3)


def test_what_cannot_be_called_or_filled_is_left_alone() -> None:
    owner = nn.Sequential(nn.Linear(3, 3))
    result = [3, "text", int, ROWS, owner[0], owner.forward, lambda a, b: a, torch.optim.SGD]
    assert called(result, {"x": ROWS}, "result", owner) == {}


def test_parameters_are_filled_by_name_else_by_tensors_and_the_second_time_with_other_values() -> None:
    def scaled(x: torch.Tensor, *, factor: float, more: int = 1) -> torch.Tensor:
        return x * factor + more

    given = {"factor": 3.0, "x": ROWS}
    result = {"f": scaled, "g": functools.partial(torch.add, ROWS), "h": [lambda other: other.sum()]}
    found = called(result, given, "result", times=2)
    assert list(found) == ["result['f']()", "result['h'][0]()"]
    assert [float(t[0, 0]) for t in found["result['f']()"]] == [4.0, 2.5]
    assert [float(t) for t in found["result['h'][0]()"]] == [6.0, 3.0]
    assert torch.equal(ROWS, torch.ones(2, 3))


def test_an_exception_is_an_answer_and_modules_are_called() -> None:
    def fails() -> None:
        raise KeyError("x")

    assert called(fails, {}, "result") == {"result()": ["raised KeyError"]}
    assert called(nn.Linear(3, 2), {"x": ROWS}, "result")["result()"][0].shape == (2, 2)


def test_which_form_of_function_comes_back_is_no_difference() -> None:
    forms = [lambda x: x, functools.partial(abs, 1), ROWS.sum, len]
    leaves = [Recorder().leaves(f, "result") for f in forms]
    assert all(leaf == leaves[0] for leaf in leaves)
