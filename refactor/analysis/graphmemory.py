"""Which names, attributes and elements of containers hold static memory of graphs captured by hand.

What a capture assigns is written by every replay (``out``); what it reads and does not make itself is read
from the same place by every replay (``in``). Both are followed through assignments, containers, tuples, the
instances of simple classes and the results of helpers of the same file, in no particular order.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from refactor.analysis.callees import Callees, Scope, own_nodes
from refactor.analysis.drivers import Capture, captured_in
from refactor.analysis.trees import walk

_ROUNDS = 4
"""Passes over a file; each carries what is known one assignment further."""
_PLAIN = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout", "grad_fn"})
_VIEWS = frozenset(
    {"view", "reshape", "squeeze", "unsqueeze", "transpose", "permute", "flatten", "unflatten", "detach"}
    | {"narrow", "select", "expand", "expand_as", "t", "view_as", "swapaxes", "movedim", "items", "values"}
)


@dataclass(frozen=True)
class Static:
    """Static memory: ``out`` of a capture, or what it reads (``in``)."""

    kind: str


@dataclass(frozen=True)
class Items:
    """A tuple, by position."""

    items: tuple[Held | None, ...]


@dataclass(frozen=True)
class Each:
    """A list or dict, all of whose elements are alike."""

    element: Held


@dataclass(frozen=True)
class Fields:
    """A dict with literal keys, or an instance of a class with annotated fields."""

    fields: tuple[tuple[str, Held], ...]

    def get(self, name: str) -> Held | None:
        """The value of a key or field."""
        return dict(self.fields).get(name)


Held: TypeAlias = Static | Items | Each | Fields
OUT, IN = Static("out"), Static("in")


class Memory:
    """What the places of one file hold."""

    def __init__(self, callees: Callees) -> None:
        self.callees = callees
        self.names: dict[tuple[int, str], Held] = {}
        self.attributes: dict[tuple[str, str], Held] = {}
        self.captures: dict[int, list[Capture]] = {}
        for scope in callees.scopes:
            self.captures[id(scope.node)] = captured_in([_Body(scope.body), *scope.nodes])
        self.classes = {
            node.name: _annotated(node)
            for scope in callees.scopes[:1]
            for node in walk(scope.node)
            if isinstance(node, ast.ClassDef)
        }
        for _ in range(_ROUNDS):
            before = (dict(self.names), dict(self.attributes))
            for scope in callees.scopes:
                self._read(scope)
            if before == (self.names, self.attributes):
                break

    # -- what places hold

    def value(self, scope: Scope, node: ast.expr, depth: int = 0) -> Held | None:
        """What an expression holds; None: no static memory as far as is known."""
        if isinstance(node, ast.Name):
            return self._name(scope, node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(scope, node)
        if isinstance(node, ast.Subscript):
            return self._element(self.value(scope, node.value, depth), node.slice)
        if isinstance(node, ast.Tuple | ast.List):
            items = tuple(self.value(scope, item, depth) for item in node.elts)
            return Items(items) if any(items) else None
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            named = [(str(k.value), v) for k, v in pairs if isinstance(k, ast.Constant)]
            return _fields([(key, self.value(scope, v, depth)) for key, v in named])
        if isinstance(node, ast.NamedExpr):
            return self.value(scope, node.value, depth)
        if isinstance(node, ast.Call) and depth < _ROUNDS:
            return self._call(scope, node, depth)
        return None

    def _name(self, scope: Scope, name: str) -> Held | None:
        around: Scope | None = scope
        while around is not None:
            held = self.names.get((id(around.node), name))
            if held is not None or (around is scope and name in _bound(scope)):
                return held
            around = around.outer
        return None

    def _attribute(self, scope: Scope, node: ast.Attribute) -> Held | None:
        if isinstance(node.value, ast.Name) and node.value.id == "self" and scope.cls:
            return self.attributes.get((scope.cls, node.attr))
        held = self.value(scope, node.value)
        if isinstance(held, Fields):
            return held.get(node.attr)
        return held if isinstance(held, Static) and node.attr not in _PLAIN else None

    def _element(self, held: Held | None, index: ast.expr) -> Held | None:
        if isinstance(held, Each):
            return held.element
        if isinstance(index, ast.Constant):
            if isinstance(held, Fields):
                return held.get(str(index.value))
            if isinstance(held, Items) and isinstance(index.value, int) and index.value < len(held.items):
                return held.items[index.value]
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        plain = all(isinstance(part, ast.Slice | ast.Constant) for part in parts)
        return held if isinstance(held, Static) and plain else None  # another index may copy

    def _call(self, scope: Scope, node: ast.Call, depth: int) -> Held | None:
        func = node.func
        if isinstance(func, ast.Attribute):
            held = self.value(scope, func.value, depth)
            if func.attr in ("get", "setdefault", "pop") and isinstance(held, Each):
                return held.element
            if func.attr == "values" and isinstance(held, Each):
                return held
            if func.attr == "items" and isinstance(held, Each):
                return Each(Items((None, held.element)))
            if func.attr in _VIEWS and isinstance(held, Static):
                return held
            if func.attr.endswith("_") and isinstance(held, Static):
                return held  # in place, and returned
        name = func.id if isinstance(func, ast.Name) else ""
        if name in ("zip", "enumerate", "reversed", "list", "tuple", "sorted"):
            found = [_of_each(self.value(scope, arg, depth)) for arg in node.args]
            element: Held | None = Items(tuple(found)) if name == "zip" and any(found) else None
            if name == "enumerate" and found[:1] != [None]:
                element = Items((None, *found[:1]))
            elif name not in ("zip", "enumerate"):
                element = found[0] if found else None
            return Each(element) if element is not None else None
        if name in self.classes:
            given = [*zip(self.classes[name], node.args, strict=False)]
            given += [(k.arg, k.value) for k in node.keywords if k.arg]
            return _fields([(key, self.value(scope, arg, depth)) for key, arg in given])
        inner = self.callees.entered(node, scope)
        results: Held | None = None
        for given_back in inner.nodes if inner is not None else ():
            if inner is not None and isinstance(given_back, ast.Return) and given_back.value is not None:
                results = _joined(results, self.value(inner, given_back.value, depth + 1))
        return results

    # -- what statements do

    def _read(self, scope: Scope) -> None:
        for capture in self.captures[id(scope.node)]:
            self._captured(scope, capture)
        for node in scope.nodes:
            if isinstance(node, ast.Assign):
                held = self.value(scope, node.value)
                for target in node.targets:
                    self._bind(scope, target, held)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                self._bind(scope, node.target, self.value(scope, node.value))
            elif isinstance(node, ast.For):
                self._bind(scope, node.target, _of_each(self.value(scope, node.iter)))
            elif isinstance(node, ast.Call) and (collector := _collector(node)) is not None:
                held = self.value(scope, node.args[0])
                self._bind(scope, collector, Each(held) if held is not None else None)

    def _captured(self, scope: Scope, capture: Capture) -> None:
        made: set[str] = set()
        for stmt in capture.body:
            for place, held in _inputs(stmt, made):
                if self.value(scope, place) is None:
                    self._bind(scope, place, held)
            for node in walk(stmt):
                if isinstance(node, ast.Assign):
                    alias = isinstance(node.value, ast.Name | ast.Attribute | ast.Constant)
                    for target in node.targets:
                        made.add(ast.unparse(target))
                        made.update(n.id for n in walk(target) if isinstance(n, ast.Name))
                        self._bind(scope, target, self.value(scope, node.value) if alias else OUT)
                elif isinstance(node, ast.Call) and (collector := _collector(node)) is not None:
                    self._bind(scope, collector, Each(OUT))

    def _bind(self, scope: Scope, target: ast.expr, held: Held | None) -> None:
        if held is None:
            return
        if isinstance(target, ast.Tuple | ast.List):
            for i, item in enumerate(target.elts):
                inner: Held | None = held if isinstance(held, Static) else _of_each(held)
                if isinstance(held, Items):
                    inner = held.items[i] if i < len(held.items) else None
                self._bind(scope, item, inner)
        elif isinstance(target, ast.Name):
            owner = _owner(scope, target.id)
            key = (id(owner.node), target.id)
            joined = _joined(self.names.get(key), held)
            if joined is not None:
                self.names[key] = joined
        elif isinstance(target, ast.Attribute):
            if isinstance(target.value, ast.Name) and target.value.id == "self" and scope.cls:
                joined = _joined(self.attributes.get((scope.cls, target.attr)), held)
                if joined is not None:
                    self.attributes[scope.cls, target.attr] = joined
        elif isinstance(target, ast.Subscript):
            key_ = target.slice.value if isinstance(target.slice, ast.Constant) else None
            known = self.value(scope, target.value)
            if isinstance(known, Static):
                return  # written into, as it should be
            self._bind(scope, target.value, _fields([(key_, held)]) if isinstance(key_, str) else Each(held))


class _Body(ast.AST):
    """The statements of a scope, where a node with a body is looked for."""

    def __init__(self, body: list[ast.stmt]) -> None:
        super().__init__()
        self.body = body


def _collector(call: ast.Call) -> ast.expr | None:
    """``found`` of ``found.append(x)``."""
    func = call.func
    own = isinstance(func, ast.Attribute) and func.attr in ("append", "add") and len(call.args) == 1
    return func.value if own and isinstance(func, ast.Attribute) else None


def _annotated(node: ast.AST) -> list[str]:
    """Names of the annotated fields of a class, as a dataclass or named tuple takes them."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [s.target.id for s in body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]


