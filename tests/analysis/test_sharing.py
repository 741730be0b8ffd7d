"""What is found out once for all calls: a call of another file's function, by what the function mentions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refactor.analysis import Project, analyze
from refactor.analysis.isolation import Answers
from refactor.source import load

HELPERS = """
import torch

def attend(query, key, mask=None, **options):
    return torch.matmul(query, key)

def chosen(query, **options):
    return attend(query, query, **options)

"""
MODEL = """
import torch
from helpers import {name}

class Model(torch.nn.Module):
    def forward(self, x):
        a = {name}(x, {first})
        return a + {name}(x, {second})
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that were interpreted for a call from another file."""
    names: list[str] = []
    find = Answers._find

    def noted(self: Answers, question: Any, depth: int, how: Any) -> Any:
        if question[0] == "call":
            names.append(question[1].name)
        return find(self, question, depth, how)

    monkeypatch.setattr(Answers, "_find", noted)
    return names


@pytest.mark.parametrize(
    ("name", "first", "second", "expected"),
    [
        pytest.param("attend", "x, mask=None", "x, mask=1", ["attend"], id="a mask that is never looked at"),
        pytest.param(
            "attend", "x, p=0.1", "x, p=None, scale=2", ["attend"], id="options it does not mention"
        ),
        pytest.param("attend", "x", "3", ["attend", "attend"], id="an argument it computes with"),
        pytest.param("chosen", "p=1", "p='a'", ["chosen", "attend", "chosen"], id="options it hands on"),
    ],
)
def test_calls_that_differ_in_what_is_not_mentioned_share_an_answer(
    name: str, first: str, second: str, expected: list[str], asked: list[str], tmp_path: Path
) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    model = tmp_path / "model.py"
    model.write_text(MODEL.format(name=name, first=first, second=second))
    assert analyze(load(model), Project(tmp_path)) is not None
    assert asked == expected
