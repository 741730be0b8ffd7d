"""Values of expressions that a constructor computes from its arguments, as far as they are plain numbers."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any


class Unknown:
    """The value of an expression that cannot be told from the code."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN = Unknown()

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "max": max,
    "min": min,
    "len": len,
    "tuple": tuple,
}


def evaluate(node: ast.expr | None, names: Mapping[str, Any]) -> Any:
    """The value of an expression, or `UNKNOWN`.

    Args:
        node: the expression.
        names: values of names, and of attributes as ``"self.x"``.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return names.get(name, UNKNOWN)
        case ast.Attribute(value=ast.Name(id=base), attr=attribute):
            return names.get(f"{base}.{attribute}", UNKNOWN)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return _sequence([evaluate(item, names) for item in items])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = evaluate(operand, names)
            return -value if _is_number(value) else UNKNOWN
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, evaluate(left, names), evaluate(right, names))
        case ast.BoolOp(op=ast.Or(), values=[first, second]):
            value = evaluate(first, names)
            return value if isinstance(value, Unknown) or value else evaluate(second, names)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            chosen = _truth(test, names)
            return UNKNOWN if chosen is None else evaluate(body if chosen else orelse, names)
        case ast.Subscript(value=base, slice=index):
            return _item(evaluate(base, names), evaluate(index, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            return _call(_CALLS[name], [evaluate(arg, names) for arg in args])
    return UNKNOWN


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _sequence(values: list[Any]) -> Any:
    return UNKNOWN if any(isinstance(value, Unknown) for value in values) else tuple(values)


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    function = _BINARY.get(type(op))
    if function is None or not (_is_number(left) and _is_number(right)):
        return UNKNOWN
    try:
        return function(left, right)
    except (ArithmeticError, ValueError):
        return UNKNOWN


def _truth(test: ast.expr, names: Mapping[str, Any]) -> bool | None:
    match test:
        case ast.Compare(
            left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]
        ):
            value = evaluate(left, names)
            return None if isinstance(value, Unknown) else (value is None) is isinstance(op, ast.Is)
    value = evaluate(test, names)
    return None if isinstance(value, Unknown) else bool(value)


def _item(base: Any, index: Any) -> Any:
    if isinstance(base, tuple) and isinstance(index, int) and -len(base) <= index < len(base):
        return base[index]
    return UNKNOWN


def _call(function: Callable[..., Any], args: list[Any]) -> Any:
    if any(isinstance(arg, Unknown) for arg in args):
        return UNKNOWN
    try:
        return function(*args)
    except (TypeError, ValueError, OverflowError):
        return UNKNOWN
