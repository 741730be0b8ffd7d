"""Operations CUDA treats in their own way: copies between devices, indexing, assertions, packed sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .errors import DEVICE_ASSERT, UNPINNED_COPY, cuda_error, two_devices
from .execute import execute
from .labels import (
    CPU,
    CUDA,
    LISTED,
    ON_CUDA,
    PINNED,
    home_of,
    is_cuda,
    is_pinned,
    logical_device,
    on_host,
    settle,
)
from .ops import Op, op_of

if TYPE_CHECKING:
    from .core import Watch

aten = torch.ops.aten
_MASKS = (torch.bool, torch.uint8)
Handler = Callable[["Watch", Op, tuple[Any, ...], dict[str, Any]], Any]


def transfer(
    watch: Watch,
    source: torch.Tensor,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """A copy of `source` on the other device, with the synchronisation and the refusals CUDA has for it.

    An asynchronous copy to the host lands in page-locked memory, as `aten::_to_copy` allocates it.
    """
    pinned = non_blocking if device is CPU else is_pinned(source) and dtype in (None, source.dtype)
    if source.numel():  # no memory, no copy: CUDA allows `torch.tensor([], device="cuda")` in a capture
        enter_copy(watch, pinned, non_blocking)
    memory_format = torch.preserve_format if memory_format is None else memory_format
    capture = watch.stream.capture
    copy = op_of(aten._to_copy.default)
    tick, source = _read_in_order(watch, copy, source)
    with torch._C._DisableTorchDispatch():  # the copy is accounted for here, not by the mode
        result: torch.Tensor = aten._to_copy.default(source, dtype=dtype, memory_format=memory_format)
        if device is CUDA:
            settle(result, ON_CUDA if capture is None else capture.home)
        elif non_blocking:
            settle(result, PINNED)
        if capture is not None:
            copy = op_of(aten.copy_.default)
            capture.record(copy, (result, source), {}, None, result, capture.home)
    if capture is None:
        _written_in_order(watch, result, tick, non_blocking)
    return result


def _read_in_order(watch: Watch, op: Op, source: torch.Tensor) -> tuple[int, torch.Tensor]:
    """A tick for a copy, and what it finds in its source."""
    if watch.stream.capture is not None:
        return 0, source
    order, stream = watch.gpu.order, watch.stream
    tick = order.launch(stream)
    order.reads_host(stream)
    if order.several:
        (source,), _ = order.guarded(op, (source,), {}, stream)
    return tick, source


def _written_in_order(watch: Watch, target: torch.Tensor, tick: int, non_blocking: bool) -> None:
    """A copy has been launched: one that blocks has been waited for, another is there in its time."""
    order, stream = watch.gpu.order, watch.stream
    if not non_blocking:
        order.host_sees(stream.clock)
    elif is_cuda(target):
        order.wrote((target,), stream, tick)
    elif is_pinned(target):
        order.arrives_late(target, stream, tick)


def enter_copy(watch: Watch, pinned: bool, non_blocking: bool) -> None:
    """Raise or account for what a copy between host and device does to the current stream."""
    capture = watch.stream.capture
    if capture is None:
        if not non_blocking:
            watch.gpu.waited()
        return
    capture.require_valid()
    if not pinned:
        raise RuntimeError(UNPINNED_COPY)
    if not non_blocking:
        raise capture.break_off()


def to_copy(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`aten::_to_copy` with a device: only `cuda` is meant; `cpu` is what C++ reads off emulated tensors."""
    device = kwargs.get("device")
    source = args[0]
    if device is None or device.type != "cuda":
        if device is None or device.type == "cpu":
            return NotImplemented
        return op.func(*args, **kwargs)
    logical_device(device)
    if is_cuda(source):
        return watch.launch(op, args, {**kwargs, "device": CPU, "pin_memory": None})
    return transfer(
        watch,
        source,
        CUDA,
        dtype=kwargs.get("dtype"),
        non_blocking=bool(kwargs.get("non_blocking")),
        memory_format=kwargs.get("memory_format"),
    )


