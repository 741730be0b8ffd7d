"""Which parts of a statement that stays on the host can be computed in the segment before it.

``if h.mean() > 0``, ``return Output(hidden=self.head(h))``, ``norm = h.norm().item()``: the tensors are made
by the device and need no host. A part may move only if it is evaluated whenever the statement is, before
anything in the statement has an effect, asks the host nothing itself and changes nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from refactor.analysis.model import Device, Facts, Kind
from refactor.analysis.trees import children
from refactor.rewrite.launches import work
from refactor.rewrite.syntax import FunctionNode, same_scope
from refactor.rewrite.training import in_training
from refactor.rewrite.work import effects

_VALUED = (ast.Return, ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign)
_ASKING = frozenset({"max", "min", "any", "all", "sorted", "bool", "int", "float"})


def parts_of(
    facts: Facts,
    function: FunctionNode,
    stmt: ast.stmt,
    barred: Collection[ast.AST],
    free: Collection[ast.AST],
) -> list[ast.expr]:
    """The largest parts of a statement that a segment before it can compute, in order of evaluation.

    Args:
        facts: of the file.
        function: around the statement.
        stmt: a statement that stays on the host.
        barred: nodes that no segment may hold.
        free: nodes that other rewrites take care of.
    """
    finder = _Finder(facts, function, barred, free)
    for root in _roots(stmt):
        finder.visit(root)
    return finder.found


def _roots(stmt: ast.stmt) -> Iterator[ast.expr]:
    if isinstance(stmt, ast.If | ast.While | ast.Assert):
        yield stmt.test
    elif isinstance(stmt, ast.For):
        yield stmt.iter
    elif isinstance(stmt, ast.Match):
        yield stmt.subject
    elif isinstance(stmt, _VALUED) and stmt.value is not None:
        yield stmt.value


@dataclass
class _Finder:
    facts: Facts
    function: FunctionNode
    barred: Collection[ast.AST]
    free: Collection[ast.AST]
    found: list[ast.expr] = field(default_factory=list)
    bound: set[str] = field(default_factory=set)  # by ``:=`` in the statement itself
    spoiled: bool = False  # something before had an effect

    def visit(self, node: ast.expr) -> None:
        """Visit in order of evaluation what is evaluated whatever happens."""
        if self.spoiled or isinstance(node, ast.Name | ast.Constant | ast.Lambda):
            return
        if self.movable(node):
            self.found.append(node)
            return
        if isinstance(node, ast.BoolOp):
            self.some(node.values[:1], node.values[1:])
        elif isinstance(node, ast.IfExp):
            self.some([node.test], [node.body, node.orelse])
        elif isinstance(node, ast.Compare):
            self.some([node.left, node.comparators[0]], node.comparators[1:])
        elif isinstance(node, ast.NamedExpr):
            self.visit(node.value)
            self.bound.add(node.target.id)
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            self.some([node.generators[0].iter], [node])
        elif isinstance(node, ast.Call):
            receiver = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            for child in (receiver, *node.args, *(word.value for word in node.keywords)):
                self.visit(child)
            self.spoiled = self.spoiled or not self.harmless(node)
        elif isinstance(node, ast.Await | ast.Yield | ast.YieldFrom):
            self.spoiled = True
        else:
            for child in children(node):
                if isinstance(child, ast.expr):
                    self.visit(child)

    def some(self, always: list[ast.expr], perhaps: list[ast.expr]) -> None:
        """Visit what is always evaluated; what may be evaluated behind it must have no effect to go on."""
        for node in always:
            self.visit(node)
        self.spoiled = self.spoiled or not all(self.harmless(node) for node in perhaps)

    def harmless(self, node: ast.expr) -> bool:
        """Whether evaluating a node changes nothing that later parts could see."""
        return effects(self.facts, self.function, node) == set()

    def movable(self, node: ast.expr) -> bool:
        """Whether a segment can compute a node: device work with a tensor as its result."""
        value = self.facts.value(node)
        if value.kind is not Kind.TENSOR or value.device is Device.HOST or isinstance(node, ast.Attribute):
            return False
        if in_training(self.facts, node) or self.harmless(node) is False:
            return False
        if any(inner in self.barred or asks_host(self.facts, inner) for inner in (node, *same_scope(node))):
            return False
        if any(isinstance(n, ast.Name) and n.id in self.bound for n in same_scope(node)):
            return False
        return work(self.facts, self.function, [node], self.free) > 0


def asks_host(facts: Facts, node: ast.AST) -> bool:
    """Whether evaluating a node itself, its operands apart, may read a tensor back.

    Events tell this for statements; within the header of a branch they belong to the branch.
    """
    if isinstance(node, ast.BoolOp):
        return any(facts.value(operand).kind is not Kind.HOST for operand in node.values[:-1])
    if isinstance(node, ast.IfExp):
        return facts.value(node.test).kind is not Kind.HOST
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return facts.value(node.operand).kind is not Kind.HOST
    if isinstance(node, ast.Compare):
        if len(node.ops) == 1 and not isinstance(node.ops[0], ast.In | ast.NotIn):
            return False
        sides = [node.left, *node.comparators]
        return any(facts.value(side).kind is not Kind.HOST for side in sides)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ASKING:
        return any(facts.value(argument).kind is not Kind.HOST for argument in node.args)
    return isinstance(node, ast.expr) and facts.value(node).kind is Kind.READBACK
