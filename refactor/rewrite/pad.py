"""A model called in a loop over batches (CG201): bound once to graphs before the loop, then called as them.

``graphed(model)`` has one graph for each exact shape and is right for any model. Padding to buckets is added
where the body of the model shows that every row is computed on its own (`refactor.rewrite.rows`).
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from refactor.analysis.model import EventKind, Facts, Kind
from refactor.rewrite.constants import is_plain
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Joint, Proposal, Refusal
from refactor.rewrite.names import bound_names, fresh, placeholder, used_names
from refactor.rewrite.rows import pads_invisibly
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

_BREAKING = frozenset(
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
    }
)
_Loop = ast.For | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class _Place:
    call: ast.Call
    loop: _Loop
    anchor: ast.stmt  # the statement before which the graphs are bound
    function: FunctionNode | None
    callee: str


def propose_pad(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``out = model(batch)`` in a loop over batches."""
    place = _place(facts, hit)
    if isinstance(place, Refusal):
        return place
    reason = _unfit(facts, place)
    if reason:
        return Refusal(reason)

    def plan(hits: Sequence[Hit], settled: Collection[ast.AST]) -> Mapping[Hit, Proposal | Refusal]:
        places = [p for p in (_place(facts, h) for h in hits) if isinstance(p, _Place)]
        proposal = _proposal(facts, places, _batch_names(hits))
        return dict.fromkeys(hits, proposal)

    return Proposal((), "", joint=Joint(("pad", id(place.anchor), place.callee), plan))


def _place(facts: Facts, hit: Hit) -> _Place | Refusal:
    node = hit.event.node
    call = node if isinstance(node, ast.Call) else facts.parents.get(hit.event.subject or node)
    if not isinstance(call, ast.Call) or not is_plain(call.func):
        return Refusal("what is called is computed in the loop; bind the model to a name before it")
    loop: _Loop | None = None
    for around in ancestors(facts, call):
        if isinstance(around, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            break
        if isinstance(around, (ast.For, *COMPREHENSIONS)):
            loop = around
            break
    if loop is None:
        return Refusal(
            "no `for` loop or comprehension around the call was understood; wrap the model by hand"
        )
    anchor = loop if isinstance(loop, ast.For) else enclosing_statement(facts, loop)
    return _Place(call, loop, anchor, enclosing_function(facts, call), ast.unparse(call.func))


def _unfit(facts: Facts, place: _Place) -> str:
    """Why the model is not wrapped; empty if nothing speaks against it."""
    if isinstance(place.function, ast.AsyncFunctionDef):
        return "other coroutines can run between batches; wrap the model where they are started"
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
    return _unknown_callee(facts, place)


def _unknown_callee(facts: Facts, place: _Place) -> str:
    """Functions must be visible and free of host work; modules and plain names may be any model."""
    func = place.call.func
    value = facts.value(func)
    if value.kind is Kind.MODULE:
        return ""
    definition = _definition(facts, place)
    if definition is not None:
        blocking = [e for e in facts.events if e.kind in _BREAKING and e.function is definition]
        if blocking:
            line: int = blocking[0].node.lineno  # type: ignore[attr-defined]
            return f"`{place.callee}` waits for the device in line {line}; repair that first"
        return ""
    if value.kind is Kind.FUNCTION:
        return f"the body of `{place.callee}` is not in this file; wrap what it calls on the device instead"
    if isinstance(func, ast.Name):
        return _decides_on_host(facts, place)
    owner = self_name(place.function) if place.function is not None else None
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == owner:
        return ""
    return f"it is not known whether `{place.callee}` is a model or a method; bind the model to a name"


def _decides_on_host(facts: Facts, place: _Place) -> str:
    """Why a model whose class is in this file cannot be one graph; empty if nothing is known."""
    scope = place.function or facts.tree
    kinds = [a.annotation for a in ast.walk(scope) if isinstance(a, ast.arg) and a.arg == place.callee]
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == place.callee for t in node.targets):
            made: ast.expr = node.value
            while isinstance(made, ast.Call) and isinstance(made.func, ast.Attribute):
                made = made.func.value  # Model().to(device).eval()
            kinds.append(made.func if isinstance(made, ast.Call) else None)
    regions = {f"{kind.id}.forward" for kind in kinds if isinstance(kind, ast.Name)}
    for event in facts.events:
        if event.region.qualname in regions and event.kind in _BREAKING | {EventKind.BRANCH}:
            line: int = event.node.lineno  # type: ignore[attr-defined]
            return (
                f"`{event.region.qualname}` waits for the device in line {line}, so it cannot be one graph; "
                "what can be rewritten inside it has findings of its own"
            )
    return ""


def _definition(facts: Facts, place: _Place) -> FunctionNode | None:
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


def _batch_names(hits: Sequence[Hit]) -> frozenset[str]:
    """Names in the loop that hold the batch or what is computed from it, as the analysis found them."""
    names: set[str] = set()
    for hit in hits:
        for part in ("target", "derived"):
            found = hit.event.extra.get(part, ())
            names.update(name for name in found if isinstance(name, str))  # type: ignore[attr-defined]
    return frozenset(names)


def _calls(place: _Place) -> list[ast.Call]:
    """All calls of the model in the loop."""
    found = [
        n for n in same_scope(place.loop) if isinstance(n, ast.Call) and ast.unparse(n.func) == place.callee
    ]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _proposal(facts: Facts, places: Sequence[_Place], batch: frozenset[str]) -> Proposal:
    first = places[0]
    calls = list(dict.fromkeys(call for place in places for call in _calls(place)))
    patterns = {pads_invisibly(facts, call, batch) for call in calls}
    pattern = patterns.pop() if len(patterns) == 1 else None
    scope = first.function or facts.tree
    module = {name for node in facts.tree.body if not _is_scope(node) for name in bound_names(node)}
    last = first.callee.rpartition(".")[2].strip("_") or "model"
    name = fresh(f"graphed_{last}", used_names(scope) | module)
    padding = f', pad="{pattern}"' if pattern else ""
    statement = f"{name} = {placeholder('graphed')}({first.callee}{padding})"

    def bind(node: cst.BaseStatement) -> cst.FlattenSentinel[cst.BaseStatement]:
        lines: Sequence[cst.EmptyLine] = node.leading_lines  # type: ignore[attr-defined]
        blank = next((i for i, line in enumerate(lines) if line.comment is not None), len(lines))
        made = cst.ensure_type(cst.parse_statement(statement), cst.SimpleStatementLine)
        made = made.with_changes(leading_lines=lines[:blank])
        return cst.FlattenSentinel([made, node.with_changes(leading_lines=lines[blank:])])

    def call(node: cst.Call) -> cst.Call:
        return node.with_changes(func=cst.Name(name))

    changes = [Change(first.anchor, bind, line=not hasattr(first.anchor, "body"))]
    changes += [Change(node, call) for node in calls]
    note = (
        "padded to buckets of the batch size and cut back; verify that the rows do not depend on each other"
        if pattern
        else "one graph for each shape of batch; add `pad=` if shapes vary widely and rows are independent"
    )
    return Proposal(tuple(changes), note, frozenset({"graphed"}))


def _is_scope(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
