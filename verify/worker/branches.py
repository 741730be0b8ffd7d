"""Branches of the original on numbers read from tensors, and how far each branch is from its other side.

The files of the original that differ are compiled with two kinds of marks: the value of a test that depends
on ``tensor.item()``, ``tensor.tolist()``, ``int(tensor)`` or ``float(tensor)`` passes through
``__refactor_test__``, the two sides of a comparison inside a test through ``__refactor_compare__``. Both give
back what the program would have had; line numbers stay as they are.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.machinery
import math
import operator
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor

from .sites import Sites

COMPARE: dict[str, Any] = {
    "Gt": operator.gt, "GtE": operator.ge, "Lt": operator.lt, "LtE": operator.le,
    "Eq": operator.eq, "NotEq": operator.ne,
}  # fmt: skip
COMPILED = (b"torch.compile", b"torch.jit", b"torch.export", b"torch.fx", b"torch._dynamo")
READ, TEST, BOTH = "__refactor_read__", "__refactor_test__", "__refactor_compare__"
Function = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Branches:
    """Outcomes of tests on numbers go to ``sites``; margins are kept while ``measuring``."""

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.measuring = False
        self.margins: dict[str, float] = {}  # by FILE:LINE: above zero where the comparison holds
        self._read: set[str] = set()

    def install(self) -> None:
        """Mark files that differ whenever they are imported from now on."""
        setattr(builtins, READ, self.read)
        setattr(builtins, TEST, self.test)
        setattr(builtins, BOTH, self.compare)
        sys.meta_path.insert(0, _Finder(self.sites.root, self.sites.only))

    def read(self, place: str, value: Any, noted: bool = False) -> Any:
        """Something whose number is asked for at FILE:LINE; of a bool tensor `Sites` may have noted it."""
        if isinstance(value, Tensor) and not (noted and value.dtype == torch.bool):
            self._read.add(place)
        return value

    def test(self, site: str, places: Sequence[str], value: Any) -> Any:
        """The value of a test that depends on what was read at ``places``."""
        if type(value) in (bool, int, float) and not self.sites.paused and self._read.intersection(places):
            self.sites.seen.setdefault(site, set()).add(bool(value))
        return value

    def compare(self, site: str, name: str, left: Any, right: Any) -> Any:
        """``left OP right``, as the program would have it."""
        result = COMPARE[name](left, right)
        if self.measuring and not self.sites.paused:
            with contextlib.suppress(Exception):
                self.sites.paused = True
                try:
                    self._measure(site, name, left, right)
                finally:
                    self.sites.paused = False
        return result

    def _measure(self, site: str, name: str, left: Any, right: Any) -> None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return
        gap = left - right
        if isinstance(gap, Tensor):
            gap = gap.detach().double()
            gap = float((gap.amin() + gap.amax()) / 2) if gap.numel() else math.nan
        if name in ("Lt", "LtE"):
            gap = -gap
        elif name in ("Eq", "NotEq"):
            gap = abs(gap) * (1 if name == "NotEq" else -1)
        if math.isfinite(gap):
            self.margins[site] = float(gap)


class _Finder:
    """Finds what the next finders find; the files that differ get a loader that marks them."""

    def __init__(self, root: Path, only: set[str]) -> None:
        self.root, self.only = root, only

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of PathFinder for a file that differs, with another loader; None for any other module."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        file = Path(spec.origin or "/")
        if not file.is_relative_to(self.root):
            return None
        relative = file.relative_to(self.root).as_posix()
        if relative in self.only:
            spec.loader = _Loader(name, str(file), relative)
            return spec
        return None


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, relative: str) -> None:
        super().__init__(name, path)
        self.relative = relative

    def get_code(self, fullname: str) -> CodeType | None:
        """The code with marks; as it is where that fails, or where a compiler of torch's reads the code."""
        try:
            source = self.get_data(self.path)
            if any(word in source for word in COMPILED):
                return super().get_code(fullname)
            tree = marked(ast.parse(source), self.relative)
            return compile(tree, self.path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError):
            return super().get_code(fullname)


