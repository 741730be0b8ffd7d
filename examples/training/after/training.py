"""Train a deep, narrow regression network: hundreds of small kernels a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from cuda_graphs import graphed


class Tower(nn.Module):
    """`depth` times Linear, LayerNorm, GELU."""

    def __init__(self, dim: int = 16, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(dim, dim), nn.LayerNorm(dim), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).squeeze(-1)


class Trainer:
    """A model with its optimizer; one call of `step` is one update."""

    def __init__(self, model: Tower, lr: float = 1e-3) -> None:
        self.model = model
        on_gpu = next(model.parameters()).is_cuda
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, capturable=on_gpu)

    def _captured_step(self, x: torch.Tensor, y: torch.Tensor):
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One update on (batch, dim) and (batch,); returns the loss before it, detached."""
        loss = graphed(self._captured_step)(x, y)
        return loss.detach()


def train(trainer: Trainer, data: torch.Tensor, target: torch.Tensor, batch_size: int) -> list[float]:
    """One epoch over the whole batches of the data; the loss of every tenth step."""
    trainer.model.train()
    losses = []
    for i, (x, y) in enumerate(zip(data.split(batch_size), target.split(batch_size), strict=True)):
        if len(x) < batch_size:
            break
        loss = trainer.step(x, y)
        if i % 10 == 0:
            losses.append(loss.item())
    return losses


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(Tower().to(device), lr=3e-3)
    data = torch.randn(64 * 40, 16, device=device)
    losses = train(trainer, data, data.square().mean(-1), 64)
    print("loss:", " ".join(f"{loss:.4f}" for loss in losses))


if __name__ == "__main__":
    main()
