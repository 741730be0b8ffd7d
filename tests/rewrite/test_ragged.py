"""Segments around work whose sizes the data decides: none of them takes such a tensor in."""

from __future__ import annotations

from pathlib import Path

from tests.rewrite.whole import rewrite

EXPERTS = """\
import torch
import torch.nn as nn


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(8, 16) for _ in range(4))
        self.down = nn.ModuleList(nn.Linear(16, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)
        self.router = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor):
        h = torch.relu(self.norm(x)) * torch.sigmoid(x)
        weights = torch.softmax(self.router(h) * 2 - 1, -1)
        score, expert = weights.max(-1)
        result = torch.zeros_like(h)
        if score.min() < 0:
            return result
        for i in range(4):
            rows = torch.where(expert == i)[0]
            picked = h[rows]
            hidden = torch.relu(self.up[i](picked)) * torch.sigmoid(picked.sum(-1, keepdim=True))
            made = self.down[i](torch.tanh(hidden) + 1) * score[rows, None]
            result.index_add_(0, rows, made)
        total = torch.tanh(result) + h
        total = torch.sigmoid(total) * torch.relu(total) - self.norm(total)
        return total * 2 + torch.exp(total)
"""


def test_rows_chosen_for_an_expert_stay_eager_and_the_rest_becomes_segments(tmp_path: Path) -> None:
    new = rewrite(EXPERTS, tmp_path, ["CG301"])
    segments = [part.partition("def forward")[0] for part in new.split("@segment")[1:]]
    assert segments
    assert not any(word in segment for segment in segments for word in ("picked", "hidden", "made", "rows"))
    assert any("self.router" in segment for segment in segments)


RESIZED = """\
import torch
import torch.nn as nn
import torch.nn.functional as F


class Resized(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
            nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
            nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
            nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
        )

    def forward(self, x: torch.Tensor, sizes: torch.Tensor):
        h = self.body(x)
        height = int(sizes.max().item())
        large = F.interpolate(h, size=(height, height))
        y = torch.sigmoid(large) * torch.relu(large) - torch.tanh(large)
        y = torch.exp(y) + torch.sin(y) * torch.cos(y) - torch.sqrt(y.abs())
        scaled = torch.clamp(h, max=height)
        z = torch.sigmoid(scaled) * torch.relu(scaled) - torch.tanh(scaled)
        z = torch.exp(z) + torch.sin(z) * torch.cos(z) - torch.sqrt(z.abs())
        return y.sum(), z
"""


def test_a_map_resized_to_a_number_that_was_read_back_stays_eager(tmp_path: Path) -> None:
    new = rewrite(RESIZED, tmp_path, ["CG101"])
    segments = [part.partition("def forward")[0] for part in new.split("@segment")[1:]]
    assert any("self.body" in segment for segment in segments)
    assert not any("large" in segment for segment in segments)
    assert any("torch.sigmoid(scaled)" in segment for segment in segments)
