"""Training steps: blocks that compute a loss and call ``backward`` on it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from refactor.analysis.project import ModuleInfo, last_name
from refactor.analysis.trees import statements, walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Owner = ast.For | ast.While | ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.With


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """A block with ``backward`` among its own statements."""

    owner: Owner
    block: tuple[ast.stmt, ...]
    index: int  # of the statement that calls backward
    call: ast.Call
    function: FunctionNode | None
    passes: int = 1  # backward passes in the block, those in blocks within it too


def training_steps(module: ModuleInfo) -> Iterator[TrainingStep]:
    """Every such block of a file, in order of its place."""
    if b".backward(" not in module.source.data:
        return
    graphed = _graphed(module)
    top = [s for s in module.tree.body if not isinstance(s, FunctionNode | ast.ClassDef)]
    yield from _in_scope(None, top)
    for node in statements(module.tree.body):
        if isinstance(node, FunctionNode) and node.name not in graphed:
            yield from _in_scope(node, [node])


def _graphed(module: ModuleInfo) -> frozenset[str]:
    """Functions and methods that run from graphs already: decorated, or handed to ``graphed``."""
    if b"graphed" not in module.source.data:
        return frozenset()
    found: set[str] = set()
    for node in module.nodes:
        if isinstance(node, FunctionNode) and any(last_name(d) == "graphed" for d in node.decorator_list):
            found.add(node.name)
        if isinstance(node, ast.Call) and last_name(node.func) == "graphed" and node.args:
            found.add(last_name(node.args[0]))
    return frozenset(found)


def _in_scope(function: FunctionNode | None, roots: list[ast.stmt]) -> Iterator[TrainingStep]:
    loops = [node for root in roots for node in _own(root) if isinstance(node, ast.For | ast.While)]
    repeated = {id(node) for loop in loops for node in _own(loop)}
    for root in roots:
        for node in _own(root):
            if function is None and id(node) not in repeated:
                continue  # the top level of a file runs once
            block = tuple(getattr(node, "body", ()))
            found = [(i, call) for i, stmt in enumerate(block) if (call := backward_of(stmt)) is not None]
            every = sum(is_backward(n) for stmt in block for n in walk(stmt))
            # an argument is a gradient, or a loss handed to a library that runs the step
            for index, call in found:
                if isinstance(node, Owner) and not call.args:
                    yield TrainingStep(node, block, index, call, function, every)


def _own(root: ast.stmt) -> Iterator[ast.stmt]:
    yield root
    for part in ("body", "orelse", "finalbody"):
        for child in getattr(root, part, ()):
            if not isinstance(child, FunctionNode | ast.ClassDef):
                yield from _own(child)
    for handler in getattr(root, "handlers", ()):
        for child in handler.body:
            yield from _own(child)


def backward_of(stmt: ast.stmt) -> ast.Call | None:
    """The call of a statement ``loss.backward()``."""
    if isinstance(stmt, ast.Expr) and is_backward(stmt.value):
        return stmt.value  # type: ignore[return-value]
    return None


def is_backward(node: ast.AST) -> bool:
    """Whether a node is ``loss.backward()``."""
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward"
    )
