"""Subscripts, unpacking and iteration."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis import decorators, instances
from refactor.analysis.domain import (
    DEVICE_TENSOR,
    HOST,
    INT,
    NO_VALUE,
    NONE,
    OPAQUE,
    TAINTED,
    Cls,
    Dict,
    ExtObj,
    Fn,
    Host,
    Obj,
    Opaque,
    Readback,
    Seq,
    Tensor,
    Val,
    element,
    is_tainted,
    join,
    on_device,
    plain,
    read_back,
    replace,
    settled,
)
from refactor.analysis.model import Device, EventKind
from refactor.analysis.project import last_name

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter


def subscript(it: Interpreter, frame: Frame, node: ast.Subscript) -> Val:
    """The value of ``owner[index]``."""
    owner = it.evaluate(frame, node.value)
    if isinstance(owner, Tensor):
        return index_tensor(it, frame, node, owner)
    index = it.evaluate(frame, node.slice)
    if owner == TAINTED and _takes_tensor(node.slice, index):
        return index_tensor(it, frame, node, DEVICE_TENSOR)
    if isinstance(owner, Seq):
        return _index_sequence(it, frame, node, owner, index)
    if isinstance(owner, Dict):
        known = owner.get(index.value) if isinstance(index, Host) and index.value is not NO_VALUE else None
        if known is not None:
            return known
        return element_of(owner) or OPAQUE
    if isinstance(owner, Obj):
        return _index_object(it, frame, node, owner, index)
    if isinstance(owner, ExtObj) and owner.items is not None:
        return join_all(owner.items) if owner.items else OPAQUE
    if isinstance(owner, Host):
        return _index_host(it, frame, node, owner, index)
    if isinstance(owner, Readback):
        return owner
    return TAINTED if is_tainted(owner) else OPAQUE


def _takes_tensor(node: ast.expr, index: Val) -> bool:
    """Whether only a tensor takes such an index: a mask, or several dimensions."""
    if isinstance(index, Tensor):
        return index.dtype == "bool" and index.rank != 0
    several = isinstance(node, ast.Tuple) and any(isinstance(part, ast.Slice) for part in node.elts)
    return several or (isinstance(node, ast.Constant) and node.value in (None, ...))


def join_all(values: tuple[Val, ...]) -> Val:
    """What several values have in common."""
    result = values[0]
    for value in values[1:]:
        result = join(result, value)
    return result


def _index_host(it: Interpreter, frame: Frame, node: ast.Subscript, owner: Host, index: Val) -> Val:
    if on_device(index):
        it.readback(frame, EventKind.DEVICE_SIZE, node, node.slice, "index of a host sequence")
        return Readback()
    if owner.type == "shape":
        return Host("shape", device=owner.device) if index == Host("slice") else INT
    if owner.type == "array":
        return owner
    return HOST


def _index_sequence(it: Interpreter, frame: Frame, node: ast.Subscript, owner: Seq, index: Val) -> Val:
    if on_device(index) and not isinstance(node.slice, ast.Slice):
        if settled(index):
            it.readback(frame, EventKind.DEVICE_SIZE, node, node.slice, "index of a host sequence")
        return element(owner) or OPAQUE
    if isinstance(node.slice, ast.Slice):
        return _slice_sequence(node.slice, owner)
    if isinstance(index, Host) and isinstance(index.value, int) and owner.items is not None:
        if -len(owner.items) <= index.value < len(owner.items):
            return owner.items[index.value]
        return OPAQUE
    if isinstance(index, Host) and isinstance(index.value, int) and 0 <= index.value < len(owner.prefix):
        return owner.prefix[index.value]
    return element(owner) or OPAQUE


def _slice_sequence(node: ast.Slice, owner: Seq) -> Val:
    if owner.items is None and not owner.prefix:
        return owner
    bounds: list[int | None] = []
    for part in (node.lower, node.upper, node.step):
        value = part.operand if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub) else part
        if part is None:
            bounds.append(None)
        elif isinstance(value, ast.Constant) and isinstance(value.value, int):
            bounds.append(-value.value if value is not part else value.value)
        else:
            return Seq(owner.type, None, element(owner))
    if owner.items is None:
        start, stop, step = bounds
        counted = step in (None, 1) and (start or 0) >= 0
        if counted and stop is not None and 0 <= stop <= len(owner.prefix):
            return Seq(owner.type, owner.prefix[start:stop])
        return Seq(owner.type, None, element(owner), owner.prefix[start:] if counted and stop is None else ())
    return Seq(owner.type, owner.items[slice(*bounds)] if bounds[2] != 0 else ())


def _index_object(it: Interpreter, frame: Frame, node: ast.Subscript, owner: Obj, index: Val) -> Val:
    found = owner.classes[0].find("__getitem__")
    if found is not None:
        method = instances.attribute(it, frame, owner, "__getitem__")
        if isinstance(method, Fn):
            return instances.invoke(it, frame, method, [index], {})
    named = dict(owner.fields)
    if isinstance(index, Host) and isinstance(index.value, str) and index.value in named:
        return named[index.value]
    values = [value for value in named.values() if value != NONE]
    if isinstance(index, Host) and index.value == 0 and values:
        return values[0]
    return join_all(tuple(values)) if values else TAINTED if owner.classes[0].is_module is False else OPAQUE


# -- tensors -------------------------------------------------------------------------------------------------


def parts(node: ast.expr) -> list[ast.expr]:
    """The elements of an index expression."""
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def index_tensor(
    it: Interpreter, frame: Frame, node: ast.Subscript, owner: Tensor, stored: Val | None = None
) -> Val:
    """``tensor[index]``, with ``stored`` ``tensor[index] = stored``: hazards of the index, and the result."""
    rank = owner.rank
    advanced: int | None = 0
    dynamic = False
    for part in parts(node.slice):
        if isinstance(part, ast.Slice):
            _bounds(it, frame, node, part, owner)
            continue
        value = it.evaluate(frame, part)
        if isinstance(value, Opaque) and value.tainted and _called_mask(part):
            value = Tensor(Device.DEVICE)
        if isinstance(value, Host) and value.type == "none":
            rank = rank + 1 if rank is not None else None
        elif isinstance(value, Host) and (value.type in ("int", "bool") or isinstance(part, ast.Constant)):
            if not (isinstance(part, ast.Constant) and part.value is ...):
                rank = rank - 1 if rank is not None else None
        elif isinstance(value, Readback) and value.type == "int":
            rank = rank - 1 if rank is not None else None
        elif isinstance(value, Tensor):
            used = _tensor_index(it, frame, node, owner, part, value, stored)
            dynamic = dynamic or used == "mask"
            if used == "scalar":
                rank = rank - 1 if rank is not None else None
            elif value.rank is None or used == "mask" or rank is None:
                rank, advanced = None, None
            elif advanced is not None:
                # Advanced indices broadcast: the first takes its own rank, each removes one dimension.
                rank = rank - 1 + (value.rank if advanced == 0 else 0)
                advanced += 1
        elif isinstance(value, Seq):
            _list_index(it, frame, node, owner, part, value)
        elif not (isinstance(part, ast.Constant) and part.value is ...):
            rank = None
    if rank == 0 and advanced == 0 and owner.device is Device.DEVICE and _from_host(stored):
        # A selection of more than one element is filled by a kernel; one element is copied from the host.
        it.emit(frame, EventKind.INDEX_FILL, node, node.slice, "assignment of a Python number")
    hosted = owner.hosted
    return Tensor(owner.device, owner.dtype, rank if rank is None or rank >= 0 else None, hosted=hosted)


def _bounds(it: Interpreter, frame: Frame, node: ast.Subscript, part: ast.Slice, owner: Tensor) -> None:
    for bound in (part.lower, part.upper, part.step):
        if bound is None:
            continue
        value = it.evaluate(frame, bound)
        if read_back(value):
            it.readback(frame, EventKind.DEVICE_SIZE, node, bound, "slice bound")


def _tensor_index(
    it: Interpreter,
    frame: Frame,
    node: ast.Subscript,
    owner: Tensor,
    part: ast.expr,
    value: Tensor,
    stored: Val | None,
) -> str:
    """Report an index that is a tensor; "mask", "scalar" or "gather"."""
    named = value.dtype is None and _called_mask(part)
    if value.dtype == "bool" or named:
        if owner.device is Device.HOST:
            return "mask"
        scalar = isinstance(stored, Host | Readback) or (
            isinstance(stored, Tensor) and stored.rank == 0 and stored.device is Device.HOST
        )
        if value.device is Device.HOST:
            it.readback(frame, EventKind.INDEX_LIST, node, part, "CPU mask")
        elif stored is None or not (scalar or isinstance(stored, Opaque)):
            it.readback(frame, EventKind.MASK_INDEX, node, part, "assignment" if stored is not None else "")
        return "mask"
    if owner.device is Device.HOST:
        return "scalar" if value.rank == 0 else "gather"
    if value.rank == 0 and value.dtype in ("int", "number"):
        if value.device is not Device.HOST:
            it.readback(frame, EventKind.DEVICE_SIZE, node, part, "index of rank 0")
        return "scalar"
    if value.device is Device.HOST and owner.device is Device.DEVICE:
        if value.rank != 0:
            it.readback(frame, EventKind.INDEX_LIST, node, part, "CPU index")
    elif _scatters_number(owner, part, value, stored):
        it.emit(frame, EventKind.INDEX_FILL, node, part, "assignment of a Python number")
    return "gather"


_SAME_ELEMENTS = frozenset(
    {"view", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "contiguous", "to"}
)


_INDICES = frozenset({"index", "indices", "idx", "idxs", "ids", "inds", "perm"})


def _called_mask(node: ast.expr) -> bool:
    """Whether an index of unknown dtype is named a mask, through changes of its shape."""
    return "mask" in _called(node)


def _called(node: ast.expr) -> list[str]:
    """The words of an index's name, which changes of its shape keep."""
    while isinstance(node, ast.Call | ast.Subscript | ast.UnaryOp):
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Attribute) and node.func.attr in _SAME_ELEMENTS):
                return []
            node = node.func.value
        else:
            node = node.value if isinstance(node, ast.Subscript) else node.operand
    return last_name(node).lower().split("_")


