"""A model called in a loop: bound once to graphs before the loop, then called as them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from refactor.analysis.model import EventKind, Facts, Kind
from refactor.analysis.project import FunctionInfo, last_name
from refactor.analysis.trees import walk
from refactor.rewrite.constants import is_plain
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.names import fresh, names_outside_scopes, placeholder, used_names
from refactor.rewrite.presence import presence
from refactor.rewrite.receiver import class_of, hazard_of
from refactor.rewrite.syntax import (
    COMPREHENSIONS,
    FunctionNode,
    ancestors,
    enclosing_class,
    enclosing_function,
    enclosing_statement,
    same_scope,
    self_name,
)
from refactor.rule import Hit

BREAKING = frozenset(
    {
        EventKind.READBACK,
        EventKind.TO_HOST,
        EventKind.SHOW,
        EventKind.ASSERT,
        EventKind.SYNCHRONIZE,
        EventKind.SYNC_OP,
        EventKind.DYNAMIC_OP,
        EventKind.MASK_INDEX,
        EventKind.DEVICE_SIZE,
        EventKind.WHILE,
        EventKind.COUNTED_LOOP,
        EventKind.GROWING_CACHE,
        EventKind.LAUNCH,
    }
)
"""Events that no rewrite takes out of a function: it cannot be one graph."""
HAZARDS = BREAKING | {EventKind.BRANCH, EventKind.BOOL_OP}
_NOTICED = frozenset(
    {"train", "eval", "half", "float", "double", "bfloat16", "to", "cuda", "cpu", "load_state_dict"}
    | {"requires_grad_", "zero_grad"}
)
"""Methods of `nn.Module` that change only what the runtime looks at before each replay."""
_SPREAD = (
    "DistributedDataParallel", "FullyShardedDataParallel", "fully_shard",
    "init_process_group", "all_reduce", "all_gather", "rpc_sync", "rpc_async",
)  # fmt: skip
Loop = ast.For | ast.AsyncFor | ast.While | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


_WIDTH = 70  # of the arguments of a call on one line


@dataclass(frozen=True)
class Place:
    """A call of a model in a loop."""

    call: ast.Call
    loop: Loop
    anchor: ast.stmt  # the statement before which the graphs are bound
    function: FunctionNode | None
    callee: str


def place_of(facts: Facts, hit: Hit) -> Place | Refusal:
    """Where the call of a hit stands, or why it is not understood."""
    node = hit.event.node
    call = node if isinstance(node, ast.Call) else facts.parents.get(hit.event.subject or node)
    if not isinstance(call, ast.Call) or not is_plain(call.func):
        return Refusal("what is called is computed in the loop; bind the model to a name before it")
    loop: Loop | None = None
    for around in ancestors(facts, call):
        if isinstance(around, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            break
        if isinstance(around, (ast.For, ast.AsyncFor, ast.While, *COMPREHENSIONS)):
            loop = around
            break
    if loop is None:
        return Refusal(
            "no `for` loop or comprehension around the call was understood; wrap the model by hand"
        )
    anchor = (
        loop if isinstance(loop, ast.For | ast.AsyncFor | ast.While) else enclosing_statement(facts, loop)
    )
    return Place(call, loop, anchor, enclosing_function(facts, call), ast.unparse(call.func))


def unfit(facts: Facts, place: Place) -> str:
    """Why the model is not wrapped; empty if nothing speaks against it."""
    spread = _shared(facts)
    if spread is not None:
        return (
            f"the model may exchange data with other processes (`{spread[0]}` in line "
            f"{spread[1]}), which all have to record at once; wrap it by hand"
        )
    if isinstance(facts.parents.get(place.call), ast.Await):
        return f"`{place.callee}` is a coroutine; wrap the model that it calls"
    root = place.callee.partition(".")[0]
    for node in ast.walk(place.loop):
        if isinstance(node, ast.Name) and node.id == root and not isinstance(node.ctx, ast.Load):
            return (
                f"`{root}` changes from batch to batch; bind each model with `graphed(...)` before the loop"
            )
        stored = isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
        if stored and (place.callee + ".").startswith(ast.unparse(node) + "."):
            return f"`{place.callee}` is assigned in the loop; bind it with `graphed(...)` after that"
    scope = place.function or facts.tree
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == place.callee for t in node.targets):
            made = node.value.func if isinstance(node.value, ast.Call) else None
            if made is not None and ast.unparse(made).rpartition(".")[2] in (
                "graphed",
                "make_graphed_callables",
            ):
                return f"`{place.callee}` runs from graphs already"
    if _presence(facts, place) is None:
        return (
            f"`{place.callee}` is called under a condition only, so it may be missing or None before the "
            "loop; bind it with `graphed(...)` where it is known to be there"
        )
    return _told_between(facts, place) or _unknown_callee(facts, place)


def _presence(facts: Facts, place: Place) -> str | None:
    return presence(facts, calls_of(place), place.loop, place.function)


@lru_cache(maxsize=4)
def _shared(facts: Facts) -> tuple[str, int] | None:
    """What this file uses to spread a model over processes, with its line."""
    if not any(word.encode() in facts.source.data for word in _SPREAD):
        return None
    for node in walk(facts.tree):
        name = node.name if isinstance(node, ast.alias) else last_name(node)
        if name.rpartition(".")[2] in _SPREAD:
            return name, node.lineno
    return None


def _told_between(facts: Facts, place: Place) -> str:
    """Why a replay may be of another state of the model: a method that is called on it in the loop."""
    cls = class_of(facts, place.call.func)
    for node in ast.walk(place.loop):
        func = node.func if isinstance(node, ast.Call) else None
        if not isinstance(func, ast.Attribute) or ast.unparse(func.value) != place.callee:
            continue
        found = cls.find(func.attr) if cls is not None else None
        if found is not None and isinstance(found[1], FunctionInfo):
            told = any(isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load)
                       for n in ast.walk(found[1].node))  # fmt: skip
        else:
            told = isinstance(facts.parents.get(node), ast.Expr | ast.withitem)  # its value is not the point
        if told and func.attr not in _NOTICED:
            return (
                f"`{place.callee}.{func.attr}(...)` in line {func.lineno} may change what the model does, "
                "and a replay would not notice; wrap the model by hand if it does not"
            )
    return ""


def _unknown_callee(facts: Facts, place: Place) -> str:
    """Functions must be visible and free of host work; modules and plain names may be any model."""
    func = place.call.func
    value = facts.value(func)
    if value.kind is Kind.MODULE:
        return _decides_on_host(facts, place)
    definition = _definition(facts, place)
    if definition is not None:
        blocking = [e for e in facts.events if e.kind in BREAKING and e.function is definition]
        if blocking:
            line: int = blocking[0].node.lineno  # type: ignore[attr-defined]
            return f"`{place.callee}` waits for the device in line {line}; repair that first"
        return ""
    if value.kind is Kind.FUNCTION:
        return f"the body of `{place.callee}` is not in this file; wrap what it calls on the device instead"
    if isinstance(func, ast.Name):
        return _decides_on_host(facts, place)
    owner = self_name(place.function) if place.function is not None else None
    if class_of(facts, func) is not None:
        return _decides_on_host(facts, place)
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == owner:
        return ""
    return f"it is not known whether `{place.callee}` is a model or a method; bind the model to a name"


def _decides_on_host(facts: Facts, place: Place) -> str:
    """Why a model whose class is known cannot be one graph; empty if nothing is known."""
    cls = class_of(facts, place.call.func)
    found = hazard_of(facts, cls, HAZARDS) if cls is not None else None
    if cls is None or found is None:
        return ""
    event, where = found
    line: int = event.node.lineno  # type: ignore[attr-defined]
    file = "" if where.source.path == facts.source.path else f" of {where.source.path.name}"
    return (
        f"`{cls.qualname}.forward` waits for the device in line {line}{file}, so it cannot be one graph; "
        "what can be rewritten inside it has findings of its own"
    )


def _definition(facts: Facts, place: Place) -> FunctionNode | None:
    """The function of this file that is called, if it is one."""
    func = place.call.func
    scope: ast.AST | None = None
    if isinstance(func, ast.Name):
        name, scope = func.id, facts.tree
    elif isinstance(func, ast.Attribute) and place.function is not None:
        name, scope = func.attr, enclosing_class(facts, place.function)
        if not (isinstance(func.value, ast.Name) and func.value.id == self_name(place.function)):
            return None
    body = getattr(scope, "body", ())
    found = [n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == name]
    return found[0] if found else None


def calls_of(place: Place) -> list[ast.Call]:
    """All calls of the model in the loop."""
    found = [
        n for n in same_scope(place.loop) if isinstance(n, ast.Call) and ast.unparse(n.func) == place.callee
    ]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


@dataclass(frozen=True)
class Binding:
    """One model of a loop and how it is wrapped."""

    places: tuple[Place, ...]
    arguments: str  # further ones of `graphed`: ', pad="B ..."'


def by_callee(places: Iterable[Place]) -> list[tuple[Place, ...]]:
    """Places of one loop, those that call the same object together."""
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.callee, []).append(place)
    return [tuple(group) for group in found.values()]


def bind(facts: Facts, bindings: Sequence[Binding], note: str) -> Proposal:
    """Bind each model of a loop before it, and call what was bound in the loop."""
    first = bindings[0].places[0]
    scope = first.function or facts.tree
    taken = {*names_outside_scopes(facts.tree), *used_names(scope)}
    statements: list[str] = []
    changes: list[Change] = []
    for binding in bindings:
        callee = binding.places[0].callee
        last = callee.rpartition(".")[2].strip("_") or "model"
        name = fresh(f"graphed_{last}", taken)
        taken.add(name)
        question = _presence(facts, binding.places[0])
        otherwise = f" if {question} else None" if question else ""
        statements.append(_wrapped(name, f"{callee}{binding.arguments}") + otherwise)
        calls = dict.fromkeys(call for place in binding.places for call in calls_of(place))
        changes += [Change(node, _renamed(name)) for node in calls]

    def insert(node: cst.BaseStatement) -> cst.FlattenSentinel[cst.BaseStatement]:
        lines: Sequence[cst.EmptyLine] = node.leading_lines  # type: ignore[attr-defined]
        blank = next((i for i, line in enumerate(lines) if line.comment is not None), len(lines))
        made = [cst.ensure_type(cst.parse_statement(text), cst.SimpleStatementLine) for text in statements]
        made[0] = made[0].with_changes(leading_lines=lines[:blank])
        return cst.FlattenSentinel([*made, node.with_changes(leading_lines=lines[blank:])])

    anchor = Change(first.anchor, insert, line=not hasattr(first.anchor, "body"))
    return Proposal((anchor, *changes), note, frozenset({"graphed"}))


def _wrapped(name: str, arguments: str) -> str:
    """``name = graphed(…)``, an argument a line where it is long."""
    start = f"{name} = {placeholder('graphed')}("
    if len(arguments) <= _WIDTH:
        return f"{start}{arguments})"
    lines = arguments.replace(", pad=", ",\n    pad=").replace(", buckets=", ",\n    buckets=")
    return f"{start}\n    {lines},\n)"


def _renamed(name: str) -> Callable[[cst.Call], cst.Call]:
    return lambda node: node.with_changes(func=cst.Name(name))
