"""The text side: a small transformer encoder."""

from __future__ import annotations

import torch
from torch import nn


class TextEncoder(nn.Module):
    """Token ids to one vector per ticket; token 0 is padding."""

    def __init__(self, vocabulary: int, dim: int, heads: int, layers: int, longest: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.positions = nn.Embedding(longest, dim)
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
            for _ in range(layers)
        )

    def attend(self, layer: int, h: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
        batch, length, dim = h.shape
        qkv = self.qkv[layer](self.norms[layer](h)).view(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (dim // self.heads) ** -0.5
        weights = scores.masked_fill(blocked, -1e9).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(batch, length, dim)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """tokens, mask: int64 (batch, length). Returns float (batch, dim)."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        h = self.tokens(tokens) + self.positions(place)
        blocked = (mask == 0)[:, None, None, :]
        for layer, mlp in enumerate(self.mlps):
            h = h + self.attend(layer, h, blocked)
            h = h + mlp(h)
        weight = mask.unsqueeze(-1).to(h.dtype)
        return (h * weight).sum(1) / weight.sum(1).clamp(min=1)
