"""The methods and properties of `torch.Tensor` that must know the logical device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from .core import Gpu
from .labels import CPU, CUDA, PINNED, home_of, logical_device, real_device, settle
from .special import transfer

_Base = torch._C.TensorBase


@contextlib.contextmanager
def building(gpu: Gpu) -> Iterator[None]:
    """Marks what is built inside as made by the program, not by an index expression."""
    watch = gpu.watch
    before, watch.building = watch.building, True
    try:
        yield
    finally:
        watch.building = before


def device_of(tensor: torch.Tensor) -> torch.device:
    """The logical device of `tensor`."""
    home = home_of(tensor)
    if home is not None:
        return home.device
    return real_device(tensor)


class _CrossDevice(torch.autograd.Function):
    """A copy to the other device whose gradient is copied back."""

    @staticmethod
    def forward(
        ctx: Any, gpu: Gpu, source: torch.Tensor, device: torch.device, options: dict[str, Any]
    ) -> torch.Tensor:
        ctx.gpu, ctx.origin, ctx.dtype = gpu, device_of(source), source.dtype
        return transfer(gpu.watch, source, device, **options)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, move(ctx.gpu, grads[0], ctx.origin, dtype=ctx.dtype), None, None


def move(
    gpu: Gpu,
    source: torch.Tensor,
    device: torch.device | None,
    *,
    dtype: torch.dtype | None = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """`Tensor.to` with a logical device; None keeps the device."""
    here = device_of(source)
    if device is None or device == here or CUDA not in (device, here):
        extra = {} if memory_format is None else {"memory_format": memory_format}
        target = source.dtype if dtype is None else dtype
        if device is not None and device != here:
            return _Base.to(source, device, target, non_blocking, copy, **extra)
        return _Base.to(source, target, non_blocking, copy, **extra)
    if device.type != "cpu" and here is CUDA:
        return _Base.to(source, device, dtype or source.dtype, non_blocking, copy)
    options: dict[str, Any] = {"dtype": dtype, "non_blocking": non_blocking, "memory_format": memory_format}
    if source.requires_grad and torch.is_grad_enabled():
        return _CrossDevice.apply(gpu, source, device, options)  # type: ignore[no-any-return, no-untyped-call]
    return transfer(gpu.watch, source.detach() if source.requires_grad else source, device, **options)


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of every form of `Tensor.to`, with the logical device."""
    given = dict(kwargs)
    rest = list(args)
    options: dict[str, Any] = {"device": None, "dtype": None, "non_blocking": False, "copy": False}
    if "other" in given:
        rest.insert(0, given.pop("other"))
    if rest and isinstance(rest[0], torch.Tensor):
        other = rest.pop(0)
        options["device"], options["dtype"] = device_of(other), other.dtype
    elif rest and isinstance(rest[0], torch.dtype):
        options["dtype"] = rest.pop(0)
    elif rest and (isinstance(rest[0], (str, torch.device, int)) and not isinstance(rest[0], bool)):
        options["device"] = logical_device(rest.pop(0))
        if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
            options["dtype"] = rest.pop(0)
    elif rest and rest[0] is None:
        rest.pop(0)
        if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
            options["dtype"] = rest.pop(0)
    for name in ("non_blocking", "copy"):
        if rest:
            options[name] = rest.pop(0)
    if "device" in given:
        value = given.pop("device")
        options["device"] = None if value is None else logical_device(value)
    options["memory_format"] = given.pop("memory_format", None)
    for name in ("dtype", "non_blocking", "copy"):
        if name in given:
            options[name] = given.pop(name)
    if rest or given:
        raise TypeError(f"to() received an invalid combination of arguments - got {(*args, *kwargs)}")
    return options


def parse_to(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool, Any]:
    """`torch._C._nn._parse_to`, which `Module.to` uses, with the logical device."""
    options = _parse_to(args, kwargs)
    return options["device"], options["dtype"], options["non_blocking"], options["memory_format"]


