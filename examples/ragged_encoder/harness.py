"""Feeds `embed.embed` from plain tensors: its arguments are a model and a list of documents."""

import torch
from embed import embed
from encoder import Encoder
from torch import nn


class Embedding(nn.Module):
    """One call embeds the N documents whose ids are rows of `ids`, cut to `lengths`."""

    def __init__(self, token_budget: int = 64, **sizes: int) -> None:
        super().__init__()
        self.model = Encoder(**sizes)
        self.token_budget = token_budget

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        documents = [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
        return embed(self.model, documents, ids.device, self.token_budget)
