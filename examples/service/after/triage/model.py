"""Text, metadata, and a decision that is cheap when the answer is obvious."""

from __future__ import annotations

import torch
from torch import nn

from .encoder import TextEncoder
from .preprocess import Metadata
from .cuda_graphs import segment


class Decision(nn.Module):
    """Scores a batch with a linear head; asks the deep head only when the batch is not clear-cut."""

    def __init__(self, dim: int, queues: int, depth: int, threshold: float) -> None:
        super().__init__()
        self.quick = nn.Linear(dim, queues)
        self.deep = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU()) for _ in range(depth)
        )
        self.head = nn.Linear(dim, queues)
        self.threshold = threshold

    @segment
    def _forward_quick(self, text: torch.Tensor, metadata: torch.Tensor):
        h = text + metadata
        scores = self.quick(h).softmax(-1)
        confidence = scores.amax(-1).mean()
        return h, scores, confidence > self.threshold

    @segment
    def _forward_deep_head(self, h):
        for layer in self.deep:
            h = h + layer(h)
        return self.head(h).softmax(-1), False

    def forward(self, text: torch.Tensor, metadata: torch.Tensor) -> tuple[torch.Tensor, bool]:
        h, scores, exceeds_threshold = self._forward_quick(text, metadata)
        if exceeds_threshold:
            return scores, True
        return self._forward_deep_head(h)


class Triage(nn.Module):
    """The parts of the service; `server.answer` runs them batch by batch."""

    def __init__(
        self,
        vocabulary: int = 200,
        dim: int = 32,
        heads: int = 4,
        layers: int = 2,
        queues: int = 5,
        depth: int = 3,
        threshold: float = 0.36,
        longest: int = 64,
    ) -> None:
        super().__init__()
        self.encoder = TextEncoder(vocabulary, dim, heads, layers, longest)
        self.metadata = Metadata(dim)
        self.decision = Decision(dim, queues, depth, threshold)
