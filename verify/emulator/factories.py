"""Functions that build tensors from host data, which torch does out of sight of a dispatch mode."""

from __future__ import annotations

from typing import Any

import torch

from .core import Gpu
from .labels import CUDA, PINNED, logical_device, settle
from .tensor_api import building, device_of, made_on, move


def default_device() -> torch.device:
    """The logical device of `torch.set_default_device` or the innermost `with torch.device(…)`."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    modes: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    for mode in reversed(modes):
        if isinstance(mode, DeviceContext):
            return logical_device(mode.device)
    return torch.device("cpu")


def read_scalars(gpu: Gpu, data: object) -> None:
    """Wait for the device if `data` is a list with tensors of the device in it: they are read one by one."""
    if isinstance(data, (list, tuple)) and data and not isinstance(data[0], (int, float)):
        for item in data:
            if isinstance(item, torch.Tensor):
                if device_of(item) is CUDA:
                    gpu.watch.wait("stream")
            else:
                read_scalars(gpu, item)


def make_half_transforms() -> dict[str, Any]:
    """Functions of `torch.fft` for half precision, which CUDA has: computed in float32 and rounded."""
    rounded = {torch.float32: torch.float16, torch.complex64: torch.complex32}

    def in_half(original: Any) -> Any:
        def function(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if device_of(input) is not CUDA or input.dtype not in rounded.values():
                return original(input, *args, **kwargs)  # type: ignore[no-any-return]
            wide = input.to(torch.complex64 if input.is_complex() else torch.float32)
            result = original(wide, *args, **kwargs)
            return result.to(rounded.get(result.dtype, result.dtype))  # type: ignore[no-any-return]

        return function

    kinds = ("fft", "rfft", "hfft")
    names = [f"{inverse}{kind}{rank}" for kind in kinds for rank in ("", "2", "n") for inverse in ("", "i")]
    return {name: in_half(getattr(torch.fft, name)) for name in names}


def make_hidden_waits(gpu: Gpu) -> dict[str, Any]:
    """`torch.cov` and `torch.corrcoef`, which read back a count that a composite makes out of sight."""

    def waiting(original: Any) -> Any:
        def function(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if device_of(input) is CUDA:
                gpu.watch.wait("stream")
            return original(input, *args, **kwargs)  # type: ignore[no-any-return]

        return function

    return {name: waiting(getattr(torch, name)) for name in ("cov", "corrcoef")}


def make_factories(gpu: Gpu) -> dict[str, Any]:
    """Replacements for functions of `torch`, bound to `gpu`."""
    tensor_, as_tensor_, asarray_ = torch.tensor, torch.as_tensor, torch.asarray

    def place(device: Any) -> torch.device:
        return default_device() if device is None else logical_device(device)

    def tensor(
        data: Any,
        *,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        pin_memory: bool = False,
    ) -> torch.Tensor:
        where = device_of(data) if device is None and isinstance(data, torch.Tensor) else place(device)
        read_scalars(gpu, data)
        with building(gpu), torch._C.DisableTorchFunction():
            made = tensor_(data, dtype=dtype)
        if pin_memory:
            settle(made, PINNED)
        return made_on(gpu, made, where).requires_grad_(requires_grad)

    def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
        if isinstance(data, torch.Tensor):
            return move(gpu, data, None if device is None else logical_device(device), dtype=dtype)
        where = place(device)
        read_scalars(gpu, data)
        with building(gpu), torch._C.DisableTorchFunction():
            made = as_tensor_(data, dtype=dtype)
        return made_on(gpu, made, where)

    def asarray(
        obj: Any, *, dtype: Any = None, device: Any = None, copy: Any = None, requires_grad: bool = False
    ) -> torch.Tensor:
        if isinstance(obj, torch.Tensor):
            where = None if device is None else logical_device(device)
            return move(gpu, obj, where, dtype=dtype, copy=bool(copy)).requires_grad_(requires_grad)
        where = place(device)
        read_scalars(gpu, obj)
        with building(gpu), torch._C.DisableTorchFunction():
            made = asarray_(obj, dtype=dtype, copy=copy)
        return made_on(gpu, made, where).requires_grad_(requires_grad)

    return {"tensor": tensor, "as_tensor": as_tensor, "asarray": asarray}


def make_one_hot(gpu: Gpu) -> Any:
    """`torch.nn.functional.one_hot` as CUDA computes it."""
    original = torch.nn.functional.one_hot

    def one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
        if device_of(tensor) is not CUDA or num_classes < 0:
            return original(tensor, num_classes)
        result = torch.zeros(*tensor.shape, num_classes, dtype=torch.int64, device=CUDA)
        return result.scatter_(-1, tensor.unsqueeze(-1), 1)

    return one_hot


def make_ctc_loss(gpu: Gpu) -> Any:
    """`torch.ctc_loss` as CUDA computes it: the lengths cross between host and device, wherever they are."""
    original = torch.ctc_loss

    def ctc_loss(
        log_probs: torch.Tensor,
        targets: torch.Tensor,
        input_lengths: Any,
        target_lengths: Any,
        *args: Any,
        **kw: Any,
    ) -> torch.Tensor:
        if device_of(log_probs) is CUDA:
            gpu.watch.wait("copy")
            targets, input_lengths, target_lengths = (
                move(gpu, torch.as_tensor(value), CUDA) for value in (targets, input_lengths, target_lengths)
            )
        return original(log_probs, targets, input_lengths, target_lengths, *args, **kw)

    return ctc_loss


def make_grouping() -> Any:
    """`torch._C._group_tensors_by_device_and_dtype` with logical devices in its keys."""
    original = torch._C._group_tensors_by_device_and_dtype

    def group(lists: Any, with_indices: bool = False) -> Any:
        grouped: dict[Any, Any] = {}
        for (real, dtype), (members, indices) in original(lists, True).items():
            for position, index in enumerate(indices):
                lead = next((c[position] for c in members if c and c[position] is not None), None)
                device = real if lead is None else device_of(lead)
                columns, places = grouped.setdefault((device, dtype), ([[] for _ in members], []))
                for column, source in zip(columns, members, strict=True):
                    if source:
                        column.append(source[position])
                places.append(index)
        if with_indices:
            return grouped
        return {key: (columns, []) for key, (columns, _) in grouped.items()}

    return group
