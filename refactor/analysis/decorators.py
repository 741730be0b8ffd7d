"""Decorators of classes that put other methods in place of their own."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from refactor.analysis.domain import Cls, Fn
from refactor.analysis.instances import invoke
from refactor.analysis.project import ClassInfo, FunctionInfo

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Interpreter


def decorated(it: Interpreter, cls: ClassInfo) -> Mapping[str, FunctionInfo]:
    """Methods of a class that its decorators replace: ``cls.forward = wrapped``."""
    nodes = []
    for node in reversed(cls.node.decorator_list):
        info = cls.module.resolve(node.func if isinstance(node, ast.Call) else node)
        if isinstance(info, FunctionInfo) and info.assigned & {"forward", "__call__", *cls.own}:
            nodes.append(node)
    if not nodes:
        return {}
    found: Mapping[str, FunctionInfo] | None = it.ask(
        ("decorators", cls), cls.module, lambda: _decorated(it, cls, nodes)
    )
    return found if found is not None else it.replaced.get(cls, {})


def _decorated(it: Interpreter, cls: ClassInfo, nodes: Sequence[ast.expr]) -> Mapping[str, FunctionInfo]:
    made = it.replaced[cls] = {}
    for node in nodes:
        frame = it.module_frame(cls.module)
        decorator = it.evaluate(frame, node)
        if isinstance(decorator, Fn):
            invoke(it, frame, decorator, [Cls((cls,))], {})
    return made


def replace_method(it: Interpreter, cls: ClassInfo, name: str, function: Fn) -> None:
    """``cls.name = function`` in a decorator of the class; elsewhere it may never run."""
    if ("decorators", cls) in it.answers:
        it.replaced[cls][name] = function.targets[0]
