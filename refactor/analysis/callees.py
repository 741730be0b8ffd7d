"""Functions of a file that its own code calls by name or through ``self``, for checks that follow helpers."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from refactor.analysis.trees import children, walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_DEPTH = 3


@dataclass(frozen=True, eq=False)
class Scope:
    """A function, or the module's own statements, and the class and functions around it."""

    name: str
    node: ast.AST
    body: list[ast.stmt]
    cls: str = ""
    outer: Scope | None = None

    @property
    def nodes(self) -> list[ast.AST]:
        """Nodes of the scope in order, nested functions apart."""
        return own_nodes(self.body)


@dataclass(eq=False)
class Callees:
    """The scopes of a file and which of them a call enters."""

    scopes: list[Scope] = field(default_factory=list)
    by_name: dict[tuple[str, str], Scope] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: ast.Module) -> Callees:
        """Those of one file."""
        found = cls()
        for scope in _scopes(tree, "", "", None):
            found.scopes.append(scope)
            last = scope.name.rpartition(".")[2]
            nested = isinstance(scope.outer, Scope) and isinstance(scope.outer.node, FunctionNode)
            if isinstance(scope.node, FunctionNode):
                found.by_name[scope.outer.name if nested and scope.outer else scope.cls, last] = scope
        return found

    def entered(self, call: ast.AST, scope: Scope) -> Scope | None:
        """The scope that a call enters, if it is one of this file."""
        if not isinstance(call, ast.Call):
            return None
        func = call.func
        if isinstance(func, ast.Name):
            around: Scope | None = scope
            while around is not None:
                known = self.by_name.get((around.name, func.id))
                if known is not None:
                    return known
                around = around.outer
            return self.by_name.get(("", func.id))
        if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and scope.cls:
            return self.by_name.get((scope.cls, func.attr)) if func.value.id in ("self", "cls") else None
        return None

    def calls(
        self, nodes: Sequence[ast.AST], scope: Scope, names: Mapping[str, str] | None = None, depth: int = 0
    ) -> Iterator[tuple[ast.Call, str, Scope]]:
        """Calls among nodes and, through helpers, below them: with what is called, in the caller's words."""
        names = names or {}
        for node in nodes:
            if not isinstance(node, ast.Call):
                continue
            source = ast.unparse(node.func)
            root, dot, rest = source.partition(".")
            yield node, names.get(root, root) + dot + rest, scope
            inner = self.entered(node, scope)
            if inner is not None and depth < _DEPTH and inner is not scope:
                yield from self.calls(inner.nodes, inner, renamed(node, inner, names), depth + 1)

    def callers(self, target: Scope) -> Iterator[tuple[Scope, ast.Call]]:
        """Scopes that call a function, with the call."""
        for scope in self.scopes:
            for node in scope.nodes if scope is not target else ():
                if isinstance(node, ast.Call) and self.entered(node, scope) is target:
                    yield scope, node

    def below(self, nodes: Sequence[ast.AST], scope: Scope, depth: int = 0) -> Iterator[ast.AST]:
        """Nodes and those of the helpers that they call."""
        for node in nodes:
            yield node
            inner = self.entered(node, scope)
            if inner is not None and depth < _DEPTH and inner is not scope:
                yield from self.below(inner.nodes, inner, depth + 1)


def renamed(call: ast.Call, inner: Scope, names: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the parameters of a helper are called by its caller."""
    if not isinstance(inner.node, FunctionNode):
        return {}
    names = names or {}
    parameters = [arg.arg for arg in (*inner.node.args.posonlyargs, *inner.node.args.args)]
    if inner.cls and parameters[:1] and isinstance(call.func, ast.Attribute):
        parameters = parameters[1:]
    pairs = [*zip(parameters, call.args, strict=False), *((k.arg, k.value) for k in call.keywords if k.arg)]
    found: dict[str, str] = {}
    for name, value in pairs:
        source = ast.unparse(value)
        root, dot, rest = source.partition(".")
        found[name] = names.get(root, root) + dot + rest
    return found


def _scopes(node: ast.AST, prefix: str, cls: str, outer: Scope | None) -> Iterator[Scope]:
    if isinstance(node, ast.Module):
        body = [s for s in node.body if not isinstance(s, FunctionNode | ast.ClassDef)]
        outer = Scope("", node, body)
        yield outer
    for child in children(node):
        if isinstance(child, FunctionNode):
            scope = Scope(prefix + child.name, child, child.body, cls, outer)
            yield scope
            yield from _scopes(child, f"{prefix}{child.name}.", cls, scope)
        elif isinstance(child, ast.ClassDef):
            yield from _scopes(child, f"{prefix}{child.name}.", prefix + child.name, outer)
        elif not isinstance(child, ast.expr):
            yield from _scopes(child, prefix, cls, outer)


def own_nodes(body: Sequence[ast.AST]) -> list[ast.AST]:
    """Nodes of a body in order, nested functions apart."""
    found: list[ast.AST] = []
    todo: list[ast.AST] = list(reversed(body))
    while todo:
        node = todo.pop()
        found.append(node)
        if not isinstance(node, FunctionNode | ast.ClassDef | ast.Lambda):
            todo.extend(reversed(list(children(node))))
    return found


def inside(node: ast.AST, block: ast.AST) -> bool:
    """Whether a node is a block or lies in it."""
    return any(inner is node for inner in walk(block))
