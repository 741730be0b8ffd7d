"""Values read back only to meet tensors again (CG101): ``x / x.abs().max().item()`` needs no host.

A tensor without dimensions does not decide the dtype of a result any more than a Python number does, as long
as it meets tensors that have dimensions and are of its kind. Arithmetic between numbers happens in double
precision on the host, so it happens in double precision on the device. A number carries no gradient: what
stays is detached. Where Python raises (a division by zero) or decides, the value is left to the host.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from refactor.analysis import liveness
from refactor.analysis.model import Device, Facts, Kind
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal
from refactor.rewrite.ops import names_in, torch_function
from refactor.rewrite.packed import NotLifted
from refactor.rewrite.shapes import definition
from refactor.rewrite.syntax import (
    FunctionNode,
    ancestors,
    argument,
    dotted,
    enclosing_function,
    same_scope,
)
from refactor.rule import Hit

_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_METHODS = names_in("add sub mul div add_ sub_ mul_ div_ eq ne lt le gt ge")
_FLOAT_ONLY = names_in("norm mean std var softmax log_softmax vector_norm")
_KEEPS_DTYPE = names_in(
    """abs max min amax amin sum mean norm std var square neg clamp relu exp log sqrt detach flatten view
    reshape median prod"""
)


def propose_kept(facts: Facts, hit: Hit) -> Proposal | None:
    """``t.item()``, ``float(t)`` or ``int(t)`` whose value only meets tensors; None where it does more."""
    call = hit.event.node
    function = enclosing_function(facts, call)
    if not isinstance(call, ast.Call) or function is None:
        return None
    try:
        return _Kept(facts, function, call).proposal()
    except NotLifted:
        return None


@dataclass
class _Kept:
    """One value that stays on the device, followed through the names it is given."""

    facts: Facts
    function: FunctionNode
    call: ast.Call
    exact: bool = False  # it is computed with on the host, in double precision
    stored: bool = False  # it is used later than where it is read
    family: str = ""
    changes: list[Change] = field(default_factory=list)

    def proposal(self) -> Proposal:
        tensor = self.tensor()
        value = self.facts.value(tensor)
        if value.kind is not Kind.TENSOR or value.rank != 0 or value.device is not Device.DEVICE:
            raise NotLifted
        self.family = value.dtype or ""
        converted = getattr(self.call.func, "id", "")
        if self.family not in ("int", "float") and (self.family or converted):
            raise NotLifted
        if (converted == "float") != (self.family == "float") and converted:
            raise NotLifted
        self.source = tensor
        family = self.family
        self.follow(self.call)
        if self.exact:  # earlier uses were looked at as if it were not
            self.changes, self.family = [], family
            self.follow(self.call)
        suffix = ["detach"] if self.family != "int" else []
        if self.stored and not self.is_fresh(tensor):
            suffix.append("clone")
        if self.exact:
            suffix.append("double")
        method = not converted

        def build(node: cst.Call) -> cst.BaseExpression:
            made: Any = node.func.value if method else node.args[0].value  # type: ignore[attr-defined]
            if (
                suffix
                and not method
                and not isinstance(made, cst.Name | cst.Attribute | cst.Call | cst.Subscript)
            ):
                made = made.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            for name in suffix:
                made = cst.Call(cst.Attribute(made, cst.Name(name)))
            return made  # type: ignore[no-any-return]

        note = "the value stays on the device, detached; verify the last digit of what it is combined with"
        return Proposal((*self.changes, Change(self.call, build)), note)

    def tensor(self) -> ast.expr:
        """What is read back."""
        func = self.call.func
        if isinstance(func, ast.Attribute) and func.attr == "item" and not self.call.args:
            return func.value
        if isinstance(func, ast.Name) and func.id in ("float", "int") and len(self.call.args) == 1:
            return self.call.args[0]
        raise NotLifted

    def is_fresh(self, node: ast.expr) -> bool:
        """Whether nothing else shares the memory of a value."""
        if isinstance(node, ast.BinOp | ast.Compare | ast.UnaryOp):
            return True
        if not isinstance(node, ast.Call):
            return False
        name = torch_function(dotted(self.facts, node.func)) or getattr(node.func, "attr", "")
        return name in names_in("max min amax amin sum mean norm std var prod median abs square neg")

    # -- uses

    def follow(self, node: ast.expr) -> None:
        """Look at what happens to the value of a node; all of it must be possible on the device."""
        around = self.facts.parents.get(node)
        if isinstance(around, ast.BinOp):
            self.combined(around, node)
        elif isinstance(around, ast.UnaryOp) and isinstance(around.op, ast.USub):
            self.follow(around)
        elif isinstance(around, ast.Compare) and len(around.ops) == 1:
            other = around.comparators[0] if node is around.left else around.left
            if isinstance(around.ops[0], ast.Is | ast.IsNot | ast.In | ast.NotIn):
                raise NotLifted
            self.meets(other)
        elif isinstance(around, ast.Call):
            self.passed(around, node)
        elif isinstance(around, ast.Assign) and node is around.value:
            self.named(around)
        elif (
            isinstance(around, ast.AugAssign) and node is around.value and isinstance(around.op, _ARITHMETIC)
        ):
            self.meets(around.target)
        else:
            raise NotLifted

    def combined(self, operation: ast.BinOp, node: ast.expr) -> None:
        """Arithmetic with a tensor, or with a number as the host would do it."""
        other = operation.right if node is operation.left else operation.left
        if not isinstance(operation.op, _ARITHMETIC):
            raise NotLifted
        if self.facts.value(other).kind is Kind.TENSOR:
            self.meets(other)
            return
        number = self.number(other)
        if "" in (number, self.family) or (
            isinstance(operation.op, ast.Div) and not self.divides(operation, node, other)
        ):
            raise NotLifted
        if self.family == "float" or number == "float" or isinstance(operation.op, ast.Div):
            self.exact, self.family = True, "float"
        self.follow(operation)

    def divides(self, operation: ast.BinOp, node: ast.expr, other: ast.expr) -> bool:
        """Whether a division of numbers surely has a divisor other than zero: Python raises, a device not."""
        literal = isinstance(other, ast.Constant) and isinstance(other.value, int | float) and other.value
        return node is operation.left and bool(literal)

    def number(self, node: ast.expr) -> str:
        """The kind of a Python number, "" for anything else."""
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return type(node.value).__name__
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self.number(node.operand)
        value = self.facts.value(node)
        known = value.kind in (Kind.HOST, Kind.READBACK) and value.dtype in ("int", "float")
        return value.dtype or "" if known else ""

    def passed(self, call: ast.Call, node: ast.expr) -> None:
        """``x.mul(value)``, ``torch.add(x, value)``, ``max(value, 1e-6)``."""
        if call.keywords or node not in call.args:
            raise NotLifted
        func = call.func
        if isinstance(func, ast.Name) and func.id in ("max", "min") and dotted(self.facts, func) in (
            None, f"builtins.{func.id}",
        ):  # fmt: skip
            self.bounded(call, node, func.id)
            return
        name = torch_function(dotted(self.facts, func))
        if name is None and isinstance(func, ast.Attribute) and func.attr in _METHODS and len(call.args) == 1:
            self.meets(func.value)
        elif name in _METHODS and len(call.args) == 2 and call.args[1] is node:
            self.meets(call.args[0])
        else:
            raise NotLifted

    def bounded(self, call: ast.Call, node: ast.expr, name: str) -> None:
        """``max(value, 1e-6)``: Python keeps a NaN that comes first, and so does `clamp`."""
        bound = call.args[1] if len(call.args) == 2 and call.args[0] is node else None
        if (
            bound is None
            or self.family == ""
            or not isinstance(bound, ast.Constant)
            or self.number(bound) == ""
        ):
            raise NotLifted
        if self.family == "float" or self.number(bound) == "float":
            if self.family == "int":
                raise NotLifted  # the result may be of either type
            self.exact = True
        side = "min" if name == "max" else "max"

        def build(made: cst.Call) -> cst.BaseExpression:
            value: Any = made.args[0].value
            if not isinstance(value, cst.Name | cst.Attribute | cst.Call | cst.Subscript) and not value.lpar:
                value = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            limit = argument(made.args[1].value, side)
            return cst.Call(cst.Attribute(value, cst.Name("clamp")), [limit])

        self.changes.append(Change(call, build))
        self.follow(call)

    def named(self, stmt: ast.Assign) -> None:
        """``value = t.item()``: every use of the name that this reaches."""
        target = stmt.targets[0]
        if len(stmt.targets) != 1 or not isinstance(target, ast.Name):
            raise NotLifted
        self.stored = True
        if target.id in liveness.captured(self.function.body) | liveness.declared(self.function.body):
            raise NotLifted
        for use in same_scope(self.function):
            if not isinstance(use, ast.Name) or use.id != target.id or use is target:
                continue
            if isinstance(use.ctx, ast.Load):
                found = definition(self.facts, self.function, use)
                if found is stmt:
                    self.follow(use)
                elif not isinstance(found, ast.Assign):
                    raise NotLifted  # more than one value may reach it
            elif isinstance(self.facts.parents.get(use), ast.AugAssign):
                raise NotLifted

    # -- what it meets

    def meets(self, other: ast.expr) -> None:
        """Whether the result has the dtype that a Python number would leave it."""
        value = self.facts.value(other)
        if value.kind is not Kind.TENSOR or value.device is not Device.DEVICE:
            raise NotLifted
        if self.family == "int" and value.dtype == "float":
            return
        if not self.exact and self.made_of(other):
            return
        kind = self.family == "int" or (self.family == "float" and self.is_float(other))
        if not kind or not self.has_dimensions(other):
            raise NotLifted

    def made_of(self, other: ast.expr) -> bool:
        """Whether the value was made of this very tensor, so that it has its dtype."""
        if not isinstance(other, ast.Name):
            return False
        node = self.source
        while isinstance(node, ast.Call):
            name = torch_function(dotted(self.facts, node.func))
            if (name or getattr(node.func, "attr", "")) not in _KEEPS_DTYPE or node.keywords:
                return False
            if name is not None and len(node.args) == 1:
                node = node.args[0]
            elif name is None and isinstance(node.func, ast.Attribute) and not node.args:
                node = node.func.value
            else:
                return False
        same = isinstance(node, ast.Name) and node.id == other.id
        return same and definition(self.facts, self.function, other) == definition(
            self.facts,
            self.function,
            node,  # type: ignore[arg-type]
        )

    def is_float(self, other: ast.expr) -> bool:
        """Whether a tensor must be floating point for what else is asked of it here."""
        if self.facts.value(other).dtype == "float":
            return True
        if not isinstance(other, ast.Name):
            return False
        for call in same_scope(self.function):
            asked = call.func if isinstance(call, ast.Call) else None
            if not isinstance(asked, ast.Attribute) or asked.attr not in _FLOAT_ONLY:
                continue
            name = asked.value
            if isinstance(name, ast.Name) and name.id == other.id:
                places = [definition(self.facts, self.function, n) for n in (other, name)]
                return places[0] == places[1]
        return False

    def has_dimensions(self, other: ast.expr) -> bool:
        """Whether a tensor surely is not a single number itself."""
        rank = self.facts.value(other).rank
        if rank is not None:
            return rank > 0
        made: Any = other
        if isinstance(other, ast.Name):
            made = definition(self.facts, self.function, other)
            made = made.value if isinstance(made, ast.Assign) else None
            for use in same_scope(self.function):
                if isinstance(use, ast.Name) and use.id == other.id and self.needs_dimensions(use):
                    return True
        if isinstance(made, ast.Subscript):
            parts = made.slice.elts if isinstance(made.slice, ast.Tuple) else [made.slice]
            return any(isinstance(part, ast.Slice) for part in parts)
        if isinstance(made, ast.Call):
            return self.facts.value(made.func).kind is Kind.MODULE
        if isinstance(made, ast.BinOp):
            return self.has_dimensions(made.left) or self.has_dimensions(made.right)
        return False

    def needs_dimensions(self, use: ast.Name) -> bool:
        """``x.shape[0]``, ``x[…]``, ``self.fc(x)``: a tensor without dimensions would raise."""
        around = self.facts.parents.get(use)
        if isinstance(around, ast.Subscript) and around.value is use:
            return True
        if isinstance(around, ast.Call) and use in around.args:
            module = self.facts.value(around.func)
            return module.kind is Kind.MODULE and (module.qualname or "") in (
                "torch.nn:Linear",
                "torch.nn:Conv2d",
            )
        if isinstance(around, ast.Attribute) and around.attr in ("shape", "size"):
            return any(isinstance(n, ast.Subscript) for n in list(ancestors(self.facts, around))[:2])
        return False
