"""What ``self.name`` is in a module: layers of torch, modules of the code base, weights or configuration."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.receivers import self_name
from refactor.analysis.trees import walk
from refactor.rewrite.axes import Const, Mixed, Weight
from refactor.rewrite.ops import names_in

CONTAINERS = names_in("Sequential ModuleList ModuleDict")
_WEIGHTS = names_in("Parameter ParameterList register_buffer register_parameter")
_HOST = names_in(
    "range enumerate zip len int float bool str tuple list dict set min max sum round getattr super"
)
_ADDING = frozenset({"append", "extend", "insert", "add_module"})
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Layer:
    """One constructor call: of ``torch.nn`` by its name, or of a class of the code base."""

    kind: str | ClassInfo
    call: ast.Call


@dataclass(frozen=True)
class Layers:
    """What an attribute holds: one layer, a chain of them, or a list of which any may be taken."""

    layers: tuple[Layer, ...]
    container: str = ""  # "Sequential", "ModuleList" …
    path: str = ""  # how the caller reaches it: "model.positions"; empty: it cannot


def attribute(cls: ClassInfo, name: str, path: str) -> object:
    """The value of ``self.name``; raises `Mixed` where it is not known."""
    found: list[object] = []
    for base in cls.mro:
        if not isinstance(base, ClassInfo):
            continue
        for item in base.own.values():
            if isinstance(item, FunctionInfo) and isinstance(item.node, FunctionNode):
                found += _stored(item.module, item.node, name, path)
    if not found:
        raise Mixed
    if any(value != found[0] for value in found):
        kinds = [value for value in found if isinstance(value, Layers)]
        if len(kinds) != len(found):
            raise Mixed
        # one of several, all of which have to be right
        return Layers(tuple(layer for value in kinds for layer in value.layers), "Sequential", path)
    return found[0]


def _stored(module: ModuleInfo, function: FunctionNode, name: str, path: str) -> Iterator[object]:
    owner = self_name(function)
    for node in walk(function):
        if isinstance(node, ast.Call) and last_name(node.func) in ("register_buffer", "register_parameter"):
            given = node.args[0] if node.args else None
            if isinstance(given, ast.Constant) and given.value == name:
                yield Weight()
        pairs: list[tuple[ast.expr, ast.expr | None]] = []
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs += zip(target.elts, node.value.elts, strict=False)
                else:
                    pairs.append((target, node.value))
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            pairs.append((node.target, node.value))
        for target, value in pairs:
            if isinstance(target, ast.Attribute) and target.attr == name and _is(target.value, owner):
                if getattr(function, "name", "") != "__init__" or value is None:
                    raise Mixed
                yield _value(module, function, value, path)


def _is(node: ast.expr, name: str | None) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _value(module: ModuleInfo, init: FunctionNode, node: ast.expr, path: str) -> object:
    if any(isinstance(n, ast.Call) and last_name(n.func) in _WEIGHTS for n in walk(node)):
        return Weight()
    layers = tuple(_layers(module, init, node, set()))
    if layers:
        outer = module.resolve(node.func) if isinstance(node, ast.Call) else None
        last = outer.rpartition(".")[2] if isinstance(outer, str) else ""
        listed = isinstance(node, ast.List | ast.Tuple | ast.ListComp | ast.Dict)
        if listed or last in CONTAINERS:
            return Layers(layers, last or "ModuleList")
        if len(layers) > 1:
            return Layers(layers, "Sequential")
        return Layers(layers, "", path)
    for inner in walk(node):
        if isinstance(inner, ast.Call):
            found = module.resolve(inner.func)
            if isinstance(found, str) and found.startswith("torch."):
                return Weight()
            if last_name(inner.func) not in _HOST and not (
                isinstance(found, str) and found.startswith("math.")
            ):
                raise Mixed
    parameters = {a.arg: a.annotation for a in (*init.args.args, *init.args.kwonlyargs)}
    if isinstance(node, ast.Name) and node.id in parameters:
        kind = last_name(parameters[node.id]) if parameters[node.id] is not None else ""  # type: ignore[arg-type]
        if kind not in ("", "int", "float", "bool", "str"):
            raise Mixed
    return Const(node.value) if isinstance(node, ast.Constant) else Const()


def _layers(module: ModuleInfo, init: FunctionNode, node: ast.AST, seen: set[str]) -> Iterator[Layer]:
    """The layers that an expression of ``__init__`` makes, those in local lists included."""
    for inner in sorted(
        (n for n in walk(node) if hasattr(n, "lineno")), key=lambda n: (n.lineno, n.col_offset)
    ):
        if isinstance(inner, ast.Call):
            found = module.resolve(inner.func)
            if isinstance(found, ClassInfo) and found.is_module:
                yield Layer(found, inner)
            elif (
                isinstance(found, str)
                and found.startswith("torch.nn.")
                and not found.startswith("torch.nn.init.")
            ):
                if found.rpartition(".")[2] not in CONTAINERS:
                    yield Layer(found.rpartition(".")[2], inner)
            elif isinstance(found, FunctionInfo) and found.qualname not in seen:
                for stmt in walk(found.node):
                    if isinstance(stmt, ast.Return) and stmt.value is not None:
                        yield from _layers(found.module, found.node, stmt.value, seen | {found.qualname})  # type: ignore[arg-type]
        elif isinstance(inner, ast.Name) and inner.id not in seen and isinstance(inner.ctx, ast.Load):
            for value in _local(init, inner.id):
                yield from _layers(module, init, value, seen | {inner.id})


def _local(init: FunctionNode, name: str) -> Iterator[ast.expr]:
    """What a local name of ``__init__`` is made of: assigned, appended, added."""
    for node in walk(init):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if (
            isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
            and isinstance(value, ast.expr)
            and any(isinstance(t, ast.Name) and t.id == name for t in targets)
        ):
            yield value
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            func = node.func
            if _is(func.value, name) and func.attr in _ADDING:
                yield from node.args
