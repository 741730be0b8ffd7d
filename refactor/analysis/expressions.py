"""Evaluation of expressions to abstract values."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from refactor.analysis import conditions, indexing, instances
from refactor.analysis.arithmetic import binary
from refactor.analysis.domain import (
    BOOL,
    HOST,
    NO_VALUE,
    NONE,
    OPAQUE,
    TAINTED,
    Dict,
    Fn,
    Host,
    Readback,
    Seq,
    Tensor,
    Val,
    element,
    is_tainted,
    join,
    read_back,
    replace,
    spread,
)
from refactor.analysis.model import EventKind
from refactor.analysis.project import FunctionInfo

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter


def evaluate(it: Interpreter, frame: Frame, node: ast.expr) -> Val:
    """The abstract value of an expression in a frame."""
    return HANDLERS.get(node.__class__, other)(it, frame, node)


def other(it: Interpreter, frame: Frame, node: ast.expr) -> Val:
    """The value of an expression of a kind that has no handler: from the device if a part of it is."""
    values = [
        it.evaluate(frame, child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)
    ]
    return TAINTED if any(is_tainted(value) for value in values) else OPAQUE


def _constant(it: Interpreter, frame: Frame, node: ast.Constant) -> Val:
    value = node.value
    if value is None:
        return NONE
    kind: type = value.__class__
    if kind in _LITERAL:
        return _literal(kind, value)
    return Host("float", value, literal=True) if kind is float else HOST


_LITERAL: tuple[type, ...] = (bool, int, str)


@lru_cache(maxsize=10_000)
def _literal(kind: type, value: Any) -> Host:
    """The value of a literal; the type tells ``1`` from ``True``. Floats are made anew: ``0.0 == -0.0``."""
    return Host(kind.__name__, value, literal=True)


def lookup(it: Interpreter, frame: Frame, name: str) -> Val:
    """The value of a name: local, of an enclosing function, of the module, or a builtin."""
    scope: Frame | None = frame
    while scope is not None:
        if name in scope.env:
            return scope.env[name]
        scope = scope.parent
    found = it.global_value(frame.module, name)
    if found is not None:
        return found
    return instances.builtin(name)


def _name(it: Interpreter, frame: Frame, node: ast.Name) -> Val:
    return lookup(it, frame, node.id)


def _attribute(it: Interpreter, frame: Frame, node: ast.Attribute) -> Val:
    path = dotted(node)
    owner = it.evaluate(frame, node.value)
    if path is not None and path in frame.env:
        return frame.env[path]
    return instances.attribute(it, frame, owner, node.attr)


def dotted(node: ast.expr) -> str | None:
    """``"a.b"`` of an attribute of a name: such places are tracked in the environment like names."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


def _display(it: Interpreter, frame: Frame, node: ast.List | ast.Tuple | ast.Set) -> Val:
    items: list[Val] = []
    known = True
    for child in node.elts:
        if isinstance(child, ast.Starred):
            value = it.evaluate(frame, child.value)
            if isinstance(value, Seq) and value.items is not None:
                items.extend(value.items)
            else:
                known = False
                items.append(indexing.iterate(it, frame, value, child))
        else:
            items.append(it.evaluate(frame, child))
    kind = {ast.List: "list", ast.Tuple: "tuple", ast.Set: "set"}[type(node)]
    if known and len(items) <= 64:
        return Seq(kind, tuple(items))
    return Seq(kind, None, element(Seq(kind, tuple(items))))


def _dict(it: Interpreter, frame: Frame, node: ast.Dict) -> Val:
    entries: list[tuple[Any, Val]] = []
    rest: Val | None = None
    for key, child in zip(node.keys, node.values, strict=True):
        value = it.evaluate(frame, child)
        if key is None:
            rest = join(rest, indexing.element_of(value))
            if isinstance(value, Dict):
                entries.extend(value.entries)
            continue
        name = it.evaluate(frame, key)
        if isinstance(name, Host) and name.value is not NO_VALUE:
            entries.append((name.value, value))
        else:
            rest = join(rest, value)
    return Dict(tuple({(type(k), k): (k, v) for k, v in entries}.values()), rest, rest is not None)


def _binop(it: Interpreter, frame: Frame, node: ast.BinOp) -> Val:
    left, right = it.evaluate(frame, node.left), it.evaluate(frame, node.right)
    if isinstance(left, Host) and left.type == "str" and isinstance(node.op, ast.Mod):
        if any(map(read_back, spread(right))):
            it.emit(frame, EventKind.SHOW, node, node.right, "%")
        return Host("str")
    return binary(left, right, node.op)


def _unary(it: Interpreter, frame: Frame, node: ast.UnaryOp) -> Val:
    if isinstance(node.op, ast.Not):
        result = conditions.decide(it, frame, node.operand)
        if result.tensors:
            it.readback(frame, EventKind.BOOL_OP, node, result.tensors[0], "not")
            return Readback("bool")
        return BOOL if result.truth is None else Host("bool", not result.truth)
    value = it.evaluate(frame, node.operand)
    if isinstance(value, Host) and value.value is not NO_VALUE and isinstance(node.op, ast.USub):
        if isinstance(value.value, int | float):
            return Host(value.type, -value.value, literal=value.literal)
        return HOST
    return replace(value, optional=False) if isinstance(value, Tensor) else value


def _boolop(it: Interpreter, frame: Frame, node: ast.BoolOp) -> Val:
    return conditions.boolop_value(it, frame, node)


