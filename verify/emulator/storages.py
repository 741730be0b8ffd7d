"""Storages, and what saves and loads them, with the logical device."""

from __future__ import annotations

from typing import Any

import torch

from .core import Gpu
from .labels import CUDA, ON_CUDA, PINNED, logical_device
from .patches import Patches

_real_device: Any = torch.UntypedStorage.device.__get__


def _home(storage: Any) -> Any:
    return getattr(storage, "_home", None)


def storage_device(storage: Any) -> torch.device:
    """The logical device of an untyped storage."""
    home = _home(storage)
    return _real_device(storage) if home is None else home.device  # type: ignore[no-any-return]


def _duplicate(storage: Any) -> Any:
    whole = torch.empty(0, dtype=torch.uint8).set_(storage)
    result: Any = whole.clone().untyped_storage()
    home = _home(storage)
    if home is not None and home.pinned:
        result._home = PINNED
    return result


def _deepcopy(self: Any, memo: dict[Any, Any]) -> Any:
    known = memo.setdefault("torch", {})
    if self._cdata not in known:
        known[self._cdata] = _duplicate(self)
    return known[self._cdata]


def _to_cuda(self: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
    home = _home(self)
    if home is not None and home.device is CUDA:
        return self
    result = _duplicate(self)
    result._home = ON_CUDA
    return result


def _to_cpu(self: Any) -> Any:
    home = _home(self)
    if home is None or home.device is not CUDA:
        return self
    result = _duplicate(self)
    del result._home
    return result


def _locate(gpu: Gpu) -> Any:
    def location(storage: Any) -> str | None:
        home = _home(getattr(storage, "_untyped_storage", storage))
        if home is None or home.device is not CUDA:
            return None
        gpu.watch.wait("copy")  # what is being saved goes to the host first
        return "cuda:0"

    return location


def _restore(storage: Any, location: str) -> Any:
    if not location.startswith("cuda"):
        return None
    logical_device(location)
    getattr(storage, "_untyped_storage", storage)._home = ON_CUDA
    return storage


def patch_storages(gpu: Gpu, patches: Patches) -> Any:
    """Make storages show, copy, save and load the logical device; returns the entry to take out again."""
    patches.set_all(
        torch.UntypedStorage,
        {
            "device": property(storage_device),
            "is_cuda": property(lambda self: storage_device(self) is CUDA),
            "clone": _duplicate,
            "__deepcopy__": _deepcopy,
            "__copy__": _duplicate,
            "cuda": _to_cuda,
            "cpu": _to_cpu,
        },
    )
    registry = torch.serialization._package_registry
    entry = (5, _locate(gpu), _restore)
    registry.append(entry)
    registry.sort(key=lambda item: item[0])

    def remove() -> None:
        registry.remove(entry)

    return remove
