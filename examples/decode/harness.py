"""Feeds `decode.generate`: its first argument is a model."""

import torch
from decode import Decoder, generate
from torch import nn


class Generation(nn.Module):
    """Greedy continuation of a prompt."""

    def __init__(self, half: bool = False, **sizes: int) -> None:
        super().__init__()
        self.model = Decoder(**sizes)
        if half:
            self.model.half()

    def forward(self, prompt: torch.Tensor, steps: int) -> torch.Tensor:
        return generate(self.model, prompt, steps)
