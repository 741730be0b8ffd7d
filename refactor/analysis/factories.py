"""Tensors that code makes or moves: on which device they start, and what that copies from the host."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis.domain import (
    NONE,
    TAINTED,
    Host,
    Opaque,
    Readback,
    Seq,
    Tensor,
    Val,
    element,
    is_hosted,
    is_tainted,
    on_device,
    read_back,
    replace,
    spread,
)
from refactor.analysis.model import Device, EventKind
from refactor.analysis.project import last_name
from refactor.analysis.torchops import BOOL_RESULTS, CONSTANTS, FLOAT_RESULTS, INT_RESULTS, RANKS, SIZED

if TYPE_CHECKING:
    from refactor.analysis.calls import Arguments
    from refactor.analysis.interpreter import Frame, Interpreter

_SCALARS = ("int", "float", "bool")


def as_device(value: Val | None) -> Host:
    """A device object from what ``torch.device`` or ``device=`` is given."""
    if value is None or value == NONE:
        return Host("device", device=Device.HOST)
    if isinstance(value, Tensor):
        return Host("device", device=value.device)
    if isinstance(value, Host):
        if isinstance(value.value, str):
            return Host("device", device=Device.HOST if value.value == "cpu" else Device.DEVICE)
        if value.type == "device" and not value.optional:
            return value
    return Host("device", device=Device.UNKNOWN)


def factory(it: Interpreter, frame: Frame, name: str, args: Arguments) -> Val:
    """``torch.zeros``, ``torch.tensor`` …: the tensor made, and what is copied for it."""
    if name == "from_numpy" or name == "frombuffer":
        return Tensor(Device.HOST)
    if name == "normal" and any(isinstance(value, Tensor) for value in args.every):
        return _normal(it, frame, args)
    data = args.get(0, "data") if name in CONSTANTS else None
    given = args.keywords.get("device")
    if given is None and name in ("as_tensor", "asarray", "tensor") and isinstance(data, Tensor):
        device = data.device
    elif given is None and (frame.placeless or args.open or data == TAINTED):
        device = Device.UNKNOWN
    else:
        device = as_device(given).device
    pinned = args.keywords.get("pin_memory")
    if isinstance(pinned, Host) and pinned.value is True:
        device = Device.UNKNOWN
    if name in ("tensor", "as_tensor", "asarray"):
        constant_hazard(it, frame, name, args, data, device, given)
        empty = isinstance(data, Seq) and data.items == () and _literal(args)
        return Tensor(device, _data_dtype(args, data), _data_rank(data), shape=(0,) if empty else None)
    if name == "sparse_coo_tensor":
        return _sparse(it, frame, args, device if given is not None else None)
    if on_device_sizes(args, name):
        it.readback(frame, EventKind.DEVICE_SIZE, args.node, args.node, f"torch.{name}")
    empty = name in SIZED and any(
        isinstance(v, Host) and v.value == 0 and v.type == "int" for v in _sizes(name, args)
    )
    return Tensor(device, _dtype(name, args), _rank(name, args), shape=(0,) if empty else None)


def kept(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    """``constant`` of our runtime: as ``torch.as_tensor``, but nothing is copied at later calls."""
    data, given = args.get(0, "data"), args.keywords.get("device")
    if isinstance(data, Seq) and on_device(innermost(data)):
        it.readback(frame, EventKind.READBACK, args.node, args.expr(0, "data") or args.node, "constant")
    device = data.device if given is None and isinstance(data, Tensor) else as_device(given).device
    return Tensor(device, _data_dtype(args, data), _data_rank(data))


def _literal(args: Arguments) -> bool:
    """Whether the data is written out there: into a list with a name, elements may come unseen."""
    return bool(args.node.args) and isinstance(args.node.args[0], ast.List | ast.Tuple)


def _normal(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    """``torch.normal(mean, std)`` of tensors: it looks for a negative deviation."""
    mean, deviation = args.get(0, "mean"), args.get(1, "std")
    if on_device(deviation):
        it.readback(frame, EventKind.SYNC_OP, args.node, args.node, "torch.normal of tensors")
    first = mean if isinstance(mean, Tensor) else deviation
    return Tensor(first.device, "float", first.rank) if isinstance(first, Tensor) else args.unknown


def _sparse(it: Interpreter, frame: Frame, args: Arguments, device: Device | None) -> Val:
    """``torch.sparse_coo_tensor(indices, values, size)``: without a size the largest index is read back."""
    values = args.get(1, "values")
    where = values.device if isinstance(values, Tensor) else Device.UNKNOWN
    if args.get(2, "size") is None and where is Device.DEVICE and not args.open:
        it.readback(
            frame, EventKind.DEVICE_SIZE, args.node, args.node, "torch.sparse_coo_tensor without a size"
        )
    return Tensor(device or where, values.dtype if isinstance(values, Tensor) else None)


def on_device_sizes(args: Arguments, name: str) -> bool:
    """Whether a size, bound or fill value that must be a host number is a tensor on the device."""
    values = args.values if name != "normal" else []
    sized = (
        *values,
        *(v for k, v in args.keywords.items() if k in ("size", "start", "end", "step", "fill_value")),
    )
    return any(read_back(item) for value in sized for item in spread(value))


def constant_hazard(
    it: Interpreter,
    frame: Frame,
    name: str,
    args: Arguments,
    data: Val | None,
    device: Device,
    given: Val | None,
) -> None:
    """Host data copied to the device, or device data read back to build a tensor of it."""
    subject = args.expr(0, "data") or args.node
    inner = innermost(data)
    if isinstance(data, Seq) and on_device(inner):
        it.readback(frame, EventKind.READBACK, args.node, subject, f"torch.{name} of device values")
        return
    if isinstance(data, Tensor):
        if data.device is Device.HOST and device is not Device.HOST and given is not None:
            it.emit(frame, EventKind.HOST_TO_DEVICE, args.node, subject, f"torch.{name}")
        elif data.device is Device.DEVICE and device is Device.HOST and given is not None:
            it.readback(frame, EventKind.TO_HOST, args.node, subject, f"torch.{name}")
        if not (data.maybe and name == "tensor" and given is not None):
            return  # else a number on some path: nobody calls torch.tensor to copy a tensor
    if isinstance(data, Seq) and data.items == ():
        return
    if isinstance(data, Opaque) and (data.tainted or name != "tensor"):
        return
    if device is Device.HOST or (given is None and name != "new_tensor"):
        return
    it.emit(
        frame, EventKind.HOST_CONSTANT, args.node, subject, f"torch.{name}", device=args.nodes.get("device")
    )


def innermost(data: Val | None) -> Val | None:
    """The elements of nested lists."""
    while isinstance(data, Seq):
        data = element(data)
    return data


def _data_dtype(args: Arguments, data: Val | None) -> str | None:
    given = args.keywords.get("dtype")
    if isinstance(given, Host) and given.type == "dtype":
        return given.owner
    inner = innermost(data)
    if isinstance(inner, Tensor):
        return inner.dtype
    return inner.type if isinstance(inner, Host | Readback) and inner.type in _SCALARS else None


def rank_of(data: Val | None) -> int | None:
    """The rank of a tensor class called with data; numbers there are sizes."""
    return _data_rank(data) if isinstance(data, Seq) else None


def _data_rank(data: Val | None) -> int | None:
    rank = 0
    while isinstance(data, Seq):
        rank += 1
        data = element(data)
        if data is None:
            return rank
    if isinstance(data, Tensor):
        return rank + data.rank if data.rank is not None else None
    if isinstance(data, Host):
        return rank if data.type in _SCALARS else rank + 1 if data.type == "shape" else None
    return rank if isinstance(data, Readback) and data.type in _SCALARS else None


def _dtype(name: str, args: Arguments) -> str | None:
    given = args.keywords.get("dtype")
    if given is not None:
        return given.owner if isinstance(given, Host) and given.type == "dtype" else None
    if name in BOOL_RESULTS:
        return "bool"
    if name in INT_RESULTS:
        return "int"
    if name in ("arange", "range"):
        kinds = {v.type if isinstance(v, Host | Readback) else None for v in args.values}
        return "int" if kinds == {"int"} else "float" if "float" in kinds else None
    if name in ("full", "new_full"):
        fill = args.get(1, "fill_value")
        return fill.type if isinstance(fill, Host) and fill.type in _SCALARS else None
    return "float" if name in FLOAT_RESULTS or name in ("zeros", "ones", "empty", "eye") else None


def _rank(name: str, args: Arguments) -> int | None:
    if name in RANKS:
        return RANKS[name]
    if name not in SIZED and name != "randint":
        return None
    sizes = _sizes(name, args)
    if len(sizes) == 1 and isinstance(sizes[0], Seq) and sizes[0].type != "*":
        return len(sizes[0].items) if sizes[0].items is not None else None
    if any(isinstance(s, Seq) for s in sizes) or (
        len(sizes) == 1 and not (isinstance(sizes[0], Host) and sizes[0].type == "int")
    ):
        return None
    return len(sizes)


def _sizes(name: str, args: Arguments) -> list[Val]:
    """The arguments of a factory that are sizes."""
    if "size" in args.keywords:
        return [args.keywords["size"]]
    if name in ("full", "new_full"):
        return args.values[:1]
    return [v for v in args.values if isinstance(v, Seq)] if name == "randint" else list(args.values)


def like(it: Interpreter, frame: Frame, name: str, args: Arguments) -> Val:
    """``torch.zeros_like`` and its kin."""
    first = args.get(0, "input")
    base = (
        first if isinstance(first, Tensor) else Tensor(Device.DEVICE if is_tainted(first) else Device.UNKNOWN)
    )
    if name == "full_like" and read_back(args.get(1, "fill_value")):
        subject = args.expr(1, "fill_value") or args.node
        it.readback(frame, EventKind.DEVICE_SIZE, args.node, subject, "full_like: fill_value")
    given = args.keywords.get("device")
    device = base.device if given is None else as_device(given).device
    dtype = _dtype(name, args) if "dtype" in args.keywords else base.dtype
    return Tensor(device, dtype, base.rank)


def new(it: Interpreter, frame: Frame, owner: Tensor, name: str, args: Arguments) -> Val:
    """``x.new_zeros`` and its kin; ``x.new_tensor`` copies host data."""
    given = args.keywords.get("device")
    device = owner.device if given is None else as_device(given).device
    if name == "new" and args.values and isinstance(args.values[0], Seq) and args.values[0].type != "*":
        name = "new_tensor"  # x.new(2, 3) takes sizes, x.new([2, 3]) data
    if name == "new_tensor":
        data = args.get(0, "data")
        constant_hazard(it, frame, name, args, data, device, given)
        return Tensor(
            device, _data_dtype(args, data) if "dtype" in args.keywords else owner.dtype, _data_rank(data)
        )
    if on_device_sizes(args, name):
        it.readback(frame, EventKind.DEVICE_SIZE, args.node, args.node, name)
    dtype = _dtype(name, args) if "dtype" in args.keywords else owner.dtype
    return Tensor(device, dtype, _rank(name, args))


def convert(
    it: Interpreter, frame: Frame, owner: Tensor, name: str, args: Arguments, subject: ast.expr
) -> Val:
    """``.to(...)``, ``.type_as(...)``, ``.cuda()``: the tensor there, and the copy between the devices."""
    device, dtype = _target(owner, name, args)
    nothing = owner.shape is not None and 0 in owner.shape
    if is_hosted(owner) and device is not None and device is not Device.HOST and not nothing:
        it.readback(frame, EventKind.HOST_TO_DEVICE, args.node, subject, name)
    elif device is Device.HOST and owner.device is Device.DEVICE:
        it.readback(frame, EventKind.TO_HOST, args.node, subject, name)
    if device is None:
        return replace(owner, dtype=dtype)
    return replace(owner, device=device, dtype=dtype, hosted=False)


def _target(owner: Tensor, name: str, args: Arguments) -> tuple[Device | None, str | None]:
    """Device (None: unchanged) and dtype family after a conversion."""
    if name == "cuda":
        return Device.DEVICE, owner.dtype
    device: Device | None = None
    dtype = owner.dtype
    operands = [(args.get(i, ""), args.expr(i, "")) for i in range(len(args.values))]
    operands += [
        (v, args.nodes.get(k)) for k, v in args.keywords.items() if k in ("device", "dtype", "other")
    ]
    for value, node in operands:
        word = last_name(node).lower() if node is not None else ""
        if isinstance(value, Tensor):
            # .to(1) would be a device index; a tensor means its device and dtype.
            device, dtype = value.device, value.dtype
        elif isinstance(value, Host) and value.type == "dtype":
            dtype = value.owner
        elif isinstance(value, Host) and (value.type in ("device", "str")):
            device = as_device(value).device
        elif "dtype" in word or value is args.keywords.get("dtype"):
            dtype = None
        elif "device" in word or value is args.keywords.get("device"):
            device = Device.UNKNOWN if value != NONE else None
        elif isinstance(value, Opaque) and value.tainted:
            device, dtype = Device.DEVICE, None
        elif isinstance(value, Host) and value.type is None:
            dtype = None
    return device, dtype
