"""Shapes relative to one another: which tensors of a function surely have the same shape, whatever it is.

The analysis knows ranks, rarely sizes. Here a shape is what a name was last bound to, with some trailing
dimensions dropped and others added: ``mask = h.sum(-1) > 0`` has the shape of ``h`` without the last
dimension. A name means the assignment that surely reaches it; where several may, it is a shape of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from refactor.analysis import liveness
from refactor.analysis.model import Facts, Kind
from refactor.rewrite.ops import names_in, torch_function
from refactor.rewrite.syntax import (
    COMPREHENSIONS,
    ancestors,
    dotted,
    enclosing_function,
    enclosing_statement,
    keyword,
)

KEEPS_SHAPE = names_in(
    """abs neg exp expm1 exp2 log log1p log2 log10 sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh
    sigmoid relu gelu silu elu selu celu leaky_relu relu6 hardswish hardsigmoid hardtanh mish softplus
    logsigmoid softmax log_softmax clamp clip clamp_min clamp_max round floor ceil trunc frac sign erf erfc
    square reciprocal nan_to_num float half double bfloat16 long int bool short byte contiguous clone detach
    to type type_as cuda cumsum cumprod logical_not bitwise_not isnan isinf isfinite zeros_like ones_like
    empty_like full_like rand_like randn_like requires_grad_ dropout flip roll abs_ neg_ exp_ sqrt_ relu_
    clamp_ zero_ fill_ normal_ uniform_ sigmoid_ tanh_"""
)
"""Functions and methods of one tensor whose result has its shape."""
BROADCASTS = names_in(
    """add sub mul div true_divide maximum minimum fmax fmin pow atan2 fmod remainder floor_divide eq ne lt le
    gt ge greater less greater_equal less_equal not_equal logical_and logical_or logical_xor bitwise_and
    bitwise_or bitwise_xor where masked_fill isclose lerp addcmul addcdiv hypot xlogy logaddexp add_ sub_ mul_
    div_ masked_fill_ copy_ logical_and_ logical_or_"""
)
"""Functions and methods of several tensors that broadcast."""
_REDUCTIONS = names_in("sum mean any all amax amin prod norm argmax argmin logsumexp std var count_nonzero")
_LIKE_SECOND = names_in("expand_as view_as reshape_as")
_FILLED = names_in("zeros ones empty full rand randn new_zeros new_ones new_empty new_full")
_SAME_MODULES = names_in(
    """ReLU GELU SiLU Tanh Sigmoid Dropout LayerNorm RMSNorm BatchNorm1d BatchNorm2d BatchNorm3d GroupNorm
    LeakyReLU ELU Softmax LogSoftmax Hardswish ReLU6 Mish Softplus Hardsigmoid Hardtanh"""
)
_RESHAPES_IN_PLACE = names_in("resize_ unsqueeze_ squeeze_ t_ transpose_ set_ resize_as_ swapaxes_ swapdims_")
_DEPTH = 24


@dataclass(frozen=True)
class Shape:
    """The shape of ``base`` without its last ``dropped`` dimensions, then the dimensions ``added``."""

    base: Hashable
    dropped: int = 0
    added: tuple[Hashable, ...] = ()

    def without_last(self) -> Shape:
        """One trailing dimension less."""
        if self.added:
            return Shape(self.base, self.dropped, self.added[:-1])
        return Shape(self.base, self.dropped + 1)

    def with_last(self, size: Hashable) -> Shape:
        """One trailing dimension more."""
        return Shape(self.base, self.dropped, (*self.added, size))


SCALAR = Shape("no dimensions")


class Shapes:
    """Answers for one function."""

    def __init__(self, facts: Facts, function: ast.AST) -> None:
        self.facts = facts
        self.function = function
        self.depth = 0
        self.augmented = {
            n.target.id
            for n in ast.walk(function)
            if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
        }
        self.fixed = not any(
            isinstance(n, ast.Attribute) and n.attr in _RESHAPES_IN_PLACE for n in ast.walk(function)
        )

    def trailing(self, mask: ast.expr, tensor: ast.expr) -> int | None:
        """How many dimensions a tensor has behind those of a mask that indexes it from the first one on."""
        ranks = self.facts.value(mask).rank, self.facts.value(tensor).rank
        if ranks[0] is not None and ranks[1] is not None:
            return ranks[1] - ranks[0] if ranks[1] >= ranks[0] else None
        return self.behind(mask, tensor)

    def behind(self, mask: ast.expr, tensor: ast.expr) -> int | None:
        """The same where the one may not fit the other: None unless its sizes are the other's first ones."""
        first, second = self.of(mask), self.of(tensor)
        if first is None or second is None or first.base != second.base:
            return None
        more = (len(second.added) - second.dropped) - (len(first.added) - first.dropped)
        return more if more >= 0 else None

    def same(self, one: ast.expr, other: ast.expr) -> bool:
        """Whether two tensors surely have the same shape."""
        first = self.of(one)
        return first is not None and first == self.of(other)

    def same_rank(self, one: ast.expr, other: ast.expr) -> bool:
        """Whether two tensors surely have the same number of dimensions."""
        ranks = self.facts.value(one).rank, self.facts.value(other).rank
        if None not in ranks:
            return ranks[0] == ranks[1]
        first, second = self.of(one), self.of(other)
        if first is None or second is None or first.base != second.base:
            return False
        return len(first.added) - first.dropped == len(second.added) - second.dropped

    def of(self, node: ast.expr) -> Shape | None:
        """The shape of an expression where it stands; None: nothing to compare it with."""
        if not self.fixed or self.depth > _DEPTH:
            return None
        self.depth += 1
        try:
            return self._of(node)
        finally:
            self.depth -= 1

    def _of(self, node: ast.expr) -> Shape | None:
        value = self.facts.value(node)
        number = value.kind in (Kind.HOST, Kind.READBACK) and value.dtype in ("int", "float", "bool")
        if number or value.rank == 0 or _is_number(node):
            return SCALAR
        if value.kind in (Kind.HOST, Kind.READBACK):
            return None  # an array, perhaps
        if isinstance(node, ast.Name):
            return self._named(node)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.BinOp):
            return None if isinstance(node.op, ast.MatMult) else self._joined([node.left, node.right])
        if isinstance(node, ast.Compare):
            return self._joined([node.left, *node.comparators]) if len(node.ops) == 1 else None
        if isinstance(node, ast.UnaryOp):
            return None if isinstance(node.op, ast.Not) else self.of(node.operand)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        return self._call(node) if isinstance(node, ast.Call) else None

    def _named(self, node: ast.Name) -> Shape | None:
        reaching = definition(self.facts, self.function, node)
        if isinstance(reaching, ast.Assign):
            found = self.of(reaching.value)
            if found is None or (found == SCALAR and node.id in self.augmented):
                return Shape(("assigned", id(reaching)))
            return found
        return Shape(reaching)

    def _attribute(self, node: ast.Attribute) -> Shape | None:
        if node.attr in ("mT", "T", "H", "data", "grad", "real", "imag"):
            return self.of(node.value) if node.attr == "data" else None
        base = node.value
        if node.attr in ("values", "indices") and isinstance(base, ast.Call):
            return self._call(base, pair=True)
        text = ast.unparse(node)
        rebound = any(
            isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load) and ast.unparse(n) == text
            for n in ast.walk(self.function)
        )
        root = base
        while isinstance(root, ast.Attribute):
            root = root.value
        if rebound or not isinstance(root, ast.Name):
            return None
        return Shape((text, definition_key(self.facts, self.function, root)))

    def _joined(self, operands: Sequence[ast.expr]) -> Shape | None:
        found = [self.of(operand) for operand in operands]
        if any(shape is None for shape in found):
            return None
        shapes = {shape for shape in found if shape != SCALAR}
        return shapes.pop() if len(shapes) == 1 else SCALAR if not shapes else None

    def _subscript(self, node: ast.Subscript) -> Shape | None:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if len(parts) == 2 and is_ellipsis(parts[0]) and _is_number(parts[1]):
            whole = self.of(node.value)
            return whole.without_last() if whole is not None else None
        pair = isinstance(node.value, ast.Call) and isinstance(node.slice, ast.Constant)
        return self._call(node.value, pair=True) if pair and isinstance(node.value, ast.Call) else None

    def _call(self, node: ast.Call, pair: bool = False) -> Shape | None:
        if any(isinstance(arg, ast.Starred) for arg in node.args) or any(
            k.arg is None for k in node.keywords
        ):
            return None
        module = self.facts.value(node.func)
        if module.kind is Kind.MODULE:
            return self._module(node, module.qualname or "")
        name = torch_function(dotted(self.facts, node.func))
        if name is not None:
            operands = [*node.args, *(k.value for k in node.keywords if k.arg in ("input", "other"))]
        elif isinstance(node.func, ast.Attribute):
            name, operands = node.func.attr, [node.func.value, *node.args]
        else:
            return None
        if keyword(node, "out") is not None or not operands:
            return None
        if name in ("max", "min") and pair:
            return self._reduced(node, operands)
        if pair:
            return None
        if name in _LIKE_SECOND and len(operands) > 1:
            return self.of(operands[1])
        if name in _FILLED:
            return self._filled(name, node, operands)
        if name in KEEPS_SHAPE:
            return self.of(operands[0])
        if name in BROADCASTS:
            return self._joined(operands)
        if name in _REDUCTIONS:
            return self._reduced(node, operands)
        if name == "embedding" and len(operands) > 1:
            ids = self.of(operands[0])
            return ids.with_last(ast.unparse(operands[1])) if ids is not None else None
        if name.endswith("_loss") or name.startswith("binary_cross_entropy"):
            none = keyword(node, "reduction")
            each = isinstance(none, ast.Constant) and none.value == "none" and "cross" not in name[:6]
            return self._joined(operands[:2]) if each and len(operands) >= 2 else None
        return None

    def _module(self, node: ast.Call, qualname: str) -> Shape | None:
        scope, _, name = qualname.partition(":")
        if scope != "torch.nn" or len(node.args) != 1 or node.keywords:
            return None
        inner = self.of(node.args[0])
        if inner is None or name in _SAME_MODULES:
            return inner
        if name == "Embedding":
            return inner.with_last(ast.unparse(node.func))
        return inner.without_last().with_last(ast.unparse(node.func)) if name == "Linear" else None

    def _reduced(self, node: ast.Call, operands: Sequence[ast.expr]) -> Shape | None:
        dim = keyword(node, "dim") or keyword(node, "axis")
        rest = list(operands[1:])
        if dim is None and rest:
            dim = rest.pop(0)
        if rest or any(k.arg not in ("dim", "axis", "dtype", "input") for k in node.keywords):
            return None
        last = isinstance(dim, ast.UnaryOp) and ast.unparse(dim) == "-1"
        whole = self.of(operands[0]) if last else None
        return whole.without_last() if whole is not None else None

    def _filled(self, name: str, node: ast.Call, operands: Sequence[ast.expr]) -> Shape | None:
        sizes = list(operands[1:] if name.startswith("new_") else operands)
        if not sizes or len(sizes) > (2 if name.endswith("full") else 1):
            return None
        size = sizes[0]
        dropped = 0
        if isinstance(size, ast.Subscript) and ast.unparse(size.slice) in (":-1", ":-2"):
            dropped, size = int(ast.unparse(size.slice)[2:]), size.value
        owner: ast.expr | None = None
        if isinstance(size, ast.Attribute) and size.attr == "shape":
            owner = size.value
        elif isinstance(size, ast.Call) and isinstance(size.func, ast.Attribute) and size.func.attr == "size":
            owner = size.func.value if not size.args else None
        found = self.of(owner) if owner is not None else None
        for _ in range(dropped):
            found = found.without_last() if found is not None else None
        return found


