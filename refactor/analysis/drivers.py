"""Code around regions: training steps and hand-written captures, and which statements in them are regions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from refactor.analysis.liveness import target_names, writes
from refactor.analysis.loops import trains
from refactor.analysis.model import Region
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.regions import classes
from refactor.analysis.steps import is_backward
from refactor.analysis.trees import walk

_STEPS = frozenset({"backward", "step", "unscale_"})


@dataclass(frozen=True, eq=False)
class Driver:
    """A function with regions inside; ``windows`` maps their statements to the region."""

    info: FunctionInfo | None  # None: the module's own statements
    owner: ClassInfo | None
    windows: dict[ast.stmt, Region]


def drivers(module: ModuleInfo) -> Iterator[Driver]:
    """Functions and methods of a file that train or capture, in order."""
    data = module.source.data
    marks = (b"backward(", b"cuda.graph", b"CUDAGraph", b".step(")
    if not any(mark in data for mark in marks):
        return
    for info, owner in functions(module):
        windows = {**_steps(module, info.qualname, info.node), **_captured(module, info.qualname, info.node)}
        if windows:
            yield Driver(info, owner, windows)
    own = [
        s
        for s in module.tree.body
        if not isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    top = ast.Module(own, [])
    windows = {**_steps(module, "<module>", top), **_captured(module, "<module>", top)}
    if windows:
        yield Driver(None, None, windows)


def functions(module: ModuleInfo) -> Iterator[tuple[FunctionInfo, ClassInfo | None]]:
    """Functions of a file, then methods with their class."""
    for bound in module.table.values():
        if isinstance(bound, FunctionInfo) and bound.module is module:
            yield bound, None
    for cls in classes(module):
        for item in cls.own.values():
            if isinstance(item, FunctionInfo) and item.module is module:
                yield item, cls


def names_device(node: ast.AST) -> bool:
    """Whether a node puts something on a device by name."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("cuda", "to", "device", "set_default_device")
    return (isinstance(node, ast.Name) and node.id == "device") or (
        isinstance(node, ast.keyword) and node.arg == "device"
    )


def captures(node: ast.AST) -> bool:
    """Whether a statement is ``with torch.cuda.graph(...)``."""
    return isinstance(node, ast.With) and any(_is_graph(item.context_expr) for item in node.items)


def _is_graph(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    func = node.func
    if isinstance(func, ast.Name):
        return func.id == "graph"  # from torch.cuda import graph
    return isinstance(func, ast.Attribute) and (
        func.attr == "graph" and last_name(func.value) in ("cuda", "graphs")
    )


@dataclass(frozen=True, eq=False)
class Capture:
    """What is captured by hand: a ``with`` block, or all between ``capture_begin`` and ``capture_end``."""

    place: ast.stmt
    body: tuple[ast.stmt, ...]

    @property
    def last(self) -> int:
        """The line of its end."""
        return max((s.end_lineno or s.lineno for s in self.body), default=self.place.lineno)


def captured_in(nodes: Iterable[ast.AST]) -> list[Capture]:
    """The captures among some nodes, in order."""
    found: list[Capture] = []
    for node in nodes:
        if captures(node) and isinstance(node, ast.With):
            found.append(Capture(node, tuple(node.body)))
        for body in _bodies(node):
            begin = next((i for i, stmt in enumerate(body) if _calls(stmt, "capture_begin")), None)
            end = next((i for i, stmt in enumerate(body) if _calls(stmt, "capture_end")), None)
            if begin is not None and end is not None and begin < end:
                found.append(Capture(body[begin], tuple(body[begin + 1 : end])))
    return found


def _bodies(node: ast.AST) -> list[list[ast.stmt]]:
    bodies = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    return [body for body in bodies if isinstance(body, list)]


def _calls(stmt: ast.stmt, name: str) -> bool:
    """``graph.name(...)`` as a statement."""
    call = stmt.value if isinstance(stmt, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == name


def _captured(module: ModuleInfo, name: str, scope: ast.AST) -> dict[ast.stmt, Region]:
    windows: dict[ast.stmt, Region] = {}
    for capture in captured_in(walk(scope)):
        node = capture.place if isinstance(capture.place, ast.With) else scope
        region = Region("captured", name, module.name, node)
        windows.update(dict.fromkeys(capture.body, region))
    return windows


def _steps(module: ModuleInfo, name: str, scope: ast.AST) -> dict[ast.stmt, Region]:
    """The statements of a training step: up to the last of ``backward`` and ``step`` in their block."""
    windows: dict[ast.stmt, Region] = {}
    if not trains(scope):
        return windows
    for node, body in _blocks(scope):
        last = max((i for i, stmt in enumerate(body) if _steps_in(stmt)), default=-1)
        if last >= 0:
            region = Region("step", name, module.name, node)
            windows.update(dict.fromkeys(body[: last + 1], region))
    return windows


def computed(owner: ast.AST) -> frozenset[str]:
    """Names that the backward pass and the optimizer of a step depend on; what only others read is logged."""
    stored: list[tuple[set[str], set[str]]] = []
    found: set[str] = set()
    for node in walk(owner):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _STEPS:
            found |= names_read(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored.append(
                ({name for target in targets for name in target_names(target)}, names_read(node.value))
            )
    for _ in stored:
        before = len(found)
        for names, read in stored:
            if names & found:
                found |= read
        if len(found) == before:
            break
    return frozenset(found)


def names_read(node: ast.AST) -> set[str]:
    """Names that stand in an expression or statement."""
    return {inner.id for inner in walk(node) if isinstance(inner, ast.Name)}


def _blocks(function: ast.AST) -> Iterator[tuple[ast.AST, list[ast.stmt]]]:
    """Blocks that make up a step: a branch in which the loss is computed before the loop around it.

    Of loops the innermost counts, and the top level of a file runs once.
    """
    for node in walk(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.For | ast.While):
            continue
        inside = [inner for stmt in node.body for inner in walk(stmt)]
        nested = any(isinstance(inner, ast.For | ast.While) and _steps_in(inner) for inner in inside)
        if not nested and any(_steps_in(stmt) for stmt in node.body):
            yield node, _narrowed(node.body)


def _narrowed(body: list[ast.stmt]) -> list[ast.stmt]:
    """The block itself, or the one branch inside it that holds the whole step, loss included."""
    busy = [stmt for stmt in body if _steps_in(stmt)]
    inner = busy[0] if len(busy) == 1 else None
    if isinstance(inner, ast.If | ast.With | ast.Try) and not (isinstance(inner, ast.If) and inner.orelse):
        losses = {name for node in walk(inner) if is_backward(node) for name in names_read(node)}
        if not losses.isdisjoint(writes(inner.body)):
            return _narrowed(inner.body)
    return body


def _steps_in(stmt: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _STEPS
        and (node.func.attr != "step" or _updates(node, ast.unparse(node.func.value).lower()))
        for node in walk(stmt)
    )


def _updates(step: ast.Call, owner: str) -> bool:
    """Whether ``….step(…)`` is an optimizer's, not that of a schedule or of an environment."""
    if "sched" in owner:
        return False
    return not step.args or "scaler" in owner or "opt" in ast.unparse(step.args[0]).lower()
