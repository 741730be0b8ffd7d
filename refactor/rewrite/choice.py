"""A branch with cheap, pure sides as a choice on the device: ``h = torch.where(h.mean() > 0, h * 2, h)``.

Both sides are computed then, so a side must have the shape and dtype of the variable whatever its values are.
Backward, the side that was not chosen gets a gradient of zero, and zero times an infinite or undefined
derivative is NaN: unless gradients are off around it, only operations are taken whose derivative is finite
for every input, which leaves out products and quotients of tensors, roots, logarithms, ``tanh`` of NaN.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from refactor.analysis import liveness
from refactor.analysis.model import Device, Facts, Kind
from refactor.rewrite.escape import Fate, fate
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal
from refactor.rewrite.names import reference
from refactor.rewrite.ops import names_in, torch_function
from refactor.rewrite.syntax import FunctionNode, ancestors, argument, dotted, enclosing_function, same_scope
from refactor.rewrite.training import in_training
from refactor.rewrite.work import effects

_TOTAL = names_in("any all isnan isinf isfinite abs mean sum norm")
"""Operations that give a value for every tensor of numbers."""
_KEEPS = names_in("relu clamp clip clamp_min clamp_max")
"""Same shape and dtype; the derivative is zero or one, for NaN as well."""
_KEEPS_VALUE = names_in("tanh sigmoid abs neg square exp nan_to_num erf sin cos")
"""The same where no gradient is asked for."""
_NO_GRADIENT = ("torch.no_grad", "torch.inference_mode")
_NOTE = "both sides are computed and one is taken on the device, without waiting; verify both sides"


@dataclass(frozen=True)
class _Choice:
    """A branch over one variable: what is asked, and what the variable becomes."""

    test: ast.expr
    name: str
    sides: tuple[ast.expr, ast.expr | None]  # None: it stays as it is
    turned: bool = False  # the test is negated
    guarded: bool = False  # conditions on the host come first


def propose_choice(facts: Facts, node: ast.AST) -> Proposal | None:
    """The branch at a node as a choice on the device; None where that is not known to be the same."""
    function = enclosing_function(facts, node)
    if not isinstance(function, ast.FunctionDef) or in_training(facts, node):
        return None
    if isinstance(node, ast.IfExp):
        choice = _Choice(node.test, _base(node.body) or _base(node.orelse), (node.body, node.orelse))
        if not _sound(facts, function, node, choice):
            return None
        return Proposal((Change(node, _expression),), _NOTE, imports=frozenset({"torch"}))
    if not isinstance(node, ast.If) or "#" in facts.source.snippet(node):
        return None
    found = _branch(facts, function, node)
    if found is None or not _sound(facts, function, node, found):
        return None
    return Proposal((Change(node, _statement(found)),), _NOTE, imports=frozenset({"torch"}))


@lru_cache(maxsize=4)
def _live_out(function: ast.FunctionDef) -> Mapping[ast.stmt, frozenset[str]]:
    """Asked for at every branch of a function."""
    return liveness.live_out(function)


def _branch(facts: Facts, function: ast.FunctionDef, node: ast.If) -> _Choice | None:
    """What an ``if`` over one variable chooses; conditions on the host may come first."""
    test, turned, guarded = node.test, False, False
    if isinstance(test, ast.BoolOp) and not _asks_one_bool(facts, test):
        hosts = test.values[:-1]
        if not isinstance(test.op, ast.And) or any(facts.value(v).kind is not Kind.HOST for v in hosts):
            return None
        if node.orelse:
            return None
        test, guarded = test.values[-1], True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, turned = test.operand, True
    *before, last = node.body
    if (
        not isinstance(last, ast.Assign)
        or len(last.targets) != 1
        or not isinstance(last.targets[0], ast.Name)
    ):
        return None
    name = last.targets[0].id
    other: ast.expr | None = None
    if node.orelse:
        second = node.orelse[0]
        if len(node.orelse) > 1 or not isinstance(second, ast.Assign) or len(second.targets) != 1:
            return None
        if not isinstance(second.targets[0], ast.Name) or second.targets[0].id != name or before:
            return None
        other = second.value
    after = _live_out(function).get(node, frozenset())
    for stmt in before:
        if not _prepares(facts, function, stmt) or set(liveness.writes([stmt])) & after:
            return None
    around = facts.parents.get(node)
    if isinstance(around, ast.If) and node in around.orelse:
        return None  # an ``elif``
    return _Choice(test, name, (last.value, other), turned, guarded)


def _prepares(facts: Facts, function: FunctionNode, stmt: ast.stmt) -> bool:
    """``limit = torch.finfo(h.dtype).max - 1000``: a number that can be had whatever the test says."""
    if not isinstance(stmt, ast.Assign) or not all(isinstance(t, ast.Name) for t in stmt.targets):
        return False
    calls = [n for n in (stmt.value, *same_scope(stmt.value)) if isinstance(n, ast.Call)]
    known = all(dotted(facts, call.func) == "torch.finfo" for call in calls)
    return known and facts.value(stmt.value).kind is Kind.HOST and effects(facts, function, stmt) == set()


# -- whether it is the same


def _sound(facts: Facts, function: ast.FunctionDef, node: ast.stmt | ast.expr, choice: _Choice) -> bool:
    if not choice.name or not _asks_one_bool(facts, choice.test) or not _bound(function, node, choice.name):
        return False
    free = _no_gradient(facts, function, node)
    reader = _Side(facts, choice.name, free)
    sides = [side for side in choice.sides if side is not None]
    if not all(reader.keeps(side) for side in sides):
        return False
    if all(_base(side) == choice.name and isinstance(side, ast.Name) for side in sides):
        return False
    loads = [n for side in sides for n in (side, *same_scope(side)) if _loads(n, choice.name)]
    values = [facts.value(load) for load in loads]  # type: ignore[arg-type]
    known = all(v.kind is Kind.TENSOR and v.dtype == "float" and v.device is not Device.HOST for v in values)
    stays = choice.sides[1] is None or any(isinstance(side, ast.Name) for side in sides)
    return bool(loads) and known and (not stays or _unshared(facts, function, node, choice.name))


def _asks_one_bool(facts: Facts, test: ast.expr) -> bool:
    """Whether a test is a boolean tensor without dimensions on the device."""
    value = facts.value(test)
    if isinstance(test, ast.BoolOp):
        return all(_asks_one_bool(facts, part) for part in test.values) and all(
            _never_fails(facts, part) for part in test.values[1:]
        )
    device = value.kind is Kind.TENSOR and value.device is not Device.HOST
    return device and value.dtype == "bool" and value.rank == 0 and not isinstance(test, ast.NamedExpr)


def _never_fails(facts: Facts, test: ast.expr) -> bool:
    """Whether a test can be asked although the one before has decided: no maximum of nothing, no call."""
    calls = [n for n in (test, *same_scope(test)) if isinstance(n, ast.Call)]
    return all(_operation(facts, call) in _TOTAL for call in calls)


def _operation(facts: Facts, call: ast.Call) -> str:
    name = torch_function(dotted(facts, call.func))
    if name is None and isinstance(call.func, ast.Attribute):
        name = call.func.attr
    return name or ""


def _without_dimensions(facts: Facts, node: ast.expr) -> bool:
    """Whether a value is a tensor without dimensions."""
    value = facts.value(node)
    return value.kind is Kind.TENSOR and value.rank == 0


@dataclass(frozen=True)
class _Side:
    """Reads a side: whether it has shape and dtype of a floating-point variable, and a tame derivative."""

    facts: Facts
    name: str
    free: bool  # of gradients

    def keeps(self, node: ast.expr) -> bool:
        """Whether a side is the variable, or made of it by operations that keep shape and dtype."""
        if isinstance(node, ast.Name):
            return node.id == self.name
        if isinstance(node, ast.UnaryOp):
            return isinstance(node.op, ast.USub) and self.keeps(node.operand)
        if isinstance(node, ast.BinOp):
            return self.combined(node)
        if not isinstance(node, ast.Call):
            return False
        name = torch_function(dotted(self.facts, node.func))
        arguments = [*node.args, *(word.value for word in node.keywords)]
        if name is not None and node.args:
            operand, *rest = arguments
        elif isinstance(node.func, ast.Attribute):
            name, operand, rest = node.func.attr, node.func.value, arguments
        else:
            return False
        if any(word.arg not in ("min", "max") for word in node.keywords):
            return False
        known = name in _KEEPS or (self.free and name in _KEEPS_VALUE and not rest)
        return known and self.keeps(operand) and all(self.is_number(item) for item in rest)

    def combined(self, node: ast.BinOp) -> bool:
        """Arithmetic with a number, or where no gradient is asked for with a tensor without dimensions."""
        if not isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            return False
        first, other = (node.left, node.right) if self.keeps(node.left) else (node.right, node.left)
        if not self.keeps(first):
            return False
        if isinstance(node.op, ast.Div) and first is not node.left:
            return False
        if isinstance(node.op, ast.Add | ast.Sub):
            return self.is_number(other) or self.is_scalar(other)
        literal = _number(other) and ast.literal_eval(other) != 0
        return literal or (self.free and (self.is_number(other) or self.is_scalar(other)))

    def is_number(self, node: ast.expr) -> bool:
        """A number of the host; a tensor read back is none."""
        value = self.facts.value(node)
        fixed = value.kind is Kind.HOST and value.dtype in (None, "int", "float")
        unary = isinstance(node, ast.UnaryOp) and self.is_number(node.operand)
        return _number(node) or fixed or unary

    def is_scalar(self, node: ast.expr) -> bool:
        """A tensor without dimensions made of the variable itself, so of the same dtype."""
        tensors = {
            n.id
            for n in (node, *same_scope(node))
            if isinstance(n, ast.Name) and self.facts.value(n).kind is Kind.TENSOR
        }
        return self.free and tensors == {self.name} and _without_dimensions(self.facts, node)


def _number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _number(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _base(node: ast.expr) -> str:
    """The variable at the bottom of a side."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.BinOp):
            node = node.right if _number(node.left) else node.left
        elif isinstance(node, ast.UnaryOp):
            node = node.operand
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            root = node.func.value
            inside = node.args[0] if node.args and isinstance(root, ast.Name) else root
            node = inside if isinstance(root, ast.Name) and root.id in ("torch", "F") else root
        else:
            return ""
    return node.id


