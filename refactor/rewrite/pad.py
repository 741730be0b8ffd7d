"""A model called in a loop over batches (CG201): bound once to graphs before the loop, then called as them.

``graphed(model)`` has one graph for each exact shape and is right for any model. Padding to buckets is added
where the body of the model shows that every row is computed on its own (`refactor.rewrite.rows`).
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence

from refactor.analysis.model import Facts
from refactor.rewrite.bind import Binding, Place, bind, by_callee, calls_of, place_of, unfit
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Joint, Proposal, Refusal
from refactor.rewrite.names import placeholder
from refactor.rewrite.rows import padding_of
from refactor.rewrite.syntax import code, expression
from refactor.rule import Hit

_PADDED = "padded to buckets and cut back; verify that rows, and padded places, do not depend on each other"
_EXACT = "one graph for each shape of batch; add `pad=` if shapes vary widely and rows are independent"


def propose_pad(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``out = model(batch)`` in a loop over batches."""
    if isinstance(hit.event.extra.get("loop"), ast.FunctionDef | ast.AsyncFunctionDef):
        return _in_place(facts, hit)
    place = place_of(facts, hit)
    if isinstance(place, Refusal):
        return place
    reason = unfit(facts, place)
    if reason:
        return Refusal(reason)
    if isinstance(place.function, ast.AsyncFunctionDef) and not isinstance(place.call.func, ast.Name):
        return _in_place(facts, hit)  # between batches another coroutine may put another model there

    def plan(hits: Sequence[Hit], settled: Collection[ast.AST]) -> Mapping[Hit, Proposal | Refusal]:
        found = [(h, p) for h in hits if isinstance(p := place_of(facts, h), Place)]
        bindings: list[Binding] = []
        for group in by_callee(p for _, p in found):
            own = [h for h, p in found if p.callee == group[0].callee]
            bindings.append(Binding(group, _padding(facts, group, _batch_names(own))))
        padded = [bool(binding.arguments) for binding in bindings]
        note = _PADDED if all(padded) else _EXACT
        if any(padded) and not all(padded):
            note = f"{_PADDED}; the models without `pad` have one graph for each shape"
        return dict.fromkeys(hits, bind(facts, bindings, note))

    return Proposal((), "", joint=Joint(("pad", id(place.anchor)), plan))


def _in_place(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``self.model(x)`` in a method that loops call: ``graphed(self.model)(x)`` has one wrapper."""
    calls: Sequence[ast.Call] = hit.event.extra["calls"]  # type: ignore[assignment]
    function = hit.event.function
    place = Place(calls[0], calls[0], calls[0], function, ast.unparse(calls[0].func))  # type: ignore[arg-type]
    reason = unfit(facts, place)
    if reason:
        return Refusal(reason)
    batch = _batch_names([hit])
    found = [padding_of(facts, call, batch) for call in calls]
    texts = {padding.arguments() if padding is not None else "" for padding in found}
    extra = texts.pop() if len(texts) == 1 else ""

    def build(node: cst.Call) -> cst.Call:
        text = f"{placeholder('graphed')}({code(node.func)}{extra})"
        return node.with_changes(func=expression(text))

    changes = tuple(Change(call, build) for call in calls)
    return Proposal(changes, _PADDED if extra else _EXACT, frozenset({"graphed"}))


def _batch_names(hits: Sequence[Hit]) -> frozenset[str]:
    """Names in the loop that hold the batch or what is computed from it, as the analysis found them."""
    names: set[str] = set()
    for hit in hits:
        for part in ("target", "derived"):
            found = hit.event.extra.get(part, ())
            names.update(name for name in found if isinstance(name, str))  # type: ignore[attr-defined]
    return frozenset(names)


def _padding(facts: Facts, places: Sequence[Place], batch: frozenset[str]) -> str:
    """The arguments of ``graphed`` that make padding right, or none: a graph for each exact shape."""
    calls = list(dict.fromkeys(call for place in places for call in calls_of(place)))
    found = [padding_of(facts, call, batch) for call in calls]
    texts = {padding.arguments() if padding is not None else "" for padding in found}
    return texts.pop() if len(texts) == 1 else ""