def _fields(pairs: list[tuple[str, Held | None]]) -> Fields | None:
    found = tuple((name, held) for name, held in pairs if held is not None)
    return Fields(found) if found else None


def _of_each(held: Held | None) -> Held | None:
    """What iterating gives."""
    if isinstance(held, Each):
        return held.element
    if isinstance(held, Items):
        result: Held | None = None
        for item in held.items:
            result = _joined(result, item)
        return result
    return held if isinstance(held, Static) else None


def _joined(old: Held | None, new: Held | None) -> Held | None:
    if old is None or new is None:
        return old or new
    if isinstance(old, Items) and isinstance(new, Items) and len(old.items) == len(new.items):
        return Items(tuple(_joined(a, b) for a, b in zip(old.items, new.items, strict=True)))
    if isinstance(old, Each) and isinstance(new, Each):
        inner = _joined(old.element, new.element)
        return Each(inner) if inner is not None else old
    if isinstance(old, Fields) and isinstance(new, Fields):
        merged = {**dict(new.fields), **dict(old.fields)}
        return Fields(tuple(sorted(merged.items(), key=lambda pair: pair[0])))
    return old


def _owner(scope: Scope, name: str) -> Scope:
    """The scope that a name is bound in: an outer one if it is declared ``nonlocal`` or ``global``."""
    for node in scope.nodes:
        if isinstance(node, ast.Nonlocal | ast.Global) and name in node.names:
            outer = scope.outer
            while outer is not None and outer.outer is not None and name not in _bound(outer):
                outer = outer.outer
            return outer or scope
    return scope


