"""A model called on its own output in a loop (CG206): bound to graphs before it, the prompt left eager."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence

from refactor.analysis.model import Facts
from refactor.analysis.project import ClassInfo, FunctionInfo, last_name
from refactor.analysis.trees import walk
from refactor.rewrite.bind import Binding, Place, bind, by_callee, place_of, unfit
from refactor.rewrite.model import Joint, Proposal, Refusal
from refactor.rewrite.receiver import class_of
from refactor.rule import Hit

_GROW = frozenset({"cat", "concat", "concatenate", "hstack", "vstack"})


def propose_repeat(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``token = model(token, position, cache).argmax(-1)`` in a loop."""
    varies = hit.event.extra.get("varies")
    if isinstance(varies, str) and varies:
        return Refusal(varies)
    place = place_of(facts, hit)
    if isinstance(place, Refusal):
        return place
    reason = unfit(facts, place) or _may_grow(facts, place, hit)
    if reason:
        return Refusal(reason)

    def plan(hits: Sequence[Hit], settled: Collection[ast.AST]) -> Mapping[Hit, Proposal | Refusal]:
        places = [p for p in (place_of(facts, h) for h in hits) if isinstance(p, Place)]
        note = "every step replays one graph; a cache that is written in place is used where it is"
        bindings = [Binding(group, "") for group in by_callee(places)]
        return dict.fromkeys(hits, bind(facts, bindings, note))

    return Proposal((), "", joint=Joint(("repeat", id(place.anchor)), plan))


def _may_grow(facts: Facts, place: Place, hit: Hit) -> str:
    """Why what the model returns, given back to it, may be larger at every step."""
    cls = class_of(facts, place.call.func)
    kept = next((n for f in _functions(cls) for n in walk(f.node) if _keeps(n)), None) if cls else None
    if cls is not None and kept is not None:
        return (
            f"`{cls.qualname}` keeps a cache that grows by concatenation (line {kept.lineno} of its file); "
            "a graph needs a cache of fixed size and a position"
        )
    raw = hit.event.extra.get("raw", ())
    if not raw:
        return ""
    if cls is not None and not _joins(cls):
        return ""
    name = raw[0]  # type: ignore[index]
    if cls is None:
        return (
            f"`{name}` is what the model returned and may be larger at every step, as a cache grown by "
            "concatenation is; a graph needs a cache of fixed size (if nothing grows, annotate "
            f"`{ast.unparse(place.call.func)}` with its class: that shows it)"
        )
    return (
        f"`{name}` is what the model returned and may be larger at every step, as a cache grown by "
        "concatenation is; a graph needs a cache of fixed size"
    )


def _joins(cls: ClassInfo) -> bool:
    """Whether the methods of a class, or of what they construct or call, concatenate; True if not known."""
    foreign = any(isinstance(base, str) and not base.startswith("torch.nn.Module") for base in cls.mro)
    return foreign or any(
        isinstance(node, ast.Call) and last_name(node.func) in _GROW
        for function in _functions(cls)
        for node in walk(function.node)
    )


def _keeps(node: ast.AST) -> bool:
    """``self.cache = torch.cat([self.cache, k])``."""
    if not isinstance(node, ast.Assign):
        return False
    stored = {ast.unparse(t) for target in node.targets for t in walk(target) if isinstance(t, ast.Attribute)}
    calls = [n for n in walk(node.value) if isinstance(n, ast.Call) and last_name(n.func) in _GROW]
    return any(isinstance(n, ast.Attribute) and ast.unparse(n) in stored for c in calls for n in walk(c))


def _functions(cls: ClassInfo) -> Iterator[FunctionInfo]:
    """The methods of a class, and the functions and classes of the code base that they name."""
    seen: set[object] = set()
    todo: list[object] = [cls]
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        if isinstance(item, ClassInfo):
            todo += [
                m
                for base in item.mro
                if isinstance(base, ClassInfo)
                for m in base.own.values()
                if isinstance(m, FunctionInfo)
            ]
        elif isinstance(item, FunctionInfo):
            yield item
            found = (item.module.resolve(n.func) for n in walk(item.node) if isinstance(n, ast.Call))
            todo += [f for f in found if isinstance(f, ClassInfo | FunctionInfo)]
