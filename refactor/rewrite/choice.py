"""A branch with cheap, pure sides as a choice on the device: ``h = torch.where(h.mean() > 0, h * 2, h)``.

Both sides are computed then, so a side must have the shape and dtype of the variable whatever its values are,
and gradients must come out as if one side alone had run (`refactor.rewrite.sides`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from refactor.analysis import liveness
from refactor.analysis.model import Device, EventKind, Facts, Kind
from refactor.rewrite.chosen import Choice, Instead, Part, Wrapped, conditional, written
from refactor.rewrite.escape import Fate, fate
from refactor.rewrite.model import Proposal
from refactor.rewrite.ops import names_in, torch_function
from refactor.rewrite.sides import Form, Side, factors, is_floating
from refactor.rewrite.syntax import (
    FunctionNode,
    ancestors,
    dotted,
    enclosing_function,
    same_scope,
)
from refactor.rewrite.training import in_training
from refactor.rewrite.work import effects

_TOTAL = names_in("any all isnan isinf isfinite abs mean sum norm")
"""Operations that give a value for every tensor of numbers."""
_NO_GRADIENT = ("torch.no_grad", "torch.inference_mode")
_SPLITTING = frozenset(EventKind) - {
    *(EventKind.HOST_CONSTANT, EventKind.HOST_TO_DEVICE, EventKind.INDEX_LIST, EventKind.INDEX_FILL),
    *(EventKind.TEMPORARY, EventKind.BATCH_LOOP, EventKind.REPEATED_CALL, EventKind.TRAINING_STEP),
}
_CHEAP = 6
"""Operations: with more of them it costs less to ask the host which side to compute."""


def propose_choice(facts: Facts, node: ast.AST) -> Proposal | None:
    """The branch at a node as a choice on the device; None where that is not known to be the same."""
    function = enclosing_function(facts, node)
    if not isinstance(function, ast.FunctionDef) or in_training(facts, node):
        return None
    if isinstance(node, ast.IfExp):
        choice = Choice(_unread(node.test), (Part("", (node.body, node.orelse)),))
        wrapped = _sound(facts, function, node, choice)
        if wrapped is None or wrapped.body or wrapped.orelse or choice.test is not node.test:
            return None
        return conditional(node)
    if not isinstance(node, ast.If) or "#" in facts.source.snippet(node):
        return None
    found = _branch(facts, function, node)
    wrapped = _sound(facts, function, node, found) if found is not None else None
    if found is None or wrapped is None:
        return None
    return written(function, node, found, wrapped)


@lru_cache(maxsize=4)
def _live_out(function: ast.FunctionDef) -> Mapping[ast.stmt, frozenset[str]]:
    """Asked for at every branch of a function."""
    return liveness.live_out(function)


# -- reading it


def _branch(facts: Facts, function: ast.FunctionDef, node: ast.If) -> Choice | None:
    """What an ``if`` chooses; conditions on the host may come first."""
    around = facts.parents.get(node)
    if isinstance(around, ast.If) and node in around.orelse:
        return None  # an ``elif``
    test, turned, guarded = node.test, False, False
    if isinstance(test, ast.BoolOp) and not _asks_one_bool(facts, test):
        hosts = test.values[:-1]
        if not isinstance(test.op, ast.And) or any(facts.value(v).kind is not Kind.HOST for v in hosts):
            return None
        if node.orelse:
            return None
        test, guarded = test.values[-1], True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, turned = test.operand, True
    test = _unread(test)
    if isinstance(node.body[-1], ast.Return):
        return None if guarded else _returning(facts, function, node, test, turned)
    before = [stmt for stmt in node.body if _prepares(facts, function, stmt)]
    parts = _parts(node.body[len(before) :], node.orelse)
    if parts is None or before != node.body[: len(before)] or (before and node.orelse):
        return None
    after = _live_out(function).get(node, frozenset())
    if set(liveness.writes(before)) & after:
        return None
    return Choice(test, parts, turned, guarded)


def _parts(body: Sequence[ast.stmt], orelse: Sequence[ast.stmt]) -> tuple[Part, ...] | None:
    """The variables that the sides assign, each by itself."""
    taken, other = _assigned(body), _assigned(orelse)
    if not taken or other is None or (orelse and list(other) != list(taken)):
        return None
    for name, value in (*taken.items(), *other.items()):
        others = taken.keys() - {name}
        if any(_loads(n, one) for one in others for n in (value, *same_scope(value))):
            return None
    return tuple(Part(name, (value, other.get(name))) for name, value in taken.items())


def _assigned(stmts: Sequence[ast.stmt]) -> dict[str, ast.expr] | None:
    """What each variable gets, ``h *= 2`` as ``h * 2``; None if a statement does anything else."""
    found: dict[str, ast.expr] = {}
    for stmt in stmts:
        if isinstance(stmt, ast.Assign) and len(stmt.targets) == 1:
            target, value = stmt.targets[0], stmt.value
        elif isinstance(stmt, ast.AugAssign) and isinstance(stmt.target, ast.Name):
            target = stmt.target
            value = ast.BinOp(ast.Name(target.id, ast.Load()), stmt.op, stmt.value)
        else:
            return None
        if not isinstance(target, ast.Name) or target.id in found:
            return None
        found[target.id] = value
    return found


def _returning(
    facts: Facts, function: ast.FunctionDef, node: ast.If, test: ast.expr, turned: bool
) -> Choice | None:
    """``if ...: return a`` and ``return b`` behind it, where nothing else in the function is decided."""
    taken = node.body[0]
    if len(node.body) > 1 or node.orelse or node not in function.body or function.body[-2:][0] is not node:
        return None
    last = function.body[-1]
    if not isinstance(taken, ast.Return) or not isinstance(last, ast.Return):
        return None
    if taken.value is None or last.value is None or "#" in facts.source.snippet(last):
        return None
    between = facts.source.data.splitlines()[node.end_lineno or node.lineno : last.lineno - 1]
    inside = {id(n) for n in ast.walk(node)}
    others = [
        event
        for event in facts.events
        if event.function is function and event.kind in _SPLITTING and id(event.node) not in inside
    ]
    if others or any(line.strip() for line in between):
        return None
    return Choice(test, (Part("", (taken.value, last.value)),), turned, last=last)


def _unread(test: ast.expr) -> ast.expr:
    """``h.mean() > 0`` for ``h.mean().item() > 0``, where the number is the same in every precision."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not _is_exact(test.comparators[0]):
        return test
    asked = test.left
    if isinstance(asked, ast.Call) and isinstance(asked.func, ast.Attribute) and asked.func.attr == "item":
        return ast.Compare(asked.func.value, test.ops, test.comparators) if not asked.args else test
    return test


