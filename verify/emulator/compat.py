"""Older and rarer ways into CUDA: legacy tensor types, the profiler, attention backends, `DataParallel`."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.dlpack
from torch.profiler import ProfilerActivity
from torch.profiler.profiler import _KinetoProfile

from .core import Gpu
from .labels import CUDA, ON_CUDA, is_cuda, settle
from .patches import Patches
from .tensor_api import move

CUDA_VERSION = "13.0"
CUDNN_VERSION = 91300
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
    # Whatever a program selects, attention is computed by its formula: the host has no memory-efficient and
    # no cuDNN kernel, and its flash kernel turns NaN into zeros at some lengths, which no CUDA kernel does.
    torch._C._set_sdp_use_flash(False)
    patches.set(torch._C, "_set_sdp_use_flash", lambda enabled: None)
    patches.set(torch._C, "_set_sdp_use_math", lambda enabled: None)
    patches.set(torch._C, "_scatter", lambda tensor, *args: (move(gpu, tensor, CUDA),))
    _look_like_a_build_with_cuda(gpu, patches)
    _keep_label_through_dlpack(patches)
    begin = _KinetoProfile.__init__

    def profile_host_only(self: Any, *, activities: Any = None, **options: Any) -> None:
        kept = None if activities is None else [a for a in activities if a is not ProfilerActivity.CUDA]
        begin(self, activities=kept or [ProfilerActivity.CPU], **options)

    patches.set(_KinetoProfile, "__init__", profile_host_only)


def _look_like_a_build_with_cuda(gpu: Gpu, patches: Patches) -> None:
    """What programs ask before they use a GPU, and functions that a build without CUDA lacks."""
    patches.set(torch.version, "cuda", CUDA_VERSION)
    patches.set(torch.backends.cuda, "is_built", lambda: True)
    patches.set(torch.backends.cudnn, "is_available", lambda: True)
    patches.set(torch.backends.cudnn, "version", lambda: CUDNN_VERSION)
    patches.set(torch.cuda, "get_allocator_backend", lambda: "native")
    if hasattr(torch.compiler, "cudagraph_mark_step_begin"):  # it would load the compiler's own graphs
        patches.set(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    absent = {
        "_cuda_clearCublasWorkspaces": lambda: None,
        "_cuda_getCurrentRawStream": lambda device: gpu.watch.stream.cuda_stream,
        "_cuda_isCurrentStreamCapturing": lambda: gpu.watch.stream.capture is not None,
    }
    patches.set_all(torch._C, {name: value for name, value in absent.items() if not hasattr(torch._C, name)})


def _keep_label_through_dlpack(patches: Patches) -> None:
    """Tensors handed over by DLPack stay where they are: the same memory, on the same logical device."""
    exported: set[int] = set()  # addresses of memory on the device that was handed out as a capsule
    names = vars(torch.utils.dlpack)
    hand_out, take_in = names["to_dlpack"], names["from_dlpack"]

    def to_dlpack(tensor: torch.Tensor) -> Any:
        if is_cuda(tensor):
            exported.add(storage_address(tensor))
        return hand_out(tensor)

    def from_dlpack(given: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = take_in(given, *args, **kwargs)
        known = is_cuda(given) if isinstance(given, torch.Tensor) else storage_address(made) in exported
        if known:
            settle(made, ON_CUDA)
        return made

    for owner in (torch, torch.utils.dlpack):
        patches.set(owner, "from_dlpack", from_dlpack)
    patches.set(torch.utils.dlpack, "to_dlpack", to_dlpack)
    patches.set(torch, "to_dlpack", to_dlpack)


def storage_address(tensor: torch.Tensor) -> int:
    """Where the memory behind a tensor is."""
    with torch._C._DisableTorchDispatch():
        return torch._C.TensorBase.data_ptr(tensor)


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
