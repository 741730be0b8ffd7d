"""A choice on the device written down: the lines that stand for a branch."""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal
from refactor.rewrite.names import fresh, placeholder, reference, used_names
from refactor.rewrite.naming import predicate_name
from refactor.rewrite.syntax import argument, expression

NOTE = "both sides are computed and one is taken on the device, without waiting; verify both sides"


@dataclass(frozen=True, eq=False)
class Part:
    """One variable, and what it becomes."""

    name: str  # empty: it is returned
    sides: tuple[ast.expr, ast.expr | None]  # None: it stays as it is


@dataclass(frozen=True, eq=False)
class Choice:
    """A branch: what is asked, and what becomes of its variables."""

    test: ast.expr
    parts: tuple[Part, ...]
    turned: bool = False  # the test is negated
    guarded: bool = False  # conditions on the host come first
    last: ast.Return | None = None  # the statement behind a branch that returns


@dataclass(frozen=True, eq=False)
class Instead:
    """A name, the variable, and what the name stands for, if that is to be computed anew."""

    node: ast.Name
    base: str
    made: ast.expr | None


@dataclass
class Wrapped:
    """Expressions that get a value of no consequence where they are not chosen; by the side they are on."""

    body: list[Instead] = field(default_factory=list)
    orelse: list[Instead] = field(default_factory=list)
    factors: dict[int, list[ast.expr]] = field(default_factory=dict)  # of the parts that are only multiplied


def conditional(node: ast.IfExp) -> Proposal:
    """A conditional expression whose sides need nothing but to be computed."""
    return Proposal((Change(node, _expression),), NOTE, imports=frozenset({"torch"}))


def written(function: ast.FunctionDef, node: ast.If, choice: Choice, wrapped: Wrapped) -> Proposal:
    """A branch: the test by name if it is asked more than once, then a line for each variable."""
    times = len(choice.parts) + len(wrapped.body) + len(wrapped.orelse)
    name = ""
    if times > 1 or wrapped.factors:
        name = fresh(predicate_name(choice.test), used_names(function))
    changes = [Change(one.node, _anew(name, not choice.turned, one)) for one in wrapped.body]
    changes += [Change(one.node, _anew(name, choice.turned, one)) for one in wrapped.orelse]
    for group in wrapped.factors.values():
        changes += [Change(factor, _instead(name, not choice.turned)) for factor in group]
    changes.append(Change(node, _statement(choice, wrapped, name)))
    if choice.last is not None:
        changes.append(Change(choice.last, lambda node: cst.RemoveFromParent(), line=True))
    return Proposal(tuple(changes), NOTE, imports=frozenset({"torch"}))


def _where(test: cst.BaseExpression, sides: Sequence[cst.BaseExpression]) -> cst.Call:
    spaced = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    items = [argument(_bare(node)) for node in (test, *sides)]
    items = [item.with_changes(comma=spaced) for item in items[:-1]] + items[-1:]
    return cst.Call(cst.Attribute(reference("torch"), cst.Name("where")), items)


def _instead(name: str, chosen: bool) -> Any:
    """The expression where it is chosen, and one where it is not: ``torch.where(is_above, norm, 1.0)``."""

    def build(node: Any) -> cst.Call:
        sides = [node, cst.Float("1.0")]
        return _where(cst.Name(name), sides if chosen else sides[::-1])

    return build


