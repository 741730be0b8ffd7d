"""Values of parameters: from the arguments of a call, from annotations, defaults and how they are used."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis.annotations import from_annotation
from refactor.analysis.domain import (
    HOST,
    NO_VALUE,
    NONE,
    OPAQUE,
    TAINTED,
    Dict,
    Host,
    Obj,
    Opaque,
    Seq,
    Tensor,
    Val,
    element,
    is_tainted,
    join,
    replace,
    settled,
)
from refactor.analysis.model import Device
from refactor.analysis.project import FunctionInfo, last_name
from refactor.analysis.torchops import TENSOR_ONLY, names

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_NOT_TENSOR = names(
    """
    items keys values get append pop extend update setdefault startswith endswith split lower format
    join copy_ strip insert
    """
) - {"copy_"}
_SIZING = names("range arange zeros ones empty full rand randn eye linspace")


def bind_call(
    it: Interpreter,
    frame: Frame,
    target: FunctionInfo,
    args: list[Val],
    keywords: dict[str, Val],
    open_keywords: bool,
) -> dict[str, Val]:
    """The environment of a call: arguments first, then defaults; annotations refine what is unknown."""
    spec = target.node.args
    env: dict[str, Val] = {}
    left = dict(keywords)
    count = len(spec.posonlyargs) + len(spec.args)
    spread = bool(args) and isinstance(args[-1], Seq) and args[-1].type == "*"
    given = args[:-1] if spread else args
    rest = args[-1].element if spread and isinstance(args[-1], Seq) else None
    for index, (arg, default, by_position) in enumerate(target.parameters):
        value: Val | None = None
        if by_position and index < len(given):
            value = given[index]
        elif arg.arg in left:
            value = left.pop(arg.arg)
        elif spread and by_position:
            value = _one_of_many(it, target, arg, rest)
        if value is None:
            value = _missing(it, target, arg, default, open_keywords)
        literal = default.value if isinstance(default, ast.Constant) else None
        if isinstance(value, Tensor) and isinstance(literal, bool | str):
            value = Host(type(literal).__name__)  # another method than the one that is called
        env[arg.arg] = _refine(it, target, arg, value)
    if spec.vararg is not None:
        extra = tuple(given[count:])
        env[spec.vararg.arg] = Seq("tuple", None, rest) if spread else Seq("tuple", extra)
    if spec.kwarg is not None:
        others = _annotated_tensor(it, target, spec.kwarg) if open_keywords else None
        env[spec.kwarg.arg] = Dict(tuple(left.items()), others, open_keywords)
    return env


def _annotated_tensor(it: Interpreter, target: FunctionInfo, arg: ast.arg) -> Tensor | None:
    """What each of ``**kwargs: Tensor`` is."""
    known = from_annotation(it, target.module, arg.annotation)
    return known if isinstance(known, Tensor) else None


def _one_of_many(it: Interpreter, target: FunctionInfo, arg: ast.arg, rest: Val | None) -> Val:
    """An argument out of ``*args`` of which only what all have in common is known."""
    known = from_annotation(it, target.module, arg.annotation)
    if known is not None and not isinstance(known, Opaque):
        return known
    return replace(rest, maybe=True) if isinstance(rest, Tensor) else rest or OPAQUE


def _missing(
    it: Interpreter, target: FunctionInfo, arg: ast.arg, default: ast.expr | None, open_keywords: bool
) -> Val:
    known = from_annotation(it, target.module, arg.annotation)
    if default is None:
        return known if known is not None else OPAQUE
    value = it.evaluate(it.module_frame(target.module), default)
    if not open_keywords:
        return value
    if value == NONE:
        return join(known, NONE) if known is not None else OPAQUE
    return Host(value.type) if isinstance(value, Host) else value


def _refine(it: Interpreter, target: FunctionInfo, arg: ast.arg, value: Val) -> Val:
    """An unknown argument is what its annotation says, or a tensor if the function uses it as one."""
    if arg.annotation is not None and _vague(value):
        known = from_annotation(it, target.module, arg.annotation)
        if isinstance(known, Seq | Dict) and isinstance(value, Seq | Dict) and type(known) is type(value):
            return known
    if arg.annotation is not None and (not settled(value) if isinstance(value, Tensor) else True):
        known = from_annotation(it, target.module, arg.annotation)
        value = promised(value, known)
    if (
        isinstance(value, Tensor)
        and isinstance(arg.annotation, ast.Name)
        and arg.annotation.id in ("bool", "str")
    ):
        return Host(arg.annotation.id)  # another method than the one that is really called
    if isinstance(value, Opaque):
        known = from_annotation(it, target.module, arg.annotation)
        if isinstance(known, Tensor) and not value.tainted and arg.arg in target.unpacked:
            return value  # rows of numbers, whatever the annotation says
        if known is not None and not (isinstance(known, Opaque)):
            return known
        if value.tainted and arg.annotation is None and used_as_tensor(it, target, arg.arg, None):
            return Tensor(Device.DEVICE)
    return value


def promised(value: Val, known: Val | None) -> Val:
    """The value, where it is uncertain, as its annotation promises: what may be a number is one."""
    if isinstance(known, Host) and known.type in ("int", "float", "bool", "str"):
        doubtful = isinstance(value, Tensor) and value.maybe
        return known if doubtful else value
    if not (isinstance(known, Seq) and isinstance(value, Seq) and known.items and value.items is not None):
        return value
    if len(known.items) != len(value.items):
        return value
    items = tuple(
        wanted if isinstance(item, Opaque) and isinstance(wanted, Host) else promised(item, wanted)
        for item, wanted in zip(value.items, known.items, strict=True)
    )
    return replace(value, items=items)


def as_annotated(it: Interpreter, target: FunctionInfo, value: Val, returns: ast.expr) -> Val:
    """What a function returns, where its body does not say: numbers and lists of numbers by annotation."""
    if not (value == OPAQUE or (isinstance(value, Seq) and _vague(value))):
        return value
    known = from_annotation(it, target.module, returns)
    numbers = element(known) if isinstance(known, Seq) else known
    if not isinstance(numbers, Host) or isinstance(value, Seq) != isinstance(known, Seq):
        return value
    return known if known is not None else value


def _vague(value: Val) -> bool:
    """A container of whose elements nothing is known."""
    if isinstance(value, Seq):
        inner = element(value)
        return value.items != () and (inner is None or isinstance(inner, Opaque) or _vague(inner))
    if isinstance(value, Dict):
        values = [v for _, v in value.entries]
        return all(isinstance(v, Opaque) or _vague(v) for v in [*values, value.element or OPAQUE])
    return False


def bind_region(it: Interpreter, target: FunctionInfo, bound: Val | None) -> dict[str, Val]:
    """The environment of a region: tensors are on the device, numbers are given by the caller."""
    spec = target.node.args
    env: dict[str, Val] = {}
    for index, (arg, default, _) in enumerate(target.parameters):
        if index == 0 and bound is not None:
            env[arg.arg] = bound
        else:
            env[arg.arg] = region_argument(it, target, arg, default, bound)
    if spec.vararg is not None:
        known = from_annotation(it, target.module, spec.vararg.annotation)
        env[spec.vararg.arg] = Seq("tuple", None, known if known is not None else TAINTED)
    if spec.kwarg is not None:
        env[spec.kwarg.arg] = Dict((), _annotated_tensor(it, target, spec.kwarg), True)
    return env


def region_argument(
    it: Interpreter, target: FunctionInfo, arg: ast.arg, default: ast.expr | None, bound: Val | None
) -> Val:
    """What a parameter of a region is, by annotation, by default, then by use."""
    none = isinstance(default, ast.Constant) and default.value is None
    known = from_annotation(it, target.module, arg.annotation)
    if known is not None and not isinstance(known, Opaque):
        return join(known, NONE) if none else known
    tensor = used_as_tensor(it, target, arg.arg, bound)
    if default is None:
        return Tensor(Device.DEVICE) if tensor else TAINTED
    if none:
        return Tensor(Device.DEVICE, optional=True) if tensor else OPAQUE
    value = it.evaluate(it.module_frame(target.module), default)
    return Host(value.type) if isinstance(value, Host) and value.value is not NO_VALUE else value


def used_as_tensor(it: Interpreter, target: FunctionInfo, name: str, bound: Val | None) -> bool:
    """Whether the function uses a parameter as only a tensor can be used."""
    key = (name, bound.classes if isinstance(bound, Obj) else None)
    if bound is None or not isinstance(bound, Obj):
        if key not in target.tensor_uses:
            target.tensor_uses[key] = _uses(it, target, name, None)
        return target.tensor_uses[key]
    found = it.ask(("uses", target, key), target.module, lambda: _uses(it, target, name, bound))
    return bool(found)


def _uses(it: Interpreter, target: FunctionInfo, name: str, bound: Val | None) -> bool:
    found = False
    for node in target.uses:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            if node.attr in _NOT_TENSOR:
                return False
            found = found or node.attr in TENSOR_ONLY
        elif not found and isinstance(node, ast.Call):
            found = _passed_as_tensor(it, target, node, name, bound)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            text = isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
            if text and getattr(node.comparators[0], "id", None) == name:
                return False
        elif not found and isinstance(node, ast.BinOp):
            operands = (getattr(node.left, "id", None), getattr(node.right, "id", None))
            found = name in operands and (isinstance(node.op, ast.MatMult) or _is_input(target, name))
        elif not found and isinstance(node, ast.Subscript):
            if getattr(node.value, "id", None) == name:
                found = _indexed_as_tensor(node.slice)
            elif "mask" in name.lower().split("_"):
                parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                found = any(getattr(part, "id", None) == name for part in parts)
    return found


def _is_input(target: FunctionInfo, name: str) -> bool:
    """The first parameter of ``forward``: arithmetic with it is tensor arithmetic."""
    node = target.node
    if isinstance(node, ast.Lambda) or node.name != "forward" or len(node.args.args) < 2:
        return False
    first = node.args.args[1].arg == name and len(node.args.defaults) < len(node.args.args) - 1
    return first and not _is_size(target, name)


def _is_size(target: FunctionInfo, name: str) -> bool:
    """Whether a parameter is a size or bound, alone or in arithmetic: ``arange(j - i)``, ``x[-i:]``."""
    for node in target.uses:
        if isinstance(node, ast.Call) and last_name(node.func) in _SIZING:
            parts: list[ast.expr | None] = list(node.args)
        elif isinstance(node, ast.Subscript):
            slices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            parts = [b for s in slices if isinstance(s, ast.Slice) for b in (s.lower, s.upper)]
        else:
            continue
        if any(name in _operands(part) for part in parts if part is not None):
            return True
    return False


def _operands(node: ast.expr) -> list[str]:
    """Names that an arithmetic expression is made of."""
    if isinstance(node, ast.BinOp):
        return _operands(node.left) + _operands(node.right)
    if isinstance(node, ast.UnaryOp):
        return _operands(node.operand)
    return [node.id] if isinstance(node, ast.Name) else []


def _indexed_as_tensor(index: ast.expr) -> bool:
    """``x[:, 0]``, ``x[..., i]``, ``x[None]``: no list takes such an index."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    several = isinstance(index, ast.Tuple) and any(isinstance(part, ast.Slice) for part in parts)
    return several or any(isinstance(part, ast.Constant) and part.value in (None, ...) for part in parts)


def _passed_as_tensor(
    it: Interpreter, target: FunctionInfo, node: ast.Call, name: str, bound: Val | None
) -> bool:
    if not node.args or not isinstance(node.args[0], ast.Name) or node.args[0].id != name:
        return False
    func = node.func
    if not isinstance(func, ast.Attribute):
        return False
    scope = target.module.resolve(func.value) if isinstance(func.value, ast.Name | ast.Attribute) else None
    if isinstance(scope, str) and scope in ("torch", "torch.nn.functional", "torch.fft", "torch.linalg"):
        return func.attr not in ("is_tensor", "tensor", "as_tensor", "stack", "cat", "zeros", "ones", "full")
    if isinstance(func.value, ast.Name) and isinstance(bound, Obj):
        args = target.node.args.args
        if args and func.value.id == args[0].arg and last_name(func):
            from refactor.analysis import instances

            return instances.takes_tensor(it, bound, func.attr)
    return False


def tainted_or_host(values: list[Val]) -> Val:
    """The result of something unknown: from the device if an argument was, else a host value."""
    return TAINTED if any(is_tainted(value) for value in values) else HOST
