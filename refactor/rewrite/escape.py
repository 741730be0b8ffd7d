"""Where the memory of a tensor can go from the expression that made it: escapes and aliases in a function.

The walk follows the value through views and names. Whatever it does not know counts as an escape.
"""

from __future__ import annotations

import ast
from enum import IntEnum
from functools import lru_cache

from refactor.analysis.model import Facts, Kind
from refactor.analysis.trees import walk
from refactor.rewrite.ops import FRESH, METADATA, VIEW_ATTRIBUTES, VIEWS, torch_function
from refactor.rewrite.syntax import SCOPES, ancestors, dotted, enclosing_function, keyword


class Fate(IntEnum):
    """What happens to the memory at worst, mildest first."""

    CONSUMED = 0  # only read by operations with fresh results, inside the function
    ESCAPES = 1  # may be kept, returned or passed to unknown code
    WRITTEN = 2  # changed in place, or passed on as ``out=``


def fate(facts: Facts, node: ast.expr) -> Fate:
    """The worst that happens to the memory of the value of ``node``."""
    return _Walk(facts).value(node)


def aliases(facts: Facts, node: ast.expr) -> frozenset[str]:
    """Names of the function that may share memory with the value of ``node``."""
    walked = _Walk(facts)
    walked.value(node)
    return frozenset(name for _, name in walked.names)


_Name = tuple[ast.AST | None, str]


@lru_cache(maxsize=2)
def _followed(facts: Facts) -> dict[_Name, tuple[Fate, frozenset[_Name]]]:
    """What was found out of names so far, and the names that share their memory: filled by the walks."""
    return {}


@lru_cache(maxsize=32)
def _uses(function: ast.AST) -> dict[str, list[ast.Name | ast.Global | ast.Nonlocal]]:
    """Uses and outer declarations of each name below a function, breadth first."""
    found: dict[str, list[ast.Name | ast.Global | ast.Nonlocal]] = {}
    for node in walk(function):
        if isinstance(node, ast.Name):
            found.setdefault(node.id, []).append(node)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            for name in node.names:
                found.setdefault(name, []).append(node)
    return found


def _writes_only_itself(method: str) -> bool:
    return method.endswith("_") and not method.endswith("__") and method not in ("set_", "swap_")


