"""Expressions over the elements that a mask selects, computed for all elements instead.

``y[mask]`` packs the selected elements, and how many there are only the device knows. What is made of them
element by element can be made of all elements as well, if those that are not selected get a harmless value
on the way in (so that no NaN comes back through a gradient of zero) or on the way out.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from refactor.analysis.model import Device, Facts, Kind
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change
from refactor.rewrite.names import reference
from refactor.rewrite.ops import METADATA, names_in, torch_function
from refactor.rewrite.shapes import BROADCASTS, KEEPS_SHAPE, Shapes, is_ellipsis
from refactor.rewrite.syntax import argument, code_of, dotted, expression, keyword

_CASTS = names_in("float double half bfloat16 to")
_ZERO_KEEPING = names_in("abs square relu neg sqrt sin tanh tan asin atan sinh erf expm1 log1p sign")
"""Functions of one tensor that are zero at zero."""
_ELEMENTWISE = (KEEPS_SHAPE - _CASTS) - names_in(
    """softmax log_softmax cumsum cumprod flip roll dropout zeros_like ones_like empty_like full_like
    rand_like randn_like requires_grad_ abs_ neg_ exp_ sqrt_ relu_ clamp_ zero_ fill_ normal_ uniform_
    sigmoid_ tanh_ cuda detach contiguous clone type type_as"""
)
_PURE = (
    ((KEEPS_SHAPE | BROADCASTS) - names_in("dropout rand_like randn_like requires_grad_ empty_like"))
    | names_in(
        "any all sum mean amax amin argmax unsqueeze squeeze reshape view flatten expand expand_as isin"
    )
) - {name for name in KEEPS_SHAPE | BROADCASTS if name.endswith("_")}


_ORDERS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


class Way(IntEnum):
    """What has become of the elements that are not selected."""

    SCALAR = 0  # there are none: a number or a tensor without dimensions
    LINEAR = 1  # computed like the others, with a derivative that is a number
    ZERO = 2  # they are zero, and no gradient leaves them
    GUARDED = 3  # computed from harmless values: no gradient leaves them, their value means nothing


class NotLifted(Exception):
    """Why an expression is left alone: one sentence."""


def selection(node: ast.expr) -> tuple[ast.expr, ast.expr, str] | None:
    """``y`` and the mask of ``y[mask]``, and where the mask stands: "first", "last" or "inside"."""
    if not isinstance(node, ast.Subscript):
        return None
    parts = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    whole = [isinstance(p, ast.Slice) and ast.unparse(p) == ":" for p in parts]
    masks = [p for p, w in zip(parts, whole, strict=True) if not w and not is_ellipsis(p)]
    if len(masks) != 1:
        return None
    place = parts.index(masks[0])
    if place == 0:
        return node.value, masks[0], "first"
    return node.value, masks[0], "last" if is_ellipsis(parts[0]) and len(parts) == 2 else "inside"


def is_plain(node: ast.expr) -> bool:
    """A name or a chain of attributes: evaluating it twice does nothing else."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and is_plain(node.value))


def is_pure(facts: Facts, node: ast.expr) -> bool:
    """Whether evaluating an expression twice gives the same tensor and does nothing else."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            name = torch_function(dotted(facts, inner.func))
            if name is None and isinstance(inner.func, ast.Attribute):
                name = inner.func.attr
            if name not in _PURE:
                return False
        elif isinstance(
            inner, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom | ast.Lambda | ast.IfExp
        ):
            return False
    return not any(inside(event.node, node) for event in facts.events)


def inside(node: ast.AST, outer: ast.AST) -> bool:
    """Whether a node is part of another, or the same."""
    return any(inner is node for inner in ast.walk(outer))


def shortened(text: str, longest: int = 40) -> str:
    """Code in a message."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


