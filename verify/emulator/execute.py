"""Running one operation on the CPU memory behind the emulated device."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .ops import Op

_NARROW = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}
_WIDE = {torch.float32, torch.complex64}
# "primitive": oneDNN has no recurrent kernel in half precision.
_LACKING = ("Half", "BFloat16", "bfloat16", "half", "primitive")


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """`value` with every tensor in it, in lists and tuples too, replaced by `change(tensor)`."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (list, tuple) or isinstance(value, list):
        return type(value)(map_tensors(item, change) for item in value)
    if isinstance(value, tuple):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a result or an argument, lists and tuples included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def results_of(result: Any) -> list[Any]:
    """What an operation returned, flattened; None where it returned nothing at a place."""
    if isinstance(result, (list, tuple)):
        return [leaf for item in result for leaf in results_of(item)]
    return [result]


def execute(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], generator: Any) -> Any:
    """Run `op`, drawing from `generator` (the device's) where the operation draws and is given none."""
    if not op.draws or generator is None:
        return _compute(op, args, kwargs)
    if op.takes_generator:
        return _compute(op, *_with_generator(op, args, kwargs, generator))
    host = torch.default_generator
    before = host.get_state()
    _put(host, generator.get_state())
    try:
        return _compute(op, args, kwargs)
    finally:
        _put(generator, host.get_state())
        _put(host, before)


def _put(generator: torch.Generator, state: torch.Tensor) -> None:
    """Set a generator's state unseen by profilers of calls, who would take it for the program's doing."""
    operator.methodcaller("set_state", state)(generator)


def _with_generator(
    op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], generator: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if op.generator_at < len(args):
        return (*args[: op.generator_at], generator, *args[op.generator_at + 1 :]), kwargs
    return args, {**kwargs, "generator": generator}


def _compute(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return op.func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if op.name == "histc" and "not implemented for" in text:  # the CPU counts floating numbers only
            return op.func(args[0].double(), *args[1:], **kwargs).to(args[0].dtype)
        if not any(word in text for word in _LACKING):
            raise
        if not any(t.dtype in _NARROW for part in (*args, *kwargs.values()) for t in tensors_in(part)):
            raise
        return _compute_wide(op, args, kwargs)


def _compute_wide(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same operation in float32, rounded to the dtype the CUDA kernel returns."""
    written: list[tuple[torch.Tensor, torch.Tensor]] = []
    narrow = next(
        t.dtype for part in (*args, *kwargs.values()) for t in tensors_in(part) if t.dtype in _NARROW
    )
    writes = {op.arguments[i] for i in op.writes}

    def widen(name: str, value: Any) -> Any:
        def change(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dtype not in _NARROW:
                return tensor
            wide = tensor.to(_NARROW[tensor.dtype])
            if name in writes:
                written.append((tensor, wide))
            return wide

        if isinstance(value, torch.dtype):
            return _NARROW.get(value, value)
        return map_tensors(value, change)

    names = op.arguments
    wide_args = tuple(widen(names[i], value) for i, value in enumerate(args))
    wide_kwargs = {name: widen(name, value) for name, value in kwargs.items()}
    result = op.func(*wide_args, **wide_kwargs)
    for tensor, wide in written:
        tensor.copy_(wide)
    asked = kwargs.get("dtype")

    def round_back(tensor: torch.Tensor) -> torch.Tensor:
        for original, wide in written:
            if tensor is wide:
                return original
        if tensor.dtype not in _WIDE or (asked is not None and asked not in _NARROW):
            return tensor
        if tensor.dtype.is_complex:
            return tensor.to(torch.complex32) if narrow in (torch.float16, torch.complex32) else tensor
        return tensor.to(torch.float16 if narrow is torch.complex32 else narrow)

    return map_tensors(result, round_back)


def poison(tensor: torch.Tensor) -> None:
    """Fill `tensor` with what no right program reads: NaN, the smallest integer, True."""
    if tensor.numel() == 0:
        return
    dtype = tensor.dtype
    if dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or dtype.is_complex:
        tensor.fill_(float("nan"))
    elif dtype is torch.bool:
        tensor.fill_(True)
    elif dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        tensor.fill_(torch.iinfo(dtype).min)
    else:
        tensor.view(torch.uint8).fill_(0xFF)


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The whole memory behind `tensor` as one dimension of its dtype, sharing it."""
    storage = torch._C.TensorBase.untyped_storage(tensor)
    count = storage.nbytes() // tensor.element_size()
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (count,), (1,))
