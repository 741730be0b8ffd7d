"""What runs in segments already: a second `apply` cuts nothing that belongs to code the first one has cut.

The first run plans a method with all that it calls. What it wrote says more about the values than the code
before did, so that a caller could be cut now as well; but both would have been cut otherwise at once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache

from refactor.analysis.model import Facts
from refactor.analysis.trees import walk
from refactor.rewrite.syntax import FunctionNode

_WORDS = (b"segment", b"graphed")
_EVERY = frozenset({"forward", "__init__", "__call__"})  # of any class, so that a name says nothing


def belongs_to_segments(facts: Facts, function: FunctionNode) -> bool:
    """Whether a function of the file leads to a segment, or is called by one that does."""
    if not any(word in facts.source.data for word in _WORDS):
        return False
    below, cut = _calls(facts)
    if not cut:
        return False
    own = _reached(below, function)
    return bool(own & cut) or any(
        function in reached and reached & cut for node in below if (reached := _reached(below, node))
    )


def _reached(below: Mapping[ast.AST, frozenset[ast.AST]], start: ast.AST) -> frozenset[ast.AST]:
    found: set[ast.AST] = set()
    todo = [start]
    while todo:
        new = below.get(todo.pop(), frozenset()) - found
        found |= new
        todo += new
    return frozenset(found)


@lru_cache(maxsize=2)
def _calls(facts: Facts) -> tuple[Mapping[ast.AST, frozenset[ast.AST]], frozenset[ast.AST]]:
    """Which functions of the file each one calls, as far as names tell; and those that are segments."""
    named: dict[str, list[ast.AST]] = {}
    owners: dict[ast.AST, ast.ClassDef | None] = {}
    for node, owner in _functions(facts.tree):
        named.setdefault(node.name, []).append(node)
        owners[node] = owner
    below = {node: frozenset(_called(node, owners, named)) for node in owners}
    return below, frozenset(node for node in owners if _is_cut(node))


def _functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, ast.ClassDef | None]]:
    for stmt in tree.body:
        if isinstance(stmt, ast.FunctionDef):
            yield stmt, None
        elif isinstance(stmt, ast.ClassDef):
            yield from ((inner, stmt) for inner in stmt.body if isinstance(inner, ast.FunctionDef))


def _is_cut(node: ast.AST) -> bool:
    names = (d.func if isinstance(d, ast.Call) else d for d in getattr(node, "decorator_list", ()))
    return any(ast.unparse(name).rpartition(".")[2] in ("segment", "graphed") for name in names)


def _called(
    node: ast.AST, owners: Mapping[ast.AST, ast.ClassDef | None], named: Mapping[str, list[ast.AST]]
) -> Iterator[ast.AST]:
    for call in walk(node):
        func = call.func if isinstance(call, ast.Call) else None
        if isinstance(func, ast.Name):
            yield from (f for f in named.get(func.id, ()) if owners[f] is None)
        elif isinstance(func, ast.Attribute):
            methods = [f for f in named.get(func.attr, ()) if owners[f] is not None]
            own = [f for f in methods if owners[f] is owners[node]]
            if own and isinstance(func.value, ast.Name):
                yield from own
            elif func.attr not in _EVERY:
                yield from methods