def _bound(function: ast.FunctionDef, node: ast.AST, name: str) -> bool:
    """Whether a variable has a value whichever way control came: an argument, or assigned at the top."""
    arguments = function.args
    if name in {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}:
        return True
    line: int = node.lineno  # type: ignore[attr-defined]
    earlier = [stmt for stmt in function.body if (stmt.end_lineno or stmt.lineno) < line]
    return name in liveness.surely_writes(earlier)


def _no_gradient(facts: Facts, function: ast.FunctionDef, node: ast.AST) -> bool:
    """Whether the code itself keeps gradients off there."""
    contexts = list(function.decorator_list)
    for around in ancestors(facts, node):
        if around is function:
            break
        if isinstance(around, ast.With):
            contexts += [item.context_expr for item in around.items]
    return any(dotted(facts, c.func if isinstance(c, ast.Call) else c) in _NO_GRADIENT for c in contexts)


def _unshared(facts: Facts, function: ast.FunctionDef, node: ast.AST, name: str) -> bool:
    """Whether nobody can tell a copy of the variable from the variable itself.

    Either it was made here and nothing else holds it, or afterwards it is only read by operations.
    """
    line: int = node.lineno  # type: ignore[attr-defined]
    inside = {id(n) for n in ast.walk(node)}
    uses = [n for n in same_scope(function) if _loads(n, name) and id(n) not in inside]
    before = [n for n in uses if n.lineno < line]  # type: ignore[attr-defined]
    after = [n for n in uses if n.lineno >= line]  # type: ignore[attr-defined]
    if any(isinstance(around, ast.For | ast.While) for around in ancestors(facts, node)):
        before, after = uses, uses
    if any(
        name in liveness.free_names(n)
        for n in same_scope(function)
        if isinstance(n, ast.Lambda | ast.FunctionDef)
    ):
        return False
    writes = any(_writes_into(n, name) for n in same_scope(function))
    if not writes and all(_consumed(facts, use) for use in after):
        return all(fate(facts, use) is not Fate.WRITTEN for use in before if isinstance(use, ast.expr))
    return _fresh(facts, function, name, line) and all(_consumed(facts, use) for use in before)


