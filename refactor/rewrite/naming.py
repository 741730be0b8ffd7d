"""Names that a person would choose for segments and for the decisions between them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from refactor.analysis.model import Facts
from refactor.rewrite.syntax import FunctionNode, dotted, self_name

_COMPARED: dict[type[ast.cmpop], tuple[str, str, str]] = {
    # with zero, with anything else (as prefix), with a named threshold (as prefix)
    ast.Gt: ("is_positive", "is_above", "exceeds"),
    ast.GtE: ("is_nonnegative", "is_at_least", "reaches"),
    ast.Lt: ("is_negative", "is_below", "is_below"),
    ast.LtE: ("is_nonpositive", "is_at_most", "is_within"),
    ast.Eq: ("is_zero", "is_equal", "is_equal_to"),
    ast.NotEq: ("is_nonzero", "differs", "differs_from"),
}


def predicate_name(test: ast.expr) -> str:
    """A name for the value of a test: ``is_positive``, ``exceeds_threshold``, ``any_mask``."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return "not_" + predicate_name(test.operand)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in _COMPARED:
        zero, other, named = _COMPARED[type(test.ops[0])]
        right = test.comparators[0]
        if isinstance(right, ast.Constant) and right.value == 0:
            return zero
        name = _last(right)
        return f"{named}_{name}" if name else other
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute):
        method = test.func.attr
        if method in ("any", "all"):
            name = _last(test.func.value if not test.args else test.args[0])
            return f"{method}_{name}" if name else f"is_{method}"
        if method in ("item", "bool"):
            return predicate_name(test.func.value)
    return "decision"


def _last(node: ast.expr) -> str:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.strip("_").lower()


def method_prefix(facts: Facts, cls: ast.ClassDef, function: FunctionNode) -> str:
    """``_forward``, with the class in front where a base class could have segments of the same name."""
    base = function.name.strip("_") or "call"
    plain = bool(cls.bases) and all(dotted(facts, b) == "torch.nn.Module" for b in cls.bases)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.name).strip("_").lower()
    return f"_{base}" if plain else f"_{snake}_{base}"


def piece_role(
    function: FunctionNode, statements: Sequence[ast.AST], outputs: Sequence[str], place: str
) -> str:
    """What a piece is about: the one or two submodules it runs, else the value it makes, else its place."""
    parts = _submodules(function, statements)
    if 1 <= len(parts) <= 2:
        return "_".join(parts)
    if not parts and outputs:
        return outputs[-1].strip("_").lower() or place
    return place


def _submodules(function: FunctionNode, statements: Sequence[ast.AST]) -> list[str]:
    owner = self_name(function)
    found: dict[str, tuple[int, int]] = {}
    for statement in statements:
        for node in ast.walk(statement):
            called = (
                node.func if isinstance(node, ast.Call) else node.iter if isinstance(node, ast.For) else None
            )
            while isinstance(called, ast.Subscript):
                called = called.value
            if not isinstance(called, ast.Attribute):
                continue
            chain: ast.expr = called
            while isinstance(chain, ast.Attribute) and isinstance(chain.value, ast.Attribute):
                chain = chain.value
            if isinstance(chain, ast.Attribute) and getattr(chain.value, "id", None) == owner:
                name = chain.attr.strip("_").lower()
                place = (called.lineno, called.col_offset)
                found[name] = min(place, found.get(name, place))
    return sorted(found, key=lambda name: found[name])
