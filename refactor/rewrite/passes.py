"""Several backward passes in one block: which of them one graph may hold, and what one gives another."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from refactor.analysis import liveness
from refactor.analysis.project import FunctionInfo, last_name
from refactor.analysis.steps import backward_of
from refactor.analysis.trees import walk

if TYPE_CHECKING:
    from refactor.rewrite.window import Reader, Window

VALUES = frozenset({"detach", "item", "tolist", "shape", "size", "dtype", "device", "numpy"})
"""Attributes of a tensor that do not need its autograd graph."""
_OF_MODULES = frozenset({"parameters", "named_parameters", "zero_grad", "train", "eval", "state_dict"})
"""Attributes that tell a module from a data set or a buffer of samples."""


def holds_passes(reader: Reader, window: Window) -> bool:
    """Whether the earlier backward passes in a window are whole, and nothing is moved across them."""
    inside = window.inside
    passes = [s for s in inside if backward_of(s) is not None and s is not reader.block[reader.backward]]
    if not passes:
        return True
    first = passes[0].lineno
    cleared = any(reader.clears_gradients(s) for s in inside if s.lineno > first)
    moved = any(s.lineno > first for s in window.before)
    whole = all(
        set(liveness.reads([stmt])) & set(liveness.writes([s for s in inside if s.lineno < stmt.lineno]))
        for stmt in passes
    )
    # an optimizer that only clears gradients inside would have its settings watched for nothing
    return whole and not moved and (bool(window.optimizers) or not cleared)


def carried(reader: Reader, start: int, inside: Sequence[ast.stmt]) -> str:
    """Why not: what the statements read was computed before them, with gradients that they need."""
    passes = sum(backward_of(stmt) is not None for stmt in reader.block)
    called = [n for s in inside for n in walk(s) if isinstance(n, ast.Call)]
    roots = {root for call in called if (root := reader.root(call))}
    held = with_graphs(reader, reader.block[:start], roots, passes > 1)
    for stmt in inside:
        for node in walk(stmt):
            if isinstance(node, ast.Name) and node.id in held and isinstance(node.ctx, ast.Load):
                around = reader.facts.parents.get(node)
                if not (isinstance(around, ast.Attribute) and around.attr in VALUES):
                    return (
                        f"`{node.id}` comes from line {held[node.id]} with its autograd graph; a graph "
                        "must hold the whole forward pass with its backward"
                    )
        for name in liveness.writes([stmt]):
            held.pop(name, None)
    return ""


def with_graphs(reader: Reader, stmts: Sequence[ast.stmt], roots: set[str], every: bool) -> dict[str, int]:
    """Names that hold a tensor with an autograd graph after some statements, and the lines that bind them.

    Args:
        reader: of the block.
        stmts: in their order.
        roots: names of models and losses whose results have graphs.
        every: whether those of whatever may be a model count as well, and not only of known ones.
    """
    held: dict[str, int] = {}
    for stmt in stmts:
        calls = [n for n in walk(stmt) if isinstance(n, ast.Call)]
        graph = any(reader.dotted(c.func) == "torch.autograd.grad" and c.keywords for c in calls)
        graph = graph or any(
            reader.is_object(c) and (reader.root(c) in roots or is_model(reader, c, every)) for c in calls
        )
        graph = graph or any(name in held for name in liveness.reads([stmt]))
        if isinstance(stmt, ast.With) and reader.is_context(stmt, "no_grad", "inference_mode"):
            graph = False
        value = getattr(stmt, "value", None)
        if isinstance(value, ast.Call) and last_name(value.func) in VALUES:
            graph = False
        for name in liveness.writes([stmt]):
            held.pop(name, None)
            if graph:
                held[name] = stmt.lineno
    return held


def is_model(reader: Reader, call: ast.Call, maybe: bool) -> bool:
    """Whether what is called is a module or a method of one; `maybe`: whether it may be one at all."""
    func = call.func
    if isinstance(reader.target(func), FunctionInfo):
        return False
    plain = isinstance(func, ast.Name) or getattr(func.value, "id", "") == reader.owner  # type: ignore[attr-defined]
    if plain and maybe:
        return True
    owners = {ast.unparse(func)} | ({ast.unparse(func.value)} if isinstance(func, ast.Attribute) else set())
    owners -= {reader.owner or ""}
    return any(
        isinstance(node, ast.Attribute) and node.attr in _OF_MODULES and ast.unparse(node.value) in owners
        for node in walk(reader.facts.tree)
    )
