"""Assignments of fresh elementwise results in methods: what could be computed into a kept buffer.

Whether the value leaves the method is for the rule to judge; here it is only certain that the operation makes
a new tensor on the device and that the name is bound by this statement alone for its readers.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping

from refactor.analysis.domain import Host, Tensor, Val
from refactor.analysis.liveness import captured, declared, reads
from refactor.analysis.model import Device, Event, EventKind, Region
from refactor.analysis.project import FunctionInfo
from refactor.analysis.torchops import ELEMENTWISE

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def temporaries(
    info: FunctionInfo,
    values: Mapping[ast.expr, Val],
    parents: Mapping[ast.AST, ast.AST],
    region: Region,
    chain: tuple[str, ...],
) -> Iterator[Event]:
    """A TEMPORARY event for each candidate of a method, in order."""
    node = info.node
    if info.cls is None or isinstance(node, ast.Lambda) or info.decorators & {"staticmethod", "classmethod"}:
        return
    kept = captured(node.body) | declared(node.body)
    for stmt in _statements(node.body):
        if not isinstance(stmt, ast.Assign) or len(stmt.targets) != 1:
            continue
        target = stmt.targets[0]
        if not isinstance(target, ast.Name) or target.id in kept:
            continue
        value = values.get(stmt.value)
        fresh = isinstance(value, Tensor) and value.device is Device.DEVICE and not value.maybe
        if not fresh or not _elementwise(stmt.value, values.get):
            continue
        if not _carried(target.id, stmt, parents, node):
            yield Event(
                EventKind.TEMPORARY, stmt, stmt, node, region, chain, target.id, stmt.value
            )  # fmt: skip


def _statements(stmts: list[ast.stmt]) -> Iterator[ast.stmt]:
    for stmt in stmts:
        yield stmt
        if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(stmt, name, []))
        for part in (*getattr(stmt, "handlers", ()), *getattr(stmt, "cases", ())):
            yield from _statements(part.body)


def _elementwise(node: ast.expr, value: Callable[[ast.expr], Val | None]) -> bool:
    """An operation whose result is a new tensor with the shape its operands broadcast to."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
        operands = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operands = [node.operand]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.keywords:
        if node.func.attr not in ELEMENTWISE:
            return False
        owner = value(node.func.value)
        operands = [*([node.func.value] if isinstance(owner, Tensor) else []), *node.args]
    else:
        return False
    found = [value(operand) for operand in operands]
    if not all(isinstance(v, Tensor | Host) for v in found):
        return False
    tensors = [v for v in found if isinstance(v, Tensor)]
    return bool(tensors) and all(not t.maybe and not t.optional and t.dtype != "bool" for t in tensors)


def _carried(name: str, stmt: ast.stmt, parents: Mapping[ast.AST, ast.AST], function: ast.AST) -> bool:
    """Whether an iteration may read the value that the one before left in this name."""
    node: ast.AST | None = stmt
    while node is not None and node is not function:
        node = parents.get(node)
        if isinstance(node, _LOOPS) and name in reads(node.body):
            return True
    return False
