"""Calls: builtins, classes and functions of the code base, containers; torch's own are in `tensors`."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from refactor.analysis import conditions, containers, hoststate, indexing, instances, libraries, tensors
from refactor.analysis.domain import (
    BOOL,
    DEVICE_TENSOR,
    HOST,
    INT,
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
    is_tainted,
    join,
    plain,
)
from refactor.analysis.project import ClassInfo, FunctionInfo
from refactor.analysis.torchops import names

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter


_COMMON = names(
    """
    forward get set update append extend pop items keys values add remove copy clear insert index count sort
    reverse join split strip format encode decode read write close open run start stop step reset init build
    call apply map filter train eval to cuda cpu half float parameters load save
    """
)


_TENSOR_FACTS = frozenset({"item", "cpu", "numpy", "tolist", "size", "dim", "numel", "ndimension"})
"""Methods of something computed from tensors that make it a tensor, or an array like one."""


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
            values.append(plain(it.evaluate(frame, arg)))
    for keyword in node.keywords:
        value = plain(it.evaluate(frame, keyword.value))
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
        return libraries.call_external(it, frame, func.name, args)
    if isinstance(func, Cls):
        return _construct(it, frame, func, args)
    if isinstance(func, Obj):
        items = instances.items_of(it, func.classes[0])
        if items is not None and func.classes[0].find("forward") is None:
            return tensors.sequential(it, frame, items, args)
        return instances.call_object(it, frame, func, args.values, args.keywords, args.open)
    if isinstance(func, ExtObj):
        return tensors.call_module(it, frame, func, args)
    if isinstance(func, Host) and isinstance(args.node.func, ast.Attribute):
        guessed = _by_name(it, frame, func, args.node.func.attr, args)
        return guessed if guessed is not None else args.unknown
    return args.unknown


def _construct(it: Interpreter, frame: Frame, func: Cls, args: Arguments) -> Val:
    if any(isinstance(base, str) and base.endswith("autograd.Function") for base in func.classes[0].mro):
        return args.unknown
    return instances.construct(it, frame, func, args.values, args.keywords)


def _call_fn(it: Interpreter, frame: Frame, func: Fn, args: Arguments) -> Val:
    wraps = func.targets[0].decorators
    if wraps & {"contextmanager", "asynccontextmanager"}:
        return OPAQUE
    if _foreign_setup(frame, func):
        return OPAQUE
    result = instances.invoke(it, frame, func, args.values, args.keywords, args.open)
    if isinstance(func.bound, Obj) and isinstance(args.node.func, ast.Attribute):
        _forget(frame, args.node.func.value)
    return result


def _foreign_setup(frame: Frame, func: Fn) -> bool:
    """A method that a constructor inherits from another file: bookkeeping, not worth following."""
    return (
        frame.init_of is not None
        and isinstance(func.bound, Obj)
        and func.targets[0].module is not frame.init_of.module
    )


def _forget(frame: Frame, owner: ast.expr) -> None:
    """A method may assign attributes of its instance: what the caller knew of them is void."""
    if isinstance(owner, ast.Name):
        frame.env.forget(owner.id)


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
    if func.attr == "__call__" and owner.classes[0].is_module:
        called = owner.classes[0].find("forward")
        if called is not None and isinstance(called[1], FunctionInfo):
            return it.call_function(frame, called[1], [owner, *args.values], args.keywords, args.open)
    if func.attr == "__init__" and args.values:
        bases = [base for base in owner.classes[0].mro if isinstance(base, str)]
        if "torch.nn.Sequential" in bases or "torch.nn.ModuleList" in bases:
            instances.set_items(it, frame, owner.classes[0], Seq("modules", tuple(args.values)))
    if func.attr == "forward" and any(b == "torch.nn.Sequential" for b in owner.classes[0].mro):
        return tensors.sequential(it, frame, instances.items_of(it, owner.classes[0]) or OPAQUE, args)
    if func.attr in ("get", "to_tuple", "values"):
        return _object_method(it, frame, owner, func.attr, args)
    known = cls.mro[-1] if isinstance(cls.mro[-1], str) else ""
    if func.attr == "forward" and known.startswith("torch.nn."):
        return tensors.call_module(it, frame, ExtObj(known), args)
    return args.unknown


# -- methods -------------------------------------------------------------------------------------------------


def _call_method(it: Interpreter, frame: Frame, func: Method, args: Arguments) -> Val:
    owner, name = func.bound, func.name
    hoststate.appended(it, frame, args.node)
    promoted = instances.promote(owner, name)
    if isinstance(promoted, Tensor):
        return tensors.method(it, frame, promoted, name, args)
    if isinstance(owner, Opaque) and owner.tainted and name in _TENSOR_FACTS:
        return tensors.method(it, frame, DEVICE_TENSOR, name, args)
    if name in libraries.LOGGING and isinstance(owner, Opaque | Ext | ExtObj | Host):
        return libraries.show(it, frame, args, "logging")
    if isinstance(owner, Seq | Dict):
        return containers.method(it, frame, owner, name, args)
    if isinstance(owner, Obj):
        return _object_method(it, frame, owner, name, args)
    if isinstance(owner, ExtObj):
        return tensors.external_method(it, frame, owner, name, args)
    if isinstance(owner, Cls):
        if name == "apply" and "torch.autograd.Function" in owner.classes[0].mro:
            return _apply_function(it, frame, owner.classes[0], args)
        return Obj(owner.classes) if name.startswith(("from_", "_from")) else OPAQUE
    guessed = _by_name(it, frame, owner, name, args)
    if guessed is not None:
        return guessed
    if isinstance(owner, Host):
        if owner.type == "shape" and name == "numel":
            return INT
        if owner.type == "str" and name == "format":
            libraries.show(it, frame, args, "format")
        if owner.type == "array" and name in ("item", "tolist"):
            return HOST
        return owner if owner.type in ("array", "str") else HOST
    if isinstance(owner, Readback):
        return owner
    return TAINTED if is_tainted(owner) or any(map(is_tainted, args.every)) else OPAQUE


def _apply_function(it: Interpreter, frame: Frame, cls: ClassInfo, args: Arguments) -> Val:
    """``Function.apply(...)`` runs its ``forward``, with a context unless ``setup_context`` takes that."""
    found = cls.find("forward")
    if found is None or not isinstance(found[1], FunctionInfo):
        return args.unknown
    context: list[Val] = [] if cls.find("setup_context") else [OPAQUE]
    return it.call_function(frame, found[1], [*context, *args.values], args.keywords, args.open)


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
                instances.register_buffer(it, frame, owner, key.value, given)
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
