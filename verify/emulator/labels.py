"""The logical device of a tensor, kept on its storage.

A tensor of the emulated GPU is a CPU tensor whose storage carries a `Home`. The storage is the right
place: views, `detach`, `.data =` and the shallow copies autograd makes all share it, and torch keeps the
Python object of a storage (with its attributes) alive as long as the memory itself.
"""

from __future__ import annotations

from typing import Any

import torch

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)

_untyped_storage = torch._C.TensorBase.untyped_storage
_real_device = torch._C.TensorBase.device.__get__


class Home:
    """What is known about one storage: device, whether page-locked, the capture it was allocated in.

    `floating` marks memory that a C++ composite made with the device of a tensor it looked at: on this build
    that device always reads cpu, so the first operation that mixes it with labelled tensors decides.
    """

    __slots__ = ("capture", "device", "floating", "pinned")

    def __init__(
        self, device: torch.device, *, pinned: bool = False, floating: bool = False, capture: Any = None
    ) -> None:
        self.device = device
        self.pinned = pinned
        self.floating = floating
        self.capture = capture


ON_CUDA = Home(CUDA)
LISTED = Home(
    CPU
)  # built by the interpreter from a list or number in `x[…]`, on the device of x in CUDA's eyes
PINNED = Home(CPU, pinned=True)
FLOATING = Home(CPU, floating=True)


def storage_of(tensor: torch.Tensor) -> Any:
    """The storage that carries the label; for a sparse tensor that of its values, None if there is none."""
    try:
        return _untyped_storage(tensor)
    except (NotImplementedError, RuntimeError):
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return storage_of(torch._C._functorch.get_unwrapped(tensor))
        return next((_untyped_storage(part) for part in _sparse_parts(tensor)), None)


def _sparse_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return (tensor._values(), tensor._indices())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return (tensor.values(), tensor.crow_indices(), tensor.col_indices())
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return (tensor.values(), tensor.ccol_indices(), tensor.row_indices())
    return ()


def home_of(tensor: torch.Tensor) -> Home | None:
    """The label of `tensor`, None for ordinary CPU memory."""
    return getattr(storage_of(tensor), "_home", None)


def settle(tensor: torch.Tensor, home: Home | None) -> None:
    """Label the memory of `tensor`, unless it is a view of memory that is labelled already."""
    storage = storage_of(tensor)
    if storage is None:
        return
    if home is None:
        if hasattr(storage, "_home"):
            del storage._home
        return
    known: Home | None = getattr(storage, "_home", None)
    if known is None or known.floating:
        storage._home = home
        if tensor.layout is not torch.strided:
            for part in _sparse_parts(tensor):
                storage_of(part)._home = home


def real_device(tensor: torch.Tensor) -> torch.device:
    """The device torch itself sees: cpu for emulated tensors, meta for meta tensors."""
    return _real_device(tensor)


def is_cuda(tensor: torch.Tensor) -> bool:
    """Whether the program placed `tensor` on the emulated GPU."""
    home = home_of(tensor)
    return home is not None and home.device is CUDA


def on_host(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is in host memory for certain."""
    home = home_of(tensor)
    return home is None or (home.device is not CUDA and not home.floating)


def is_pinned(tensor: torch.Tensor) -> bool:
    """Whether the program asked for page-locked host memory."""
    home = home_of(tensor)
    return home is not None and home.pinned


def logical_device(value: Any) -> torch.device:
    """The device the program means by `value` (string, index or `torch.device`); `cuda` becomes `cuda:0`.

    Raises RuntimeError for a GPU other than the one that is emulated, as CUDA does for a missing ordinal.
    """
    device = torch.device("cuda", value) if isinstance(value, int) else torch.device(value)
    if device.type == "cpu":
        return CPU
    if device.type != "cuda":
        return device
    if device.index not in (None, 0):
        from .errors import cuda_error

        raise cuda_error("invalid device ordinal")
    return CUDA