def _writes_into(node: ast.AST, name: str) -> bool:
    """``h += 1``, ``h[0] = 1``."""
    target = node.target if isinstance(node, ast.AugAssign) else node
    if isinstance(target, ast.Subscript) and not isinstance(target.ctx, ast.Load):
        target = target.value
    elif not isinstance(node, ast.AugAssign):
        return False
    return isinstance(target, ast.Name) and target.id == name


def _consumed(facts: Facts, use: Any) -> bool:
    """Whether a use only reads the variable; modules that may hand it through do more."""
    around = facts.parents.get(use)
    if isinstance(around, ast.Call) and use in around.args:
        module = facts.value(around.func)
        if module.kind is Kind.MODULE:
            last = (module.qualname or "").rpartition(":")[2]
            return not last.startswith(("Identity", "Drop", "Flatten")) and module.qualname is not None
    return fate(facts, use) is Fate.CONSUMED


def _fresh(facts: Facts, function: ast.FunctionDef, name: str, line: int) -> bool:
    """Whether every value that the variable had before a line was made for it."""
    arguments = function.args
    if name in {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}:
        return False
    for stmt in same_scope(function):
        if not isinstance(stmt, ast.stmt) or stmt.lineno >= line or name not in _stored(stmt):
            continue
        if (
            not isinstance(stmt, ast.Assign)
            or len(stmt.targets) > 1
            or not isinstance(stmt.targets[0], ast.Name)
        ):
            return False
        value = stmt.value
        module = facts.value(value.func) if isinstance(value, ast.Call) else None
        handed = module is not None and (module.qualname or "").rpartition(":")[2].startswith(
            ("Identity", "Drop")
        )
        made = module is not None and module.kind is Kind.MODULE and not handed
        if not made and not isinstance(value, ast.BinOp):
            return False
    return True


