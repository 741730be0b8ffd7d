"""Interprets the body of a function with named dimensions, as far as its code is understood."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refactor.analysis.project import ClassInfo, FunctionInfo
from refactor.analysis.receivers import self_name
from refactor.rewrite import axes
from refactor.rewrite.axes import Arr, Const, Mixed, Rank, Size, Weight
from refactor.rewrite.calls import Calls, Parts
from refactor.rewrite.layers import Layers, attribute
from refactor.rewrite.symbols import Instance, Items, Method, Shape
from refactor.rewrite.tables import rank_of

if TYPE_CHECKING:
    from refactor.rewrite.reader import Reader

_ROUNDS = 4
_NUMBERS = {"math.inf": math.inf, "torch.inf": math.inf, "math.pi": math.pi, "math.e": math.e}
_Env = dict[str, object]


class Body:
    """One function being read."""

    def __init__(self, reader: Reader, info: FunctionInfo, env: _Env) -> None:
        self.reader, self.info, self.env = reader, info, env
        self.owner = self_name(info.node) if info.cls is not None else None  # type: ignore[arg-type]
        self.results: list[object] = []

    def run(self, stmts: Sequence[ast.stmt]) -> object:
        """The value that the function returns."""
        ends = self.block(stmts)
        if not self.results or ends:
            raise Mixed
        if any(result != self.results[0] for result in self.results):
            raise Mixed
        return self.results[0]

    def block(self, stmts: Sequence[ast.stmt]) -> bool:
        """Read statements; False: control does not reach their end."""
        return all(self.statement(stmt) for stmt in stmts)

    def statement(self, stmt: ast.stmt) -> bool:
        """Read one statement."""
        if isinstance(stmt, ast.Return):
            self.results.append(self.value(stmt.value) if stmt.value is not None else Const(None))
            return False
        if isinstance(stmt, ast.Raise):
            return False
        if isinstance(stmt, ast.Assign):
            value = self.value(stmt.value)
            for target in stmt.targets:
                self.assign(target, value)
        elif isinstance(stmt, ast.AnnAssign):
            if stmt.value is not None:
                self.assign(stmt.target, self.value(stmt.value))
        elif isinstance(stmt, ast.AugAssign):
            if not isinstance(stmt.target, ast.Name):
                raise Mixed
            left = self.value(ast.Name(stmt.target.id, ast.Load()))
            self.env[stmt.target.id] = self.arithmetic(stmt.op, left, self.value(stmt.value))
        elif isinstance(stmt, ast.Expr):
            if not isinstance(stmt.value, ast.Constant):
                self.value(stmt.value)
        elif isinstance(stmt, ast.If):
            return self.branch(stmt)
        elif isinstance(stmt, ast.For):
            return self.loop(stmt)
        elif isinstance(stmt, ast.Assert):
            self.truth(stmt.test, raises=True)
        elif isinstance(stmt, ast.With):
            if any("autocast" not in ast.unparse(item.context_expr) for item in stmt.items):
                raise Mixed
            return self.block(stmt.body)
        elif not isinstance(stmt, ast.Pass):
            raise Mixed
        return True

    def assign(self, target: ast.expr, value: object) -> None:
        """Bind a name, or several to the parts of a value."""
        if isinstance(target, ast.Name):
            self.env[target.id] = value
        elif isinstance(target, ast.Tuple):
            if any(isinstance(t, ast.Starred) for t in target.elts):
                raise Mixed
            for place, part in zip(target.elts, self.parts(value, len(target.elts)), strict=True):
                self.assign(place, part)
        else:
            raise Mixed  # state or an element is written

    def parts(self, value: object, count: int) -> Sequence[object]:
        """What unpacking gives."""
        if isinstance(value, Parts):
            return [value[0]] * count
        if isinstance(value, tuple | list):
            if len(value) != count:
                raise Mixed
            return value
        if isinstance(value, Arr) and not value.open and value.axes[:1] == ("_",):
            return [axes.drop(value, -len(value.axes))] * count
        if isinstance(value, Shape):
            return value.sizes(count)
        if isinstance(value, Weight | Const):
            return [value if isinstance(value, Weight) else Const()] * count
        raise Mixed

    def branch(self, stmt: ast.If) -> bool:
        """Both sides of an ``if``, or the one that is known to be taken."""
        raises = len(stmt.body) == 1 and isinstance(stmt.body[0], ast.Raise) and not stmt.orelse
        known = self.truth(stmt.test, raises=raises)
        if known is not None:
            return self.block(stmt.body if known else stmt.orelse)
        before = dict(self.env)
        first = self.block(stmt.body)
        one, self.env = self.env, before
        second = self.block(stmt.orelse)
        if first and second:
            self.env = _joined(one, self.env)
        elif first:
            self.env = one
        return first or second

    def loop(self, stmt: ast.For) -> bool:
        """A loop over layers or a fixed number: what it leaves must not depend on how often it runs."""
        if stmt.orelse:
            raise Mixed
        item = self.element(self.value(stmt.iter))
        for _ in range(_ROUNDS):
            before = dict(self.env)
            self.assign(stmt.target, item)
            if not self.block(stmt.body):
                raise Mixed
            self.env = _joined(before, self.env)
            if self.env == before:
                return True
        raise Mixed

    def element(self, value: object) -> object:
        """What iterating over a value gives."""
        if isinstance(value, Layers) and value.container:
            return Layers(value.layers, "Sequential")
        if isinstance(value, Parts):
            return value[0]
        if isinstance(value, tuple | list) and value and all(v == value[0] for v in value):
            return value[0]
        if isinstance(value, Items):
            return value.item
        if isinstance(value, Const):
            return Const()
        raise Mixed

    def truth(self, test: ast.expr, *, raises: bool = False) -> bool | None:
        """What a test says, if the code tells; it must not depend on the batch."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.truth(test.operand, raises=raises)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            found = [self.truth(v, raises=raises) for v in test.values]
            decisive = isinstance(test.op, ast.Or)
            if decisive in found:
                return decisive
            return None if None in found else not decisive
        if (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and isinstance(test.ops[0], ast.Is | ast.IsNot)
        ):
            left, right = self.value(test.left), self.value(test.comparators[0])
            if right == Const(None) and (isinstance(left, Arr | Weight) or left == Const(None)):
                return (left == Const(None)) is isinstance(test.ops[0], ast.Is)
        if isinstance(test, ast.Compare):
            found_values = [self.value(test.left), *map(self.value, test.comparators)]
        else:
            found_values = [self.value(test)]
        if any(
            isinstance(v, Arr) or (isinstance(v, Size) and v.label != "_" and not raises)
            for v in found_values
        ):
            raise Mixed
        value = found_values[0]
        if len(found_values) == 1 and isinstance(value, Const) and isinstance(value.value, bool):
            return value.value
        return None

    # -- expressions

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; raises `Mixed` where it is not understood."""
        if isinstance(node, ast.Constant):
            return Const(node.value)
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.BinOp):
            return self.arithmetic(node.op, self.value(node.left), self.value(node.right))
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.Compare):
            return self.compare(node)
        if isinstance(node, ast.Call):
            return self.reader.call(self, node)
        if isinstance(node, ast.Subscript):
            return self.subscript(node)
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(self.value(e) for e in node.elts)
        if isinstance(node, ast.Dict):
            keys = [self.value(k) if k is not None else None for k in node.keys]
            if not all(isinstance(k, Const) for k in keys):
                raise Mixed
            return {k.value: self.value(v) for k, v in zip(keys, node.values, strict=True)}  # type: ignore[union-attr]
        if isinstance(node, ast.IfExp):
            known = self.truth(node.test)
            if known is not None:
                return self.value(node.body if known else node.orelse)
            one, two = self.value(node.body), self.value(node.orelse)
            if one == two:
                return one
        raise Mixed

    def name(self, node: ast.Name) -> Any:
        """A local, or something of the module around."""
        if node.id in self.env:
            found = self.env[node.id]
            if found is _LOST:
                raise Mixed
            return found
        known = self.info.module.lookup(node.id)
        if isinstance(known, FunctionInfo):
            return Method(known)
        if isinstance(known, tuple):
            return _literal(known[1])
        if isinstance(known, str | ClassInfo) or node.id in Calls.BUILTINS:
            return known if known is not None else node.id
        raise Mixed

    def attribute(self, node: ast.Attribute) -> Any:
        """``self.layer``, ``x.shape``, ``math.pi``."""
        target = self.info.module.resolve(node) if not self._is_local(node) else None
        if isinstance(target, str) and target in _NUMBERS:
            return Const(_NUMBERS[target])
        if isinstance(target, str | ClassInfo):
            return target
        if isinstance(target, FunctionInfo):
            return Method(target)
        owner = self.value(node.value)
        if isinstance(owner, Instance):
            if node.attr == "training":
                if not self.reader.evaluated:
                    raise Mixed
                return Const(False)
            found = owner.cls.find(node.attr)
            if found is not None and isinstance(found[1], FunctionInfo):
                return Method(found[1], owner)
            value = attribute(owner.cls, node.attr, f"{owner.path}.{node.attr}" if owner.path else "")
            return self.single(value)
        if isinstance(owner, Arr | Weight):
            if node.attr in ("shape",):
                return Shape(owner)
            if node.attr in ("dtype", "device", "ndim", "is_cuda", "requires_grad", "layout"):
                return Const()
            if node.attr in ("T", "mT") and isinstance(owner, Arr):
                if node.attr == "T" and len(owner.axes) != 2:
                    raise Mixed
                return axes.transpose(owner, -1, -2)
            raise Mixed
        if isinstance(owner, Const | Layers):
            return Const() if isinstance(owner, Const) else Weight()  # self.head.weight
        raise Mixed

    def single(self, value: object) -> object:
        """An attribute that is one module of the code base."""
        if isinstance(value, Layers) and not value.container and isinstance(value.layers[0].kind, ClassInfo):
            return Instance(value.layers[0].kind, value.path)
        return value

    def _is_local(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return not isinstance(node, ast.Name) or node.id in self.env

    def arithmetic(self, op: ast.operator, left: Any, right: Any) -> Any:
        """A binary operation on tensors, sizes or numbers."""
        if isinstance(left, tuple) or isinstance(right, tuple):
            raise Mixed
        if not isinstance(left, Arr | Weight) and not isinstance(right, Arr | Weight):
            labels = [v.label for v in (left, right) if isinstance(v, Size) and v.label != "_"]
            if not labels:
                return Const()
            if isinstance(op, ast.Mult) and labels == ["B", "S"]:
                return Size("BS")
            if isinstance(op, ast.Mult) and len(labels) == 1:
                raise Mixed
            raise Mixed
        if isinstance(op, ast.MatMult):
            return axes.matmul(left, right)
        if isinstance(op, ast.Mult):
            return axes.multiply(left, right)
        if isinstance(op, ast.Sub) and isinstance(left, Const) and left.value in (1, 1.0):
            return axes.negate(right)
        if isinstance(op, ast.BitAnd):
            return axes.multiply(left, right)
        return axes.pointwise((left, right))

    def unary(self, node: ast.UnaryOp) -> Any:
        """``-x``, ``~mask``, ``not flag``."""
        value = self.value(node.operand)
        if isinstance(node.op, ast.USub) and isinstance(value, Const):
            number = isinstance(value.value, int | float) and not isinstance(value.value, bool)
            return Const(-value.value) if number else Const()  # type: ignore[operator]
        if isinstance(node.op, ast.Invert):
            return axes.negate(value)
        if isinstance(node.op, ast.Not):
            if isinstance(value, Const):
                return Const()
            raise Mixed
        return axes.pointwise((value,))

    def compare(self, node: ast.Compare) -> Any:
        """A comparison; with zero it tells a mask from its opposite."""
        if len(node.ops) != 1:
            raise Mixed
        left, right, op = self.value(node.left), self.value(node.comparators[0]), node.ops[0]
        if not isinstance(left, Arr | Weight) and not isinstance(right, Arr | Weight):
            if any(isinstance(v, Size) and v.label != "_" for v in (left, right)):
                raise Mixed
            return Const()
        zero = isinstance(right, Const) and right.value in (0, False)
        one = isinstance(right, Const) and right.value in (1, True) and not isinstance(right.value, str)
        if isinstance(left, Arr) and zero and isinstance(op, ast.NotEq | ast.Gt):
            return axes.pointwise((left,), holds=True)
        if isinstance(left, Arr) and zero and isinstance(op, ast.Eq):
            return axes.negate(left)
        if isinstance(left, Arr) and one and isinstance(op, ast.Eq):
            return axes.pointwise((left,), holds=True)
        return axes.pointwise((left, right))

    def subscript(self, node: ast.Subscript) -> Any:
        """An element of a container, or a part of a tensor."""
        owner = self.value(node.value)
        if isinstance(owner, Shape):
            return owner.size(self.value(node.slice))
        if isinstance(owner, dict):
            key = self.value(node.slice)
            if isinstance(key, Const) and key.value in owner:
                return owner[key.value]
            raise Mixed
        if isinstance(owner, Parts):
            return owner[0]
        if isinstance(owner, tuple):
            key = self.value(node.slice) if not isinstance(node.slice, ast.Slice) else None
            if (
                isinstance(key, Const)
                and isinstance(key.value, int)
                and -len(owner) <= key.value < len(owner)
            ):
                return owner[key.value]
            raise Mixed
        if isinstance(owner, Layers) and owner.container:
            self.value(node.slice) if not isinstance(node.slice, ast.Slice) else None
            return Layers(owner.layers, "Sequential")
        if isinstance(owner, Const):
            return Const()
        if isinstance(owner, Weight):
            return self.cut_weight(node)
        if isinstance(owner, Arr):
            return self.index(owner, node.slice)
        raise Mixed

    def cut_weight(self, node: ast.Subscript) -> Any:
        """A part of a table: what depends on a padded size would run out of it, but for its first rows."""
        rows = self.first_rows(node)
        if rows is not None:
            return rows
        for part in ast.walk(node.slice):
            if isinstance(part, ast.expr) and not isinstance(part, ast.Slice | ast.Tuple):
                value = self.value(part)
                if isinstance(value, Arr) or (isinstance(value, Size) and value.label != "_"):
                    raise Mixed
        return Weight()

    def first_rows(self, node: ast.Subscript) -> Arr | None:
        """``self.pe[:, :s]``: the sequence, as far as the table reaches; None for anything else."""
        table = node.value
        owner = self.value(table.value) if isinstance(table, ast.Attribute) else None
        if not isinstance(table, ast.Attribute) or not isinstance(owner, Instance):
            return None
        parts = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        uppers = [p.upper for p in parts if isinstance(p, ast.Slice) and p.lower is None and p.step is None]
        sizes = [self.value(upper) if upper is not None else None for upper in uppers]
        rank = rank_of(owner.cls, table.attr) if sizes.count(Size("S")) == 1 else None
        if rank is None or len(uppers) < len(parts) or len(parts) > rank or {*sizes} - {None, Size("S")}:
            return None
        place = sizes.index(Size("S"))
        self.reader.limits.append(f"{owner.path}.{table.attr}.shape[{place}]" if owner.path else "")
        return Arr(("_",) * place + ("S",) + ("_",) * (rank - place - 1), "", ((place - rank, "index"),))

    def index(self, x: Arr, index: ast.expr) -> Arr:
        """``x[:, None]``, ``x[:, 0]``, ``x[..., -1]``."""
        parts = list(index.elts) if isinstance(index, ast.Tuple) else [index]
        taken = sum(not _is_new(p) and not _is_rest(p) for p in parts)
        if x.open and (taken > len(x.axes) + (1 if any(map(_is_rest, parts)) else 0)):
            raise Mixed
        if not x.open and taken > len(x.axes):
            raise Rank
        result, place = x, 0  # place: from the left
        for number, part in enumerate(parts):
            if _is_rest(part):
                behind = sum(not _is_new(p) for p in parts[number + 1 :])
                new = sum(map(_is_new, parts[number + 1 :]))
                if result.open:
                    if new or any(not _is_all(p) for p in parts[number + 1 :]):
                        if behind == 1 and not new and isinstance(parts[-1], ast.Constant | ast.UnaryOp):
                            if axes.PROVEN not in result.open:
                                raise Mixed
                            return Arr(result.axes, f"{result.open.rstrip(axes.PROVEN)}-1")
                        raise Mixed
                    return result
                place = len(result.axes) - behind
            elif _is_new(part):
                result = axes.unsqueeze(result, place) if not result.open else self.open_new(result, place)  # type: ignore[assignment]
                place += 1
            elif _is_all(part):
                place += 1
            else:
                result, place = self.take(result, part, place), place
        return result

    def open_new(self, x: Arr, place: int) -> Arr:
        """A new dimension among those whose number is not known."""
        if place < len(x.axes):
            raise Mixed
        return Arr(x.axes, f"{x.open}+1" + axes.PROVEN)

    def take(self, x: Arr, part: ast.expr, place: int) -> Arr:
        """One element, or a fixed slice, of a dimension that is not padded; the first place of a sequence."""
        if place >= len(x.axes):
            raise Mixed if x.open else Rank
        label = x.axes[place]
        if isinstance(part, ast.Slice):
            raise Mixed
        value = self.value(part)
        if not isinstance(value, Const) or not isinstance(value.value, int) or isinstance(value.value, bool):
            raise Mixed
        if label != "_" and not (label == "S" and value.value == 0):
            raise Mixed
        self.reader.meets = self.reader.meets or label == "S"
        return axes.drop(x, place - len(x.axes))


_LOST = object()


def _joined(one: _Env, two: _Env) -> _Env:
    """What holds on both ways; a variable that differs must not be read."""
    return {n: _both(one.get(n, _LOST), two.get(n, _LOST)) for n in {**one, **two}}


def _both(one: object, two: object) -> object:
    if one == two:
        return one
    if isinstance(one, Arr) and isinstance(two, Arr) and (one.axes, one.open) == (two.axes, two.open):
        kept = tuple(item for item in one.holds if item in two.holds)
        index = {item for item in (*one.holds, *two.holds) if item[1] == "index"}
        return Arr(one.axes, one.open, tuple(sorted({*kept, *index})))
    if isinstance(one, Const) and isinstance(two, Const):
        return Const()
    return _LOST


def _literal(node: ast.expr) -> Const:
    """A constant of the module."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise Mixed from None
    return Const(value) if isinstance(value, int | float | str) else Const()


def _is_new(part: ast.expr) -> bool:
    return isinstance(part, ast.Constant) and part.value is None


def _is_rest(part: ast.expr) -> bool:
    return isinstance(part, ast.Constant) and part.value is ...


def _is_all(part: ast.expr) -> bool:
    return isinstance(part, ast.Slice) and part.lower is None and part.upper is None and part.step is None