def _is_exact(node: ast.expr) -> bool:
    """A number that half precision holds exactly."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    value = node.value if isinstance(node, ast.Constant) else None
    return isinstance(value, int | float) and abs(value) <= 32 and value * 4 == int(value * 4)


def _prepares(facts: Facts, function: FunctionNode, stmt: ast.stmt) -> bool:
    """``limit = torch.finfo(h.dtype).max - 1000``: a number that can be had whatever the test says."""
    if not isinstance(stmt, ast.Assign) or not all(isinstance(t, ast.Name) for t in stmt.targets):
        return False
    calls = [n for n in (stmt.value, *same_scope(stmt.value)) if isinstance(n, ast.Call)]
    known = all(dotted(facts, call.func) == "torch.finfo" for call in calls)
    return known and facts.value(stmt.value).kind is Kind.HOST and effects(facts, function, stmt) == set()


# -- whether it is the same


def _sound(
    facts: Facts, function: ast.FunctionDef, node: ast.stmt | ast.expr, choice: Choice
) -> Wrapped | None:
    """Whether the choice is the same as the branch, and if so what has to be wrapped for that."""
    if not _asks_one_bool(facts, choice.test):
        return None
    free = _no_gradient(facts, function, node)
    wrapped = Wrapped()
    for i, part in enumerate(choice.parts):
        bases = [part.name] if part.sides[1] is None else _names_read(part)
        if not any(_keeps(facts, function, node, choice, i, base, free, wrapped) for base in bases):
            return None
    return wrapped


def _keeps(
    facts: Facts,
    function: ast.FunctionDef,
    node: ast.stmt | ast.expr,
    choice: Choice,
    i: int,
    base: str,
    free: bool,
    wrapped: Wrapped,
) -> bool:
    """Whether both sides have shape and dtype of a variable; then note what to wrap."""
    part = choice.parts[i]
    body, orelse = part.sides
    loads = [facts.value(n) for n in (node, *same_scope(node)) if _loads(n, base)]  # type: ignore[arg-type]
    if not _bound(function, node, base) or not loads:
        return False
    if not all(is_floating(facts, function, node, base, value) for value in loads):
        return False
    readers = [Side(facts, function, node, choice.test, base, free) for _ in (body, orelse)]
    for reader, side in zip(readers, (body, orelse), strict=True):
        if side is not None and (reader.form(side) is not Form.LIKE or not (reader.connected or free)):
            return False
    if any(_operations(side) > _CHEAP for side in part.sides if side is not None):
        return False
    same = [_is_name(side, base) for side in part.sides if side is not None]
    if all(same) or any(isinstance(side, ast.Name) and side.id != base for side in part.sides):
        return False
    if orelse is None or any(same):
        held = choice.last is not None or isinstance(node, ast.IfExp) or part.name == base
        if not held or not _unshared(facts, function, node, base):
            return False
    times = factors(body, base) if orelse is None and readers[0].wrapped else None
    if times is not None:
        reader = Side(facts, function, node, choice.test, base, free)
        if {reader.form(factor, True) for factor in times} <= {Form.POINT, Form.ROW}:
            wrapped.factors[i] = times
            inner = [(n, made) for n, made in reader.wrapped if made is not None or n not in times]
            wrapped.body += [Instead(n, base, made) for n, made in inner]
            return True
    if any(facts.parents.get(n) is None for reader in readers for n, _ in reader.wrapped):
        return False  # the variable in ``h *= ...``
    if choice.last is not None and readers[1].wrapped:
        return False  # the statement is written anew
    wrapped.body += [Instead(n, base, made) for n, made in readers[0].wrapped]
    wrapped.orelse += [Instead(n, base, made) for n, made in readers[1].wrapped]
    return True


def _operations(node: ast.expr) -> int:
    return sum(isinstance(n, ast.BinOp | ast.UnaryOp | ast.Call) for n in (node, *same_scope(node)))


def _is_name(node: ast.expr | None, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _names_read(part: Part) -> list[str]:
    """Names that the sides read, the variable first."""
    sides = [side for side in part.sides if side is not None]
    names = [n.id for side in sides for n in (side, *same_scope(side)) if isinstance(n, ast.Name)]
    return list(dict.fromkeys([*([part.name] if part.name in names else []), *names]))


def _asks_one_bool(facts: Facts, test: ast.expr) -> bool:
    """Whether a test is a boolean tensor without dimensions on the device."""
    value = facts.value(test)
    if isinstance(test, ast.BoolOp):
        return all(_asks_one_bool(facts, part) for part in test.values) and all(
            _never_fails(facts, part) for part in test.values[1:]
        )
    if isinstance(test, ast.Compare) and facts.parents.get(test) is None:  # `_unread`
        asked = facts.value(test.left)
        return asked.kind is Kind.TENSOR and asked.device is not Device.HOST and asked.rank == 0
    device = value.kind is Kind.TENSOR and value.device is not Device.HOST
    return device and value.dtype == "bool" and value.rank == 0 and not isinstance(test, ast.NamedExpr)


def _never_fails(facts: Facts, test: ast.expr) -> bool:
    """Whether a test can be asked although the one before has decided: no maximum of nothing, no call."""
    calls = [n for n in (test, *same_scope(test)) if isinstance(n, ast.Call)]
    return all(_operation(facts, call) in _TOTAL for call in calls)


def _operation(facts: Facts, call: ast.Call) -> str:
    name = torch_function(dotted(facts, call.func))
    if name is None and isinstance(call.func, ast.Attribute):
        name = call.func.attr
    return name or ""


def _bound(function: ast.FunctionDef, node: ast.AST, name: str) -> bool:
    """Whether a variable has a value whichever way control came: an argument, or assigned at the top."""
    arguments = function.args
    if name in {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}:
        return True
    line: int = node.lineno  # type: ignore[attr-defined]
    earlier = [stmt for stmt in function.body if (stmt.end_lineno or stmt.lineno) < line]
    return name in liveness.surely_writes(earlier)


def _no_gradient(facts: Facts, function: ast.FunctionDef, node: ast.AST) -> bool:
    """Whether the code itself keeps gradients off there."""
    contexts = list(function.decorator_list)
    for around in ancestors(facts, node):
        if around is function:
            break
        if isinstance(around, ast.With):
            contexts += [item.context_expr for item in around.items]
    return any(dotted(facts, c.func if isinstance(c, ast.Call) else c) in _NO_GRADIENT for c in contexts)


def _unshared(facts: Facts, function: ast.FunctionDef, node: ast.AST, name: str) -> bool:
    """Whether nobody can tell a copy of the variable from the variable itself.

    Either it was made here and nothing else holds it, or afterwards it is only read by operations.
    """
    line: int = node.lineno  # type: ignore[attr-defined]
    inside = {id(n) for n in ast.walk(node)}
    uses = [n for n in same_scope(function) if _loads(n, name) and id(n) not in inside]
    before = [n for n in uses if n.lineno < line]  # type: ignore[attr-defined]
    after = [n for n in uses if n.lineno >= line]  # type: ignore[attr-defined]
    if any(isinstance(around, ast.For | ast.While) for around in ancestors(facts, node)):
        before, after = uses, uses
    if any(
        name in liveness.free_names(n)
        for n in same_scope(function)
        if isinstance(n, ast.Lambda | ast.FunctionDef)
    ):
        return False
    writes = any(_writes_into(n, name) for n in same_scope(function))
    if not writes and all(_consumed(facts, use) for use in after):
        return all(fate(facts, use) is not Fate.WRITTEN for use in before if isinstance(use, ast.expr))
    return _fresh(facts, function, name, line) and all(_consumed(facts, use) for use in before)


def _writes_into(node: ast.AST, name: str) -> bool:
    """``h += 1``, ``h[0] = 1``."""
    target = node.target if isinstance(node, ast.AugAssign) else node
    if isinstance(target, ast.Subscript) and not isinstance(target.ctx, ast.Load):
        target = target.value
    elif not isinstance(node, ast.AugAssign):
        return False
    return isinstance(target, ast.Name) and target.id == name


def _consumed(facts: Facts, use: Any) -> bool:
    """Whether a use only reads the variable; modules that may hand it through do more."""
    around = facts.parents.get(use)
    if isinstance(around, ast.Call) and use in around.args:
        module = facts.value(around.func)
        if module.kind is Kind.MODULE:
            last = (module.qualname or "").rpartition(":")[2]
            return not last.startswith(("Identity", "Drop", "Flatten")) and module.qualname is not None
    return fate(facts, use) is Fate.CONSUMED


def _fresh(facts: Facts, function: ast.FunctionDef, name: str, line: int) -> bool:
    """Whether every value that the variable had before a line was made for it."""
    arguments = function.args
    if name in {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}:
        return False
    for stmt in same_scope(function):
        if not isinstance(stmt, ast.stmt) or stmt.lineno >= line or name not in _stored(stmt):
            continue
        if (
            not isinstance(stmt, ast.Assign)
            or len(stmt.targets) > 1
            or not isinstance(stmt.targets[0], ast.Name)
        ):
            return False
        value = stmt.value
        module = facts.value(value.func) if isinstance(value, ast.Call) else None
        handed = module is not None and (module.qualname or "").rpartition(":")[2].startswith(
            ("Identity", "Drop")
        )
        made = module is not None and module.kind is Kind.MODULE and not handed
        if not made and not isinstance(value, ast.BinOp):
            return False
    return True


def _stored(stmt: ast.stmt) -> Iterator[str]:
    if isinstance(stmt, ast.Assign):
        for target in stmt.targets:
            yield from liveness.target_names(target)
    elif not isinstance(stmt, ast.If | ast.With | ast.Try | ast.Match | ast.While):
        yield from liveness.writes([stmt])


def _loads(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
