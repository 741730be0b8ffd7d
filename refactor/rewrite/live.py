"""Liveness of a function in which some tests are already computed elsewhere."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping

from refactor.analysis import liveness


def live_with_tests_replaced(
    function: ast.FunctionDef, replaced: Mapping[ast.If, ast.expr]
) -> dict[ast.stmt, frozenset[str]]:
    """Names live after each statement, if the given parts of tests were constants.

    The tree is not changed: compound statements are copied, simple ones are shared.
    """
    origin: dict[ast.stmt, ast.stmt] = {}

    def copied(stmt: ast.stmt) -> ast.stmt:
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
