"""Boolean masks (CG203) and `masked_select` (CG202): all elements are computed, and the mask chooses.

``x[mask].sum()`` becomes ``torch.where(mask, x, 0).sum()`` and ``x[mask] = y[mask]`` becomes
``x.copy_(torch.where(mask, y, x))``, in place as before. ``masked_fill_`` with a tensor is no way out: on a
GPU it reads the value back (aten/src/ATen/native/cuda/Indexing.cu), while a Python number needs no rewrite.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from refactor.analysis.model import EventKind, Facts, Kind
from refactor.rewrite.branch import propose_split
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.names import reference
from refactor.rewrite.ops import names_in, torch_function
from refactor.rewrite.packed import (
    Lift,
    NotLifted,
    Way,
    atom,
    dimension,
    inside,
    is_plain,
    masked_select,
    reduction,
    selection,
    shortened,
    spaced,
    where,
)
from refactor.rewrite.shapes import shapes_around
from refactor.rewrite.spread import fresh_in, spreadable, with_lines
from refactor.rewrite.syntax import ancestors, argument, code_of, dotted, expression, keyword
from refactor.rule import Hit

_TORCH = frozenset({"torch"})
_NOTE = "computed for all elements, the mask chooses on the device; verify it with NaN in the others"
_NEUTRAL = {"sum": "0", "count_nonzero": "0", "mean": "0", "prod": "1", "any": "False", "all": "True"}
_EMPTY_RAISES = names_in("max min amax amin argmax argmin median")
_LOSSES = names_in("mse_loss l1_loss smooth_l1_loss huber_loss")
_IN_PLACE: dict[type[ast.operator], tuple[str, str]] = {
    ast.Sub: ("sub_", "0"),
    ast.Mult: ("mul_", "1"),
    ast.Div: ("div_", "1"),
}
"""What leaves every element as it is, to the bit: adding zero would turn -0.0 into 0.0."""


def propose_mask(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``x[mask]`` where it is reduced or assigned to another masked place, ``x[mask] = value``."""
    answer = propose_selection(facts, hit.event.node, hit.event.statement)
    return propose_split(facts, hit, answer) if isinstance(answer, Refusal) else answer


def propose_selection(facts: Facts, node: ast.AST, statement: ast.stmt) -> Proposal | Refusal:
    """One selection by a mask; places that are rewritten together share their proposal.

    Outcomes stay values: `NotLifted` never leaves this module.
    """
    try:
        root = _root(facts, node, statement)
        if root is None:
            raise NotLifted(_used(facts, node))
        return _rewritten(facts, root)
    except NotLifted as reason:
        return Refusal(str(reason))


@lru_cache(maxsize=32)
def _cached(facts: Facts, root: ast.AST) -> Proposal | str:
    try:
        return _Rewrite(facts, root).proposal()
    except NotLifted as reason:
        return str(reason)


def _rewritten(facts: Facts, root: ast.AST) -> Proposal:
    found = _cached(facts, root)
    if isinstance(found, str):
        raise NotLifted(found)
    return found


def _root(facts: Facts, node: ast.AST, statement: ast.stmt) -> ast.AST | None:
    """The innermost reduction or loss around a selection, else the masked assignment that it is part of."""
    for around in ancestors(facts, node):
        if isinstance(around, ast.stmt):
            break
        found = reduction(facts, around)
        if found is None:
            continue
        name, operand = found
        if name in _NEUTRAL and inside(node, operand):
            return around
        if name in _EMPTY_RAISES and inside(node, operand):
            raise NotLifted(
                f"`{name}` raises an error where nothing is selected; if something always is, write "
                "`torch.where` with a value that never wins"
            )
        if name in _LOSSES:
            return around
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        return statement if selection(statement.targets[0]) is not None else None
    augmented = isinstance(statement, ast.AugAssign) and selection(statement.target) is not None
    return statement if augmented else None


def _used(facts: Facts, node: ast.AST) -> str:
    """Why a selection that nobody reduces is left alone."""
    around = facts.parents.get(node)
    if isinstance(around, ast.Attribute) and around.attr in ("shape", "numel", "size"):
        return "the host asks how many elements are selected; count them on the device with `mask.sum()`"
    return (
        "the number of selected elements becomes a size; keep all of them with `torch.where(mask, …)`, or "
        "select after the replay"
    )


