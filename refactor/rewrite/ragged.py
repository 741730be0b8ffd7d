"""Which variables of a method hold tensors whose sizes the data decides.

A segment that takes one in would be captured anew for nearly every call: ``x[mask]``, ``nonzero``, rows
chosen for one expert, a map resized to a height that was read back. Such work stays eager.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

from refactor.analysis.model import EventKind, Facts, Kind
from refactor.analysis.project import last_name
from refactor.rewrite.ops import METADATA
from refactor.rewrite.shapes import BROADCASTS, KEEPS_SHAPE
from refactor.rewrite.syntax import FunctionNode, same_scope

_DECIDE = frozenset({EventKind.DYNAMIC_OP, EventKind.MASK_INDEX, EventKind.DEVICE_SIZE})
_FIXED = frozenset(
    {"sum", "mean", "max", "min", "amax", "amin", "any", "all", "item", "size", "dim", "numel"}
)


def ragged(facts: Facts, function: FunctionNode, settled: Collection[ast.AST]) -> frozenset[str]:
    """Names assigned from an operation whose result has a size that depends on values, and what they make."""
    chosen = {e.node for e in facts.events if e.kind in _DECIDE and e.function is function} - set(settled)
    chosen |= {node for node in same_scope(function) if _sized_by_number(facts, node)}
    if not chosen:
        return frozenset()
    found: set[str] = set()
    assignments = [
        n for n in same_scope(function) if isinstance(n, ast.Assign | ast.AnnAssign | ast.NamedExpr)
    ]
    grown = -1
    while grown != len(found):
        grown = len(found)
        for node in assignments:
            if node.value is not None and _takes(node.value, chosen, found):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(name for target in targets for name in _names(target))
    return frozenset(found)


def _sized_by_number(facts: Facts, node: ast.AST) -> bool:
    """A call or a slice that may make a tensor as large as a number read back from the device says."""
    if isinstance(node, ast.Call):
        name = last_name(node.func)
        if name in BROADCASTS or name in KEEPS_SHAPE or facts.value(node).kind is not Kind.TENSOR:
            return False
        given: list[ast.AST] = [*node.args, *(k.value for k in node.keywords)]
    elif isinstance(node, ast.Subscript):
        given = [part for part in ast.walk(node.slice) if isinstance(part, ast.Slice)]
    else:
        return False
    return any(
        isinstance(inner, ast.expr) and facts.value(inner).kind is Kind.READBACK
        for one in given
        for inner in ast.walk(one)
    )


def _takes(node: ast.AST, chosen: set[ast.AST], names: set[str]) -> bool:
    """Whether a size decided by data goes into the value: not through a shape, nor where all is reduced."""
    if node in chosen or (isinstance(node, ast.Name) and node.id in names):
        return True
    if isinstance(node, ast.Attribute) and node.attr in METADATA:
        return False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FIXED:
        return bool(node.args or node.keywords) and _takes(node.func.value, chosen, names)
    return any(_takes(child, chosen, names) for child in ast.iter_child_nodes(node))


def _names(target: ast.expr) -> list[str]:
    if isinstance(target, ast.Tuple | ast.List):
        return [name for element in target.elts for name in _names(element)]
    return [target.id] if isinstance(target, ast.Name) else []