def marked(tree: ast.Module, file: str) -> ast.Module:
    """The tree with its tests marked, in place."""
    for function in [n for n in ast.walk(tree) if isinstance(n, Function)]:
        _mark_function(function, file)
    return ast.fix_missing_locations(tree)


def _mark_function(function: ast.AST, file: str) -> None:
    origins = _origins(function)
    for node in list(_own(function)):
        if not isinstance(node, (ast.If, ast.While, ast.IfExp)):
            continue
        places = sorted({f"{file}:{line}" for line in _lines(node.test, origins)})
        text = ast.unparse(node.test)
        test = _Sides(f"{file}:{node.test.lineno}").visit(node.test)
        raises = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
        if places and not raises:
            site = f"{file}:{node.lineno} ({text[:60]})"
            given = [ast.Constant(site), ast.Tuple([ast.Constant(p) for p in places], ast.Load()), test]
            test = _call(TEST, given, node.test)
        node.test = test
    for node in list(_own(function)):
        if not _is_read(node):
            continue
        place = ast.Constant(f"{file}:{node.lineno}")
        if isinstance(node.func, ast.Attribute):
            noted = ast.Constant(node.func.attr == "item")
            node.func.value = _call(READ, [place, node.func.value, noted], node)
        else:
            node.args[0] = _call(READ, [place, node.args[0]], node)


class _Sides(ast.NodeTransformer):
    """Marks comparisons of a test; what is inside functions of its own stays as it is."""

    def __init__(self, site: str) -> None:
        self.site = site

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda  # type: ignore[assignment]

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """``a OP b`` alone: a chain evaluates its middle once, and is left alone."""
        self.generic_visit(node)
        name = type(node.ops[0]).__name__
        if len(node.ops) > 1 or name not in COMPARE:
            return node
        return _call(
            BOTH, [ast.Constant(self.site), ast.Constant(name), node.left, node.comparators[0]], node
        )


def _call(name: str, given: list[ast.expr], at: ast.AST) -> ast.Call:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), given, []), at)


def _is_read(node: Any) -> bool:
    """``t.item()``, ``t.tolist()``, ``int(t)``, ``float(t)``: whether ``t`` is a tensor shows in the run."""
    if not isinstance(node, ast.Call) or node.keywords:
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in ("item", "tolist") and not node.args
    is_number = isinstance(node.func, ast.Name) and node.func.id in ("int", "float")
    return is_number and len(node.args) == 1 and not isinstance(node.args[0], (ast.Constant, ast.Starred))


def _own(function: ast.AST) -> Iterator[Any]:
    """The nodes of a function without those of functions inside it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*Function, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def _origins(function: ast.AST) -> dict[str, set[int]]:
    """For each local name, the lines of the reads its value may come from."""
    bound: list[tuple[set[str], ast.expr]] = []
    for node in _own(function):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            bound.append((names, node.value))
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            names = {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
            bound.append((names, node.iter))
    origins: dict[str, set[int]] = {}
    changed = True
    while changed:
        changed = False
        for names, value in bound:
            lines = _lines(value, origins)
            for name in names:
                if not lines <= origins.get(name, set()):
                    origins.setdefault(name, set()).update(lines)
                    changed = True
    return origins


def _lines(expression: ast.expr, origins: dict[str, set[int]]) -> set[int]:
    """Lines of the reads a value is made from; what only chooses between values is no part of it."""
    found: set[int] = set()
    waiting: list[Any] = [expression]
    while waiting:
        node = waiting.pop()
        if _is_read(node):
            found.add(node.lineno)
        elif isinstance(node, ast.Name):
            found |= origins.get(node.id, set())
        children = ast.iter_child_nodes(node)
        waiting += [c for c in children if not (isinstance(node, ast.IfExp) and c is node.test)]
    return found