@dataclass
class Lift:
    """One expression over selected elements; `changes` make it one over all elements."""

    facts: Facts
    shapes: Shapes
    mask: ast.expr
    place: str
    anchor: ast.expr | None = None  # the tensor that all others must fit: assigned to, or the first selected
    writes: ast.expr | None = None  # the tensor that is written afterwards
    named: str = ""  # a variable that holds the mask with the shape of the tensors
    leaves: list[ast.expr] = field(default_factory=list)
    done: dict[ast.AST, list[Callable[[Any], Any]]] = field(default_factory=dict)
    order: list[ast.AST] = field(default_factory=list)

    def changes(self) -> tuple[Change, ...]:
        """What to do at each node, in the order in which it was asked for."""
        return tuple(Change(node, _all_of(self.done[node])) for node in self.order)

    def at(self, node: ast.AST, build: Callable[[Any], Any]) -> None:
        """Change a node once more."""
        if node not in self.done:
            self.order.append(node)
        self.done.setdefault(node, []).append(build)

    # -- the mask

    def check(self) -> None:
        """Refuse masks of which too little is known."""
        text = shortened(code_of(self.facts, self.mask))
        value = self.facts.value(self.mask)
        if value.kind is not Kind.TENSOR or value.dtype != "bool":
            raise NotLifted(
                f"that `{text}` is a boolean tensor is not sure; annotate what it is computed from as "
                "`torch.Tensor`, or make it with `.bool()`"
            )
        if not is_pure(self.facts, self.mask):
            raise NotLifted(f"the mask `{text}` is computed in the brackets; bind it to a name first")

    def aligned(self, tensor: ast.expr) -> str:
        """The mask with as many dimensions as the tensor that it selects from."""
        if self.named:
            return self.named
        text = self.mask_code()
        if self.place == "last":
            return text
        trailing = self.trailing(tensor)
        if trailing is not None:
            return f"{atom(self.mask, text)}[..., {', '.join(['None'] * trailing)}]" if trailing else text
        if not (is_plain(self.mask) and is_plain(tensor)) or self.place != "first":
            name = shortened(code_of(self.facts, tensor))
            raise NotLifted(
                f"how many dimensions `{name}` has behind those of the mask is not known; bind both to names"
            )
        return f"{text}.reshape({text}.shape + (1,) * ({code_of(self.facts, tensor)}.dim() - {text}.dim()))"

    def trailing(self, tensor: ast.expr) -> int | None:
        """How many dimensions a tensor has behind the mask's."""
        if self.place == "last":
            return 0
        if self.place == "first":
            return self.shapes.trailing(self.mask, tensor)
        ranks = self.facts.value(self.mask).rank, self.facts.value(tensor).rank
        parts = self.facts.parents.get(self.mask)
        leading = parts.elts.index(self.mask) if isinstance(parts, ast.Tuple) else 0
        if None in ranks or any(is_ellipsis(p) for p in getattr(parts, "elts", ())):
            return None
        found = ranks[1] - leading - ranks[0]  # type: ignore[operator]
        return found if found >= 0 else None

    def mask_code(self) -> str:
        """The source of the mask on one line."""
        text = code_of(self.facts, self.mask)
        return ast.unparse(self.mask) if "\n" in text else text

    # -- the expression

    def lift(self, node: ast.expr) -> Way:
        """Make an expression one over all elements."""
        found = self.selected(node)
        if found is not None:
            return found
        if self.is_number(node) or self.is_scalar(node):
            return Way.SCALAR
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self.lift(node.operand)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            return self.asked([node.operand])
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], _ORDERS):
            return self.asked([node.left, *node.comparators])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.BitXor):
            return self.asked([node.left, node.right])
        if isinstance(node, ast.BinOp):
            return self.binary(node.op, node.left, node.right)
        if isinstance(node, ast.Call):
            return self.call(node)
        return self.broadcast(node)

    def selected(self, node: ast.expr) -> Way | None:
        """``y[mask]`` and ``y.masked_select(mask)``."""
        found = selection(node)
        strip: Callable[[Any], Any] = _owner
        if found is None:
            chosen = masked_select(self.facts, node)
            if chosen is None or self.place != "select":
                return None
            tensor, mask, strip = chosen
        else:
            tensor, mask, place = found
            if place != self.place:
                return None
        if ast.unparse(mask) != ast.unparse(self.mask) or inside(self.mask, tensor):
            return None
        self.fits(tensor)
        self.leaves.append(tensor)
        self.at(node, strip)
        return Way.LINEAR

    def fits(self, tensor: ast.expr) -> None:
        """Whether selected elements of a tensor meet those of the others one by one."""
        if self.place == "select":
            others = [*self.leaves, *([self.anchor] if self.anchor is not None else [])]
            if any(not self.shapes.same(tensor, other) for other in others):
                raise NotLifted("that both tensors have one shape is not sure; use `torch.where` on both")
            return
        anchor = self.anchor if self.anchor is not None else next(iter(self.leaves), None)
        if anchor is None or (self.anchor is not None and self.trailing(anchor) == 0):
            return
        if not self.shapes.same_rank(tensor, anchor):
            names = [shortened(code_of(self.facts, t), 24) for t in (anchor, tensor)]
            raise NotLifted(
                f"that `{names[0]}` and `{names[1]}` have equally many dimensions is not sure; select after "
                "combining them"
            )

    def asked(self, operands: Sequence[ast.expr]) -> Way:
        """Comparisons and logic: they carry no gradient and fail for no value."""
        for operand in operands:
            self.lift(operand)
        return Way.GUARDED

    def binary(self, op: ast.operator, left: ast.expr, right: ast.expr) -> Way:
        """Arithmetic of two operands."""
        ways = self.lift(left), self.lift(right)
        if isinstance(op, ast.Add | ast.Sub) and max(ways) <= Way.LINEAR:
            return max(ways)
        numbers = [self.is_number(side) for side in (left, right)]
        if isinstance(op, ast.Mult) and any(numbers):
            return max(ways)
        if isinstance(op, ast.Div) and numbers[1]:
            return ways[0]
        if isinstance(op, ast.Mult) or (isinstance(op, ast.Add | ast.Sub) and Way.SCALAR not in ways):
            for side, way in zip((left, right), ways, strict=True):
                self.guard(side, way, "0")
            return Way.ZERO if Way.GUARDED not in ways else Way.GUARDED
        if isinstance(op, ast.Pow) and self.is_positive(right):
            self.guard(left, ways[0], "0")
            return max(ways[0], Way.ZERO)
        if not isinstance(op, ast.Add | ast.Sub | ast.Div | ast.Pow):
            raise NotLifted(self.unknown(left))
        sums = isinstance(op, ast.Add | ast.Sub)
        for side, way in zip((left, right), ways, strict=True):
            if way is Way.SCALAR and not (sums or self.is_number(side)):
                raise NotLifted(self.unknown(side))
            self.guard(side, way, "1")
        return Way.GUARDED

    def call(self, node: ast.Call) -> Way:
        """A function or method of one tensor, element by element."""
        name = torch_function(dotted(self.facts, node.func))
        rest = list(node.args)
        operand: ast.expr
        if name is not None and rest:
            operand = rest.pop(0)
        elif isinstance(node.func, ast.Attribute):
            name, operand = node.func.attr, node.func.value
        else:
            raise NotLifted(self.unknown(node))
        others = [*rest, *(word.value for word in node.keywords)]
        if name in _CASTS:
            if any(self.facts.value(other).kind is Kind.TENSOR for other in others):
                raise NotLifted(self.unknown(node))
            return self.lift(operand)
        if name in ("add", "sub", "mul", "div") and len(others) == 1 and not node.keywords:
            op = {"add": ast.Add(), "sub": ast.Sub(), "mul": ast.Mult(), "div": ast.Div()}[name]
            return self.binary(op, operand, others[0])
        if name not in _ELEMENTWISE or not all(self.is_number(other) for other in others):
            raise NotLifted(self.unknown(node))
        way = self.lift(operand)
        zero = name in _ZERO_KEEPING and not others
        self.guard(operand, way, "0" if zero else "1")
        return way if way is Way.SCALAR else Way.ZERO if zero and way is not Way.GUARDED else Way.GUARDED

    def broadcast(self, node: ast.expr) -> Way:
        """A tensor that is not selected from: it must meet the dimensions behind the mask's only."""
        rank = self.facts.value(node).rank
        anchor = self.anchor if self.anchor is not None else next(iter(self.leaves), None)
        trailing = self.trailing(anchor) if anchor is not None and self.place != "select" else None
        if self.facts.value(node).kind is Kind.TENSOR and rank is not None and trailing is not None:
            if 0 < rank <= trailing:
                return Way.LINEAR
            if self.writes is not None and rank > trailing:
                text = shortened(code_of(self.facts, node))
                raise NotLifted(
                    f"`{text}` has a value for each selected element; compute one for every element and take "
                    "`torch.where`"
                )
        raise NotLifted(self.unknown(node))

    def unknown(self, node: ast.expr) -> str:
        """Why an expression over the selected elements is left alone."""
        text = shortened(code_of(self.facts, node))
        return (
            f"that `{text}` can be computed for all elements instead of the selected ones is not sure; "
            "compute it before selecting, and use `torch.where`"
        )

    def is_number(self, node: ast.expr) -> bool:
        """A Python number, whatever it is."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self.is_number(node.operand)
        if isinstance(node, ast.Constant):
            return type(node.value) in (int, float)
        value = self.facts.value(node)
        return value.kind is Kind.HOST and value.dtype in ("int", "float")

    def is_positive(self, node: ast.expr) -> bool:
        """A literal number above zero."""
        return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value > 0

    def is_scalar(self, node: ast.expr) -> bool:
        """A tensor without dimensions."""
        value = self.facts.value(node)
        return value.kind is Kind.TENSOR and value.rank == 0 and value.device is not Device.HOST

    def guard(self, node: ast.expr, way: Way, harmless: str) -> None:
        """Give elements that are not selected a harmless value."""
        if way is Way.LINEAR:
            self.wrap(node, harmless)

    def wrap(self, node: ast.expr, other: str) -> None:
        """``torch.where(mask, node, other)``."""
        anchor = self.anchor if self.anchor is not None else self.leaves[0]
        mask = self.mask_code() if self.place == "select" else self.aligned(anchor)
        self.at(node, lambda made: where(expression(mask), made, expression(other)))


def atom(node: ast.expr, text: str) -> str:
    """Source that an index or attribute may follow."""
    return text if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) else f"({text})"


def where(*arguments: Any) -> cst.Call:
    """``torch.where(mask, a, b)``."""
    items = [argument(a.with_changes(lpar=(), rpar=()) if getattr(a, "lpar", ()) else a) for a in arguments]
    items = [*map(spaced, items[:-1]), items[-1]]
    return cst.Call(cst.Attribute(reference("torch"), cst.Name("where")), items)


def spaced(arg: cst.Arg) -> cst.Arg:
    """An argument with a comma and a space behind it."""
    return arg.with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))


def masked_select(facts: Facts, node: ast.expr) -> tuple[ast.expr, ast.expr, Callable[[Any], Any]] | None:
    """The tensor and the mask of ``torch.masked_select(x, mask)`` or ``x.masked_select(mask)``."""
    if not isinstance(node, ast.Call) or node.keywords:
        return None
    if torch_function(dotted(facts, node.func)) == "masked_select" and len(node.args) == 2:
        return node.args[0], node.args[1], lambda call: _enclosed(call.args[0].value)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "masked_select" and len(node.args) == 1:
        return node.func.value, node.args[0], lambda call: call.func.value
    return None


def _enclosed(node: Any) -> Any:
    loose = cst.BinaryOperation | cst.UnaryOperation | cst.Comparison | cst.BooleanOperation
    if isinstance(node, loose) and not node.lpar:
        return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return node


def _owner(node: Any) -> Any:
    """``y`` of ``y[mask]``."""
    return node.value


def _all_of(builds: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def build(node: Any) -> Any:
        for one in builds:
            node = one(node)
        return node

    return build


def reduction(facts: Facts, node: ast.AST) -> tuple[str, ast.expr] | None:
    """Name and operand of ``x.sum()`` or ``torch.sum(x)``."""
    if not isinstance(node, ast.Call):
        return None
    name = torch_function(dotted(facts, node.func))
    if name is not None:
        return (name, node.args[0]) if node.args else None
    if isinstance(node.func, ast.Attribute) and node.func.attr not in METADATA:
        return node.func.attr, node.func.value
    return None


def dimension(node: ast.Call, functional: bool) -> ast.expr | None:
    """The ``dim`` argument of a reduction."""
    rest = node.args[1:] if functional else node.args
    return keyword(node, "dim") or keyword(node, "axis") or (rest[0] if rest else None)
