"""``self.loss = …`` in a training step: a variable of the graph, set where the function is called."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence

from refactor.analysis.project import ClassInfo
from refactor.analysis.trees import walk


def keeps(cls: ClassInfo | None, owner: str | None, target: ast.expr) -> bool:
    """Whether an assignment to ``target`` does nothing but set an attribute of a plain instance."""
    if not isinstance(target, ast.Attribute) or getattr(target.value, "id", None) != owner or owner is None:
        return False
    if cls is None or cls.is_module or any(isinstance(b, str) and b != "object" for b in cls.mro):
        return False
    return cls.find(target.attr) is None and cls.find("__setattr__") is None and "__slots__" not in cls.own


def kept(cls: ClassInfo | None, owner: str | None, stmts: Sequence[ast.stmt]) -> list[str]:
    """The attributes of the instance that these statements set, in order."""
    found = {
        part.attr: None
        for stmt in stmts if isinstance(stmt, ast.Assign)
        for target in stmt.targets for part in _parts(target)
        if isinstance(part, ast.Attribute) and keeps(cls, owner, part)
    }  # fmt: skip
    return list(found)


def seed(owner: str | None, stmt: ast.stmt) -> str:
    """The attribute of the instance that ``self.loss.backward()`` is called on; else empty."""
    func = getattr(getattr(stmt, "value", None), "func", None)
    loss = getattr(func, "value", None)
    own = isinstance(loss, ast.Attribute) and getattr(loss.value, "id", None) == owner and owner is not None
    return loss.attr if own and isinstance(loss, ast.Attribute) else ""


def trouble(
    tree: ast.Module, attribute: str, inside: Sequence[ast.stmt], is_read: Callable[[ast.AST], bool]
) -> str:
    """Why an attribute that the step sets cannot be a variable in it; empty if it can.

    Args:
        tree: of the file, all of which may look at the attribute.
        attribute: its name.
        inside: the statements of the step.
        is_read: whether only the values of what a node stands for are used.
    """
    within = {id(node) for stmt in inside for node in walk(stmt)}
    for stmt in inside:
        early = next(iter(_loads(walk(stmt), attribute)), None)
        if early is not None:
            return f"`{ast.unparse(early)}` is read in line {early.lineno} before the step sets it"
        if _sets(stmt, attribute):
            break
    for node in _loads(walk(tree), attribute):
        if id(node) not in within and not is_read(node):
            return f"`{attribute}` is used with its autograd graph in line {node.lineno}; detach it there"
    return ""


def _parts(target: ast.expr) -> list[ast.expr]:
    return target.elts if isinstance(target, ast.Tuple) else [target]


def _sets(stmt: ast.stmt, attribute: str) -> bool:
    targets = stmt.targets if isinstance(stmt, ast.Assign) else []
    return any(getattr(part, "attr", "") == attribute for t in targets for part in _parts(t))


def _loads(nodes: Iterable[ast.AST], attribute: str) -> Iterable[ast.Attribute]:
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Load):
            yield node
