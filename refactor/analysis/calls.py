"""Calls: builtins, classes and functions of the code base, containers; torch's own are in `tensors`."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from refactor.analysis import conditions, containers, indexing, instances, tensors
from refactor.analysis.domain import (
    BOOL,
    DEVICE_TENSOR,
    HOST,
    INT,
    NO_VALUE,
    NONE,
    OPAQUE,
    TAINTED,
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
    on_device,
)
from refactor.analysis.model import EventKind
from refactor.analysis.project import FunctionInfo
from refactor.analysis.torchops import ALWAYS, names

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_LOGGING = names(
    """
    debug info warning warn error critical exception log warning_once info_once
    """
)


_COMMON = names(
    """
    forward get set update append extend pop items keys values add remove copy clear insert index count sort
    reverse join split strip format encode decode read write close open run start stop step reset init build
    call apply map filter train eval to cuda cpu half float parameters load save
    """
)


@dataclass
class Arguments:
    """Evaluated arguments of one call."""

    node: ast.Call
    values: list[Val]
    keywords: dict[str, Val]
    open: bool = False  # ``**kwargs`` of unknown keys
    nodes: dict[str, ast.expr] = field(default_factory=dict)

    @property
    def every(self) -> list[Val]:
        """All values, those of a starred argument as one."""
        spread = [v.element or OPAQUE if isinstance(v, Seq) and v.type == "*" else v for v in self.values]
        return [*spread, *self.keywords.values()]

    def get(self, index: int, name: str) -> Val | None:
        """The argument of that position or name."""
        if index < len(self.values):
            value = self.values[index]
            return value.element if isinstance(value, Seq) and value.type == "*" else value
        return self.keywords.get(name)

    def expr(self, index: int, name: str) -> ast.expr | None:
        """The expression of the argument of that position or name."""
        if index < len(self.node.args):
            return self.node.args[index]
        return self.nodes.get(name)

    @property
    def unknown(self) -> Val:
        """The result of a call nothing is known of."""
        return TAINTED if any(map(is_tainted, self.every)) else OPAQUE


def arguments(it: Interpreter, frame: Frame, node: ast.Call) -> Arguments:
    """Evaluate the arguments of a call in order."""
    values: list[Val] = []
    found = Arguments(node, values, {})
    for arg in node.args:
        if isinstance(arg, ast.Starred):
            value = it.evaluate(frame, arg.value)
            if isinstance(value, Seq) and value.items is not None and value.type != "*":
                values.extend(value.items)
            else:
                values.append(Seq("*", None, indexing.element_of(value) or OPAQUE))
        else:
            values.append(it.evaluate(frame, arg))
    for keyword in node.keywords:
        value = it.evaluate(frame, keyword.value)
        if keyword.arg is not None:
            found.keywords[keyword.arg] = value
            found.nodes[keyword.arg] = keyword.value
        elif isinstance(value, Dict):
            found.keywords.update({k: v for k, v in value.entries if isinstance(k, str)})
            found.open = found.open or value.open
        else:
            found.open = True
    return found


def call(it: Interpreter, frame: Frame, node: ast.Call) -> Val:
    """The value of a call; hazards in it are recorded."""
    special = _super(it, frame, node)
    if special is not None:
        return special
    func = it.evaluate(frame, node.func)
    if isinstance(func, Ext) and func.name == "builtins.isinstance":
        known = conditions.isinstance_known(it, frame, node)
        return BOOL if known is None else Host("bool", known)
    args = arguments(it, frame, node)
    return apply(it, frame, func, args)


def apply(it: Interpreter, frame: Frame, func: Val, args: Arguments) -> Val:
    """The value of calling ``func``."""
    if isinstance(func, Fn):
        return _call_fn(it, frame, func, args)
    if isinstance(func, Method):
        return _call_method(it, frame, func, args)
    if isinstance(func, Ext):
        return _call_external(it, frame, func.name, args)
    if isinstance(func, Cls):
        return _construct(it, frame, func, args)
    if isinstance(func, Obj):
        items = func.classes[0].attrs.get("*items")
        if items is not None and func.classes[0].find("forward") is None:
            return tensors.sequential(it, frame, items, args)
        return instances.call_object(it, frame, func, args.values, args.keywords, args.open)
    if isinstance(func, ExtObj):
        return tensors.call_module(it, frame, func, args)
    return args.unknown


def _construct(it: Interpreter, frame: Frame, func: Cls, args: Arguments) -> Val:
    if any(base in ("torch.nn.Sequential", "torch.nn.ModuleList") for base in func.classes[0].mro):
        instances.initialise(it, frame, func.classes[0])
    if any(isinstance(base, str) and base.endswith("autograd.Function") for base in func.classes[0].mro):
        return args.unknown
    return instances.construct(it, frame, func, args.values, args.keywords)


def _call_fn(it: Interpreter, frame: Frame, func: Fn, args: Arguments) -> Val:
    wraps = func.targets[0].decorators
    if wraps & {"contextmanager", "asynccontextmanager"}:
        return OPAQUE
    result = instances.invoke(it, frame, func, args.values, args.keywords, args.open)
    if isinstance(func.bound, Obj) and isinstance(args.node.func, ast.Attribute):
        _forget(frame, args.node.func.value)
    return result


def _forget(frame: Frame, owner: ast.expr) -> None:
    """A method may assign attributes of its instance: what the caller knew of them is void."""
    if isinstance(owner, ast.Name):
        prefix = owner.id + "."
        for key in [k for k in frame.env if k.startswith(prefix)]:
            del frame.env[key]


def _super(it: Interpreter, frame: Frame, node: ast.Call) -> Val | None:
    """``super().method(...)``: the next definition after the class that this method belongs to."""
    func = node.func
    if not (isinstance(func, ast.Attribute) and isinstance(func.value, ast.Call)):
        return None
    inner = func.value.func
    if not (isinstance(inner, ast.Name) and inner.id == "super") or frame.function is None:
        return None
    cls, name = frame.function.cls, frame.self_name
    owner = frame.env.get(name) if name is not None else None
    args = arguments(it, frame, node)
    if cls is None or not isinstance(owner, Obj):
        return args.unknown
    found = owner.classes[0].find(func.attr, after=cls)
    if found is not None and isinstance(found[1], FunctionInfo):
        return it.call_function(frame, found[1], [owner, *args.values], args.keywords, args.open)
    if func.attr == "__init__" and args.values:
        bases = [base for base in owner.classes[0].mro if isinstance(base, str)]
        if "torch.nn.Sequential" in bases or "torch.nn.ModuleList" in bases:
            owner.classes[0].attrs["*items"] = Seq("modules", tuple(args.values))
    if func.attr == "forward" and any(b == "torch.nn.Sequential" for b in owner.classes[0].mro):
        return tensors.sequential(it, frame, owner.classes[0].attrs.get("*items", OPAQUE), args)
    if func.attr in ("get", "to_tuple", "values"):
        return _object_method(it, frame, owner, func.attr, args)
    known = cls.mro[-1] if isinstance(cls.mro[-1], str) else ""
    if func.attr == "forward" and known.startswith("torch.nn."):
        return tensors.call_module(it, frame, ExtObj(known), args)
    return args.unknown


# -- methods -------------------------------------------------------------------------------------------------


def _call_method(it: Interpreter, frame: Frame, func: Method, args: Arguments) -> Val:
    owner, name = func.bound, func.name
    promoted = instances.promote(owner, name)
    if isinstance(promoted, Tensor):
        return tensors.method(it, frame, promoted, name, args)
    if isinstance(owner, Opaque) and owner.tainted and name in ("item", "cpu", "numpy", "tolist"):
        return tensors.method(it, frame, DEVICE_TENSOR, name, args)
    if name in _LOGGING and isinstance(owner, Opaque | Ext | ExtObj | Host):
        return _show(it, frame, args, "logging")
    if isinstance(owner, Seq | Dict):
        return containers.method(it, frame, owner, name, args)
    if isinstance(owner, Obj):
        return _object_method(it, frame, owner, name, args)
    if isinstance(owner, ExtObj):
        return tensors.external_method(it, frame, owner, name, args)
    if isinstance(owner, Cls):
        return Obj(owner.classes) if name.startswith(("from_", "_from")) else OPAQUE
    guessed = _by_name(it, frame, owner, name, args)
    if guessed is not None:
        return guessed
    if isinstance(owner, Host):
        if owner.type == "shape" and name == "numel":
            return INT
        if owner.type == "array" and name in ("item", "tolist"):
            return HOST
        return owner if owner.type in ("array", "str") else HOST
    if isinstance(owner, Readback):
        return owner
    return TAINTED if is_tainted(owner) or any(map(is_tainted, args.every)) else OPAQUE


def _by_name(it: Interpreter, frame: Frame, owner: Val, name: str, args: Arguments) -> Val | None:
    """A method called on something given from outside, found by its name in the classes this file knows."""
    given = isinstance(owner, Opaque) or (isinstance(owner, Host) and owner.type is None)
    if not (given or (isinstance(owner, ExtObj) and owner.name == "torch.nn.Module")):
        return None
    if name in _COMMON or name.startswith("__") or not any(map(is_tainted, args.every)):
        return None
    found = tuple(
        cls
        for cls in it.known_classes(frame.module)
        if isinstance(cls.own.get(name), FunctionInfo) and "property" not in cls.own[name].decorators
    )
    if not 0 < len(found) <= 4:
        return None
    method = instances.attribute(it, frame, Obj(found), name)
    return _call_fn(it, frame, method, args) if isinstance(method, Fn) else None


def _object_method(it: Interpreter, frame: Frame, owner: Obj, name: str, args: Arguments) -> Val:
    module = owner.classes[0].is_module
    if name in ("register_buffer", "register_parameter", "add_module", "register_module") and args.values:
        key = args.values[0]
        if isinstance(key, Host) and isinstance(key.value, str):
            given = args.get(1, "tensor") or args.get(1, "param") or NONE
            if name == "register_buffer":
                instances.register_buffer(it, owner, key.value, given)
            else:
                instances.set_attribute(it, frame, owner, key.value, given)
        return NONE
    if module and name in ("parameters", "buffers"):
        return Seq("generator", None, DEVICE_TENSOR)
    if module and name in ("train", "eval", "to", "half", "float", "cuda", "requires_grad_", "apply"):
        return owner
    if name == "get" and not owner.fields and owner.classes[0].find("__getitem__") and args.values:
        item = instances.attribute(it, frame, owner, "__getitem__")
        if isinstance(item, Fn):
            item_value = instances.invoke(it, frame, item, args.values[:1], {})
            return join(item_value, args.values[1]) if len(args.values) > 1 else item_value
    if name in ("get", "pop") and owner.fields:
        wanted = args.get(0, "key")
        kept = dict(owner.fields).get(wanted.value) if isinstance(wanted, Host) else None
        return kept if kept is not None else OPAQUE
    if name in ("to_tuple", "values"):
        return Seq("tuple", tuple(v for _, v in owner.fields if v != NONE)) if owner.fields else TAINTED
    return TAINTED if any(map(is_tainted, args.every)) or is_tainted(owner) else OPAQUE


def _show(it: Interpreter, frame: Frame, args: Arguments, detail: str) -> Val:
    for index, value in enumerate(args.values):
        if on_device(value) and isinstance(value, Tensor) and not value.maybe:
            it.emit(frame, EventKind.SHOW, args.node, args.expr(index, ""), detail)
    return NONE


# -- builtins and other libraries ----------------------------------------------------------------------------


def _call_external(it: Interpreter, frame: Frame, name: str, args: Arguments) -> Val:
    if name in ALWAYS:
        return Host("bool", ALWAYS[name])
    scope, _, leaf = name.rpartition(".")
    if scope == "builtins":
        handler = _BUILTINS.get(leaf)
        return handler(it, frame, args) if handler is not None else _plain_builtin(leaf, args)
    if scope.split(".")[0] in ("torch", "torchvision"):
        return tensors.torch_function(it, frame, name, args)
    if scope in ("math", "cmath"):
        return _math(it, frame, args)
    if scope.split(".")[0] == "numpy":
        return _numpy(it, frame, leaf, args)
    if leaf == "partial" and args.values and isinstance(args.values[0], Fn | Cls):
        first = args.values[0]
        if isinstance(first, Fn):
            return replace(first, keywords=(*first.keywords, *args.keywords.items()))
        return first
    if name in ("copy.copy", "copy.deepcopy", "typing.cast") and args.values:
        return args.values[-1]
    if scope == "einops" or scope.startswith("einops."):
        return (
            Tensor(args.values[0].device)
            if args.values and isinstance(args.values[0], Tensor)
            else args.unknown
        )
    if scope.split(".")[0] == "logging" or leaf in _LOGGING:
        return _show(it, frame, args, "logging")
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


def _plain_builtin(leaf: str, args: Arguments) -> Val:
    if leaf in ("str", "repr", "format", "chr", "hex"):
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
        if on_device(value) and index < len(args.node.args):
            it.readback(frame, EventKind.DEVICE_SIZE, args.node, args.node.args[index], "range")
    return Seq("range", None, INT)


def _extreme(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    values = args.values
    if len(values) == 1:
        found = indexing.element_of(values[0])
        several = not (
            isinstance(values[0], Seq) and values[0].items is not None and len(values[0].items) < 2
        )
        if on_device(found) and several:
            it.readback(frame, EventKind.BOOL_OP, args.node, args.node.args[0], "max()/min()")
        return found or OPAQUE
    result = indexing.join_all(tuple(values)) if values else OPAQUE
    if any(on_device(value) for value in values):
        index = next(i for i, value in enumerate(values) if on_device(value))
        it.readback(frame, EventKind.BOOL_OP, args.node, args.expr(index, "") or args.node, "max()/min()")
        return next(value for value in values if on_device(value))
    if any(isinstance(value, Readback) for value in values):
        return Readback("int")
    if all(isinstance(v, Host) and v.type == "int" for v in values):
        return INT
    return result


def _truth_of_all(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    found = indexing.element_of(args.get(0, "iterable"))
    if on_device(found) and args.node.args:
        it.readback(frame, EventKind.BOOL_OP, args.node, args.node.args[0], "any()/all()")
        return Readback("bool")
    return BOOL


def _sorted(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    found = indexing.element_of(args.get(0, "iterable"))
    if on_device(found) and "key" not in args.keywords:
        it.readback(frame, EventKind.BOOL_OP, args.node, args.node.args[0], "sorted()")
    return Seq("list", None, found)


def _sum(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    from refactor.analysis.expressions import binary

    found = indexing.element_of(args.get(0, "iterable"))
    return binary(found, found, ast.Add()) if found is not None else HOST


def _print(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    return _show(it, frame, args, "print")


def _enumerate(it: Interpreter, frame: Frame, args: Arguments) -> Val:
    value = args.get(0, "iterable") or OPAQUE
    inner = indexing.iterate(it, frame, value, args.node)
    return Seq("generator", None, Seq("tuple", (INT, inner)))


def _zip(it: Interpreter, frame: Frame, args: Arguments) -> Val:
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
    return Seq("generator", None, apply(it, frame, func, Arguments(args.node, inner, {})))


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
    "print": _print, "enumerate": _enumerate, "zip": _zip, "map": _map, "list": _collect("list"),
    "tuple": _collect("tuple"), "set": _collect("set"), "frozenset": _collect("set"),
    "reversed": _collect("list"), "iter": _collect("generator"), "dict": _dict, "next": _next, "abs": _same,
    "round": _same, "getattr": _getattr, "setattr": _setattr, "type": _type,
}  # fmt: skip
