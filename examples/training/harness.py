"""One update of a model by its own optimizer, as a module the verifier can call."""

import torch
from torch import nn
from training import Tower, Trainer


class Update(nn.Module):
    """Steps its own AdamW inside `forward`."""

    def __init__(self, dim: int = 16, depth: int = 3, lr: float = 1e-3) -> None:
        super().__init__()
        self.model = Tower(dim, depth)
        self.lr = lr
        self.trainer: Trainer | None = None

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.trainer is None:  # after the model has reached its device
            self.trainer = Trainer(self.model, self.lr)
        return self.trainer.step(x, y)