def _is_number(node: ast.expr) -> bool:
    """A literal number, no ``None`` or ``...``."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def is_ellipsis(node: ast.expr) -> bool:
    """Whether an index is ``...``."""
    return isinstance(node, ast.Constant) and node.value is ...


def definition(facts: Facts, function: ast.AST, name: ast.Name) -> ast.Assign | Hashable:
    """The assignment ``name = …`` that surely reaches a use, else a key of the place that decides it.

    Two uses with the same answer have the same value, unless it was changed in place.
    """
    for around in ancestors(facts, name):
        if isinstance(around, ast.stmt):
            break
        if isinstance(around, (*COMPREHENSIONS, ast.Lambda)) and name.id in _bound_inside(around):
            return ("inner", name.id, id(around))
    stmt: ast.AST = enclosing_statement(facts, name)
    if isinstance(stmt, ast.While) and name.id in liveness.writes([stmt]):
        return ("around", name.id, id(stmt))  # the test is asked again after the body
    while stmt is not function:
        parent = facts.parents.get(stmt)
        block = _block_of(parent, stmt)
        if parent is None or block is None:
            return ("unknown", id(name))
        for earlier in reversed(block[: block.index(stmt)]):  # type: ignore[arg-type]
            if name.id not in liveness.writes([earlier]) or isinstance(earlier, ast.AugAssign):
                continue  # in place for tensors: the same shape
            plain = isinstance(earlier, ast.Assign) and all(
                isinstance(t, ast.Name) and t.id == name.id for t in earlier.targets
            )
            return earlier if plain else ("bound", name.id, id(earlier))
        if isinstance(parent, _REPEATED) and name.id in liveness.writes([parent]):
            return ("around", name.id, id(parent))
        if name.id in _bound_in_header(parent):
            return ("header", name.id, id(parent))
        stmt = parent
    return ("outer", name.id)


_REPEATED = (ast.For, ast.AsyncFor, ast.While, ast.Try)


def _bound_inside(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Lambda):
        return {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _bound_in_header(node: ast.AST) -> set[str]:
    heads: list[ast.AST] = [node.test] if isinstance(node, ast.If | ast.While) else []
    if isinstance(node, ast.With | ast.AsyncWith):
        heads += node.items
    found = (inner for head in heads for inner in ast.walk(head))
    return {n.id for n in found if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def definition_key(facts: Facts, function: ast.AST, name: ast.Name) -> Hashable:
    """`definition` as something to compare."""
    found = definition(facts, function, name)
    return ("assigned", id(found)) if isinstance(found, ast.Assign) else found


def _block_of(parent: ast.AST | None, stmt: ast.AST) -> list[ast.stmt] | None:
    for field in ("body", "orelse", "finalbody"):
        block = getattr(parent, field, None)
        if isinstance(block, list) and stmt in block:
            return block
    return None


def shapes_around(facts: Facts, node: ast.AST) -> Shapes | None:
    """Shapes in the function around a node."""
    function = enclosing_function(facts, node)
    return Shapes(facts, function) if function is not None else None
