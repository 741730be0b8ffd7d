"""Model features from the raw columns of an order book: scaled, clipped, and seasonal."""

from __future__ import annotations

import math

import torch
from torch import nn
from cuda_graphs import constant, scratch

# statistics of the training set, one value per column
CENTRE = (102.4, 18.1, 0.0, 3.2, 55.0, 1.0)
SPREAD = (12.9, 7.7, 1.4, 2.0, 21.5, 0.3)
CYCLICAL = [1, 4]  # columns that repeat: minute of the hour, day of the quarter


class OrderFeatures(nn.Module):
    """Columns (batch, 6) to an embedding (batch, width)."""

    def __init__(self, width: int = 24, harmonics: int = 3, tilt: float = 0.5) -> None:
        super().__init__()
        self.periods = [60.0 / (k + 1) for k in range(harmonics)]
        self.tilt = tilt
        inputs = 3 * len(CENTRE) + 2 * harmonics * len(CYCLICAL)
        self.mix = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))

    def seasonal(self, columns: torch.Tensor) -> torch.Tensor:
        """Sine and cosine of every cyclical column at every period."""
        periods = constant(self.periods, dtype=columns.dtype, device=columns.device)
        angle = columns[:, constant(CYCLICAL, device=columns.device)].unsqueeze(-1) * (2 * math.pi / periods)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(1)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        centre = constant(CENTRE, dtype=columns.dtype, device=columns.device)
        spread = constant(SPREAD, dtype=columns.dtype, device=columns.device)
        scaled = (columns - centre) / spread

        clipped = scaled.clamp(-4.0, 4.0)
        # compress what the clipping would hide, and keep its sign
        size = torch.abs(scaled, out=scratch(self, "size", scaled))
        compressed = torch.log1p(size) * scaled.sign()

        weighted = torch.mul(
            clipped, self.tilt, out=scratch(self, "weighted", clipped, self.tilt)
        )
        curved = torch.mul(
            weighted, weighted, out=scratch(self, "curved", weighted, weighted)
        )
        tails = curved - torch.full((), 1.0, device=columns.device)

        return self.mix(torch.cat([clipped, compressed, tails, self.seasonal(columns)], dim=-1))


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = OrderFeatures().to(device).eval()
    columns = torch.tensor(CENTRE) + torch.randn(16, len(CENTRE)) * torch.tensor(SPREAD)
    with torch.inference_mode():
        features = model(columns.to(device))
    print(f"{tuple(columns.shape)} -> {tuple(features.shape)} on {device}, norm {features.norm().item():.3f}")


if __name__ == "__main__":
    main()
