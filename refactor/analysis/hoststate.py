"""Host state that a replay does not advance: counters, stored results, appended lists, random numbers."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis.domain import Host, Obj, Tensor, Val
from refactor.analysis.model import Device, EventKind
from refactor.analysis.project import last_name
from refactor.analysis.trees import walk

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_GROWTH = frozenset({"append", "extend", "appendleft"})
_MOVES = frozenset({"to", "cuda", "type_as", "pin_memory"})


def stored(
    it: Interpreter, frame: Frame, stmt: ast.Assign | ast.AnnAssign, target: ast.expr, value: Val
) -> None:
    """``self.name = value`` in a region."""
    if not frame.emit or not isinstance(target, ast.Attribute) or not _on_module(it, frame, target):
        return
    if (
        isinstance(stmt.value, ast.Call)
        and last_name(stmt.value.func) in ("cat", "concat")
        and _reads(stmt, target)
    ):
        if isinstance(value, Tensor) and value.device is not Device.HOST:
            it.emit(frame, EventKind.GROWING_CACHE, stmt, target, last_name(stmt.value.func))
        return
    if isinstance(value, Tensor) and value.device is Device.DEVICE and not moves_itself(it, frame, stmt):
        it.emit(frame, EventKind.HOST_STATE, stmt, target, "attribute")


def counted(it: Interpreter, frame: Frame, stmt: ast.AugAssign, left: Val, right: Val) -> None:
    """``self.steps += 1`` in a region."""
    if not frame.emit:
        return
    if isinstance(stmt.target, ast.Attribute) and _on_module(it, frame, stmt.target):
        if isinstance(left, Host) and isinstance(right, Host) and left.type in ("int", "float", None):
            it.emit(frame, EventKind.HOST_STATE, stmt, stmt.target, "counter")
    elif isinstance(stmt.target, ast.Name) and isinstance(left, Host) and frame.function is not None:
        declared = any(
            isinstance(node, ast.Global) and stmt.target.id in node.names
            for node in walk(frame.function.node)
        )
        if declared:
            it.emit(frame, EventKind.HOST_STATE, stmt, stmt.target, "counter")


def appended(it: Interpreter, frame: Frame, call: ast.Call) -> None:
    """``self.history.append(x)`` in a region."""
    func = call.func
    if not frame.emit or not isinstance(func, ast.Attribute) or func.attr not in _GROWTH:
        return
    if isinstance(func.value, ast.Attribute) and _on_module(it, frame, func.value):
        it.emit(frame, EventKind.HOST_STATE, call, func.value, "append")


def random_number(it: Interpreter, frame: Frame, name: str, call: ast.Call) -> None:
    """``random.random()`` and NumPy's generators in a region."""
    scope, _, leaf = name.rpartition(".")
    if (scope == "random" and leaf not in ("seed", "Random", "getstate", "setstate")) or (
        scope == "numpy.random" and leaf not in ("seed", "RandomState", "default_rng", "Generator")
    ):
        it.emit(frame, EventKind.HOST_STATE, call, call, "random")


def _on_module(it: Interpreter, frame: Frame, target: ast.Attribute) -> bool:
    """Whether the attribute is one of the module whose method this is."""
    if not isinstance(target.value, ast.Name) or target.value.id != frame.self_name:
        return False
    owner = frame.env.get(target.value.id)
    return isinstance(owner, Obj) and owner.classes[0].is_module


def _reads(stmt: ast.stmt, target: ast.Attribute) -> bool:
    source = ast.unparse(target)
    value = getattr(stmt, "value", None)
    return value is not None and any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == source for node in walk(value)
    )


def moves_itself(it: Interpreter, frame: Frame, stmt: ast.Assign | ast.AnnAssign) -> bool:
    """``self.x = self.x.to(...)`` of a module: after the first call the tensor is where it belongs."""
    targets = stmt.targets if isinstance(stmt, ast.Assign) else [stmt.target]
    if stmt.value is None or not any(
        isinstance(t, ast.Attribute) and _on_module(it, frame, t) and _reads(stmt, t) for t in targets
    ):
        return False
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES
        for node in walk(stmt.value)
    )


def made_once(it: Interpreter, frame: Frame, stmt: ast.If) -> bool:
    """``if self.x is None: self.x = ...`` of a module: the body runs in a warmup, not in a capture."""
    tested = {ast.unparse(node) for node in _missing(stmt.test)}
    if not tested:
        return False
    assigned = [
        target
        for child in stmt.body
        for node in walk(child)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    ]
    return any(ast.unparse(t) in tested and _on_module(it, frame, t) for t in assigned)


def _missing(test: ast.expr) -> list[ast.expr]:
    """Attributes that a test finds missing or on another device."""
    if isinstance(test, ast.BoolOp):
        return [node for value in test.values for node in _missing(value)]
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right = test.left, test.comparators[0]
        if isinstance(test.ops[0], ast.Is) and isinstance(right, ast.Constant) and right.value is None:
            return [left] if isinstance(left, ast.Attribute) else []
        if isinstance(test.ops[0], ast.NotEq):
            sides = [
                side for side in (left, right) if isinstance(side, ast.Attribute) and side.attr == "device"
            ]
            return [side.value for side in sides if isinstance(side.value, ast.Attribute)]
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Call):
        call = test.operand
        named = len(call.args) == 2 and isinstance(call.args[1], ast.Constant)
        if last_name(call.func) == "hasattr" and named and isinstance(call.args[1], ast.Constant):
            return [ast.Attribute(call.args[0], str(call.args[1].value), ast.Load())]
    return []