def make_tensor_methods(gpu: Gpu) -> dict[str, Any]:
    """Replacements for attributes of `torch.Tensor`, bound to `gpu`.

    Long, because it is a list of small functions, one for each attribute.
    """

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        options = _parse_to(args, kwargs)
        return move(gpu, self, options.pop("device"), **options)

    def cuda(
        self: torch.Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None
    ) -> torch.Tensor:
        where = CUDA if device is None else logical_device(device)
        return move(gpu, self, where, non_blocking=non_blocking, memory_format=memory_format)

    def cpu(self: torch.Tensor, memory_format: Any = None) -> torch.Tensor:
        return move(gpu, self, CPU, memory_format=memory_format)

    def numpy(self: torch.Tensor, *, force: bool = False) -> Any:
        if device_of(self) is CUDA:
            if not force:
                raise TypeError(
                    "can't convert cuda:0 device type tensor to numpy. "
                    "Use Tensor.cpu() to copy the tensor to host memory first."
                )
            return _Base.numpy(cpu(self.detach()), force=True)
        return _Base.numpy(self, force=force)

    def tolist(self: torch.Tensor) -> Any:
        if device_of(self) is CUDA:
            gpu.watch.wait("copy")
        return _Base.tolist(self)

    def get_device(self: torch.Tensor) -> int:
        return 0 if device_of(self) is CUDA else _Base.get_device(self)

    def pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
        if device_of(self) is CUDA:
            raise RuntimeError(f"cannot pin '{self.type()}' only dense CPU tensors can be pinned")
        if is_pinned(self):
            return self
        result = self.clone()
        settle(result, PINNED)
        return result

    def is_pinned(self: torch.Tensor, device: Any = None) -> bool:
        home = home_of(self)
        return home is not None and home.pinned

    def record_stream(self: torch.Tensor, stream: Any) -> None:
        """Nothing to do: memory is given back by reference counting alone."""

    represent: Any = torch.Tensor.__repr__

    def __repr__(self: torch.Tensor, *, tensor_contents: Any = None) -> str:
        if tensor_contents is None and device_of(self) is CUDA:
            gpu.watch.wait("stream")
        return str(represent(self, tensor_contents=tensor_contents))

    def new_tensor(
        self: torch.Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
    ) -> torch.Tensor:
        where = device_of(self) if device is None else logical_device(device)
        with building(gpu):
            made = _Base.new_tensor(self, data, dtype=dtype)
        return made_on(gpu, made, where).requires_grad_(requires_grad)

    def type_(self: torch.Tensor, dtype: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
        if dtype is None:
            name: str = _Base.type(self)
            return name.replace("torch.", "torch.cuda.", 1) if device_of(self) is CUDA else name
        if isinstance(dtype, str) and dtype.startswith("torch.cuda."):
            kind = getattr(torch, dtype.rsplit(".", 1)[1]).dtype
            return move(gpu, self, CUDA, dtype=kind, non_blocking=non_blocking)
        kind = getattr(dtype, "dtype", None)
        if getattr(dtype, "__module__", "") == "torch.cuda" and kind is not None:
            return move(gpu, self, CUDA, dtype=kind, non_blocking=non_blocking)
        return _Base.type(self, dtype, non_blocking, **kwargs)

    def type_as(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return move(gpu, self, device_of(other), dtype=other.dtype)

    array: Any = torch.Tensor.__array__

    def __array__(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if device_of(self) is CUDA:
            numpy(self)
        return array(self, *args, **kwargs)

    return {
        "device": property(device_of),
        "is_cuda": property(lambda self: device_of(self) is CUDA),
        "is_cpu": property(lambda self: device_of(self).type == "cpu"),
        "to": to,
        "cuda": cuda,
        "cpu": cpu,
        "numpy": numpy,
        "tolist": tolist,
        "get_device": get_device,
        "pin_memory": pin_memory,
        "is_pinned": is_pinned,
        "record_stream": record_stream,
        "__repr__": __repr__,
        "new_tensor": new_tensor,
        "type": type_,
        "type_as": type_as,
        "__array__": __array__,
    }


def made_on(gpu: Gpu, made: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor built from host data, brought to `device` as the factories do: by an unpinned copy."""
    if device is not CUDA:
        return made if device.type == "cpu" else _Base.to(made, device)
    return move(gpu, made, CUDA)


__all__ = ["building", "device_of", "made_on", "make_tensor_methods", "move", "parse_to"]