def _bound(scope: Scope) -> set[str]:
    """Names that a function binds itself, parameters included."""
    found = {n.id for n in scope.nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    arguments = getattr(scope.node, "args", None)
    if isinstance(arguments, ast.arguments):
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        found |= {arg.arg for arg in every}
    declared = (n for n in scope.nodes if isinstance(n, ast.Nonlocal | ast.Global))
    return found - {name for node in declared for name in node.names}


def _inputs(stmt: ast.stmt, made: set[str]) -> Iterator[tuple[ast.expr, Held]]:
    """What a captured statement reads by name, as an argument or operand, and has not made itself."""
    for node in own_nodes([stmt]):
        given: list[tuple[ast.expr, Held]] = []
        if isinstance(node, ast.Call):
            given += [
                (arg.value, Each(IN)) if isinstance(arg, ast.Starred) else (arg, IN) for arg in node.args
            ]
            given += [(k.value, IN if k.arg else Each(IN)) for k in node.keywords]
        elif isinstance(node, ast.BinOp):
            given = [(node.left, IN), (node.right, IN)]
        for item, held in given:
            root = item
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            own = isinstance(root, ast.Name) and root.id not in made and ast.unparse(item) not in made
            if own and isinstance(item, ast.Name | ast.Attribute | ast.Subscript):
                yield item, held
