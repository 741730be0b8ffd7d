"""Calls of Python's builtins and of libraries other than torch."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from refactor.analysis import factories, hoststate, indexing, instances, tensors
from refactor.analysis.annotations import from_annotation
from refactor.analysis.domain import (
    BOOL,
    HOST,
    INT,
    NO_VALUE,
    NONE,
    OPAQUE,
    Cls,
    Dict,
    Ext,
    ExtObj,
    Fn,
    Host,
    Method,
    Obj,
    Opaque,
    Readback,
    Seq,
    Tensor,
    Val,
    element,
    is_tainted,
    join,
    not_none,
    on_device,
    read_back,
    replace,
)
from refactor.analysis.model import Device, EventKind
from refactor.analysis.torchops import ALWAYS, names
from refactor.vendor import NAME as RUNTIME

if TYPE_CHECKING:
    from refactor.analysis.calls import Arguments
    from refactor.analysis.interpreter import Frame, Interpreter

LOGGING = names(
    """
    debug info warning warn error critical exception log warning_once info_once
    """
)


_HOST_LIBRARIES = frozenset({"numpy", "scipy", "sklearn", "pandas", "cv2", "PIL", "skimage", "networkx"})
"""They compute on the host, from arrays and numbers."""


def show(it: Interpreter, frame: Frame, args: Arguments, detail: str) -> Val:
    """Tensors that are printed or logged."""
    for index, value in enumerate(args.values):
        if read_back(value):
            it.emit(frame, EventKind.SHOW, args.node, args.expr(index, ""), detail)
    return NONE


def call_external(it: Interpreter, frame: Frame, name: str, args: Arguments) -> Val:
    """The value of calling something from outside the code base by its dotted name."""
    if name in ALWAYS:
        return Host("bool", ALWAYS[name])
    hoststate.random_number(it, frame, name, args.node)
    scope, _, leaf = name.rpartition(".")
    if scope in ("builtins", "six.moves"):
        leaf = "range" if leaf == "xrange" else leaf
        handler = _BUILTINS.get(leaf)
        return handler(it, frame, args) if handler is not None else _plain_builtin(leaf, args)
    if scope.split(".")[0] in ("torch", "torchvision"):
        return tensors.torch_function(it, frame, name, args)
    if scope == RUNTIME:
        return _runtime(it, frame, leaf, args)
    if scope in ("math", "cmath"):
        return _math(it, frame, args)
    if scope.split(".")[0] in _HOST_LIBRARIES:
        return _numpy(it, frame, leaf, args)
    if leaf == "partial" and args.values and isinstance(args.values[0], Fn | Cls):
        first = args.values[0]
        if isinstance(first, Fn):
            return replace(first, keywords=(*first.keywords, *args.keywords.items()))
        return first
    if name in ("typing.cast", "typing_extensions.cast") and len(args.values) == 2:
        return _cast(it, frame, args)
    if name in ("copy.copy", "copy.deepcopy") and args.values:
        return args.values[-1]
    if scope == "einops" or scope.startswith("einops."):
        return (
            Tensor(args.values[0].device)
            if args.values and isinstance(args.values[0], Tensor)
            else args.unknown
        )
    if scope.split(".")[0] == "logging" or leaf in LOGGING:
        return show(it, frame, args, "logging")
    if leaf in ("tqdm", "trange") and args.values:
        return args.values[0]
    if leaf == "OrderedDict":
        return args.values[0] if args.values else Dict((), None, True)
    if leaf == "defaultdict":
        return Dict((), None, True)
    if leaf == "chain" and args.values:
        return Seq(
            "generator",
            None,
            element(Seq("list", tuple(indexing.element_of(v) or OPAQUE for v in args.values))),
        )
    if leaf[:1].isupper() and not any(map(is_tainted, args.every)):
        return ExtObj(name)
    return args.unknown


def _runtime(it: Interpreter, frame: Frame, leaf: str, args: Arguments) -> Val:
    """A function of our runtime: what it stands for in eager code."""
    if leaf == "constant":
        return factories.kept(it, frame, args)
    if leaf == "scratch":
        return NONE
    if leaf == "segment" and args.values and isinstance(args.values[0], Fn):
        return args.values[0]
    return args.unknown


def _cast(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    """``cast(T, x)``: what is known of ``x``, and where that is nothing, what ``T`` promises."""
    value = not_none(args.values[1])
    if not isinstance(value, Opaque) and value != NONE:
        return value
    known = from_annotation(it, frame.module, args.node.args[0]) if len(args.node.args) == 2 else None
    if isinstance(known, Tensor):
        return replace(known, device=Device.DEVICE if is_tainted(value) else Device.UNKNOWN)
    return known if known is not None and not isinstance(known, Opaque) else value


def _plain_builtin(leaf: str, args: Arguments) -> Val:
    if leaf in ("chr", "hex"):
        return Host("str")
    if leaf in ("hasattr", "callable", "issubclass"):
        return BOOL
    if leaf in ("id", "hash", "ord"):
        return INT
    return args.unknown


def _math(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    for index, value in enumerate(args.values):
        if on_device(value):
            it.readback(frame, EventKind.READBACK, args.node, args.node.args[index], "math function")
            return Readback("float")
    if any(isinstance(value, Readback) for value in args.values):
        return Readback("float")
    return Host("float")


def _numpy(it: Interpreter, frame: Frame, leaf: str, args: Arguments) -> Val:
    for index, value in enumerate(args.values):
        if on_device(value) and isinstance(value, Tensor):
            it.readback(frame, EventKind.TO_HOST, args.node, args.node.args[index], "numpy")
            return Readback("array")
    return Host("array")


def _convert(it: Interpreter, frame: Frame, args: Arguments, kind: str) -> Val:
    value = args.get(0, "x")
    if isinstance(value, Tensor):
        if on_device(value):
            it.readback(frame, EventKind.READBACK, args.node, args.node.args[0], f"{kind}()")
            return Readback(kind)
        return Host(kind)
    if isinstance(value, Readback) or (isinstance(value, Opaque) and value.tainted):
        return Readback(kind)
    if isinstance(value, Host) and value.value is not NO_VALUE and kind in ("int", "float", "bool"):
        try:
            return Host(kind, {"int": int, "float": float, "bool": bool}[kind](value.value))
        except (TypeError, ValueError, OverflowError):
            return Host(kind)
    return Host(kind)


def _int(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    return _convert(it, frame, args, "int")


def _float(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    return _convert(it, frame, args, "float")


def _bool(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    return _convert(it, frame, args, "bool")


def _len(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    value = args.get(0, "obj")
    if isinstance(value, Seq) and value.items is not None and value.type in ("list", "tuple"):
        return Host("int", len(value.items))
    return INT


def _range(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    for index, value in enumerate(args.values):
        if read_back(value) and index < len(args.node.args):
            it.readback(frame, EventKind.DEVICE_SIZE, args.node, args.node.args[index], "range")
    return Seq("range", None, INT)


def _extreme(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    values = args.values
    if len(values) == 1:
        found = indexing.element_of(values[0])
        several = not (
            isinstance(values[0], Seq) and values[0].items is not None and len(values[0].items) < 2
        )
        if read_back(found) and several:
            it.readback(frame, EventKind.BOOL_OP, args.node, args.node.args[0], "max()/min()")
        return found or OPAQUE
    result = indexing.join_all(tuple(values)) if values else OPAQUE
    if any(read_back(value) for value in values):
        index = next(i for i, value in enumerate(values) if read_back(value))
        it.readback(frame, EventKind.BOOL_OP, args.node, args.expr(index, "") or args.node, "max()/min()")
        return next(value for value in values if read_back(value))
    if any(isinstance(value, Readback) for value in values):
        return Readback("int")
    if all(isinstance(v, Host) and v.type == "int" for v in values):
        return INT
    return result


def _truth_of_all(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    found = indexing.element_of(args.get(0, "iterable"))
    if read_back(found) and args.node.args:
        it.readback(frame, EventKind.BOOL_OP, args.node, args.node.args[0], "any()/all()")
        return Readback("bool")
    return BOOL


def _sorted(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    found = indexing.element_of(args.get(0, "iterable"))
    if read_back(found) and "key" not in args.keywords:
        it.readback(frame, EventKind.BOOL_OP, args.node, args.node.args[0], "sorted()")
    return Seq("list", None, found)


def _sum(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    from refactor.analysis.arithmetic import binary

    found = indexing.element_of(args.get(0, "iterable"))
    return binary(found, found, ast.Add()) if found is not None else HOST


def _text(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    if args.values and read_back(args.values[0]):
        it.emit(frame, EventKind.SHOW, args.node, args.expr(0, "object"), "text")
    return Host("str")


def _print(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    return show(it, frame, args, "print")


def _enumerate(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    value = args.get(0, "iterable") or OPAQUE
    inner = indexing.iterate(it, frame, value, args.node)
    return Seq("generator", None, Seq("tuple", (INT, inner)))


def _zip(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    starred = args.values[0] if len(args.values) == 1 else None
    if isinstance(starred, Seq) and starred.type == "*":  # zip(*rows): each item is a column
        return Seq("generator", None, Seq("tuple", None, indexing.element_of(starred.element)))
    inner = tuple(indexing.iterate(it, frame, value, args.node) for value in args.values)
    return Seq("generator", None, Seq("tuple", inner))


def _map(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    if len(args.values) < 2:
        return args.unknown
    inner = [indexing.element_of(value) or OPAQUE for value in args.values[1:]]
    func = args.values[0]
    if isinstance(func, Ext) and func.name in ("builtins.int", "builtins.float") and on_device(inner[0]):
        it.readback(frame, EventKind.READBACK, args.node, args.node.args[1], func.name[9:] + "()")
        return Seq("generator", None, Readback())
    from refactor.analysis.calls import Arguments as NewArguments
    from refactor.analysis.calls import apply

    return Seq("generator", None, apply(it, frame, func, NewArguments(args.node, inner, {})))


def _collect(kind: str) -> Callable[[Any, Any, Arguments], Val]:
    def build(it: Interpreter, frame: Frame, args: Arguments) -> Val:
        if not args.values:
            return Seq(kind, ())
        value = args.values[0]
        if isinstance(value, Seq):
            return replace(value, type=kind)
        return Seq(kind, None, indexing.iterate(it, frame, value, args.node))

    return build


def _dict(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    entries = tuple(args.keywords.items())
    if args.values and isinstance(args.values[0], Dict):
        return replace(args.values[0], entries=(*args.values[0].entries, *entries))
    inner = element(indexing.element_of(args.values[0])) if args.values else None
    return Dict(entries, inner, bool(args.values) or args.open)


def _next(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    return indexing.element_of(args.get(0, "iterator")) or OPAQUE


def _same(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    value = args.get(0, "x") or OPAQUE
    return value if isinstance(value, Tensor | Seq | Readback) else HOST


def _getattr(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    if len(args.values) < 2:
        return OPAQUE
    name = args.values[1]
    if not (isinstance(name, Host) and isinstance(name.value, str)):
        return OPAQUE
    found = instances.attribute(it, frame, args.values[0], name.value)
    if len(args.values) > 2:
        return args.values[2] if isinstance(found, Method) else join(found, args.values[2])
    return found


def _setattr(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    if len(args.values) == 3 and isinstance(args.values[0], Obj) and isinstance(args.values[1], Host):
        name = args.values[1].value
        if isinstance(name, str):
            instances.set_attribute(it, frame, args.values[0], name, args.values[2])
    return NONE


def _type(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    value = args.get(0, "object")
    return Cls(value.classes) if isinstance(value, Obj) else HOST


_BUILTINS: dict[str, Callable[[Any, Any, Arguments], Val]] = {
    "int": _int, "float": _float, "bool": _bool, "len": _len, "range": _range, "max": _extreme,
    "min": _extreme, "any": _truth_of_all, "all": _truth_of_all, "sorted": _sorted, "sum": _sum,
    "str": _text, "repr": _text, "format": _text,
    "print": _print, "enumerate": _enumerate, "zip": _zip, "map": _map, "list": _collect("list"),
    "tuple": _collect("tuple"), "set": _collect("set"), "frozenset": _collect("set"),
    "reversed": _collect("list"), "iter": _collect("generator"), "dict": _dict, "next": _next, "abs": _same,
    "round": _same, "getattr": _getattr, "setattr": _setattr, "type": _type,
}  # fmt: skip