def _compare(it: Interpreter, frame: Frame, node: ast.Compare) -> Val:
    left = it.evaluate(frame, node.left)
    result: Val | None = None
    for op, child in zip(node.ops, node.comparators, strict=True):
        right = it.evaluate(frame, child)
        one = conditions.compare(it, frame, node, left, op, right, child)
        if result is not None and read_back(result):
            it.readback(frame, EventKind.BOOL_OP, node, node, "chained comparison")
        result = one if result is None or isinstance(one, Tensor) else result
        left = right
    return result if result is not None else BOOL


def _ifexp(it: Interpreter, frame: Frame, node: ast.IfExp) -> Val:
    result = conditions.decide(it, frame, node.test)
    if result.tensors:
        if frame.header:
            asked = result.tensors[0]
            frame.leaves.append(conditions.Leaf(EventKind.BRANCH, node, asked, "conditional expression"))
        else:
            it.emit(frame, EventKind.BRANCH, node, result.tensors[0], "conditional expression")
    outcomes: list[Val] = []
    for outcome, child in ((True, node.body), (False, node.orelse)):
        if result.truth in (None, outcome):
            with frame.env.tried():
                conditions.refine(it, frame, node.test, outcome)
                outcomes.append(it.evaluate(frame, child))
    return join(outcomes[0], outcomes[-1])


def _subscript(it: Interpreter, frame: Frame, node: ast.Subscript) -> Val:
    return indexing.subscript(it, frame, node)


def _call(it: Interpreter, frame: Frame, node: ast.Call) -> Val:
    return it.call(frame, node)


def _named(it: Interpreter, frame: Frame, node: ast.NamedExpr) -> Val:
    value = it.evaluate(frame, node.value)
    frame.env[node.target.id] = value
    return value


def _lambda(it: Interpreter, frame: Frame, node: ast.Lambda) -> Val:
    info = it.nested.get((id(node), id(frame)))
    if info is None:
        owner = frame.function.qualname + "." if frame.function is not None else ""
        cls = frame.function.cls if frame.function is not None else None
        info = it.nested[id(node), id(frame)] = FunctionInfo(node, frame.module, f"{owner}<lambda>", cls)
    info.closure, info.statement = frame, frame.statement
    return Fn((info,))


def _comprehension(
    it: Interpreter, frame: Frame, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
) -> Val:
    with frame.env.tried():
        return _comprehended(it, frame, node)


def _comprehended(
    it: Interpreter, frame: Frame, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
) -> Val:
    counted: int | None = None
    for index, generator in enumerate(node.generators):
        source = it.evaluate(frame, generator.iter)
        if index == 0 and isinstance(source, Seq) and source.items is not None and not generator.ifs:
            counted = len(source.items)
        indexing.bind(it, frame, generator.target, indexing.iterate(it, frame, source, generator.iter))
        for test in generator.ifs:
            result = conditions.decide(it, frame, test)
            if result.tensors:
                it.readback(frame, EventKind.BOOL_OP, test, result.tensors[0], "comprehension filter")
            conditions.refine(it, frame, test, True)
    if isinstance(node, ast.DictComp):
        it.evaluate(frame, node.key)
        value: Val = Dict((), it.evaluate(frame, node.value), True)
    else:
        inner = it.evaluate(frame, node.elt)
        kind = {ast.ListComp: "list", ast.SetComp: "set"}.get(type(node), "generator")
        if counted is not None and len(node.generators) == 1 and 0 < counted <= 8:
            value = Seq(kind, (inner,) * counted)
        else:
            value = Seq(kind, None, inner)
    return value


def _fstring(it: Interpreter, frame: Frame, node: ast.JoinedStr) -> Val:
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            value = it.evaluate(frame, part.value)
            if read_back(value):
                it.emit(frame, EventKind.SHOW, node, part.value, "f-string")
    return Host("str")


def _await(it: Interpreter, frame: Frame, node: ast.Await | ast.Starred) -> Val:
    return it.evaluate(frame, node.value)


def _yield(it: Interpreter, frame: Frame, node: ast.Yield | ast.YieldFrom) -> Val:
    value = it.evaluate(frame, node.value) if node.value is not None else NONE
    if isinstance(node, ast.YieldFrom):
        value = indexing.element_of(value) or OPAQUE
    frame.yielded = join(frame.yielded, value)
    return OPAQUE


def _slice(it: Interpreter, frame: Frame, node: ast.Slice) -> Val:
    for part in (node.lower, node.upper, node.step):
        if part is not None:
            it.evaluate(frame, part)
    return Host("slice")


HANDLERS: dict[type[ast.expr], Callable[[Any, Any, Any], Val]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.List: _display,
    ast.Tuple: _display,
    ast.Set: _display,
    ast.Dict: _dict,
    ast.BinOp: _binop,
    ast.UnaryOp: _unary,
    ast.BoolOp: _boolop,
    ast.Compare: _compare,
    ast.IfExp: _ifexp,
    ast.Subscript: _subscript,
    ast.Call: _call,
    ast.NamedExpr: _named,
    ast.Lambda: _lambda,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.DictComp: _comprehension,
    ast.JoinedStr: _fstring,
    ast.Await: _await,
    ast.Starred: _await,
    ast.Yield: _yield,
    ast.YieldFrom: _yield,
    ast.Slice: _slice,
}
