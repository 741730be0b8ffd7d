"""Loops over groups of rows, each with weights of its own, as in mixtures of experts: what to do instead.

``for e in hit: rows = torch.where(mask[e])[0]; out.index_add_(0, rows, x[rows] @ self.weight[e])`` gives each
expert as many rows as the data say, so the host waits in every round and no graph can hold the loop. Running
all experts over all rows is no way out: it multiplies the work by the number of experts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis import liveness
from refactor.analysis.model import EventKind, Facts
from refactor.rewrite.syntax import ancestors, same_scope

_SELECTS = (EventKind.DYNAMIC_OP, EventKind.MASK_INDEX, EventKind.DEVICE_SIZE)
_PRODUCTS = frozenset({"matmul", "mm", "linear", "einsum", "addmm", "bmm"})


def grouped_loops(facts: Facts, function: ast.FunctionDef) -> Iterator[ast.For]:
    """Loops that select rows by data and multiply them with what the number of the round selects."""
    for event in facts.events:
        if event.function is not function or event.kind not in _SELECTS:
            continue
        for loop in ancestors(facts, event.node):
            if loop is function:
                break
            if isinstance(loop, ast.For) and any(_by_round(node, loop) for node in same_scope(loop)):
                yield loop


def advice(facts: Facts, function: ast.FunctionDef) -> str:
    """One sentence about the first such loop of a function; empty if there is none."""
    lines = sorted({loop.lineno for loop in grouped_loops(facts, function)})
    if not lines:
        return ""
    return (
        f"the loop in line {lines[0]} stays on the host, because the data say how many rows each round gets; "
        "sort the rows by group (`argsort`) and multiply them in one `torch.nn.functional.grouped_mm(rows, "
        "weights, offs=ends)`, which a graph can hold"
    )


def _by_round(node: ast.AST, loop: ast.For) -> bool:
    """Whether a node is a product with ``weight[e]``, or a call of ``experts[e]``."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return _selected(node.left, loop) or _selected(node.right, loop)
    if not isinstance(node, ast.Call):
        return False
    func = node.func
    if isinstance(func, ast.Subscript):
        return _selected(func, loop)
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    return name in _PRODUCTS and any(_selected(arg, loop) for arg in node.args)


def _selected(node: ast.AST, loop: ast.For) -> bool:
    """Whether a value is taken out of something by the round of a loop."""
    rounds = _rounds(loop)
    return any(
        isinstance(inner, ast.Subscript)
        and isinstance(inner.slice, ast.Name)
        and inner.slice.id in rounds
        and isinstance(inner.value, ast.Name | ast.Attribute)
        for inner in (node, *same_scope(node))
    )


def _rounds(loop: ast.For) -> frozenset[str]:
    """Names of the number of the round: the target, and what the body takes out of it."""
    names = set(liveness.target_names(loop.target))
    for stmt in loop.body:
        if not isinstance(stmt, ast.Assign) or not isinstance(stmt.targets[0], ast.Name):
            continue
        value = stmt.value
        while isinstance(value, ast.Subscript):
            value = value.value
        if isinstance(value, ast.Name) and value.id in names:
            names.add(stmt.targets[0].id)
    return frozenset(names)