class _Rewrite:
    """One reduction, loss or masked assignment."""

    def __init__(self, facts: Facts, root: ast.AST) -> None:
        self.facts = facts
        self.root = root
        shapes = shapes_around(facts, root)
        if shapes is None:
            raise NotLifted("only code in functions is rewritten")
        self.shapes = shapes
        self.statement: ast.stmt | None = None
        self.before: list[tuple[str, Any]] = []  # names and values of lines before the statement

    def proposal(self) -> Proposal:
        if isinstance(self.root, ast.Assign):
            return self.assigned(self.root)
        if isinstance(self.root, ast.AugAssign):
            return self.augmented(self.root)
        assert isinstance(self.root, ast.Call)
        name, operand = reduction(self.facts, self.root) or ("", self.root)
        return self.loss(self.root) if name in _LOSSES else self.reduced(self.root, name, operand)

    def started(self, node: ast.expr) -> Lift:
        """The lift of an expression, for the mask of the first selection in it."""
        for inner in ast.walk(node):
            if not isinstance(inner, ast.expr):
                continue
            found = selection(inner)
            if found is not None and self.is_event(inner):
                lift = Lift(self.facts, self.shapes, found[1], found[2])
                lift.check()
                return lift
            chosen = masked_select(self.facts, inner)
            if chosen is not None:
                lift = Lift(self.facts, self.shapes, chosen[1], "select")
                lift.check()
                return lift
        raise NotLifted("the selection is not part of a plain expression; bind it to a name first")

    def is_event(self, node: ast.expr) -> bool:
        return any(e.node is node and e.kind is EventKind.MASK_INDEX for e in self.facts.events)

    # -- reductions

    def reduced(self, call: ast.Call, name: str, operand: ast.expr) -> Proposal:
        functional = torch_function(dotted(self.facts, call.func)) is not None
        known = {"dim", "axis", "keepdim", "dtype", "input"}
        if any(word.arg not in known for word in call.keywords) or keyword(call, "input") is not None:
            raise NotLifted(f"an argument of `{name}` is not understood; use `torch.where` and reduce that")
        lift = self.started(operand)
        family = self.facts.value(operand).dtype
        dim = dimension(call, functional)
        first = isinstance(dim, ast.Constant) and dim.value == 0
        if dim is not None and not (first and lift.place == "first" and self.rank(lift.mask) == 1):
            raise NotLifted(
                f"`{name}` reduces over a part of what is selected; use `torch.where` and reduce that"
            )
        if name in ("any", "all") and family != "bool":
            raise NotLifted(f"that `{name}` is asked of a boolean tensor is not sure; compare it first")
        if name == "mean" and family in ("int", "bool"):
            raise NotLifted("`mean` of integers raises an error; convert them first")
        if name == "mean":
            self.spread(lift, call, dim)
        way = lift.lift(operand)
        if not lift.leaves:
            raise NotLifted("the selection is not part of a plain expression; bind it to a name first")
        if way is not Way.ZERO or _NEUTRAL[name] != "0":
            lift.wrap(operand, _NEUTRAL[name])
        if name == "mean":
            lift.at(call, self.mean(lift, call, operand, dim, functional))
        changes = lift.changes()
        if self.before:
            assert self.statement is not None
            changes += (Change(self.statement, with_lines(lambda: self.before), line=True),)
        return Proposal(changes, _NOTE, imports=_TORCH)

    def spread(self, lift: Lift, call: ast.Call, dim: ast.expr | None) -> None:
        """Give the mask in the shape of the tensor a name, where the mean can have lines of its own."""
        self.statement = spreadable(self.facts, call)
        first = next((n for n in ast.walk(call) if isinstance(n, ast.expr) and selection(n)), None)
        tensor = first.value if isinstance(first, ast.Subscript) else None
        if self.statement is None or tensor is None or dim is not None or not is_plain(tensor):
            return
        if lift.place != "select" and lift.trailing(tensor) != 0:
            text = f"{lift.aligned(tensor)}.expand_as({code_of(self.facts, tensor)})"
            lift.named = fresh_in(self.facts, call, "selected")
            self.before.append((lift.named, text))

    def mean(
        self, lift: Lift, call: ast.Call, operand: ast.expr, dim: ast.expr | None, functional: bool
    ) -> Callable[[Any], Any]:
        """The sum, in no less than single precision as on a GPU, over the number of selected elements."""
        if keyword(call, "dtype") is not None or keyword(call, "keepdim") is not None:
            raise NotLifted("`mean` has arguments that are not understood; divide a sum by the count instead")
        tensor = lift.leaves[0]
        mask = atom(lift.mask, lift.mask_code())
        if lift.place == "select" and not self.shapes.same(lift.mask, tensor):
            raise NotLifted("that the mask has the shape of the tensor is not sure, so neither is the count")
        trailing = 0 if lift.place == "select" else lift.trailing(tensor)
        if trailing != 0 and dim is None:
            if len(lift.leaves) > 1 or not is_plain(tensor):
                raise NotLifted(
                    "how many elements the mask selects is not known; bind what it selects from to a name"
                )
            mask = lift.named or f"{lift.aligned(tensor)}.expand_as({code_of(self.facts, tensor)})"
        wide = _single(operand)
        kind = "" if wide else self.dtype_of(lift)
        axis = "0" if dim is not None else ""

        name = fresh_in(self.facts, call, "total") if self.statement and (kind or lift.named) else ""
        self.before += [(name, "")] if name else []  # what it is comes with the change
        around = self.facts.parents.get(call)
        stands_inside = isinstance(around, ast.expr) and not isinstance(
            around, ast.Tuple | ast.List | ast.Call
        )

        def build(node: cst.Call) -> cst.BaseExpression:
            inner = node.args[0].value if functional else node.func.value  # type: ignore[attr-defined]
            args = [argument(expression(axis))] if axis else []
            if kind:
                wider = cst.Call(
                    cst.Attribute(reference("torch"), cst.Name("promote_types")),
                    [
                        spaced(argument(expression(kind))),
                        argument(cst.Attribute(reference("torch"), cst.Name("float32"))),
                    ],
                )
                args = [*map(spaced, args), argument(wider, "dtype")]
            total: cst.BaseExpression = cst.Call(cst.Attribute(inner, cst.Name("sum")), args)
            if name:
                self.before[-1:] = [(name, total)]
                total = cst.Name(name)
            ratio = cst.BinaryOperation(total, cst.Divide(), expression(f"{mask}.sum()"))
            if kind or stands_inside:
                ratio = ratio.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            if not kind:
                return ratio
            return cst.Call(cst.Attribute(ratio, cst.Name("to")), [argument(expression(kind))])

        return build

    def dtype_of(self, lift: Lift) -> str:
        """The dtype of the lifted expression, as code."""
        names = list(dict.fromkeys(code_of(self.facts, leaf) for leaf in lift.leaves))
        casts = any(isinstance(n, ast.Attribute) and n.attr in _CAST_NAMES for n in ast.walk(self.root))
        if len(names) != 1 or not is_plain(lift.leaves[0]) or casts:
            raise NotLifted("the dtype that `mean` gives is not sure; divide a sum by `mask.sum()` instead")
        return f"{names[0]}.dtype"

    def rank(self, node: ast.expr) -> int | None:
        return self.facts.value(node).rank

    def loss(self, call: ast.Call) -> Proposal:
        """``F.mse_loss(a[mask], b[mask], reduction="sum")``: both are zero where nothing is selected."""
        how = keyword(call, "reduction")
        words = {word.arg for word in call.keywords} - {"reduction", "beta", "delta"}
        if len(call.args) != 2 or words or not (isinstance(how, ast.Constant) and how.value == "sum"):
            raise NotLifted(
                'a mean over what is selected depends on the count; give the loss `reduction="sum"` and '
                "divide by `mask.sum()`"
            )
        lift = self.started(call)
        for operand in call.args:
            way = lift.lift(operand)
            if way is Way.SCALAR:
                raise NotLifted(lift.unknown(operand))
            if way is not Way.ZERO:
                lift.wrap(operand, "0")
        return Proposal(lift.changes(), _NOTE, imports=_TORCH)

    # -- assignments

    def target(self, target: ast.expr) -> Lift:
        found = selection(target)
        assert found is not None
        tensor, mask, place = found
        if not is_plain(tensor):
            text = shortened(code_of(self.facts, tensor))
            raise NotLifted(f"`{text}` is computed in the assignment; bind it to a name first")
        lift = Lift(self.facts, self.shapes, mask, place, anchor=tensor, writes=tensor)
        lift.check()
        if self.is_expanded(tensor):
            raise NotLifted("elements of an expanded tensor share memory; make it contiguous first")
        return lift

    def is_expanded(self, tensor: ast.expr) -> bool:
        name = ast.unparse(tensor)
        for node in ast.walk(self.shapes.function):
            if isinstance(node, ast.Assign) and any(ast.unparse(t) == name for t in node.targets):
                calls = [n for n in ast.walk(node.value) if isinstance(n, ast.Attribute)]
                if any(n.attr in ("expand", "expand_as", "broadcast_to", "as_strided") for n in calls):
                    return True
        return False

    def families(self, tensor: ast.expr, value: ast.expr, augmented: bool) -> None:
        """Refuse what index assignment itself refuses."""
        mine, other = self.facts.value(tensor).dtype, self.facts.value(value).dtype
        order = ("bool", "int", "float")
        if mine not in order or other not in order:
            return
        host = self.facts.value(value).kind is not Kind.TENSOR
        if (augmented or host) and order.index(other) <= order.index(mine):
            return
        if mine != other:
            raise NotLifted(
                f"a value of dtype {other} cannot be assigned to one of dtype {mine}; convert it first"
            )

    def assigned(self, stmt: ast.Assign) -> Proposal:
        lift = self.target(stmt.targets[0])
        tensor = lift.anchor
        assert tensor is not None
        self.families(tensor, stmt.value, False)
        lift.lift(stmt.value)
        mask, owner = lift.aligned(tensor), code_of(self.facts, tensor)

        def build(node: cst.Assign) -> cst.BaseSmallStatement:
            chosen = where(expression(mask), node.value, expression(owner))
            return cst.Expr(_method(owner, "copy_", chosen), semicolon=node.semicolon)

        lift.at(stmt, build)
        return Proposal(lift.changes(), _NOTE, imports=_TORCH)

    def augmented(self, stmt: ast.AugAssign) -> Proposal:
        lift = self.target(stmt.target)
        tensor = lift.anchor
        assert tensor is not None
        if not isinstance(stmt.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            raise NotLifted(
                "only sums and products are assigned through a mask; write `torch.where` for others"
            )
        self.families(tensor, stmt.value, True)
        lift.lift(stmt.value)
        mask, owner = lift.aligned(tensor), code_of(self.facts, tensor)
        number = lift.is_number(stmt.value)
        in_place = None if number else _IN_PLACE.get(type(stmt.op))

        def build(node: cst.AugAssign) -> cst.BaseSmallStatement:
            if in_place is not None:
                method, neutral = in_place
                made = where(expression(mask), node.value, expression(neutral))
                return cst.Expr(_method(owner, method, made), semicolon=node.semicolon)
            changed = cst.BinaryOperation(
                expression(owner), getattr(cst, _OPERATORS[type(stmt.op)])(), _tight(node.value)
            )
            chosen = where(expression(mask), changed, expression(owner))
            return cst.Expr(_method(owner, "copy_", chosen), semicolon=node.semicolon)

        lift.at(stmt, build)
        return Proposal(lift.changes(), _NOTE, imports=_TORCH)


_CAST_NAMES = names_in("float double half bfloat16 to")
_OPERATORS = {ast.Add: "Add", ast.Sub: "Subtract", ast.Mult: "Multiply", ast.Div: "Divide"}


def _single(node: ast.expr) -> bool:
    """``(…).float()``: at least single precision."""
    func = node.func if isinstance(node, ast.Call) else None
    return isinstance(func, ast.Attribute) and func.attr in ("float", "double")


def _method(owner: str, name: str, value: cst.BaseExpression) -> cst.Call:
    """``owner.name(value)``."""
    return cst.Call(cst.Attribute(expression(owner), cst.Name(name)), [argument(value)])


def _tight(node: Any) -> Any:
    """An operand that binds at least as closely as any operator."""
    atoms = cst.Name | cst.Attribute | cst.Call | cst.Subscript | cst.Integer | cst.Float
    if isinstance(node, atoms) or node.lpar:
        return node
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
