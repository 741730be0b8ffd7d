"""Liveness of a function as a plan reads it: tests made elsewhere, conditional expressions as branches."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from refactor.analysis import liveness


def live_with_tests_replaced(
    function: ast.FunctionDef,
    replaced: Mapping[ast.If, ast.expr],
    expanded: Mapping[ast.stmt, ast.If] = MappingProxyType({}),
) -> dict[ast.stmt, frozenset[str]]:
    """Names live after each statement, if the given parts of tests were constants.

    ``expanded`` has statements that are read as branches (`conditional_branches`). The tree is not changed:
    compound statements are copied, simple ones are shared.
    """
    origin: dict[ast.stmt, ast.stmt] = {}

    def copied(stmt: ast.stmt) -> ast.stmt:
        stmt = expanded.get(stmt, stmt)
        if not any(isinstance(getattr(stmt, part, None), list) for part in ("body", "handlers", "cases")):
            return stmt
        twin = copy.copy(stmt)
        origin[twin] = stmt
        for part in ("body", "orelse", "finalbody"):
            inner = getattr(stmt, part, None)
            if isinstance(inner, list):
                setattr(twin, part, [copied(child) for child in inner])
        if isinstance(stmt, ast.If) and stmt in replaced:
            assert isinstance(twin, ast.If)
            twin.test = _without(stmt.test, replaced[stmt])
        return twin

    whole = copied(function)
    assert isinstance(whole, ast.FunctionDef)
    return {origin.get(stmt, stmt): names for stmt, names in liveness.live_out(whole).items()}


def _without(test: ast.expr, part: ast.expr) -> ast.expr:
    """A copy of a test with one part replaced by a constant."""
    if test is part:
        return ast.copy_location(ast.Constant(True), test)
    twin = copy.copy(test)
    for name, value in ast.iter_fields(test):
        if isinstance(value, ast.expr):
            setattr(twin, name, _without(value, part))
        elif isinstance(value, list):
            setattr(twin, name, [_without(v, part) if isinstance(v, ast.expr) else v for v in value])
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
