"""How often a graph is replayed where the code says so: it has to pay for its warmup and capture."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.callees import FunctionNode, Scope, inside
from refactor.analysis.trees import walk

ENOUGH = 100
"""Replays above which a capture is taken to pay for itself."""


def few_replays(scope: Scope, block: ast.With) -> tuple[ast.Name, int] | None:
    """The graph of a capture and how often it is replayed, if that is known to be seldom.

    Known: the graph is a local name that is captured into and replayed, and nothing else is done with it.
    """
    call = block.items[0].context_expr
    graph = call.args[0] if isinstance(call, ast.Call) and call.args else None
    if not isinstance(graph, ast.Name) or not isinstance(scope.node, FunctionNode):
        return None
    uses = [n for n in walk(scope.node) if isinstance(n, ast.Name) and n.id == graph.id]
    calls = {
        id(n.func.value): n
        for n in walk(scope.node)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        if n.func.attr in ("replay", "reset", "register_generator_state", "pool")
    }
    replays: list[ast.Call] = []
    for use in uses:
        known = calls.get(id(use))
        if known is not None and isinstance(known.func, ast.Attribute) and known.func.attr == "replay":
            replays.append(known)
        elif known is None and use is not graph and not isinstance(use.ctx, ast.Store):
            return None  # it leaves the function, or another name has it
    counts = [_times(scope, replay) for replay in replays]
    if not counts or any(count is None for count in counts):
        return None
    total = sum(count for count in counts if count is not None)
    return (graph, total) if total <= ENOUGH else None


def _times(scope: Scope, replay: ast.Call) -> int | None:
    """How often a statement runs in one call of its function; None: not known."""
    times = 1
    for node in _loops(scope):
        if inside(replay, node):
            counted = _counted(node)
            if counted is None:
                return None
            times *= counted
    nested = any(
        isinstance(n, FunctionNode | ast.Lambda) and n is not scope.node and inside(replay, n)
        for n in walk(scope.node)
    )
    return None if nested else times


def _loops(scope: Scope) -> Iterator[ast.AST]:
    for node in walk(scope.node):
        if isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.comprehension):
            yield node


def _counted(node: ast.AST) -> int | None:
    """The number of turns of ``for … in range(literal)``."""
    if not (isinstance(node, ast.For) and isinstance(node.iter, ast.Call)):
        return None
    source = node.iter
    if not (isinstance(source.func, ast.Name) and source.func.id == "range" and not source.keywords):
        return None
    bounds = [arg.value for arg in source.args if isinstance(arg, ast.Constant)]
    whole = [bound for bound in bounds if isinstance(bound, int)]
    return len(range(*whole)) if whole and len(whole) == len(source.args) else None