def _stored(stmt: ast.stmt) -> Iterator[str]:
    if isinstance(stmt, ast.Assign):
        for target in stmt.targets:
            yield from liveness.target_names(target)
    elif not isinstance(stmt, ast.If | ast.With | ast.Try | ast.Match | ast.While):
        yield from liveness.writes([stmt])


def _loads(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)


# -- writing it down


def _where(test: cst.BaseExpression, sides: Sequence[cst.BaseExpression]) -> cst.Call:
    spaced = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    items = [argument(_bare(node)) for node in (test, *sides)]
    items = [item.with_changes(comma=spaced) for item in items[:-1]] + items[-1:]
    return cst.Call(cst.Attribute(reference("torch"), cst.Name("where")), items)


def _bare(node: Any) -> Any:
    return node.with_changes(lpar=(), rpar=()) if getattr(node, "lpar", ()) else node


def _expression(node: cst.IfExp) -> cst.BaseExpression:
    return _where(_joined(node.test), [node.body, node.orelse])


def _joined(test: Any) -> Any:
    """``a or b`` as ``a | b``: on the device, and both are computed."""
    if not isinstance(test, cst.BooleanOperation):
        return test
    operator = cst.BitOr() if isinstance(test.operator, cst.Or) else cst.BitAnd()
    sides = [_joined(side) for side in (test.left, test.right)]
    left, right = (_enclosed(side) if isinstance(side, cst.Comparison) else side for side in sides)
    return cst.BinaryOperation(left, operator, right, lpar=test.lpar, rpar=test.rpar)


def _enclosed(node: Any) -> Any:
    return node if node.lpar else node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def _statement(choice: _Choice) -> Any:
    def build(node: cst.If) -> Any:
        test, hosts = node.test, None
        if choice.guarded:
            assert isinstance(test, cst.BooleanOperation)
            hosts, test = test.left, test.right
        if choice.turned:
            assert isinstance(test, cst.UnaryOperation)
            test = test.expression
        *before, last = _lines(node.body)
        taken: Any = last.body[0]
        other = _lines(node.orelse.body)[0].body[0].value if isinstance(node.orelse, cst.Else) else None
        sides = [taken.value, other if other is not None else cst.Name(choice.name)]
        if choice.turned:
            sides.reverse()
        line = last.with_changes(body=[taken.with_changes(value=_where(_joined(test), sides))])
        if hosts is not None:
            body = cst.IndentedBlock([*before, line])
            return node.with_changes(test=hosts, body=body)
        lines = [*before, line]
        lines[0] = lines[0].with_changes(leading_lines=node.leading_lines)
        return cst.FlattenSentinel(lines)

    return build


def _lines(suite: Any) -> list[Any]:
    if isinstance(suite, cst.SimpleStatementSuite):
        return [cst.SimpleStatementLine(suite.body)]
    return list(suite.body)
