"""Interpretation of statements: environments flow along them and join where paths meet."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

from refactor.analysis import (
    arithmetic,
    conditions,
    deferred,
    expressions,
    hoststate,
    indexing,
    instances,
    shapes,
)
from refactor.analysis.domain import OPAQUE, ExtObj, Fn, Host, Obj, Opaque, Tensor, Val, is_tainted, join
from refactor.analysis.environment import Changes
from refactor.analysis.feeding import fetches
from refactor.analysis.liveness import target_names
from refactor.analysis.model import EventKind
from refactor.analysis.project import ClassInfo, FunctionInfo, import_bindings, last_name
from refactor.analysis.trees import walk

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_COUNTERS = frozenset({"range", "reversed", "enumerate", "zip", "tqdm", "trange"})


def block(it: Interpreter, frame: Frame, stmts: list[ast.stmt]) -> bool:
    """Interpret statements in order; False: control does not reach their end."""
    outer = frame.statement
    for stmt in stmts:
        frame.statement = stmt
        handler = _HANDLERS.get(type(stmt))
        region = it.windows.get(stmt)
        if region is not None and not frame.emit:
            frame.emit, frame.region = True, region
            through = handler is None or handler(it, frame, stmt)
            frame.emit, frame.region = False, None
        else:
            through = handler is None or handler(it, frame, stmt)
        if not through:
            frame.statement = outer
            return False
    frame.statement = outer
    return True


def _quietly(it: Interpreter, frame: Frame, run: Callable[[], bool]) -> bool:
    """Run code whose hazards do not count."""
    emit, frame.emit = frame.emit, False
    through = run()
    frame.emit = emit
    return through


def _expr(it: Interpreter, frame: Frame, stmt: ast.Expr) -> bool:
    it.evaluate(frame, stmt.value)
    return True


def _assign(it: Interpreter, frame: Frame, stmt: ast.Assign) -> bool:
    if frame.emit and (hoststate.moves_itself(it, frame, stmt) or fetches(it, frame, stmt)):
        return _quietly(it, frame, lambda: _assign(it, frame, stmt))
    if frame.init_of is not None and deferred.defer(it, frame, stmt):
        return True
    value = it.evaluate(frame, stmt.value)
    for target in stmt.targets:
        indexing.bind(it, frame, target, value)
        shapes.unpacked(frame, target, stmt.value)
        hoststate.stored(it, frame, stmt, target, value)
    return True


def _annassign(it: Interpreter, frame: Frame, stmt: ast.AnnAssign) -> bool:
    if stmt.value is not None:
        value = it.evaluate(frame, stmt.value)
        if isinstance(value, Opaque):
            from refactor.analysis.annotations import from_annotation

            known = from_annotation(it, frame.module, stmt.annotation)
            value = known if known is not None else value
        indexing.bind(it, frame, stmt.target, value)
    return True


def _augassign(it: Interpreter, frame: Frame, stmt: ast.AugAssign) -> bool:
    right = it.evaluate(frame, stmt.value)
    if isinstance(stmt.target, ast.Subscript):
        owner = it.evaluate(frame, stmt.target.value)
        if isinstance(owner, Tensor):
            indexing.index_tensor(it, frame, stmt.target, owner)  # read, changed and written back
        return True
    load = ast.copy_location(
        ast.Name(stmt.target.id, ast.Load())
        if isinstance(stmt.target, ast.Name)
        else ast.Attribute(stmt.target.value, stmt.target.attr, ast.Load()),
        stmt.target,
    )
    left = expressions.evaluate(it, frame, load)
    hoststate.counted(it, frame, stmt, left, right)
    if isinstance(left, Tensor) and left.device is not None and isinstance(right, Opaque):
        value: Val = left
    else:
        value = arithmetic.binary(left, right, stmt.op)
    indexing.bind(it, frame, stmt.target, value)
    return True


def _return(it: Interpreter, frame: Frame, stmt: ast.Return) -> bool:
    value = it.evaluate(frame, stmt.value) if stmt.value is not None else Host("none", None, literal=True)
    frame.returned = value if frame.returned is None else join(frame.returned, value)
    return False


def _raise(it: Interpreter, frame: Frame, stmt: ast.Raise) -> bool:
    emit, frame.emit = frame.emit, False  # the message is built when the call has failed already
    if stmt.exc is not None:
        it.evaluate(frame, stmt.exc)
    frame.emit = emit
    return False


def _stop(it: Interpreter, frame: Frame, stmt: ast.stmt) -> bool:
    return False


def _if(it: Interpreter, frame: Frame, stmt: ast.If) -> bool:
    decision = conditions.decide(it, frame, stmt.test)
    if decision.tensors:
        raises = all(isinstance(child, ast.Raise) for child in stmt.body) and not stmt.orelse
        kind = EventKind.ASSERT if raises else EventKind.BRANCH
        more: dict[str, object] = {"tensors": decision.tensors}
        if decision.only is not None:
            more["only"] = decision.only
        it.emit(frame, kind, stmt, decision.tensors[0], "raise" if raises else "if", **more)
    outcomes: list[Changes] = []
    quiet = frame.emit and hoststate.made_once(it, frame, stmt)
    for outcome, body in ((True, stmt.body), (False, stmt.orelse)):
        if decision.truth in (None, outcome):
            with frame.env.tried() as changes:
                conditions.refine(it, frame, stmt.test, outcome)
                emit, frame.emit = frame.emit, frame.emit and not (quiet and outcome)
                only = frame.only
                if outcome and conditions.tests_half(stmt.test):
                    frame.only = stmt.test
                through = block(it, frame, body)
                frame.emit, frame.only = emit, only
            if through:
                outcomes.append(changes)
    if not outcomes:
        return False
    frame.env.assign(outcomes[0] if len(outcomes) == 1 else frame.env.met(outcomes[0], outcomes[1]))
    return True


def _counts(node: ast.expr) -> bool:
    while isinstance(node, ast.Call) and last_name(node.func) in _COUNTERS and node.args:
        if last_name(node.func) == "range":
            return True
        node = node.args[0]
    return False


def _for(it: Interpreter, frame: Frame, stmt: ast.For) -> bool:
    counted = _counts(stmt.iter)
    if counted:
        frame.header += 1
        outer, frame.leaves = frame.leaves, []
    source = it.evaluate(frame, stmt.iter)
    if counted:
        leaves, frame.leaves = frame.leaves, outer
        frame.header -= 1
        if leaves:
            it.emit(frame, EventKind.COUNTED_LOOP, stmt, leaves[0].node, "range")
    item = indexing.iterate(it, frame, source, stmt.iter)
    _loop(it, frame, stmt.body, lambda: indexing.bind(it, frame, stmt.target, item))
    return block(it, frame, stmt.orelse) if stmt.orelse else True


def _loop(it: Interpreter, frame: Frame, body: list[ast.stmt], head: Callable[[], object]) -> None:
    """A loop body twice: the second time with what the first left behind."""
    for _ in range(2):
        with frame.env.tried() as changes:
            head()
            through = block(it, frame, body)
        if not through and not _leaves_loop(body):
            break
        merged = frame.env.met({}, changes)
        if all(frame.env.get(name) == value for name, value in merged.items()):
            break
        frame.env.assign(merged)


def _leaves_loop(body: list[ast.stmt]) -> bool:
    return any(isinstance(node, ast.Break | ast.Continue) for stmt in body for node in walk(stmt))


def _while(it: Interpreter, frame: Frame, stmt: ast.While) -> bool:
    def head() -> None:
        decision = conditions.decide(it, frame, stmt.test)
        if decision.tensors:
            it.emit(frame, EventKind.WHILE, stmt, decision.tensors[0], "while", tensors=decision.tensors)
        conditions.refine(it, frame, stmt.test, True)

    _loop(it, frame, stmt.body, head)
    return block(it, frame, stmt.orelse) if stmt.orelse else True


def _with(it: Interpreter, frame: Frame, stmt: ast.With) -> bool:
    for item in stmt.items:
        value = it.evaluate(frame, item.context_expr)
        if item.optional_vars is not None:
            entered = value if isinstance(value, Obj | ExtObj) else OPAQUE
            indexing.bind(it, frame, item.optional_vars, entered)
    return block(it, frame, stmt.body)


def _try(it: Interpreter, frame: Frame, stmt: ast.Try) -> bool:
    ends: list[Changes] = []
    with frame.env.tried() as changes:
        through = block(it, frame, stmt.body) and block(it, frame, stmt.orelse)
    if through:
        ends.append(changes)
    middle = frame.env.met({}, changes)
    for handler in stmt.handlers:
        with frame.env.tried() as changes:
            frame.env.assign(middle)
            if handler.name:
                frame.env[handler.name] = OPAQUE
            through = block(it, frame, handler.body)
        if through:
            ends.append(changes)
    frame.env.assign(reduce(frame.env.met, ends) if ends else middle)
    through = block(it, frame, stmt.finalbody) if stmt.finalbody else True
    return through and bool(ends)


def _assert(it: Interpreter, frame: Frame, stmt: ast.Assert) -> bool:
    decision = conditions.decide(it, frame, stmt.test)
    if decision.tensors:
        it.emit(frame, EventKind.ASSERT, stmt, decision.tensors[0], "assert", tensors=decision.tensors)
    conditions.refine(it, frame, stmt.test, True)
    return True


def _function(it: Interpreter, frame: Frame, stmt: ast.FunctionDef) -> bool:
    info = it.nested.get((id(stmt), id(frame)))
    if info is None:
        owner = f"{frame.function.qualname}." if frame.function is not None else ""
        info = it.nested[id(stmt), id(frame)] = FunctionInfo(stmt, frame.module, f"{owner}{stmt.name}")
    info.closure = frame
    frame.env[stmt.name] = Fn((info,))
    return True


def _class(it: Interpreter, frame: Frame, stmt: ast.ClassDef) -> bool:
    from refactor.analysis.domain import Cls

    frame.env[stmt.name] = Cls((ClassInfo(stmt, frame.module, stmt.name),))
    return True


def _import(it: Interpreter, frame: Frame, stmt: ast.Import | ast.ImportFrom) -> bool:
    for name, bound in import_bindings(frame.module, stmt):
        found = it.project.imported(bound, frame.module)
        frame.env[name] = instances.as_value(it, found) or OPAQUE
    return True


def _delete(it: Interpreter, frame: Frame, stmt: ast.Delete) -> bool:
    for target in stmt.targets:
        for name in target_names(target):
            frame.env.drop(name)
    return True


def _match(it: Interpreter, frame: Frame, stmt: ast.Match) -> bool:
    subject = it.evaluate(frame, stmt.subject)
    ends: list[Changes] = [{}]
    for case in stmt.cases:
        with frame.env.tried() as changes:
            through = _case(it, frame, case, subject)
        if through:
            ends.append(changes)
    frame.env.assign(reduce(frame.env.met, ends))
    return True


def _case(it: Interpreter, frame: Frame, case: ast.match_case, subject: Val) -> bool:
    for node in walk(case.pattern):
        name = getattr(node, "name", None) or getattr(node, "rest", None)
        if isinstance(name, str):
            frame.env[name] = subject if node is case.pattern else Opaque(is_tainted(subject))
    if case.guard is not None:
        decision = conditions.decide(it, frame, case.guard)
        if decision.tensors:
            it.emit(frame, EventKind.BOOL_OP, case.guard, decision.tensors[0], "case guard")
    return block(it, frame, case.body)


_HANDLERS: dict[type[ast.stmt], Callable[[Any, Any, Any], bool]] = {
    ast.Expr: _expr,
    ast.Assign: _assign,
    ast.AnnAssign: _annassign,
    ast.AugAssign: _augassign,
    ast.Return: _return,
    ast.Raise: _raise,
    ast.Break: _stop,
    ast.Continue: _stop,
    ast.If: _if,
    ast.For: _for,
    ast.AsyncFor: _for,
    ast.While: _while,
    ast.With: _with,
    ast.AsyncWith: _with,
    ast.Try: _try,
    ast.Assert: _assert,
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.ClassDef: _class,
    ast.Import: _import,
    ast.ImportFrom: _import,
    ast.Delete: _delete,
    ast.Match: _match,
}
if hasattr(ast, "TryStar"):
    _HANDLERS[ast.TryStar] = _try
