"""What the emulated device does not do, said by name instead of an error from the middle of torch.

Nested tensors and fake tensors are made by torch with a device of their own that no label reaches: the first
mix devices, the second end the process in the autograd engine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from .errors import NOT_EMULATED
from .execute import tensors_in
from .labels import CUDA, is_cuda, logical_device
from .patches import Patches

_NESTED = ("nested_tensor", "as_nested_tensor", "nested_tensor_from_jagged", "narrow", "masked_select")
_FAKE = "torch._subclasses.fake_tensor"


def patch_refusals(patches: Patches) -> None:
    """Replace what makes nested tensors on the device, exports programs, and enters a fake mode."""
    for name in _NESTED:
        if hasattr(torch.nested, name):
            patches.set(torch.nested, name, _refusing(f"torch.nested.{name}", getattr(torch.nested, name)))
    for name in ("export", "export_for_training", "draft_export"):
        if hasattr(torch.export, name):
            patches.set(torch.export, name, _refused(f"torch.export.{name}"))
    if _FAKE in sys.modules:
        mode = sys.modules[_FAKE].FakeTensorMode
        enter = mode.__enter__

        def entered(self: Any) -> Any:
            caller = str(sys._getframe(1).f_globals.get("__name__"))
            if caller.partition(".")[0] != "torch":
                raise NotImplementedError(NOT_EMULATED.format("FakeTensorMode"))
            return enter(self)

        patches.set(mode, "__enter__", entered)


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(NOT_EMULATED.format(name))

    return refuse


def _refusing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        asked = kwargs.get("device")
        wanted = asked is not None and logical_device(asked) is CUDA
        if wanted or any(is_cuda(t) for part in (*args, *kwargs.values()) for t in tensors_in(part)):
            raise NotImplementedError(NOT_EMULATED.format(name))
        return original(*args, **kwargs)

    return make