class _Walk:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.names: set[tuple[ast.AST | None, str]] = set()

    def value(self, node: ast.expr) -> Fate:
        """The worst fate of a value, decided by the node around it."""
        parent = self.facts.parents.get(node)
        if isinstance(parent, ast.BinOp | ast.UnaryOp | ast.Compare | ast.FormattedValue | ast.Slice):
            return Fate.CONSUMED
        if isinstance(parent, ast.Call):
            return self.called(parent, node)
        if isinstance(parent, ast.keyword):
            return self.passed_by_name(parent)
        if isinstance(parent, ast.Attribute):
            return self.attribute(parent)
        if isinstance(parent, ast.Subscript):
            return self.subscript(parent, node)
        if isinstance(parent, ast.Tuple):
            grand = self.facts.parents.get(parent)
            index = isinstance(grand, ast.Subscript) and grand.slice is parent
            return Fate.CONSUMED if index else Fate.ESCAPES
        if isinstance(parent, ast.List):
            return self.listed(parent)
        if isinstance(parent, ast.IfExp):
            return Fate.CONSUMED if node is parent.test else self.value(parent)
        if isinstance(parent, ast.NamedExpr):
            return max(self.value(parent), self.loads(parent, parent.target.id))
        return self.statement(parent, node)

    def statement(self, parent: ast.AST | None, node: ast.expr) -> Fate:
        if isinstance(parent, ast.Assign):
            return max(self.bound(target, node) for target in parent.targets)
        if isinstance(parent, ast.AnnAssign):
            return self.bound(parent.target, node)
        if isinstance(parent, ast.AugAssign):
            return Fate.CONSUMED if node is parent.value else Fate.WRITTEN
        if isinstance(parent, ast.For) and node is parent.iter:
            return self.bound(parent.target, node)
        consumed = isinstance(parent, ast.Expr | ast.If | ast.While | ast.Assert)
        return Fate.CONSUMED if consumed else Fate.ESCAPES

    def bound(self, target: ast.expr, node: ast.expr) -> Fate:
        if isinstance(target, ast.Name):
            return self.loads(node, target.id)
        if isinstance(target, ast.Tuple | ast.List):
            return max((self.bound(element, node) for element in target.elts), default=Fate.CONSUMED)
        if isinstance(target, ast.Subscript) and self.facts.value(target.value).kind is Kind.TENSOR:
            return Fate.CONSUMED  # copied into the tensor
        return Fate.ESCAPES

    def loads(self, node: ast.AST, name: str) -> Fate:
        """The worst of all uses of a local name, whichever assignment reaches them."""
        function = enclosing_function(self.facts, node)
        if self.names:
            return self.followed(function, name)
        known = _followed(self.facts)
        if (function, name) not in known:
            worst = self.followed(function, name)
            known[function, name] = worst, frozenset(self.names)
        worst, names = known[function, name]
        self.names |= names
        return worst

    def followed(self, function: ast.AST | None, name: str) -> Fate:
        if (function, name) in self.names:
            return Fate.CONSUMED
        self.names.add((function, name))
        if function is None:
            return Fate.ESCAPES
        worst = Fate.CONSUMED
        for use in _uses(function).get(name, ()):
            if isinstance(use, ast.Global | ast.Nonlocal):
                return Fate.ESCAPES
            if self.captured(use, function):
                worst = max(worst, Fate.ESCAPES)
            elif isinstance(use.ctx, ast.Load):
                worst = max(worst, self.value(use))
            elif isinstance(self.facts.parents.get(use), ast.AugAssign):
                worst = Fate.WRITTEN
        return worst

    def captured(self, use: ast.AST, function: ast.AST) -> bool:
        """Whether the use belongs to a nested function or a generator that may run later."""
        for around in ancestors(self.facts, use):
            if around is function:
                return False
            if isinstance(around, (*SCOPES, ast.GeneratorExp)):
                return True
        return True

    def called(self, call: ast.Call, node: ast.expr) -> Fate:
        name = torch_function(dotted(self.facts, call.func))
        if keyword(call, "inplace") is not None:
            return Fate.WRITTEN
        if name in FRESH:
            return Fate.CONSUMED
        if name in VIEWS:
            return self.value(call)
        builtin = isinstance(call.func, ast.Name) and call.func.id in ("len", "float", "int", "bool", "print")
        if builtin or self.is_tensor_method(call):
            method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            consumed = builtin or method in FRESH or method in VIEWS or _writes_only_itself(method)
            return Fate.CONSUMED if consumed else Fate.ESCAPES
        return Fate.ESCAPES

    def is_tensor_method(self, call: ast.Call) -> bool:
        return isinstance(call.func, ast.Attribute) and self.facts.value(call.func.value).kind is Kind.TENSOR

    def passed_by_name(self, node: ast.keyword) -> Fate:
        call = self.facts.parents.get(node)
        if node.arg == "out":
            return Fate.WRITTEN
        return self.called(call, node.value) if isinstance(call, ast.Call) else Fate.ESCAPES

    def attribute(self, node: ast.Attribute) -> Fate:
        """``value.attr``: metadata, a view, or a method."""
        parent = self.facts.parents.get(node)
        if isinstance(parent, ast.Call) and parent.func is node:
            if node.attr in FRESH:
                return Fate.CONSUMED
            if node.attr in VIEWS:
                return self.value(parent)
            return Fate.WRITTEN if node.attr.endswith("_") and not node.attr.endswith("__") else Fate.ESCAPES
        if not isinstance(node.ctx, ast.Load):
            return Fate.WRITTEN
        if node.attr in METADATA:
            return Fate.CONSUMED
        return self.value(node) if node.attr in VIEW_ATTRIBUTES else Fate.ESCAPES

    def subscript(self, node: ast.Subscript, part: ast.expr) -> Fate:
        if part is node.slice:
            return Fate.CONSUMED
        if not isinstance(node.ctx, ast.Load):
            return Fate.WRITTEN
        return self.value(node)

    def listed(self, node: ast.List) -> Fate:
        """A list is harmless where an operation with a fresh result takes it: ``torch.cat([a, b])``."""
        parent = self.facts.parents.get(node)
        if isinstance(parent, ast.Call):
            fresh = torch_function(dotted(self.facts, parent.func)) in FRESH
            return Fate.CONSUMED if fresh else Fate.ESCAPES
        return Fate.ESCAPES
