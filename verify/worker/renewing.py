"""Other values for tensors: disturbed in the last places, or new as when a module is loaded anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .reference import ulps


def disturbed(t: Tensor, seed: int) -> Tensor:
    """The same values up to a few units in the last place: seed 2k goes the other way than seed 2k - 1.

    A value exactly at a threshold is on the other side in one of the two.
    """
    if not t.is_floating_point():
        return t
    generator = torch.Generator().manual_seed((seed + 1) // 2)
    noise = torch.randn(t.shape, generator=generator, dtype=torch.float32) * (1 if seed % 2 else -1)
    return (t.double() * (1 + ulps(t.dtype) * noise.to(t.device).double())).to(t.dtype)


def any_inference(tensors: Iterable[Any]) -> bool:
    """Whether one of them was made under inference mode."""
    return any(isinstance(t, Tensor) and t.is_inference() for t in tensors)


def chosen(items: list[Any], only: int | None) -> list[Any]:
    """All of them, or number ``only``, counted round."""
    return items if only is None or not items else [items[only % len(items)]]


def renewed(t: Tensor, generator: torch.Generator, shuffled: bool = False) -> Tensor:
    """Other values of the same size: floats are scaled and moved a little, or shuffled; others are copied."""
    if not t.is_floating_point():
        return t.detach().clone()
    if shuffled:
        order = torch.randperm(t.numel(), generator=generator).to(t.device)
        return t.detach().flatten()[order].view(t.shape)
    noise = torch.rand(t.shape, generator=generator, dtype=torch.float32).to(t.device, t.dtype)
    return (t.detach() * (0.5 + noise) + 0.01).contiguous()
