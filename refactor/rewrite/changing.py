"""Arguments of a training step that are another number at every call: each would be a graph of its own."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence

from refactor.analysis import liveness
from refactor.analysis.model import Facts
from refactor.analysis.project import last_name
from refactor.analysis.trees import walk
from refactor.rewrite.syntax import ancestors, same_scope

_COUNTS = frozenset({"range", "trange"})
_NUMBERS = frozenset({"int", "float", "len", "round"})
_OF_NUMBERS = frozenset({"max", "min", "abs", "sum", "pow"})
_MODULES = ("math", "random", "np", "numpy", "time")


def changing_number(
    facts: Facts, scope: ast.AST, owner: ast.AST, inside: Sequence[ast.stmt], inputs: Collection[str]
) -> str:
    """Why one of the inputs changes from step to step on the host; empty if none is known to."""
    loops = [node for node in (owner, *ancestors(facts, owner)) if isinstance(node, ast.For | ast.While)]
    counters = {name for loop in loops if isinstance(loop, ast.For) for name in _counters(loop)}
    for name in inputs:
        if name in counters:
            return f"`{name}` is another Python number at every step; pass it as a tensor"
    within = {id(n) for s in inside for n in walk(s)}
    for node in same_scope(scope):
        target = node.target if isinstance(node, ast.AugAssign) and id(node) not in within else None
        if isinstance(target, ast.Name) and target.id in inputs:
            return f"`{target.id}` changes from step to step on the host; pass it as a tensor"
    for loop in loops:
        for stmt in (node for part in loop.body for node in walk(part) if isinstance(node, ast.Assign)):
            named = [t.id for t in stmt.targets if isinstance(t, ast.Name) and t.id in inputs]
            if named and id(stmt) not in within and _changes(stmt.value, counters):
                return f"`{named[0]}` is a Python number made in line {stmt.lineno}; pass it as a tensor"
    return ""


def _counters(loop: ast.For) -> Iterator[str]:
    if not isinstance(loop.iter, ast.Call):
        return
    if isinstance(loop.iter.func, ast.Name) and loop.iter.func.id in _COUNTS:
        yield from liveness.target_names(loop.target)
    elif last_name(loop.iter.func) == "enumerate":
        yield from liveness.target_names(loop.target)[:1]


def _changes(value: ast.expr, counters: Collection[str]) -> bool:
    """Whether an expression is a number and not the same one always."""
    return not isinstance(value, ast.Constant) and _is_number(value, counters)


def _is_number(value: ast.expr, counters: Collection[str]) -> bool:
    """Whether an expression is surely a number: tensors may stand wherever nothing says otherwise."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float)
    if isinstance(value, ast.Name):
        return value.id in counters
    if isinstance(value, ast.UnaryOp):
        return _is_number(value.operand, counters)
    if isinstance(value, ast.BinOp):
        return _is_number(value.left, counters) and _is_number(value.right, counters)
    if not isinstance(value, ast.Call):
        return False
    func = value.func
    if isinstance(func, ast.Name):
        some = any(_is_number(a, counters) for a in value.args)
        return func.id in _NUMBERS or (func.id in _OF_NUMBERS and some)
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
        return func.value.id in _MODULES and func.attr not in ("array", "asarray", "zeros", "ones", "stack")
    return isinstance(func, ast.Attribute) and func.attr == "item" and not value.args
