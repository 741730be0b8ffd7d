"""Build large models again and again without drawing their first weights anew.

A sequence starts from a freshly built model, and most of the time that takes goes into random fills that the
next line of the user's constructor, or the verifier itself, may overwrite. A fill is a function of the shape,
the arguments and the state of the generator before it: where all of these are as they were once, what came of
it is copied, and the generator put where it was afterwards. Everything else of the constructor is run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LARGE = 1 << 20  # parameters of a model whose draws are remembered
LEAST = 1 << 14  # elements of a fill that is worth it
MOST = 1 << 30  # bytes that are remembered at most

aten = torch.ops.aten
_FILLS = (aten.uniform_.default, aten.normal_.default)


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, large random fills on the host are done once for each state of the generator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: dict[Any, tuple[Tensor, Tensor]] = {}
        self.size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _FILLS or kwargs.get("generator") is not None or not _on_host(args[0]):
            return func(*args, **kwargs)
        generator, filled = torch.default_generator, args[0]
        before = bytes(generator.get_state().numpy())
        key = (func, tuple(filled.shape), filled.dtype, args[1:], tuple(kwargs.items()), before)
        if key in self.kept:
            values, after = self.kept[key]
            filled.copy_(values)
            generator.set_state(after)
            return filled
        func(*args, **kwargs)
        if self.size + filled.nbytes <= MOST:
            self.size += filled.nbytes
            self.kept[key] = (filled.clone(), generator.get_state())
        return filled


def _on_host(t: Any) -> bool:
    """Whether it is memory of the host, large and in one piece; the emulated device's carries a label."""
    if type(t) not in (Tensor, torch.nn.Parameter) or t.device.type != "cpu" or t.numel() < LEAST:
        return False
    return t.is_contiguous() and getattr(t.untyped_storage(), "_home", None) is None
