"""Names in rewritten code: what a module binds, and how a rewrite refers to `torch` and to the runtime.

A rewrite is proposed before it is known which other rewrites are made and which imports they share, so it
refers to outside names by placeholders. The patch settles them once for the file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

from refactor.analysis.trees import walk
from refactor.rewrite.lazily import libcst as cst

_MARK = "__cuda_graph_refactor_"
PLACEHOLDER = re.compile(_MARK + r"(\w+?)__")
RUNTIME_NAMES = ("graphed", "segment", "scratch", "constant", "grouped_mm")


def placeholder(name: str) -> str:
    """Stands for a runtime name or a module (``torch``) until the patch knows what the file calls it."""
    return f"{_MARK}{name}__"


def reference(name: str) -> cst.Name:
    """`placeholder` as an expression."""
    return cst.Name(placeholder(name))


@lru_cache(maxsize=64)
def bound_names(tree: ast.AST) -> Mapping[str, int]:
    """Every name bound anywhere in the tree, in any scope, with the number of places that bind it."""
    found: dict[str, int] = {}
    for node in walk(tree):
        for name in _binds(node):
            found[name] = found.get(name, 0) + 1
    return MappingProxyType(found)


@lru_cache(maxsize=8)
def names_outside_scopes(tree: ast.Module) -> frozenset[str]:
    """Every name that the statements of a file bind which are neither functions nor classes."""
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(n for node in tree.body if not isinstance(node, scopes) for n in bound_names(node))


@lru_cache(maxsize=64)
def used_names(tree: ast.AST) -> frozenset[str]:
    """Every name read, bound or declared anywhere in the tree, in any scope."""
    return frozenset(bound_names(tree)) | frozenset(n.id for n in walk(tree) if isinstance(n, ast.Name))


@lru_cache(maxsize=256)
def attribute_names(tree: ast.AST) -> frozenset[str]:
    """Every attribute or method used or defined anywhere in the tree, and every string that could be one."""
    found: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)
    return frozenset(found)


def fresh(name: str, taken: Iterable[str]) -> str:
    """``name``, or with the first free number from 2 behind it."""
    names = frozenset(taken)
    if name not in names:
        return name
    number = 2
    while f"{name}_{number}" in names:
        number += 1
    return f"{name}_{number}"


def _binds(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).split(".")[0]
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        if node.name:
            yield node.name
    elif isinstance(node, ast.MatchMapping):
        if node.rest:
            yield node.rest
    elif isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