def _anew(name: str, chosen: bool, one: Instead) -> Any:
    """``torch.where(is_above, h, 1.0).norm()`` for what was ``h.norm()`` before the branch."""
    if one.made is None:
        return _instead(name, chosen)
    sides = (one.base, "1.0") if chosen else ("1.0", one.base)
    text = f"{placeholder('torch')}.where({name}, {', '.join(sides)})"

    class Renamed(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return ast.Name(text, node.ctx) if node.id == one.base else node

    made = Renamed().visit(copy.deepcopy(one.made))
    written = ast.unparse(made)
    closed = isinstance(made, ast.Call)
    return lambda node: expression(written if closed else f"({written})")


def _bare(node: Any) -> Any:
    return node.with_changes(lpar=(), rpar=()) if getattr(node, "lpar", ()) else node


def _expression(node: cst.IfExp) -> cst.BaseExpression:
    return _where(_joined(node.test), [node.body, node.orelse])


def _joined(test: Any) -> Any:
    """``a or b`` as ``a | b``: on the device, and both are computed; ``t.item()`` as ``t``."""
    if isinstance(test, cst.Comparison) and isinstance(test.left, cst.Call):
        func = test.left.func
        if isinstance(func, cst.Attribute) and func.attr.value == "item" and not test.left.args:
            return test.with_changes(left=func.value)
        return test
    if not isinstance(test, cst.BooleanOperation):
        return test
    operator = cst.BitOr() if isinstance(test.operator, cst.Or) else cst.BitAnd()
    sides = [_joined(side) for side in (test.left, test.right)]
    left, right = (_enclosed(side) if isinstance(side, cst.Comparison) else side for side in sides)
    return cst.BinaryOperation(left, operator, right, lpar=test.lpar, rpar=test.rpar)


def _enclosed(node: Any) -> Any:
    return node if node.lpar else node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def _statement(choice: Choice, wrapped: Wrapped, name: str) -> Any:
    def build(node: cst.If) -> Any:
        from refactor.rewrite.continued import as_one

        test, hosts = node.test, None
        if choice.guarded:
            assert isinstance(test, cst.BooleanOperation)
            hosts, test = test.left, test.right
        if choice.turned:
            assert isinstance(test, cst.UnaryOperation)
            test = test.expression
        lines = _lines(node.body)
        before, taken = lines[: -len(choice.parts)], lines[-len(choice.parts) :]
        others = _lines(node.orelse.body) if isinstance(node.orelse, cst.Else) else [None] * len(taken)
        asked = _bare(_joined(test))
        if name:
            target = cst.AssignTarget(cst.Name(name))
            before = [*before, cst.SimpleStatementLine([cst.Assign([target], asked)])]
            asked = cst.Name(name)
        for i, (line, other) in enumerate(zip(taken, others, strict=True)):
            before.append(_chosen(choice, i, line, other, asked, i in wrapped.factors))
        if hosts is not None:
            return node.with_changes(test=hosts, body=cst.IndentedBlock(before))
        before[0] = before[0].with_changes(leading_lines=node.leading_lines)
        return cst.FlattenSentinel(as_one(before))

    return build


def _chosen(choice: Choice, i: int, line: Any, other: Any, asked: cst.BaseExpression, scaled: bool) -> Any:
    """The line that assigns or returns what is chosen."""
    part, small = choice.parts[i], line.body[0]
    if isinstance(small, cst.AugAssign):
        operator = getattr(cst, _PLAIN[type(small.operator).__name__])()
        right = small.value
        if getattr(right, "lpar", ()) == () and isinstance(right, cst.BinaryOperation):
            right = _enclosed(right)
        value: Any = cst.BinaryOperation(small.target, operator, right)
    else:
        value = small.value
    if not scaled:
        stays: Any = None
        if choice.last is not None:
            stays = cst.parse_expression(ast.unparse(part.sides[1]))  # type: ignore[arg-type]
        elif other is not None:
            stays = other.body[0].value
        sides = [value, stays or cst.Name(part.name)]
        value = _where(asked, sides[::-1] if choice.turned else sides)
    if isinstance(small, cst.Return):
        return line.with_changes(body=[small.with_changes(value=value)])
    return line.with_changes(body=[cst.Assign([cst.AssignTarget(cst.Name(part.name))], value)])


_PLAIN = {
    "AddAssign": "Add",
    "SubtractAssign": "Subtract",
    "MultiplyAssign": "Multiply",
    "DivideAssign": "Divide",
}


def _lines(suite: Any) -> list[Any]:
    if isinstance(suite, cst.SimpleStatementSuite):
        return [cst.SimpleStatementLine(suite.body)]
    return list(suite.body)
