"""What code tells of ranks: sizes that are unpacked, and tests and assertions of the number of dimensions."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis.domain import Tensor, replace

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame

_COUNTS = frozenset({"dim", "ndimension"})


def unpacked(frame: Frame, target: ast.expr, source: ast.expr) -> None:
    """``b, n, c = x.shape``: from here on ``x`` has three dimensions."""
    if isinstance(target, ast.Tuple | ast.List):
        owner = _sizes_of(source)
        if owner is not None and not any(isinstance(part, ast.Starred) for part in target.elts):
            _settle(frame, owner, len(target.elts))


def counted(frame: Frame, test: ast.Compare, outcome: bool) -> None:
    """``x.dim() == 3``, ``x.ndim == 3``, ``len(x.shape) == 3``: where it holds, so many dimensions."""
    expected = test.comparators[0]
    if isinstance(test.ops[0], ast.Eq if outcome else ast.NotEq) and isinstance(expected, ast.Constant):
        owner = _counted(test.left)
        if owner is not None and type(expected.value) is int:
            _settle(frame, owner, expected.value)


def _counted(node: ast.expr) -> str | None:
    """The name of the tensor whose dimensions an expression counts."""
    if isinstance(node, ast.Attribute) and node.attr == "ndim":
        return _name(node.value)
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute) and node.func.attr in _COUNTS and not node.args:
        return _name(node.func.value)
    if isinstance(node.func, ast.Name) and node.func.id == "len" and len(node.args) == 1:
        return _sizes_of(node.args[0])
    return None


def _sizes_of(node: ast.expr) -> str | None:
    """``x`` of ``x.shape`` and ``x.size()``."""
    if isinstance(node, ast.Call):
        func = node.func
        whole = not node.args and not node.keywords
        return (
            _name(func.value) if whole and isinstance(func, ast.Attribute) and func.attr == "size" else None
        )
    return _name(node.value) if isinstance(node, ast.Attribute) and node.attr == "shape" else None


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _settle(frame: Frame, name: str, rank: int) -> None:
    known = frame.env.get(name)
    if isinstance(known, Tensor) and known.rank is None:
        frame.env[name] = replace(known, rank=rank, optional=False)
