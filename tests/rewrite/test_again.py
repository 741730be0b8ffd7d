"""A second run of `apply` changes nothing, and sees in rewritten code what the first one saw in it before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from refactor.cli import main

LAYERS = """\
import torch
from torch import nn


class Grid(nn.Module):
    def points(self, sizes, ratios):
        found = []
        for level, (height, width) in enumerate(sizes):
            rows = torch.linspace(0.5, height - 0.5, height, device=ratios.device)  # the host needs its value
            found.append(rows[None] * ratios[:, level, None])
        return torch.cat(found, 1)

    def forward(self, x, sizes, ratios):
        points = self.points(sizes, ratios)
        h = torch.tanh(x) * torch.sigmoid(x) + torch.relu(x) * torch.exp(-x)
        return h + points.sum(), points


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.grid = Grid()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8))

    def ratio(self, mask):
        return torch.stack([mask.float().mean((1, 2)), (~mask).float().mean((1, 2))], -1)

    def forward(self, maps: list[torch.Tensor], masks: list[torch.Tensor]):
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        x = self.stem(x) * torch.sigmoid(self.stem(x)) + torch.tanh(x)
        sizes = torch.as_tensor(sizes, dtype=torch.long, device=x.device)
        ratios = torch.stack([self.ratio(m) for m in masks], 1).mean(-1)
        y, points = self.grid(x, sizes, ratios)
        parts = torch.split(y, [int(n) for n in sizes.prod(1)], 1)
        y = torch.tanh(y) * torch.sigmoid(y) + torch.relu(y) * torch.exp(-y)
        if y.mean() > 0:
            y = self.stem(y) * 2
        return y, parts, points
"""


def apply(*arguments: str) -> list[dict[str, str]]:
    """The findings with what was done about each."""
    done = CliRunner().invoke(main, ["apply", "--no-cache", "--output-format", "json", *arguments])
    assert done.exit_code == 0, done.output
    rows: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return rows


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.refactor]\n")
    (tmp_path / "model.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_became_a_constant_or_the_result_of_a_segment_is_still_known_to_be_a_tensor(tree: Path) -> None:
    first = apply()
    text = (tree / "model.py").read_text()
    assert "constant(sizes, dtype=torch.long, device=x.device)" in text
    assert "@segment" in text
    written = {path.name: path.read_bytes() for path in tree.glob("*.py")}
    second = apply()
    assert {path.name: path.read_bytes() for path in tree.glob("*.py")} == written
    kept = {row["message"] for row in first if row["code"] in ("CG204", "CG101")}
    assert kept
    assert kept <= {row["message"] for row in second}
    assert {row["status"] for row in second} == {"refused"}


CHUNKS = """\
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8))

    def encoded(self, x: torch.Tensor, lengths: torch.Tensor):
        with torch.no_grad():
            parts = []
            for part in torch.split(x, 16, dim=0):
                parts.append(self.encoder(part))
        h = torch.cat(parts)
        h = torch.tanh(h) * torch.sigmoid(h) + torch.relu(h) * torch.exp(-h)
        rows = torch.arange(int(lengths.max()), device=x.device) < lengths[:, None]
        return self.head(h), rows

    def forward(self, x: torch.Tensor, lengths: torch.Tensor):
        h, rows = self.encoded(x, lengths)
        return h * 2, rows
"""


def test_a_function_whose_loop_got_a_graphed_model_still_drives_it(tree: Path) -> None:
    (tree / "model.py").write_text(CHUNKS)
    apply()
    once = (tree / "model.py").read_text()
    assert "graphed_encoder = graphed(self.encoder)" in once
    apply()
    assert (tree / "model.py").read_text() == once


EVEN = """\
import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        h = torch.relu(torch.sigmoid(torch.tanh(x))) * torch.tensor([1.0, 2.0], device=x.device)
        return h, int(h.argmax())
"""


def test_a_constant_costs_nothing_before_and_after_it_is_kept(tree: Path) -> None:
    (tree / "model.py").write_text(EVEN)
    apply()
    once = (tree / "model.py").read_text()
    assert "constant([1.0, 2.0], device=x.device)" in once
    assert "segment" not in once
    apply()
    assert (tree / "model.py").read_text() == once
