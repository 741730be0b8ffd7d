"""The harness that compares published models before and after `apply`, on a library made here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 4)


class Constant(Net):
    def forward(self, x):
        return self.head(self.stem(x)) * torch.tensor(2.0, device=x.device)


class Found(Net):
    def forward(self, x):
        h = self.stem(x)
        return h[torch.nonzero(h.mean(-1) > 0).squeeze(-1)]
"""
BUILDER = """\
import torch


def packages(name):
    return ("netlib",)


def recipes(name, errors):
    import netlib

    yield getattr(netlib, name)(), ((torch.randn(5, 4),), {})
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "netlib").mkdir()
    (folder / "netlib" / "__init__.py").write_text(LIBRARY)
    (folder / "builder.py").write_text(BUILDER)
    command = [sys.executable, str(ROOT / "benchmarks" / "models.py"), "--names", "Constant", "Found"]
    command += ["--builder", str(folder / "builder.py"), "--sources", str(folder), "--device", "emulated"]
    done = subprocess.run([*command, "--json", str(folder / "rows.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {row["name"]: row for row in json.loads((folder / "rows.json").read_text())}


def test_a_model_with_a_constant_from_the_host_is_captured_whole(rows: dict[str, dict[str, object]]) -> None:
    assert (rows["Constant"]["verdict"], rows["Constant"]["how"]) == ("equal", "whole")


def test_a_model_that_finds_rows_runs_as_segments(rows: dict[str, dict[str, object]]) -> None:
    assert rows["Found"]["verdict"] == "equal"
    assert str(rows["Found"]["how"]).startswith("segments")
    assert "CG202" in str(rows["Found"]["reason"]) or "not whole" in str(rows["Found"]["reason"])
