"""Which global names the functions and classes of a file use, by the scopes that Python itself finds."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

from refactor.analysis.liveness import free_names
from refactor.analysis.trees import walk

_COMPREHENSIONS = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr", "lambda"})
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True)
class GlobalUse:
    """One function, class, lambda or generator of the top level, with all that stands in it."""

    name: str  # "": it has none
    line: int
    reads: frozenset[str]  # globals it names
    binds: frozenset[str]  # globals it assigns or deletes, of those it declares


def global_uses(text: str, tree: ast.Module) -> tuple[GlobalUse, ...]:
    """What runs later than the top-level code around it and uses its names, in order of the source.

    Args:
        text: source of the file, which parses.
        tree: the same, parsed.
    """
    found: list[GlobalUse] = []
    for table in symtable.symtable(text, "<file>", "exec").get_children():
        if table.get_name() not in _COMPREHENSIONS:
            every = list(_below(table))
            reads = {s.get_name() for t in every for s in t.get_symbols() if s.is_global()}
            binds = {
                s.get_name()
                for t in every
                for s in t.get_symbols()
                if s.is_declared_global() and (s.is_assigned() or s.is_imported())
            }
            found.append(GlobalUse(table.get_name(), table.get_lineno(), frozenset(reads), frozenset(binds)))
    found += _unnamed(tree)
    return tuple(sorted(found, key=lambda use: use.line))


def _below(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _below(child)


def _unnamed(tree: ast.Module) -> Iterator[GlobalUse]:
    """Lambdas, and generators that are not used up where they stand."""
    nodes = list(_top_level(tree))
    at_once = {
        id(part)
        for node in nodes
        for part in (
            node.args if isinstance(node, ast.Call) else [node.iter] if isinstance(node, ast.For) else []
        )
    }
    for node in nodes:
        later = isinstance(node, ast.GeneratorExp) and id(node) not in at_once
        if later or isinstance(node, ast.Lambda):
            yield GlobalUse("", node.lineno, free_names(node), frozenset())  # type: ignore[attr-defined]


def _top_level(tree: ast.Module) -> Iterator[ast.AST]:
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, _SCOPES):
            todo += ast.iter_child_nodes(node)


def exported(tree: ast.Module) -> frozenset[str]:
    """The names in ``__all__``."""
    found: set[str] = set()
    for stmt in tree.body:
        targets = (
            stmt.targets
            if isinstance(stmt, ast.Assign)
            else [stmt.target]
            if isinstance(stmt, ast.AugAssign)
            else []
        )
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            found |= {n.value for n in walk(stmt) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return frozenset(found)
