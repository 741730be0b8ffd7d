"""Walking syntax trees, much faster than ``ast.walk``: most of the time of a check goes into it.

Expression contexts and operators are left out: they have no place, and one object of each serves a whole
tree.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")
_PLAIN = frozenset(
    (
        *("arg", "asname", "attr", "conversion", "ctx", "id", "is_async", "kind", "kwd_attrs", "level"),
        *("lineno", "module", "op", "ops", "rest", "simple", "str", "type_comment", "type_ignores"),
    )
)
"""Fields that hold no node that is walked, in whatever class."""


class _Fields(dict[type, tuple[str, ...]]):
    """Names of the fields that may hold nodes, by class, in their order."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        plain = _PLAIN
        if kind in (ast.Constant, ast.Global, ast.Nonlocal, ast.alias, ast.MatchSingleton):
            names: tuple[str, ...] = ()
        else:
            if kind.__name__ != "TypeAlias":
                plain |= {"name"}
            names = tuple(name for name in kind._fields if name not in plain)
        self[kind] = names
        return names


_FIELDS: dict[type, tuple[str, ...]] = _Fields()


def walk(root: ast.AST) -> list[Any]:
    """A node and all below it, breadth first, in the order of ``ast.walk``."""
    found: list[Any] = [root]
    fields = _FIELDS
    for node in found:
        for name in fields[node.__class__]:
            child = getattr(node, name, None)
            if child.__class__ is list:
                found += [item for item in child if item is not None] if None in child else child
            elif child is not None:
                found.append(child)
    return found


def walk_all(roots: Iterable[ast.AST]) -> Iterator[Any]:
    """The nodes of several trees, one tree after the other."""
    for root in roots:
        yield from walk(root)


def children(node: ast.AST) -> list[Any]:
    """The nodes right below a node, in the order of ``ast.iter_child_nodes``."""
    found: list[Any] = []
    for name in _FIELDS[node.__class__]:
        child = getattr(node, name, None)
        if child.__class__ is list:
            found += [item for item in child if item is not None]
        elif child is not None:
            found.append(child)
    return found


def parents(root: ast.AST) -> dict[ast.AST, ast.AST]:
    """The node around each node below a root."""
    found: list[Any] = [root]
    table: dict[ast.AST, ast.AST] = {}
    fields = _FIELDS
    for node in found:
        for name in fields[node.__class__]:
            child = getattr(node, name, None)
            if child.__class__ is list:
                for item in child:
                    if item is not None:
                        table[item] = node
                        found.append(item)
            elif child is not None:
                table[child] = node
                found.append(child)
    return table


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements and those nested in them, in order, functions and classes included."""
    stack = list(reversed(list(body)))
    while stack:
        stmt = stack.pop()
        yield stmt
        nested: list[ast.stmt] = [*getattr(stmt, "body", ())]
        for part in (*getattr(stmt, "handlers", ()), *getattr(stmt, "cases", ())):
            nested += part.body
        nested += getattr(stmt, "orelse", ())
        nested += getattr(stmt, "finalbody", ())
        stack += reversed(nested)


class Lazy(Mapping[_K, _V]):
    """A mapping built when it is first read: most files' facts are never looked into."""

    def __init__(self, build: Callable[[], dict[_K, _V]]) -> None:
        self._build = build
        self._built: dict[_K, _V] | None = None

    @property
    def _table(self) -> dict[_K, _V]:
        if self._built is None:
            self._built = self._build()
        return self._built

    def __getitem__(self, key: _K) -> _V:
        return self._table[key]

    def __iter__(self) -> Iterator[_K]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class Viewed(Mapping[_K, _V]):
    """A mapping whose values are made from those of another when they are asked for: few of them are."""

    def __init__(self, origin: Mapping[_K, Any], view: Callable[[Any], _V]) -> None:
        self._origin, self._view = origin, view

    def __getitem__(self, key: _K) -> _V:
        return self._view(self._origin[key])

    def __iter__(self) -> Iterator[_K]:
        return iter(self._origin)

    def __len__(self) -> int:
        return len(self._origin)
