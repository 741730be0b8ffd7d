"""A small transformer encoder that turns token ids into one unit vector per document."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Pre-norm attention and feed-forward, both residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, h: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        batch, length, dim = h.shape
        qkv = self.qkv(self.norm_attention(h))
        q, k, v = qkv.view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        # keep: (batch, 1, 1, length), True where a token may be looked at
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return h + self.mlp(self.norm_mlp(h))


class Encoder(nn.Module):
    """Embeds documents; token 0 is padding."""

    def __init__(
        self, vocabulary: int = 200, dim: int = 32, heads: int = 4, layers: int = 2, longest: int = 64
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.positions = nn.Embedding(longest, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """tokens, mask: int64 (batch, length), mask 1 for real tokens. Returns float (batch, dim)."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        h = self.tokens(tokens) + self.positions(place)
        keep = mask[:, None, None, :].bool()
        for block in self.blocks:
            h = block(h, keep)
        weight = mask.unsqueeze(-1).to(h.dtype)
        pooled = (self.norm(h) * weight).sum(1) / weight.sum(1).clamp(min=1)
        return F.normalize(pooled, dim=-1)
