"""The classes of a file: constructor arguments, and the submodules they lead to."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from refactor.drafting.layers import Layer
from refactor.drafting.literals import UNKNOWN, Unknown, evaluate

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function."""

    name: str
    annotation: str
    default: ast.expr | None
    is_required: bool


def parameters(function: Function, *, method: bool) -> list[Parameter]:
    """Parameters in order, without ``self`` and without ``*args`` and ``**kwargs``."""
    args = [*function.args.posonlyargs, *function.args.args]
    defaults: list[ast.expr | None] = [None] * (len(args) - len(function.args.defaults))
    rows = [*zip(args, [*defaults, *function.args.defaults], strict=True)]
    rows += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    found = [
        Parameter(arg.arg, ast.unparse(arg.annotation) if arg.annotation else "", default, default is None)
        for arg, default in rows
    ]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
    return found[1:] if method and not static else found


@dataclass(frozen=True, eq=False)
class Classes:
    """The top-level definitions of a file, by name."""

    tree: ast.Module
    classes: Mapping[str, ast.ClassDef] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[str, list[ast.Call]] = field(default_factory=dict)
    """Calls of plain names, in the whole file."""

    def method(self, cls: ast.ClassDef, name: str, depth: int = 4) -> Function | None:
        """A method of a class or of its bases in this file."""
        for node in cls.body:
            if isinstance(node, Function) and node.name == name:
                return node
        for base in cls.bases:
            parent = self.classes.get(base.id) if isinstance(base, ast.Name) else None
            found = self.method(parent, name, depth - 1) if parent is not None and depth else None
            if found is not None:
                return found
        return None

    def built(self, cls: ast.ClassDef) -> dict[str, Any]:
        """Arguments some call in this file builds the class with, `UNKNOWN` where they are not literals."""
        init = self.method(cls, "__init__")
        names = [parameter.name for parameter in parameters(init, method=True)] if init else []
        best: dict[str, Any] = {}
        for node in self.calls.get(cls.name, ()):
            found = dict(zip(names, (evaluate(arg, self.constants) for arg in node.args), strict=False))
            found |= {k.arg: evaluate(k.value, self.constants) for k in node.keywords if k.arg in names}
            if _known(found) > _known(best):
                best = found
        return best

    def layers(
        self, cls: ast.ClassDef, arguments: Mapping[str, Any], depth: int = 4
    ) -> dict[str, Layer | Any]:
        """Attributes that ``__init__`` sets: submodules as `Layer`, shapes of tensors, other known values."""
        init = self.method(cls, "__init__")
        if init is None:
            return {}
        names: dict[str, Any] = {**self.constants}
        for parameter in parameters(init, method=True):
            default = UNKNOWN if parameter.default is None else evaluate(parameter.default, self.constants)
            names[parameter.name] = arguments.get(parameter.name, default)
        for statement in _flat(init.body):
            self._assign(statement, names, depth)
        return {key.removeprefix("self."): value for key, value in names.items() if key.startswith("self.")}

    def _assign(self, statement: ast.stmt, names: dict[str, Any], depth: int) -> None:
        targets: list[ast.expr]
        match statement:
            case ast.Assign(targets=assigned, value=value):
                targets = assigned
            case ast.AnnAssign(target=annotated, value=ast.expr() as value):
                targets = [annotated]
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="register_buffer"), args=[key, value, *_])):
                targets = [ast.Attribute(ast.Name("self"), str(evaluate(key, names)))]
            case _:
                return
        for target in targets:
            if isinstance(target, ast.Name):
                names[target.id] = self.value(value, names, depth)
            elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                names[f"{target.value.id}.{target.attr}"] = self.value(value, names, depth)

    def value(self, node: ast.expr, names: Mapping[str, Any], depth: int = 4) -> Any:
        """A `Layer` for a call that builds a module, `Table` for one that builds a tensor, else a value."""
        if not isinstance(node, ast.Call) or depth == 0:
            return evaluate(node, names)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("Parameter", "tensor", "Buffer", "contiguous", "float", "cuda", "to") and node.args[:1]:
            return self.value(node.args[0], names, depth - 1)
        if name in _FACTORIES:
            sizes = [evaluate(arg, names) for arg in node.args]
            shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple) else tuple(sizes)
            return Table(shape)
        if name in self.functions and isinstance(node.func, ast.Name):
            return self._returned(self.functions[name], node, names, depth - 1)
        if not name[:1].isupper():
            return evaluate(node, names)
        parts = [part for arg in node.args for part in self._parts(arg, names, depth - 1)]
        args = [evaluate(arg, names) for arg in node.args if not isinstance(arg, ast.Starred)]
        keywords = {k.arg: evaluate(k.value, names) for k in node.keywords if k.arg}
        return Layer(name, args, keywords, parts)

    def _returned(self, function: Function, call: ast.Call, names: Mapping[str, Any], depth: int) -> Any:
        """What a helper of the file returns for the arguments of a call."""
        last = function.body[-1]
        if not isinstance(last, ast.Return) or last.value is None:
            return UNKNOWN
        order = parameters(function, method=False)
        bound = {p.name: evaluate(p.default, self.constants) for p in order if p.default is not None}
        bound |= {p.name: evaluate(arg, names) for p, arg in zip(order, call.args, strict=False)}
        bound |= {k.arg: evaluate(k.value, names) for k in call.keywords if k.arg}
        return self.value(last.value, {**self.constants, **bound}, depth)

    def _parts(self, node: ast.expr, names: Mapping[str, Any], depth: int) -> Iterator[Layer]:
        match node:
            case ast.List(elts=items) | ast.Tuple(elts=items):
                for item in items:
                    yield from self._parts(item, names, depth)
            case ast.ListComp(elt=item) | ast.GeneratorExp(elt=item) | ast.Starred(value=item):
                yield from self._parts(item, names, depth)
            case _:
                value = self.value(node, names, depth)
                if isinstance(value, Layer):
                    yield value


@dataclass(frozen=True)
class Table:
    """A tensor that a constructor makes."""

    shape: tuple[Any, ...]


_FACTORIES = frozenset({"randn", "rand", "zeros", "ones", "empty", "full"})


def _known(arguments: Mapping[str, Any]) -> int:
    return sum(not isinstance(value, Unknown) for value in arguments.values())


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        for name in ("body", "orelse", "finalbody"):
            yield from _flat(getattr(statement, name, []))


def classes_of(tree: ast.Module) -> Classes:
    """The definitions of a file."""
    constants: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = evaluate(node.value, constants)
            if not isinstance(value, Unknown):
                constants[node.targets[0].id] = value
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {node.name: node for node in tree.body if isinstance(node, Function)}
    calls: dict[str, list[ast.Call]] = {}
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
            calls.setdefault(inner.func.id, []).append(inner)
    return Classes(tree, classes, functions, constants, calls)
