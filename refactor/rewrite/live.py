"""Liveness of a function as a plan reads it: tests made elsewhere, conditional expressions as branches."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from refactor.analysis import liveness

Order = Callable[[list[ast.stmt]], list[ast.stmt]]


def live_as_planned(
    function: ast.FunctionDef,
    hoisted: Mapping[ast.stmt, Collection[ast.expr]],
    expanded: Mapping[ast.stmt, ast.If] = MappingProxyType({}),
    order: Order = list,
) -> dict[ast.stmt, frozenset[str]]:
    """Names live after each statement, if the given parts of statements were computed elsewhere.

    ``expanded`` has statements that are read as branches (`conditional_branches`); ``order`` is that in which
    the statements of a block will stand. The tree is not changed: what is different is copied.
    """
    origin: dict[ast.stmt, ast.stmt] = {}

    def copied(stmt: ast.stmt) -> ast.stmt:
        stmt = expanded.get(stmt, stmt)
        parts = hoisted.get(stmt, ())
        if not parts and not any(isinstance(getattr(stmt, p, None), list) for p in _SUITES):
            return stmt
        twin = copy.copy(stmt)
        origin[twin] = stmt
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(stmt, name, None)
            if isinstance(inner, list):
                setattr(twin, name, [copied(child) for child in order(inner)])
        for name in ("handlers", "cases"):
            if isinstance(getattr(stmt, name, None), list):
                setattr(twin, name, [branch(part) for part in getattr(stmt, name)])
        for name in ("test", "value", "iter", "subject"):
            value = getattr(stmt, name, None)
            if parts and isinstance(value, ast.expr):
                setattr(twin, name, _without(value, parts))
        return twin

    def branch(part: Any) -> Any:
        twin = copy.copy(part)
        twin.body = [copied(child) for child in order(part.body)]
        return twin

    whole = copied(function)
    assert isinstance(whole, ast.FunctionDef)
    return {origin.get(stmt, stmt): names for stmt, names in liveness.live_out(whole).items()}


_SUITES = ("body", "handlers", "cases")


def _without(node: ast.expr, parts: Collection[ast.expr]) -> ast.expr:
    """A copy of an expression with some parts replaced by a name that is no variable."""
    if node in parts:
        return ast.copy_location(ast.Name("<computed before>", ast.Load()), node)
    twin = copy.copy(node)
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.expr):
            setattr(twin, name, _without(value, parts))
        elif isinstance(value, list):
            setattr(twin, name, [_without_item(item, parts) for item in value])
    return twin


def _without_item(item: Any, parts: Collection[ast.expr]) -> Any:
    if isinstance(item, ast.keyword):
        return _without_keyword(item, parts)
    return _without(item, parts) if isinstance(item, ast.expr) else item


def _without_keyword(word: ast.keyword, parts: Collection[ast.expr]) -> ast.keyword:
    twin = copy.copy(word)
    twin.value = _without(word.value, parts)
    return twin


def conditional_branches(statements: Iterable[ast.stmt]) -> dict[ast.stmt, ast.If]:
    """``y = a if t else b`` and ``return a if t else b`` as the branches they stand for.

    The branches are new nodes over the same expressions; the tree is not changed.
    """
    found: dict[ast.stmt, ast.If] = {}
    for stmt in statements:
        value = getattr(stmt, "value", None)
        if not isinstance(stmt, ast.Assign | ast.Return) or not isinstance(value, ast.IfExp):
            continue
        sides: list[list[ast.stmt]] = []
        for side in (value.body, value.orelse):
            twin = copy.copy(stmt)
            twin.value = side
            sides.append([twin])
        found[stmt] = ast.copy_location(ast.If(value.test, sides[0], sides[1]), stmt)
    return found
