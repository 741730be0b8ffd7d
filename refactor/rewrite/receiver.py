"""What stands behind the object that a loop calls: its class, and what in its ``forward`` forbids a graph."""

from __future__ import annotations

import ast
from functools import lru_cache

from refactor.analysis import receivers
from refactor.analysis.analyze import analyze
from refactor.analysis.model import Event, EventKind, Facts
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, Project
from refactor.rewrite.syntax import enclosing_function
from refactor.source import SourceError


@lru_cache(maxsize=2)
def module_of(facts: Facts) -> ModuleInfo:
    """The file of the facts in a project of its own, with what it imports parsed on demand."""
    return Project(facts.root).add(facts.source, facts.tree)


def class_of(facts: Facts, node: ast.expr) -> ClassInfo | None:
    """The class of what ``node`` evaluates to; None where it is not certain."""
    return receivers.class_of(module_of(facts), enclosing_function(facts, node), node)


@lru_cache(maxsize=8)
def _facts_of(module: ModuleInfo) -> Facts | None:
    try:
        return analyze(module.source, module.project)
    except SourceError:
        return None


def hazard_of(facts: Facts, cls: ClassInfo, kinds: frozenset[EventKind]) -> tuple[Event, Facts] | None:
    """The first event of these kinds that the ``forward`` of a class meets, with the facts it stands in."""
    found = cls.find("forward")
    if found is None or not isinstance(found[1], FunctionInfo):
        return None
    same = cls.module.source.path == facts.source.path
    own = facts if same else _facts_of(cls.module)
    if own is None:
        return None
    name, where = f"{cls.qualname}.forward", f"{found[0].qualname}.forward"
    for part in (own, *own.foreign):
        for event in part.events:
            reached = {event.region.qualname, *event.chain[:1]}
            if event.kind in kinds and reached & {name, where} and event.region.kind == "forward":
                return event, part
            if event.kind in kinds and (name in event.chain or where in event.chain):
                return event, part
    return None
