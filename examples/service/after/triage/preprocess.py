"""Ticket metadata as the model wants it."""

from __future__ import annotations

import torch
from torch import nn
from triage.cuda_graphs import constant

MEAN = [14.0, 2.0, 0.4, 12.0]
STD = [9.0, 1.0, 0.3, 5.0]


class Metadata(nn.Module):
    """(batch, 4) raw columns to (batch, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lift = nn.Linear(2 * len(MEAN), dim)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        mean = constant(MEAN, dtype=columns.dtype, device=columns.device)
        std = constant(STD, dtype=columns.dtype, device=columns.device)
        scaled = (columns - mean) / std
        # log-magnitudes keep the outliers that the clamp cuts off
        size = torch.log1p(scaled.abs())
        return torch.tanh(self.lift(torch.cat([scaled.clamp(-3, 3), size], dim=-1)))
