"""What stands behind the object that a loop calls: its class, and what in its ``forward`` forbids a graph."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

from refactor.analysis import receivers
from refactor.analysis.analyze import analyze
from refactor.analysis.model import Event, EventKind, Facts
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, Project
from refactor.analysis.trees import walk
from refactor.rewrite.syntax import enclosing_class, enclosing_function, self_name
from refactor.source import SourceError


@lru_cache(maxsize=2)
def module_of(facts: Facts) -> ModuleInfo:
    """The file of the facts, to ask what its names mean; what it imports is parsed on demand."""
    return facts.info if facts.info is not None else Project(facts.root).add(facts.source, facts.tree)


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


_BUILDS = ("__init__", "__new__", "__post_init__", "__setstate__")
_BUILDERS = re.compile(r"_*(init|build|make|create|setup|set|reset|configure|config|load|from|prepare)(_|$)")


def made_in_calls(facts: Facts, cls: ast.ClassDef) -> int:
    """The line where running code makes an instance of a class that holds data, as boxes do; 0: none does.

    Instances of a module live as long as the model. Of other classes only what this file shows is known:
    methods that return another instance of their own class, and methods of modules that make one.
    """
    if _is_module(facts, cls):
        return 0
    for node in walk(facts.tree):
        if not isinstance(node, ast.Call):
            continue
        function = enclosing_function(facts, node)
        owner = enclosing_class(facts, function) if function is not None else None
        if function is None or owner is None or function.name in _BUILDS or function.decorator_list:
            continue
        named = isinstance(node.func, ast.Name) and node.func.id == cls.name
        if owner is cls and (named or _is_own_type(node.func, self_name(function))):
            return node.lineno
        if named and _is_module(facts, owner) and not _BUILDERS.match(function.name):
            return node.lineno
    return 0


def _is_module(facts: Facts, cls: ast.ClassDef) -> bool:
    found = module_of(facts).lookup(cls.name)
    return bool(cls.bases) and (not isinstance(found, ClassInfo) or found.is_module or _is_open(found))


def _is_open(cls: ClassInfo) -> bool:
    """Whether a base is not in the code base, so that it may be a module."""
    return any(isinstance(base, str) and base not in ("object", "builtins.object") for base in cls.mro)


def _is_own_type(func: ast.expr, owner: str | None) -> bool:
    """``type(self)`` and ``self.__class__``."""
    if isinstance(func, ast.Call):
        return ast.unparse(func) == f"type({owner})"
    return owner is not None and ast.unparse(func) == f"{owner}.__class__"
