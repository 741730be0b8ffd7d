"""What a side of a branch does to a variable: whether it keeps shape and dtype, and how gradients pass it.

Both sides of a choice on the device are computed, so a side may only hold operations that never fail where
the branch would not have run them. Backward, the side that was not chosen gets a gradient of zero, and zero
times an infinite or undefined derivative is NaN. So what such an operation reads is replaced, where the side
is not chosen, by ones: `torch.where` gives exactly no gradient to what it did not choose.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import Enum

from refactor.analysis.model import Device, Facts, Kind, Value
from refactor.rewrite.ops import UNARY_FLOAT, UNARY_SAME, names_in, torch_function
from refactor.rewrite.syntax import FunctionNode, ancestors, dotted, enclosing_statement, same_scope

_TAME = names_in("relu relu6 clamp clip clamp_min clamp_max nan_to_num neg negative")
"""Same shape and dtype; the derivative is zero or one (or minus one), for NaN as well."""
_KEEPS = UNARY_FLOAT | UNARY_SAME | names_in("gelu silu selu softplus mish frac sgn")
"""Same shape and dtype, and no error for any value."""
_FILLED = names_in("zeros_like ones_like")
_ALONG = names_in("softmax log_softmax normalize")
_REDUCES = names_in("mean sum norm std var vector_norm")
"""One value of everything, or of each row, whatever the size."""
_LINEAR = names_in("mean sum")
_EXTREMES = names_in("max min amax amin")
"""The same, which fails where there is nothing."""
_ASKS = names_in("isnan isinf isfinite")
_LIMITS = ("min", "max", "nan", "posinf", "neginf")
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)


class Form(Enum):
    """How the value of an expression relates to a floating-point variable."""

    LIKE = "like"  # its shape and dtype
    ROW = "row"  # its dtype; broadcasts to its shape
    POINT = "point"  # its dtype, without dimensions
    NUMBER = "number"  # a number of the host
    MASK = "mask"  # its shape, boolean


class Side:
    """Reads one side of a branch over ``name``.

    Each name in `wrapped` needs a value where the side is not chosen: by itself, or, where what it stands
    for has a derivative that may be none, as that expression of the variable.
    """

    def __init__(
        self, facts: Facts, function: FunctionNode, node: ast.AST, test: ast.expr, name: str, free: bool
    ) -> None:
        self.facts, self.function, self.node, self.test, self.name = facts, function, node, test, name
        self.free = free  # of gradients
        self.wrapped: list[tuple[ast.Name, ast.expr | None]] = []
        self.connected = (
            False  # whether gradients reach the variable: else it would get none, instead of zeros
        )

    def form(self, node: ast.expr, shielded: bool = False) -> Form | None:
        """The form of an expression; ``shielded``: under an operation with a derivative that may be none."""
        if isinstance(node, ast.Constant | ast.Attribute):
            return Form.NUMBER if self.is_number(node) else None
        if isinstance(node, ast.Name):
            return self.variable(node, shielded)
        if isinstance(node, ast.UnaryOp):
            inner = self.form(node.operand, shielded)
            inverted = isinstance(node.op, ast.Invert) and inner is Form.MASK
            negated = isinstance(node.op, ast.USub) and inner is not Form.MASK
            return inner if inverted or negated else None
        if isinstance(node, ast.BinOp):
            return self.combined(node, shielded)
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            return self.compared(node)
        return self.called(node, shielded) if isinstance(node, ast.Call) else None

    def apart(self, node: ast.expr) -> Form | None:
        """The form of an expression that no gradient passes."""
        reader = Side(self.facts, self.function, self.node, self.test, self.name, free=True)
        return reader.form(node)

    def variable(self, node: ast.Name, shielded: bool) -> Form | None:
        """The variable itself, a number of the host, or a name for something made of the variable."""
        found: Form | None = Form.LIKE if node.id == self.name else None
        if found is None and self.is_number(node):
            return Form.NUMBER
        if found is not None:
            self.connected = True
            if shielded and not self.free:
                self.wrapped.append((node, None))
            return found
        made = self.definition(node.id) if self.facts.value(node).kind is Kind.TENSOR else None
        if made is None:
            return None
        reader = Side(self.facts, self.function, self.node, made, self.name, self.free)
        found = reader.form(made)
        self.connected = self.connected or reader.connected
        if found is Form.MASK or self.free or not (reader.wrapped or shielded):
            return found
        if reader.wrapped and not self.is_closed(made):
            return None
        self.wrapped.append((node, made if reader.wrapped else None))
        return found

    def is_closed(self, made: ast.expr) -> bool:
        """Whether an expression is the same here as where it stands: of the variable, literals and torch."""
        names = [n for n in (made, *same_scope(made)) if isinstance(n, ast.Name) and n.id != self.name]
        return all((dotted(self.facts, n) or "").startswith("torch") for n in names)

    def definition(self, name: str) -> ast.expr | None:
        """What a name stands for: it is assigned once, before, where every way here leads through."""
        stores = [n for n in same_scope(self.function) if _stores(n, name)]
        stmt = self.facts.parents.get(stores[0]) if len(stores) == 1 else None
        if not isinstance(stmt, ast.Assign) or len(stmt.targets) != 1 or stmt.lineno >= _line(self.node):
            return None
        block = self.facts.parents.get(stmt)
        here = enclosing_statement(self.facts, self.node)
        loops = any(isinstance(n, ast.For | ast.While) for n in ancestors(self.facts, self.node))
        if block is not self.facts.parents.get(here) and (block is not self.function or loops):
            return None
        between = range(stmt.lineno + 1, _line(self.node))
        again = any(_stores(n, self.name) and _line(n) in between for n in same_scope(self.function))
        return None if again else stmt.value

    def is_number(self, node: ast.expr) -> bool:
        """A number of the host; a tensor read back is none."""
        value = self.facts.value(node)
        return is_literal(node) or (value.kind is Kind.HOST and value.dtype in (None, "int", "float"))

    def combined(self, node: ast.BinOp, shielded: bool) -> Form | None:
        """Arithmetic: a product or quotient has a derivative that may be infinite, if not with a literal."""
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            both = {self.apart(node.left), self.apart(node.right)}
            return Form.MASK if both == {Form.MASK} else None
        if isinstance(node.op, ast.Pow):
            return self.form(node.left, True) if _finite(node.right) else None
        if not isinstance(node.op, _ARITHMETIC):
            return None
        scaled = isinstance(node.op, ast.Mult) and (_finite(node.left) or _finite(node.right))
        tame = isinstance(node.op, ast.Add | ast.Sub) or scaled or _finite(node.right)
        left, right = (self.form(part, shielded or not tame) for part in (node.left, node.right))
        both = {left, right}
        if None in both or Form.MASK in both:
            return None
        if both == {Form.NUMBER} and isinstance(node.op, ast.Div) and not _finite(node.right):
            return None  # which may fail
        return next(form for form in (Form.LIKE, Form.ROW, Form.POINT, Form.NUMBER) if form in both)

    def compared(self, node: ast.Compare) -> Form | None:
        """``h > 3``: as many answers as the variable has elements."""
        plain = (ast.Gt, ast.GtE, ast.Lt, ast.LtE, ast.Eq, ast.NotEq)
        both = {self.apart(node.left), self.apart(node.comparators[0])}
        known = None not in both and Form.MASK not in both and isinstance(node.ops[0], plain)
        return Form.MASK if known and Form.LIKE in both else None

    def called(self, call: ast.Call, shielded: bool) -> Form | None:
        """A function or method of torch whose result has a form that is known."""
        name = torch_function(dotted(self.facts, call.func))
        if name is not None and call.args:
            operand, rest = call.args[0], call.args[1:]
        elif name is None and isinstance(call.func, ast.Attribute):
            name, operand, rest = call.func.attr, call.func.value, call.args
        else:
            return None
        words = {word.arg: word.value for word in call.keywords}
        if name == "where":
            return self.chosen(call, shielded)
        if name == "masked_fill" and len(rest) == 2 and not words:
            filled = self.apart(rest[0]) is Form.MASK and self.is_number(rest[1])
            return self.form(operand, shielded) if filled else None
        if name in _REDUCES or name in _EXTREMES:
            return self.reduced(call, name, operand, rest, words, shielded)
        if name in _TAME:
            known = set(words) <= set(_LIMITS) and all(map(self.is_number, (*rest, *words.values())))
            return self.form(operand, shielded) if known else None
        if name in _ALONG:
            along = words.pop("dim", None) or (rest[0] if len(rest) == 1 and name != "normalize" else None)
            known = not words and len(rest) <= 1 and along is not None and _last(along)
            return self.form(operand, True) if known and (name != "normalize" or not rest) else None
        if rest or words:
            return None
        if name in _ASKS:
            return Form.MASK if self.apart(operand) is Form.LIKE else None
        if name in _FILLED:
            return self.apart(operand)
        return self.form(operand, True) if name in _KEEPS else None

    def chosen(self, call: ast.Call, shielded: bool) -> Form | None:
        """``torch.where(h > 0, h, 0.0)``."""
        if len(call.args) != 3 or call.keywords or self.apart(call.args[0]) is not Form.MASK:
            return None
        sides = {self.form(side, shielded) for side in call.args[1:]}
        return Form.LIKE if Form.LIKE in sides and sides <= {Form.LIKE, Form.POINT, Form.NUMBER} else None

    def reduced(
        self,
        call: ast.Call,
        name: str,
        operand: ast.expr,
        rest: list[ast.expr],
        words: dict[str | None, ast.expr],
        shielded: bool,
    ) -> Form | None:
        """``h.mean()``, ``h.norm(dim=-1, keepdim=True)``."""
        if self.form(operand, shielded or name not in _LINEAR) is not Form.LIKE:
            return None
        if not rest and not words:
            known = name in _REDUCES or ast.unparse(call) in ast.unparse(self.test)
            return Form.POINT if known else None
        along = words.get("dim") or (rest[0] if len(rest) == 1 and name != "norm" else None)
        kept = words.get("keepdim")
        whole = isinstance(kept, ast.Constant) and kept.value is True and set(words) <= {"dim", "keepdim"}
        known = name in _REDUCES and whole and len(rest) == ("dim" not in words)
        return Form.ROW if known and along is not None and _last(along) else None


def factors(node: ast.expr, name: str) -> list[ast.expr] | None:
    """What a variable is multiplied with and divided by, if that is all: ``h * (limit / norm)``."""
    found: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        if isinstance(node.op, ast.Mult) and isinstance(node.right, ast.Name) and node.right.id == name:
            return [*found, node.left]
        found.append(node.right)
        node = node.left
    return found if found and isinstance(node, ast.Name) and node.id == name else None


def is_floating(facts: Facts, function: FunctionNode, node: ast.AST, name: str, value: Value) -> bool:
    """Whether a variable is a floating-point tensor on the device: as inferred, or by what takes it next."""
    if value.kind is not Kind.TENSOR or value.device is Device.HOST:
        return False
    if value.dtype is not None:
        return value.dtype == "float"
    here = enclosing_statement(facts, node)
    if here not in function.body:
        return False
    for stmt in function.body[function.body.index(here) + 1 :]:
        own = [stmt, *same_scope(stmt)] if isinstance(stmt, ast.Assign | ast.Return | ast.Expr) else []
        if any(_takes_floats(facts, inner, name) for inner in own):
            return True
        stored = [inner for inner in same_scope(stmt) if _stores(inner, name)]
        if any(not _renews(facts, inner) for inner in stored):
            return False
    return False


def _takes_floats(facts: Facts, node: ast.AST, name: str) -> bool:
    """Whether a node hands a variable to a module that refuses a tensor of integers."""
    first = node.args[0] if isinstance(node, ast.Call) and node.args else None
    if not isinstance(first, ast.Name) or first.id != name or not isinstance(node, ast.Call):
        return False
    module = facts.value(node.func)
    return module.kind is Kind.MODULE and module.qualname in _FLOATING


def _renews(facts: Facts, store: ast.AST) -> bool:
    """``x = x - x.mean()`` within another branch: where that is not taken, the variable is what it was."""
    stmt = facts.parents.get(store)
    return isinstance(stmt, ast.Assign) and isinstance(facts.parents.get(stmt), ast.If)


_FLOATING = frozenset(
    f"torch.nn:{kind}"
    for kind in (
        *("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
        *("LayerNorm", "GroupNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LSTM", "GRU", "RNN"),
    )
)
"""Modules that refuse a tensor of integers."""


def is_literal(node: ast.expr) -> bool:
    """A number written down."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return is_literal(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _finite(node: ast.expr) -> bool:
    """A number written down that is neither zero nor infinite."""
    return is_literal(node) and 0 < abs(ast.literal_eval(node)) < 1e30


def _last(node: ast.expr) -> bool:
    """A dimension that every tensor has: the last or the first."""
    return is_literal(node) and ast.literal_eval(node) in (-1, 0)


def _line(node: ast.AST) -> int:
    line: int = node.lineno  # type: ignore[attr-defined]
    return line


def _stores(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)


def stores(function: FunctionNode, name: str) -> Iterator[ast.Name]:
    """The places where a function binds a name."""
    yield from (n for n in same_scope(function) if isinstance(n, ast.Name) and _stores(n, name))
