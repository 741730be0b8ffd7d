"""Which class of the code base an object in a function is an instance of, as far as its text says.

Followed are annotations, the only assignment of a name, tuples taken apart, chains such as
``Model().to(device).eval()``, and attributes that ``__init__`` assigns once: ``service.encoder``. Nothing is
interpreted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo
from refactor.analysis.trees import children

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_SAME = frozenset(
    {"to", "cuda", "cpu", "eval", "train", "half", "float", "double", "bfloat16", "requires_grad_", "type"}
)
"""Methods of a module that return the module."""
_DEPTH = 8


def class_of(module: ModuleInfo, function: FunctionNode | None, node: ast.expr) -> ClassInfo | None:
    """The class of what ``node`` evaluates to in a function of a file; None where it is not certain."""
    owner = module.parents.get(function) if function is not None else None
    cls = module.lookup(owner.name) if isinstance(owner, ast.ClassDef) else None
    return _Scope(module, function, cls if isinstance(cls, ClassInfo) else None).expression(node, 0)


def self_name(function: FunctionNode) -> str | None:
    """The name of the instance in a method."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    return arguments[0].arg if arguments else None


def _same_scope(node: ast.AST) -> Iterator[ast.AST]:
    stack = list(children(node))
    while stack:
        current = stack.pop()
        yield current
        if not isinstance(current, _SCOPES):
            stack += children(current)


class _Scope:
    """A function (or the top level) of a file in which names are looked up."""

    def __init__(self, module: ModuleInfo, function: FunctionNode | None, cls: ClassInfo | None) -> None:
        self.module, self.function, self.cls = module, function, cls

    def expression(self, node: ast.expr, depth: int) -> ClassInfo | None:
        """The class of an expression."""
        if depth > _DEPTH:
            return None
        while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SAME:
            node = node.func.value
        if isinstance(node, ast.Call):
            made = self.module.resolve(node.func) if not self._is_local(node.func) else None
            return made if isinstance(made, ClassInfo) else None
        if isinstance(node, ast.Name):
            return self.name(node.id, depth)
        if isinstance(node, ast.Attribute):
            owner = self.expression(node.value, depth + 1)
            return _attribute(owner, node.attr, depth + 1) if owner is not None else None
        return None

    def _is_local(self, func: ast.expr) -> bool:
        root = func
        while isinstance(root, ast.Attribute):
            root = root.value
        return isinstance(root, ast.Name) and self.function is not None and bool(self._bound(root.id))

    def _bound(self, name: str) -> list[ast.AST]:
        scope: ast.AST = self.function if self.function is not None else self.module.tree
        found: list[ast.AST] = []
        if isinstance(scope, FunctionNode):
            spec = scope.args
            found += [a for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs) if a.arg == name]
        found += [
            node
            for node in _same_scope(scope)
            if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)
        ]
        return found

    def name(self, name: str, depth: int) -> ClassInfo | None:
        """The class of the object a name stands for: its annotation, or all that is assigned to it."""
        if self.function is not None and self.cls is not None and name == self_name(self.function):
            return self.cls
        bound = self._bound(name)
        if not bound and self.function is not None:
            return _Scope(self.module, None, None).name(name, depth + 1)
        found: set[ClassInfo | None] = set()
        for place in bound:
            if isinstance(place, ast.arg):
                found.add(_annotated(self.module, place.annotation))
                continue
            value = self._assigned(place)
            renewed = value is not None and _peeled(value) == name  # model = model.to(device)
            if not renewed:
                found.add(self.expression(value, depth + 1) if value is not None else None)
        return found.pop() if len(found) == 1 else None

    def _assigned(self, place: ast.AST) -> ast.expr | None:
        """What is assigned to a name, elements of tuples included."""
        parent = self.module.parents.get(place)
        if isinstance(parent, ast.Assign | ast.AnnAssign):
            return parent.value
        if isinstance(parent, ast.Tuple):
            stmt = self.module.parents.get(parent)
            values = (
                stmt.value.elts if isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.Tuple) else []
            )
            if len(values) == len(parent.elts):
                return values[parent.elts.index(place)]  # type: ignore[arg-type]
        return None


def _peeled(node: ast.expr) -> str:
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SAME:
        node = node.func.value
    return node.id if isinstance(node, ast.Name) else ""


def _annotated(module: ModuleInfo, annotation: ast.expr | None) -> ClassInfo | None:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None
    if not isinstance(annotation, ast.Name | ast.Attribute):
        return None
    found = module.resolve(annotation)
    return found if isinstance(found, ClassInfo) else None


def _attribute(owner: ClassInfo, name: str, depth: int) -> ClassInfo | None:
    """The class of what ``__init__`` stores under a name, if nothing else stores there."""
    found: set[ClassInfo | None] = set()
    for base in owner.mro:
        if not isinstance(base, ClassInfo):
            continue
        for item in base.own.values():
            if isinstance(item, FunctionInfo) and isinstance(item.node, FunctionNode):
                for value in _stored(item.node, name):
                    scope = _Scope(base.module, item.node, base)
                    found.add(scope.expression(value, depth + 1) if value is not None else None)
        if name in base.annotations and not found:
            found.add(_annotated(base.module, base.annotations[name]))
    return found.pop() if len(found) == 1 else None


def _stored(function: FunctionNode, name: str) -> Iterator[ast.expr | None]:
    owner = self_name(function)
    for node in _same_scope(function):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            continue
        for target in targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple):
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [None] * len(target.elts)
                pairs = list(zip(target.elts, values, strict=False))
            for place, value in pairs:
                if (
                    isinstance(place, ast.Attribute)
                    and place.attr == name
                    and isinstance(place.value, ast.Name)
                    and place.value.id == owner
                ):
                    yield value if isinstance(node, ast.Assign | ast.AnnAssign) else None
