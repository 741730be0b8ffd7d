"""Devices given by number: `device=0`, `torch.device(0)`.

torch takes a number for the accelerator of its own build, and this build has none.
"""

from __future__ import annotations

from typing import Any

import torch

from .labels import CUDA, logical_device
from .patches import Patches

_FACTORIES = (
    "arange", "bartlett_window", "blackman_window", "empty", "empty_like", "empty_permuted", "empty_strided",
    "eye", "full", "full_like", "hamming_window", "hann_window", "kaiser_window", "linspace", "logspace",
    "normal", "ones", "ones_like", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like",
    "randperm", "range", "scalar_tensor", "sparse_coo_tensor", "tril_indices", "triu_indices", "zeros",
    "zeros_like",
)  # fmt: skip
_METHODS = ("new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros")


def patch_ordinals(patches: Patches) -> None:
    """Let factories and `torch.device` take the number of a GPU."""
    from torch.utils._device import _device_constructors

    _device_constructors()  # remembers torch's own functions, which is what function modes are told of
    patches.set_all(torch, {n: _numbered(getattr(torch, n)) for n in _FACTORIES if hasattr(torch, n)})
    patches.set_all(torch.Tensor, {n: _numbered(getattr(torch.Tensor, n)) for n in _METHODS})
    patches.set(torch, "device", _device_type(torch.device))


def _numbered(original: Any) -> Any:
    def factory(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if type(device) is int:
            kwargs["device"] = logical_device(device)
        return original(*args, **kwargs)

    factory.__name__ = factory.__qualname__ = original.__name__
    factory.__doc__ = original.__doc__
    return factory


def _device_type(original: Any) -> Any:
    class DeviceMeta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, original)

        def __eq__(cls, other: object) -> bool:
            return other is cls or other is original

        def __hash__(cls) -> int:
            return hash(original)

    class device(metaclass=DeviceMeta):
        """Makes a `torch.device`; a number means a GPU."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            given = args[0] if args else kwargs.get("device")
            if len(args) + len(kwargs) == 1 and type(given) is int:
                return CUDA if given == 0 else original("cuda", given)
            return original(*args, **kwargs)

    device.__module__ = "torch"
    device.__qualname__ = "device"
    return device
