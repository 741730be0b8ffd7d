"""Regions: the functions that should live inside a graph, those nothing else in the file calls first."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo
from refactor.analysis.trees import walk


def classes(module: ModuleInfo) -> Iterator[ClassInfo]:
    """Top-level classes of a file and the classes nested in them, in order."""
    for bound in module.table.values():
        if isinstance(bound, ClassInfo):
            yield bound
            yield from (inner for inner in bound.own.values() if isinstance(inner, ClassInfo))


def forwards(module: ModuleInfo) -> list[tuple[ClassInfo, FunctionInfo]]:
    """``forward`` of every module class of a file, inherited ones too; classes that others make come last."""
    found: list[tuple[ClassInfo, FunctionInfo]] = []
    for cls in classes(module):
        defined = cls.find("forward") if cls.is_module else None
        if defined is not None and isinstance(defined[1], FunctionInfo):
            found.append((cls, defined[1]))
    used = _constructed(module)
    return sorted(found, key=lambda pair: (pair[0].name in used, pair[1].cls is not pair[0]))


def _constructed(module: ModuleInfo) -> frozenset[str]:
    """Names of classes that the bodies of other classes mention."""
    names: set[str] = set()
    for cls in classes(module):
        for stmt in cls.node.body:
            names.update(n.id for n in walk(stmt) if n.__class__ is ast.Name and n.id != cls.name)
    return frozenset(names)