def _copy(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[0], args[1]
    there, here = is_cuda(target), is_cuda(source)
    floating = any((home := home_of(t)) is not None and home.floating for t in (target, source))
    if there == here or floating:
        return NotImplemented
    non_blocking = bool(op.argument(2, args, kwargs))
    host = source if there else target
    pinned = is_pinned(host) and target.dtype == source.dtype
    enter_copy(watch, pinned, non_blocking)
    capture = watch.stream.capture
    if capture is None:
        tick, source = _read_in_order(watch, op_of(aten._to_copy.default), source)
        result = op.func(target, source, *args[2:], **kwargs)
        _written_in_order(watch, target, tick, non_blocking)
        return result
    capture.run(op, args, kwargs, None)
    capture.record(op, (target, source), {}, None, target, capture.home)
    return target


def _index(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    indices = [t for t in args[1] if isinstance(t, torch.Tensor)]
    if not is_cuda(args[0]):
        home = home_of(args[0])
        if home is not None and home.floating:
            return NotImplemented
        raise RuntimeError(
            "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
        )
    _wait_for_indices(watch, indices)
    return watch.launch(op, args, kwargs)


def _wait_for_indices(watch: Watch, indices: list[torch.Tensor]) -> None:
    # A mask that the program made in host memory is turned into indices there, which go over asynchronously.
    indices = [t for t in indices if not (t.dtype in _MASKS and home_of(t) is None)]
    if any(t.dtype in _MASKS and not on_host(t) for t in indices):
        watch.wait("stream")
    if any(on_host(t) for t in indices):
        watch.wait("copy")


def _index_put(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, values = args[0], args[2]
    indices = [t for t in args[1] if isinstance(t, torch.Tensor)]
    if not is_cuda(target):
        home = home_of(target)
        if home is not None and home.floating:
            return NotImplemented
        raise two_devices(CPU, CUDA)
    host_value = on_host(values)
    if host_value and values.numel() != 1:
        raise two_devices(CUDA, CPU)
    fills = host_value and len(indices) == 1 and indices[0].dtype in _MASKS and is_cuda(indices[0])
    if not fills:
        _wait_for_indices(watch, indices)
        if host_value:
            watch.wait("copy")
    return watch.launch(op, args, kwargs)


def lift(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`aten::lift_fresh`: what `x[…]` builds from a list or number is told from what the program makes."""
    result = op.func(*args, **kwargs)
    if not watch.building:
        settle(result, LISTED)
    return result


def _where(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) == 3 and any(t.dim() == 0 and on_host(t) for t in args):
        watch.wait("copy")
    return NotImplemented


def _masked_fill(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, mask, value = args
    if is_cuda(target) and on_host(mask):
        raise RuntimeError(
            "expected self and mask to be on the same device, but got mask on cpu and self on cuda:0"
        )
    if isinstance(value, torch.Tensor) and is_cuda(value):
        watch.wait("stream")
    return NotImplemented


def one_hot(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """CUDA's `one_hot`: no class is checked, and the number is read back only if it is not given."""
    index = args[0]
    classes = op.argument(1, args, kwargs)
    if classes is None or classes < 0:
        watch.wait("stream")
        return watch.launch(op, args, kwargs)
    with watch:
        result = torch.zeros(*index.shape, classes, dtype=torch.int64, device=CUDA)
        return result.scatter_(-1, index.unsqueeze(-1), 1)


def _assert_async(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    capture = watch.stream.capture
    if capture is not None:
        capture.require_valid()
        capture.record(op, args, kwargs, None, (), capture.home)
        return None
    try:
        execute(op, args, kwargs, None)
    except RuntimeError:
        watch.gpu.pending = cuda_error(DEVICE_ASSERT)
    return None


def _pack(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    lengths = args[1]
    if is_cuda(lengths):
        raise RuntimeError(
            f"'lengths' argument should be a 1D CPU int64 tensor, but got {lengths.dim()}D cuda:0 Long tensor"
        )
    data, sizes = watch.launch(op, args, kwargs)
    settle(sizes, None)
    return data, sizes


def _pad_packed(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    data, lengths = watch.launch(op, args, kwargs)
    settle(lengths, None)
    return data, lengths


def _set(watch: Watch, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return op.func(*args, **kwargs)


HANDLERS: dict[str, Handler] = {
    "_to_copy": to_copy,
    "copy_": _copy,
    "index": _index,
    "index_put": _index_put,
    "index_put_": _index_put,
    "_index_put_impl_": _index_put,
    "one_hot": one_hot,
    "_assert_async": _assert_async,
    "_pack_padded_sequence": _pack,
    "_pad_packed_sequence": _pad_packed,
    "set_": _set,
    "where": _where,
    "masked_fill": _masked_fill,
    "masked_fill_": _masked_fill,
}