def _from_host(stored: Val | None) -> bool:
    """A number, or a tensor of one element on the host."""
    if isinstance(stored, Tensor):
        return stored.device is Device.HOST and stored.rank == 0
    return isinstance(stored, Host | Readback) and stored.type in ("int", "float", "bool")


def _scatters_number(owner: Tensor, part: ast.expr, index: Tensor, stored: Val | None) -> bool:
    """``x[index] = 0`` with integers on the device: the number becomes a CPU tensor that is copied."""
    number = isinstance(stored, Host) and stored.type in ("int", "float", "bool")
    integers = index.dtype in ("int", "number") or (
        index.dtype is None and not _INDICES.isdisjoint(_called(part))
    )
    known = integers and index.rank != 0
    return number and known and index.device is owner.device is Device.DEVICE


def _list_index(
    it: Interpreter, frame: Frame, node: ast.Subscript, owner: Tensor, part: ast.expr, value: Seq
) -> None:
    if owner.device is Device.HOST or value.type not in ("list", "tuple"):
        return
    if value.type == "tuple" and part is node.slice:
        return  # x[(a, b)] is x[a, b]
    inner = element(value)
    if (isinstance(inner, Host) and inner.type in ("int", "bool")) or isinstance(inner, Readback):
        integers = isinstance(inner, Host) and inner.type == "int"
        it.readback(frame, EventKind.INDEX_LIST, node, part, "integers" if integers else "list")
    elif (
        part is not node.slice and read_back(inner) and isinstance(inner, Tensor) and inner.rank in (0, None)
    ):
        it.readback(frame, EventKind.DEVICE_SIZE, node, part, "index made of its elements")


