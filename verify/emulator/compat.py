"""Older and rarer ways into CUDA: legacy tensor types, the profiler, attention backends, `DataParallel`."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler.profiler import _KinetoProfile

from .core import Gpu
from .labels import CUDA, is_cuda
from .patches import Patches
from .tensor_api import move

_KINDS = "Float Double Half BFloat16 Long Int Short Char Byte Bool".split()  # noqa: SIM905


def patch_compat(gpu: Gpu, patches: Patches) -> None:
    """Replace what the names above stand for."""
    for kind in _KINDS:
        host = getattr(torch, f"{kind}Tensor")
        patches.set(torch.cuda, f"{kind}Tensor", _legacy_type(gpu, f"{kind}Tensor", host))
    make_new: Any = torch.Tensor.new

    def new(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = make_new(self, *args, **kwargs)
        return move(gpu, made, CUDA) if is_cuda(self) else made

    patches.set(torch.Tensor, "new", new)
    # The host has no memory-efficient and no cuDNN attention: whatever a program selects, math stays allowed.
    patches.set(torch._C, "_set_sdp_use_math", lambda enabled: None)
    patches.set(torch._C, "_scatter", lambda tensor, *args: (move(gpu, tensor, CUDA),))
    begin = _KinetoProfile.__init__

    def profile_host_only(self: Any, *, activities: Any = None, **options: Any) -> None:
        kept = None if activities is None else [a for a in activities if a is not ProfilerActivity.CUDA]
        begin(self, activities=kept or [ProfilerActivity.CPU], **options)

    patches.set(_KinetoProfile, "__init__", profile_host_only)


def _legacy_type(gpu: Gpu, name: str, host: Any) -> Any:
    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, torch.Tensor) and is_cuda(instance) and instance.dtype is host.dtype

    class Legacy(metaclass=Meta):
        dtype = host.dtype

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return move(gpu, host(*args), CUDA)

    Legacy.__name__ = Legacy.__qualname__ = name
    Legacy.__module__ = "torch.cuda"
    return Legacy
