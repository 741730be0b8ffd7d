"""Hazards that stand in another file than the method around them: what is cut, and where that is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from refactor.cli import main

HELPERS = """\
import torch


def strongest(scores):
    return torch.nonzero(scores > 0)


def shifted(x):
    return x + torch.tensor(1.0, device=x.device)


def settled(x, w=0.5):
    h = torch.tanh(x * w) + torch.sigmoid(x - w) * torch.relu(x + w)
    if h.mean() > 0:
        h = torch.tanh(h * w) + torch.sigmoid(h - w) * torch.relu(h + w)
    return h
"""
MODEL = """\
import torch
import torch.nn as nn

from helpers import {name}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))

    def forward(self, x: torch.Tensor):
        h = self.stem(x)
        y = {name}(h)
        return self.head(h), y
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.refactor]\n")
    (tmp_path / "helpers.py").write_text(HELPERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def apply(*arguments: str) -> Result:
    done = CliRunner().invoke(main, ["apply", "--output-format", "json", *arguments])
    assert done.exit_code == 0, done.output
    return done


def test_a_method_is_not_cut_where_the_other_file_is_rewritten(tree: Path) -> None:
    model = tree / "model.py"
    model.write_text(MODEL.format(name="shifted"))
    apply(".")
    assert model.read_text() == MODEL.format(name="shifted")
    assert "torch.full" in (tree / "helpers.py").read_text()


def test_a_method_is_not_cut_around_what_is_suppressed_in_the_other_file(tree: Path) -> None:
    (tree / "helpers.py").write_text(HELPERS.replace("scores > 0)", "scores > 0)  # refactor: ignore"))
    model = tree / "model.py"
    model.write_text(MODEL.format(name="strongest"))
    apply(".")
    assert model.read_text() == MODEL.format(name="strongest")


def test_a_method_is_cut_around_a_call_of_another_file_that_waits(tree: Path) -> None:
    model = tree / "model.py"
    model.write_text(MODEL.format(name="strongest"))
    found = json.loads(apply(".").stdout)["findings"]
    assert [(f["file"], f["code"], f["status"]) for f in found] == [("helpers.py", "CG202", "applied")]
    assert "(in model.py)" in found[0]["reason"]
    assert (tree / "helpers.py").read_text() == HELPERS
    new = model.read_text()
    assert "h = self._forward_stem(x)\n        y = strongest(h)\n" in new
    assert "@segment" in new
    again = json.loads(apply(".").stdout)["findings"]
    assert model.read_text() == new, again


def test_a_segment_is_not_cut_again_wherever_its_decorator_is_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.refactor]\n")
    (package / "__init__.py").write_text("")
    (package / "helpers.py").write_text(HELPERS)
    runtime = Path(__file__).parents[2] / "examples" / "router" / "after" / "cuda_graphs.py"
    (package / "cuda_graphs.py").write_bytes(runtime.read_bytes())
    model = package / "model.py"
    code = MODEL.format(name="strongest").replace(
        "from helpers", "from .cuda_graphs import segment\nfrom .helpers"
    )
    code = code.replace("    def forward", "    @segment\n    def forward")
    model.write_text(code)
    monkeypatch.chdir(tmp_path)
    apply("pack")
    assert model.read_text() == code


def test_a_method_is_cut_around_a_call_of_another_file_that_is_itself_cut(tree: Path) -> None:
    model = tree / "model.py"
    model.write_text(MODEL.format(name="settled"))
    found = json.loads(apply(".").stdout)["findings"]
    assert [(f["file"], f["code"], f["status"]) for f in found] == [("helpers.py", "CG301", "applied")]
    assert "@graphed\ndef _settled_then(" in (tree / "helpers.py").read_text()
    assert "        y = settled(h)\n" in model.read_text()
    assert "@segment\n    def _forward_stem(" in model.read_text()
    written = model.read_text(), (tree / "helpers.py").read_text()
    apply(".")
    assert (model.read_text(), (tree / "helpers.py").read_text()) == written


def test_batches_are_no_constants_once_their_loop_calls_a_graph(tree: Path) -> None:
    loop = tree / "model.py"
    loop.write_text("""\
import torch
from torch import nn


@torch.no_grad()
def labels(model: nn.Module, batches, device):
    return [model(batch.to(device)).argmax(-1).tolist() for batch in batches]


class Service(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 3)

    def forward(self, x):
        return labels(self.net, x.cpu().split(4), x.device)
""")
    apply(".")
    once = loop.read_text()
    assert "graphed(model)" in once
    apply(".")
    assert loop.read_text() == once
