"""Regions: the functions that should live inside a graph, those nothing else in the file calls first."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo


def classes(module: ModuleInfo) -> Iterator[ClassInfo]:
    """Top-level classes of a file and the classes nested in them, in order."""
    for bound in module.table.values():
        if isinstance(bound, ClassInfo):
            yield bound
            yield from (inner for inner in bound.own.values() if isinstance(inner, ClassInfo))


def forwards(module: ModuleInfo) -> list[FunctionInfo]:
    """``forward`` of every module class of a file; classes that others construct come last."""
    found = [
        cls.own["forward"]
        for cls in classes(module)
        if isinstance(cls.own.get("forward"), FunctionInfo) and cls.is_module
    ]
    used = _constructed(module)
    return sorted(found, key=lambda info: info.cls.name in used if info.cls else False)


def _constructed(module: ModuleInfo) -> frozenset[str]:
    """Names of classes that the bodies of other classes mention."""
    names: set[str] = set()
    for cls in classes(module):
        for stmt in cls.node.body:
            for node in ast.walk(stmt):
                if isinstance(node, ast.Name) and node.id != cls.name:
                    names.add(node.id)
    return frozenset(names)