def store(it: Interpreter, frame: Frame, target: ast.Subscript, value: Val) -> None:
    """``owner[index] = value``."""
    owner = it.evaluate(frame, target.value)
    if isinstance(owner, Tensor):
        index_tensor(it, frame, target, owner, value)
        return
    index = it.evaluate(frame, target.slice)
    if isinstance(owner, Dict):
        if isinstance(index, Host) and index.value is not NO_VALUE:
            rest = tuple(entry for entry in owner.entries if entry[0] != index.value)
            _hold(it, frame, target.value, replace(owner, entries=(*rest, (index.value, value))))
        else:
            joined = value if owner.element is None else join(owner.element, value)
            _hold(it, frame, target.value, replace(owner, element=joined, open=True))
    elif isinstance(owner, Seq):
        _hold(it, frame, target.value, Seq(owner.type, None, join(element(owner), value)))


def _hold(it: Interpreter, frame: Frame, target: ast.expr, value: Dict | Seq) -> None:
    """What a variable or attribute holds from here on, after one of its elements was assigned."""
    from refactor.analysis.conditions import place

    if isinstance(target, ast.Attribute):
        owner = it.evaluate(frame, target.value)
        if isinstance(owner, Obj):
            instances.set_attribute(it, frame, owner, target.attr, value)
    key = place(target)
    if key is not None and (key in frame.env or isinstance(target, ast.Attribute)):
        frame.env[key] = value


