"""Data that a training step is given: fetched by a call, or moved to the device, anew at each step.

A captured step gets it through its static inputs, so neither is a hazard of the step itself.
"""

from __future__ import annotations

import ast
import builtins
from functools import lru_cache
from typing import TYPE_CHECKING

from refactor.analysis.domain import Fn, Host, Tensor
from refactor.analysis.drivers import names_read
from refactor.analysis.liveness import target_names
from refactor.analysis.loops import MODEL_WORDS, words_in
from refactor.analysis.model import Region
from refactor.analysis.project import ClassInfo, FunctionInfo
from refactor.analysis.torchops import names
from refactor.analysis.trees import walk

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_DEPTH = 4
_FIXED = names("len int float bool range tuple list min max abs round")
_KEEPING = names("to cuda view reshape unsqueeze squeeze expand repeat float long int bool half t")


def fetches(it: Interpreter, frame: Frame, stmt: ast.Assign) -> bool:
    """Whether a statement of a step gets its data: by a call that sees no tensor and calls no model."""
    call, region = stmt.value, frame.region
    if not isinstance(call, ast.Call) or region is None or region.kind != "step" or frame.depth:
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if any(isinstance(node, ast.Starred) or names_read(node) & _bindings(region).keys() for node in given):
        return False
    if not isinstance(call.func, ast.Name | ast.Attribute):
        return False
    values = [(node, it.evaluate(frame, node)) for node in given]
    if any(isinstance(value, Tensor) for _, value in values):
        return False
    target = it.evaluate(frame, call.func)
    if not isinstance(target, Fn) or any(_is_module(i) or calls_model(i) for i in target.targets):
        return False
    stored = target.bound is not None  # in an object that holds data, which is asked for some of it
    return stored or all(isinstance(value, Host) for node, value in values if isinstance(node, ast.Name))


def _is_module(info: FunctionInfo) -> bool:
    return info.cls is not None and info.cls.is_module


def calls_model(info: FunctionInfo, depth: int = 0) -> bool:
    """Whether a function may call a model or train it: by class, or by name where nothing else is known."""
    if depth == _DEPTH:
        return True
    for node in info.nodes:
        if not isinstance(node, ast.Call):
            continue
        func = node.func
        if words_in(func) & MODEL_WORDS or getattr(func, "attr", "") == "backward":
            return True
        if isinstance(func, ast.Name):
            known = info.module.lookup(func.id)
            if isinstance(known, FunctionInfo):
                if known is not info and (_is_module(known) or calls_model(known, depth + 1)):
                    return True
            elif isinstance(known, ClassInfo):
                if known.is_module:
                    return True
            elif known is None and not hasattr(builtins, func.id):
                return True
        elif info.cls is not None and isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
            found = info.cls.find(func.attr)
            inner = found[1] if found is not None else None
            if isinstance(inner, FunctionInfo) and inner is not info and calls_model(inner, depth + 1):
                return True
    return False


def is_data(region: Region, node: ast.expr) -> bool:
    """Whether what a step moves to the device is another batch each time, not always the same tensor."""
    return _is_data(node, _bindings(region), 0)


def _is_data(node: ast.expr, bound: dict[str, list[ast.expr | None]], depth: int) -> bool:
    for inner in walk(node):
        if isinstance(inner, ast.Name) and inner.id in bound and depth < _DEPTH:
            if any(value is None or _is_data(value, bound, depth + 1) for value in bound[inner.id]):
                return True
        elif isinstance(inner, ast.Call) and not _is_factory(inner):
            return True
    return False


def _is_factory(call: ast.Call) -> bool:
    """A call of torch itself, a method that keeps what a tensor holds, or a builtin that counts."""
    func = call.func
    if isinstance(func, ast.Name):
        return func.id in _FIXED
    root: ast.expr = func
    while isinstance(root, ast.Attribute):
        root = root.value
    known = isinstance(root, ast.Name) and root.id in ("torch", "th")
    return known or (isinstance(func, ast.Attribute) and func.attr in _KEEPING)


@lru_cache(maxsize=16)
def _bindings(region: Region) -> dict[str, list[ast.expr | None]]:
    """For each name bound in a step what it is bound to; None: by a loop, or as one of several."""
    found: dict[str, list[ast.expr | None]] = {}
    if isinstance(region.node, ast.FunctionDef | ast.AsyncFunctionDef):
        spec = region.node.args
        found.update((arg.arg, [None]) for arg in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs))
    for node in walk(region.node):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                single = node.value if isinstance(target, ast.Name) else None
                for name in target_names(target):
                    found.setdefault(name, []).append(single)
        elif isinstance(node, ast.For | ast.comprehension | ast.AugAssign | ast.NamedExpr | ast.AnnAssign):
            for name in target_names(node.target):
                found.setdefault(name, []).append(None)
    return found
