"""Values of arithmetic and comparison: between tensors, host values and sequences."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from refactor.analysis.domain import (
    HOST,
    NO_VALUE,
    OPAQUE,
    TAINTED,
    Dict,
    Host,
    Opaque,
    Readback,
    Seq,
    Tensor,
    Val,
    element,
    is_tainted,
    join,
    known_items,
    settled,
)
from refactor.analysis.model import Device

_FOLD: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Div: operator.truediv,
}
_BITWISE = (ast.BitAnd, ast.BitOr, ast.BitXor)


def binary(left: Val, right: Val, op: ast.operator) -> Val:
    """The value of an arithmetic operation."""
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return tensor_binary(left, right, op)
    if isinstance(left, Host) and isinstance(right, Host):
        return _host_binary(left, right, op)
    if isinstance(left, Seq) and isinstance(right, Seq) and isinstance(op, ast.Add):
        if left.items is not None and right.items is not None:
            return Seq(left.type, (*left.items, *right.items))
        prefix = (*left.items, *known_items(right)) if left.items is not None else left.prefix
        return Seq(left.type, None, join(element(left), element(right)), prefix)
    if isinstance(left, Seq) and isinstance(op, ast.Mult):
        return Seq(left.type, None, element(left))
    if isinstance(right, Seq) and isinstance(op, ast.Mult):
        return Seq(right.type, None, element(right))
    if (isinstance(left, Readback) and isinstance(right, Host | Readback)) or (
        isinstance(right, Readback) and isinstance(left, Host)
    ):
        return left if isinstance(left, Readback) else right
    if isinstance(op, ast.BitOr) and isinstance(left, Dict) and isinstance(right, Dict):
        return join(left, right)
    return TAINTED if is_tainted(left) or is_tainted(right) else OPAQUE


def _host_binary(left: Host, right: Host, op: ast.operator) -> Val:
    fold = _FOLD.get(type(op))
    if fold is not None and left.value is not NO_VALUE and right.value is not NO_VALUE:
        try:
            value = fold(left.value, right.value)
        except (TypeError, ValueError, ArithmeticError):
            return HOST
        if isinstance(value, int | float) or (isinstance(value, str) and len(value) < 200):
            return Host(type(value).__name__, value)
    if left.type in ("array", "readback") or right.type in ("array", "readback"):
        return left if left.type in ("array", "readback") else right
    if left.type == right.type == "int" and not isinstance(op, ast.Div):
        return Host("int")
    if "str" in (left.type, right.type):
        return Host("str")
    return Host("float") if isinstance(op, ast.Div) or "float" in (left.type, right.type) else HOST


def tensor_binary(left: Val, right: Val, op: ast.operator | None, boolean: bool = False) -> Val:
    """The tensor that an operation between a tensor and something else gives."""
    tensors = [value for value in (left, right) if isinstance(value, Tensor)]
    device = combined_device([left, right])
    ranks = [tensor.rank for tensor in tensors]
    rank = max(r for r in ranks if r is not None) if None not in ranks and not _unknown(left, right) else None
    if isinstance(op, ast.MatMult):
        rank = rank if rank is not None and rank >= 2 and min(r or 0 for r in ranks) >= 2 else None
    families = {tensor.dtype for tensor in tensors}
    if boolean:
        dtype: str | None = "bool"
    elif isinstance(op, ast.Div) or "float" in families:
        dtype = "float"
    elif families == {"bool"} and isinstance(op, _BITWISE):
        dtype = (
            "bool" if all(isinstance(v, Tensor) or _host_type(v) == "bool" for v in (left, right)) else None
        )
    elif families <= {"int", "bool", "number", None} and (
        families & {"int", "number"} or isinstance(op, ast.Sub)
    ):
        other = [v for v in (left, right) if not isinstance(v, Tensor)]
        exact = families <= {"int", "bool"} and "int" in families
        dtype = "int" if exact and all(_host_type(v) in ("int", "bool") for v in other) else "number"
    else:
        dtype = None
    maybe = not any(settled(tensor) for tensor in tensors)
    return Tensor(device, dtype, rank, maybe=maybe)


def _host_type(value: Val) -> str | None:
    return value.type if isinstance(value, Host | Readback) else None


def _unknown(*values: Val) -> bool:
    return any(isinstance(value, Opaque | Seq) for value in values)


def combined_device(values: list[Val]) -> Device:
    """Where the result of an operation on these operands lives."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if any(tensor.rank for tensor in tensors):
        tensors = [tensor for tensor in tensors if tensor.rank != 0]  # a single number goes with either
    found = [tensor.device for tensor in tensors]
    if set(found) == {Device.HOST} and any(tensor.rank for tensor in tensors):
        return Device.HOST  # what goes with a tensor on the host is there too, unless that is one number
    if any(isinstance(value, Opaque) for value in values):
        found.append(Device.DEVICE if any(map(is_tainted, values)) else Device.UNKNOWN)
    if Device.DEVICE in found:
        return Device.DEVICE
    if Device.UNKNOWN in found or not found:
        return Device.UNKNOWN
    return Device.HOST
