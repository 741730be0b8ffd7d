"""Attributes that a constructor takes from a helper: what the helper gives is found out when it is read.

Most such attributes are read by nothing that is analysed (settings for saving, tables for generation), and
helpers of a base class run once for every class derived from it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refactor.analysis.domain import OPAQUE, Cls, Fn, Method, Obj, Val, join, mentions
from refactor.analysis.environment import Env
from refactor.analysis.trees import walk

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_PLAIN = (ast.Call, ast.Attribute, ast.Name, ast.Constant, ast.keyword)


@dataclass(frozen=True, eq=False, slots=True)
class Deferred:
    """A value that a call gives in the state that a constructor was in; ``more``: other values it may be.

    The state is a copy, so that the value depends on the code alone, not on who reads it first.
    """

    frame: Frame
    node: ast.expr
    more: Val | None = None


def defer(it: Interpreter, frame: Frame, stmt: ast.Assign) -> bool:
    """Whether ``self.name = helper(...)`` in a constructor was put off.

    Only calls that take nothing of the instance along are: it does not see what such a call assigns.
    """
    call, cls = stmt.value, frame.init_of
    target = stmt.targets[0]
    if not isinstance(call, ast.Call) or cls is None or frame.emit or frame.parent or len(stmt.targets) > 1:
        return False
    if not isinstance(target, ast.Attribute) or not isinstance(target.value, ast.Name):
        return False
    own = it.partial.get(cls)
    if own is None or target.value.id != frame.self_name or target.attr in own.values or it.building:
        return False
    if frame.env.get(target.value.id) != Obj((cls,)):
        return False
    if not all(isinstance(node, _PLAIN) for node in walk(call)) or not _apart(it, frame, call):
        return False
    # The environment alone changes while the constructor goes on.
    state = type(frame)(
        frame.module, frame.function, Env(frame.env), depth=frame.depth, statement=stmt, init_of=cls
    )  # fmt: skip
    own.values[target.attr] = Deferred(state, call)
    frame.env.drop(f"{target.value.id}.{target.attr}")
    return True


def _apart(it: Interpreter, frame: Frame, call: ast.Call) -> bool:
    """Whether a function of the code base is called, with values that do not hold the class being made."""
    func = it.evaluate(frame, call.func)
    if not isinstance(func, Fn) or not (func.bound is None or isinstance(func.bound, Cls)):
        return False
    if any(target.closure is not None for target in func.targets):
        return False
    given: list[ast.expr] = [*call.args, *(keyword.value for keyword in call.keywords)]
    for node in given:
        if any(isinstance(inner, ast.Call) for inner in walk(node)):
            return False
        if mentions(it.evaluate(frame, node), frame.init_of):
            return False
    return not mentions(func.bound, frame.init_of)


def settled(it: Interpreter, value: Any) -> Val | None:
    """The value of an attribute, found out now if it was put off; None: there is no such attribute."""
    if not isinstance(value, Deferred):
        known: Val | None = value
        return known
    found = it.ask(("deferred", value.frame, value.node), value.frame.module, lambda: _evaluated(it, value))
    first: Val = found if found is not None and not isinstance(found, Method) else OPAQUE
    return first if value.more is None else join(first, value.more)


def _evaluated(it: Interpreter, value: Deferred) -> Val:
    state = value.frame
    again = type(state)(
        state.module, state.function, Env(state.env), depth=state.depth, statement=state.statement,
        init_of=state.init_of,
    )  # fmt: skip
    return it.evaluate(again, value.node)


def joined(old: Any, value: Val) -> Any:
    """What an attribute is after one more assignment."""
    if old is None:
        return value
    if isinstance(old, Deferred):
        return Deferred(old.frame, old.node, value if old.more is None else join(old.more, value))
    return join(old, value)
