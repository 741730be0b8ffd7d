"""Inputs of the models of ``benchmarks/models.py``: moved, copied, drawn anew; and a digest of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WORDS = 1 << 24  # of a tensor that are digested at once


def digest(tensor: torch.Tensor) -> str:
    """Of the bytes of a tensor: a weighted sum of its words modulo 2**64, where the tensor is.

    Bringing half a gigabyte of weights to the host after every run took longer than the runs.
    """
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    total = flat.numel()
    if not total:
        return ""
    flat = torch.nn.functional.pad(flat, (0, -total % 4)).view(torch.int32)
    found = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), WORDS):
        words = flat[start : start + WORDS].to(torch.int64)
        place = torch.arange(start, start + words.numel(), device=flat.device)
        found = found * 31 + (words * (place * 0x2545F4914F6CDD1D | 1)).sum()
    return f"{total}:{int(found):x}"


def moved(value: Any, device: str) -> Any:
    """A tree of inputs on a device."""
    return mapped(value, lambda t: t.to(device))


def copied(value: Any) -> Any:
    """The same values in memory of their own."""
    return mapped(value, lambda t: t.clone())


def doubled(value: Any) -> Any:
    """Floating inputs in float64."""
    return mapped(value, lambda t: t.double() if t.is_floating_point() else t)


def redrawn(value: Any, seed: int) -> Any:
    """Other values of the same kind: floats are drawn, whole numbers change places, masks change rows.

    Whole numbers in ascending order stay: they say what belongs together, and code may ask for the order.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(t: Any) -> Any:
        old = t.cpu()
        if old.is_floating_point():
            if old.numel() and float(old.min()) >= 0 and float(old.max()) <= 1:
                return torch.rand(old.shape, generator=generator).to(old.dtype).to(t.device)
            return torch.randn(old.shape, generator=generator).to(old.dtype).to(t.device)
        if old.dim() == 0 or old.unique().numel() <= 2:
            order = torch.randperm(old.shape[0], generator=generator) if old.dim() else ...
            return old[order].to(t.device)
        if old.dim() == 1 and bool((old[1:] >= old[:-1]).all()):
            return t.clone()
        order = torch.randperm(old.numel(), generator=generator)
        return old.reshape(-1)[order].reshape(old.shape).to(t.device)

    return mapped(value, drawn)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure of tuples, lists and dicts with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: mapped(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(v, change) for v in value)
    return value
