"""Noise suppression for live audio that spends its time only where there is something to clean."""

from __future__ import annotations

import torch
from torch import nn
from cuda_graphs import segment


def block(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


class FrameRouter(nn.Module):
    """Silence goes straight through, calm frames take the short path, noisy ones the deep path."""

    def __init__(
        self, frame: int = 32, dim: int = 32, depth: int = 4, silence: float = 0.1, noisy: float = 2.2
    ) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(frame, dim), nn.LayerNorm(dim), nn.GELU())
        self.shallow = block(dim)
        self.deep = nn.ModuleList(block(dim) for _ in range(depth))
        self.decode = nn.Linear(dim, frame)
        self.silence, self.noisy = silence, noisy

    @segment
    def _forward_encode(self, frames: torch.Tensor, level):
        h = self.encode(frames)
        # peak over RMS: clicks and keyboards are peaky, a steady hum is not
        crest = frames.abs().amax() / level
        return h, crest > self.noisy

    @segment
    def _forward_deep(self, h):
        for layer in self.deep:
            h = h + layer(h)
        return h

    @segment
    def _forward_shallow(self, h):
        return h + self.shallow(h)

    @segment
    def _forward_decode(self, h, frames: torch.Tensor):
        gain = torch.sigmoid(self.decode(h))
        return frames * gain

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """frames: float (batch, frame), one hop of audio per row. Returns the cleaned frames."""
        level = frames.square().mean().sqrt()
        if level < self.silence:
            # nobody speaks: attenuate, and leave the network alone
            return frames * 0.25

        h, exceeds_noisy = self._forward_encode(frames, level)
        if exceeds_noisy:
            h = self._forward_deep(h)
        else:
            h = self._forward_shallow(h)
        return self._forward_decode(h, frames)


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FrameRouter().to(device).eval()
    hum = torch.sin(torch.linspace(0, 60, 8 * 32)).view(8, 32)
    click = torch.randn(8, 32) * torch.tensor([0.2] * 31 + [4.0])
    with torch.inference_mode():
        for name, frames in {"silence": hum * 0.01, "hum": hum, "clicks": click}.items():
            cleaned = model(frames.to(device))
            print(f"{name:8} {frames.norm().item():7.2f} -> {cleaned.norm().item():7.2f}")


if __name__ == "__main__":
    main()