# -- unpacking and iteration ---------------------------------------------------------------------------------


def element_of(value: Val | None) -> Val | None:
    """What iterating a container gives, without hazards."""
    if isinstance(value, Seq):
        return element(value)
    if isinstance(value, Dict):
        found = value.element
        for _, item in value.entries:
            found = join(found, item)
        return found
    if isinstance(value, Tensor):
        rank = value.rank - 1 if value.rank else None
        return Tensor(value.device, value.dtype, rank, maybe=value.maybe)
    if isinstance(value, Host):
        if value.type == "shape":
            return INT
        return Readback() if value.type == "readback" else value if value.type == "array" else HOST
    if isinstance(value, ExtObj) and value.items:
        return join_all(value.items)
    if isinstance(value, Readback):
        return value
    return TAINTED if is_tainted(value) else None


def iterate(it: Interpreter, frame: Frame, value: Val, node: ast.expr) -> Val:
    """The loop variable's value."""
    if isinstance(value, Dict):
        return Host("str")
    if isinstance(value, Obj):
        found = value.classes[0].find("__iter__")
        if found is not None:
            method = instances.attribute(it, frame, value, "__iter__")
            if isinstance(method, Fn):
                result = instances.invoke(it, frame, method, [], {})
                return element_of(result) or OPAQUE
        return TAINTED if is_tainted(value) else OPAQUE
    return element_of(value) or OPAQUE


def bind(it: Interpreter, frame: Frame, target: ast.expr, value: Val) -> None:
    """Assign a value to a target: names, unpacking, attributes and subscripts."""
    if isinstance(target, ast.Name):
        value = plain(value)
        frame.env[target.id] = value
        frame.env.forget(target.id)
        if frame.emit:
            it.recorded(frame.module).values[target] = value
    elif isinstance(target, ast.Tuple | ast.List):
        _unpack(it, frame, target.elts, value)
    elif isinstance(target, ast.Starred):
        bind(
            it, frame, target.value, value if isinstance(value, Seq) else Seq("list", None, element_of(value))
        )
    elif isinstance(target, ast.Subscript):
        store(it, frame, target, value)
    elif isinstance(target, ast.Attribute):
        owner = it.evaluate(frame, target.value)
        if isinstance(target.value, ast.Name):
            frame.env[f"{target.value.id}.{target.attr}"] = value
        if isinstance(owner, Obj):
            instances.set_attribute(it, frame, owner, target.attr, value)
        elif isinstance(owner, Cls) and isinstance(value, Fn):
            decorators.replace_method(it, owner.classes[0], target.attr, value)


def _unpack(it: Interpreter, frame: Frame, targets: list[ast.expr], value: Val) -> None:
    items = value.items if isinstance(value, Seq) else None
    star = next((i for i, t in enumerate(targets) if isinstance(t, ast.Starred)), None)
    if items is not None and star is not None and len(items) >= len(targets) - 1:
        tail = len(targets) - star - 1
        middle = items[star : len(items) - tail]
        spread = [*items[:star], Seq("list", tuple(middle)), *items[len(items) - tail :]]
        for target, item in zip(targets, spread, strict=False):
            bind(it, frame, target, item)
        return
    if items is None and star is None and isinstance(value, Seq) and len(value.prefix) >= len(targets):
        items = value.prefix[: len(targets)]
    if items is not None and len(items) == len(targets):
        for target, item in zip(targets, items, strict=True):
            bind(it, frame, target, item)
        return
    inner = iterate(it, frame, value, targets[0]) if targets else OPAQUE
    for target in targets:
        bind(it, frame, target, inner)
