"""Shapes of a function's arguments, from what its body does with them.

A parameter is followed as long as its shape is kept; each use adds what it asks for: the layer it goes
through, ``B, S, D = x.shape``, a check of ``x.dim()``, a product with a weight of known size.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from refactor.drafting.classes import Classes, Function, Table, parameters
from refactor.drafting.layers import KEEPS_SHAPE, TRANSPARENT, Layer, Shape, Size, expected, generic, known

_KEEPING = frozenset(
    [
        "relu",
        "gelu",
        "silu",
        "sigmoid",
        "tanh",
        "abs",
        "neg",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "square",
        "float",
        "half",
        "double",
        "bfloat16",
        "to",
        "cuda",
        "contiguous",
        "clone",
        "detach",
        "clamp",
        "clip",
        "softmax",
        "log_softmax",
        "dropout",
        "normalize",
        "add",
        "sub",
        "mul",
        "div",
        "pow",
        "sin",
        "cos",
        "nan_to_num",
        "requires_grad_",
        "type_as",
        "where",
        "maximum",
        "minimum",
        "leaky_relu",
        "elu",
        "softplus",
        "sign",
        "round",
        "floor",
        "ceil",
        "erf",
        "log1p",
        "expm1",
        "masked_fill",
    ]
)
_REDUCING = frozenset(
    [
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "std",
        "var",
        "norm",
        "any",
        "all",
        "argmax",
        "argmin",
        "numel",
        "size",
        "dim",
        "item",
        "isnan",
        "isinf",
        "isfinite",
        "count_nonzero",
        "prod",
        "logsumexp",
        "cumsum",
        "sort",
        "topk",
        "tolist",
        "cpu",
        "numpy",
    ]
)
_PLAIN = frozenset({"shape", "device", "dtype", "ndim", "requires_grad", "is_cuda"})


@dataclass
class _Walk:
    """One pass over a body; ``names`` maps local names to the parameter whose shape they have."""

    classes: Classes
    attributes: Mapping[str, Any]
    names: dict[str, str]
    depth: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    """Parameters that go somewhere this pass cannot follow."""
    loops: dict[str, Layer] = field(default_factory=dict)
    """Loop variables over a container of layers."""
    local: set[str] = field(default_factory=set)
    """Arguments, and names that the body assigns."""

    def learn(self, parameter: str, shape: Shape) -> None:
        self.shapes[parameter] = self.shapes.get(parameter, Shape()).merged(shape)

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value) if self._unpacked(targets, value):
                pass
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                origin = self.expression(value)
                self.names.pop(name, None)
                self.local.add(name)
                if origin:
                    self.names[name] = origin
            case ast.Assert(test=test):
                self._rank(test, ast.Eq)
                self.expression(test)
            case ast.If(test=test, body=body, orelse=orelse):
                if any(isinstance(inner, ast.Raise) for inner in body):
                    self._rank(test, ast.NotEq)
                self.expression(test)
                self.block(body)
                self.block(orelse)
            case ast.For(target=target, iter=iterable, body=body):
                self._loop(target, iterable)
                self.expression(iterable)
                self.block(body)
            case ast.Return(value=ast.Tuple(elts=items) | ast.List(elts=items)):
                for item in items:
                    self.expression(item)
            case ast.Return(value=ast.Dict(values=items)):
                for item in items:
                    self.expression(item)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.stmt):
                        self.statement(child)
                    elif isinstance(child, ast.expr):
                        self.expression(child)

    def _loop(self, target: ast.expr, iterable: ast.expr) -> None:
        """``for layer in self.layers``, also within ``enumerate`` and ``zip``."""
        match target, iterable:
            case ast.Tuple(elts=[_, inner]), ast.Call(func=ast.Name(id="enumerate"), args=[layers, *_]):
                self._loop(inner, layers)
            case ast.Tuple(elts=targets), ast.Call(func=ast.Name(id="zip"), args=iterables):
                for inner, layers in zip(targets, iterables, strict=False):
                    self._loop(inner, layers)
            case ast.Name(id=name), _:
                layer = self._layer(iterable)
                if layer is not None and layer.parts:
                    self.loops[name] = layer.parts[0]
        self.local |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}

    def expression(self, node: ast.expr) -> str | None:
        """Look at all uses inside; the parameter whose shape the result has, if there is one."""
        match node:
            case ast.Name(id=name):
                return self.names.get(name)
            case ast.Call():
                return self._call(node)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(left, op, right)
            case ast.UnaryOp(operand=operand):
                return self.expression(operand)
            case ast.Compare(left=left, comparators=others):
                origins = [self.expression(item) for item in (left, *others)]
                return next((origin for origin in origins if origin), None)
            case ast.Attribute(value=value, attr=attribute):
                origin = self.expression(value)
                if origin and attribute not in _PLAIN:
                    self.opaque.add(origin)
                return None
            case ast.Subscript(value=value, slice=index):
                for inner in (value, index):
                    origin = self.expression(inner)
                    if origin:
                        self.opaque.add(origin)
                return None
        for child in ast.iter_child_nodes(node):
            origin = self.expression(child) if isinstance(child, ast.expr) else None
            if origin and not isinstance(node, ast.BoolOp | ast.JoinedStr | ast.FormattedValue):
                self.opaque.add(origin)
        return None

    def _call(self, node: ast.Call) -> str | None:
        origins = [self.expression(arg) for arg in node.args]
        origins += [self.expression(keyword.value) for keyword in node.keywords]
        first = origins[0] if origins else None
        layer = self._layer(node.func)
        if layer is not None:
            return self._through(layer, node, origins)
        if not isinstance(node.func, ast.Attribute):
            self.opaque.update(origin for origin in origins if origin)
            return None
        name, owner = node.func.attr, self.names.get(getattr(node.func.value, "id", ""))
        if owner is None and not isinstance(node.func.value, ast.Name):
            owner = self.expression(node.func.value)
        if name == "embedding" and first:
            self.learn(first, Shape(usual=2, dtype="int64"))
            return None
        if name in ("matmul", "mm", "linear") and first and len(node.args) > 1:
            self._product(first, node.args[1], transposed=name == "linear")
            return None
        if name in _KEEPING:
            return owner or first
        if name not in _REDUCING:
            self.opaque.update(origin for origin in (owner, *origins) if origin)
        return None

    def _through(self, layer: Layer, node: ast.Call, origins: list[str | None]) -> str | None:
        first = origins[0] if origins else None
        for index, origin in enumerate(origins):
            shape = self._taken(layer, index, node) if origin else None
            if origin and shape is not None:
                self.learn(origin, shape)
            elif origin and layer.name not in TRANSPARENT:
                self.opaque.add(origin)
        return first if layer.name in KEEPS_SHAPE else None

    def _taken(self, layer: Layer, index: int, node: ast.Call) -> Shape | None:
        cls = self.classes.classes.get(layer.name)
        if cls is None:
            return expected(layer) if index == 0 or layer.name == "MultiheadAttention" else None
        forward = self.classes.method(cls, "forward")
        if forward is None or self.depth == 0:
            return None
        names = [parameter.name for parameter in parameters(forward, method=True)]
        keywords = [keyword.arg for keyword in node.keywords]
        position = index - len(node.args)
        name = keywords[position] if position >= 0 else names[index] if index < len(names) else None
        init = self.classes.method(cls, "__init__")
        order = [parameter.name for parameter in parameters(init, method=True)] if init else []
        arguments = {**dict(zip(order, layer.args, strict=False)), **layer.keywords}
        inner = input_shapes(self.classes, forward, self.classes.layers(cls, arguments), self.depth - 1)
        found = inner.get(name or "")
        return found if found is not None and known(found) else None

    def _layer(self, node: ast.expr) -> Layer | None:
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                value = self.attributes.get(name)
                return value if isinstance(value, Layer) else None
            case ast.Subscript(value=value):
                layer = self._layer(value)
                return layer.parts[0] if layer is not None and layer.parts else None
            case ast.Name(id=name):
                return self.loops.get(name)
        return None

    def _binary(self, left: ast.expr, op: ast.operator, right: ast.expr) -> str | None:
        first, second = self.expression(left), self.expression(right)
        if isinstance(op, ast.MatMult):
            if first:
                self._product(first, right, transposed=False)
            return None
        for origin, other in ((first, right), (second, left)):
            table = self._table(other)
            if origin and table is not None and table.shape:
                self.learn(origin, Shape({-1: _size(table.shape[-1])}))
            elif origin and not self._is_neutral(other):
                self.opaque.add(origin)
        return first or second

    def _is_neutral(self, node: ast.expr) -> bool:
        """Whether an operand asks nothing of the other: numbers, and what was made of the arguments."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and getattr(inner.value, "id", "") == "self":
                if not isinstance(self.attributes.get(inner.attr), int | float | Layer):
                    return False
            elif isinstance(inner, ast.Name) and inner.id not in self.local | {"self", "torch", "F", "math"}:
                return False
        return True

    def _product(self, origin: str, weight: ast.expr, *, transposed: bool) -> None:
        transposed ^= isinstance(weight, ast.Attribute) and weight.attr == "T"
        weight = weight.value if isinstance(weight, ast.Attribute) and weight.attr == "T" else weight
        table = self._table(weight)
        if table is None or not table.shape:
            self.opaque.add(origin)
        else:
            index = -1 if transposed or len(table.shape) == 1 else -2
            self.learn(origin, Shape({-1: _size(table.shape[index])}))

    def _table(self, node: ast.expr) -> Table | None:
        value = self.attributes.get(node.attr) if isinstance(node, ast.Attribute) else None
        return value if isinstance(value, Table) else None

    def _unpacked(self, targets: list[ast.expr], value: ast.expr) -> bool:
        """``B, S, D = x.shape``: the rank, and names for sizes nothing else gives."""
        match value:
            case ast.Attribute(value=ast.Name(id=name), attr="shape"):
                pass
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="size"), args=[]):
                pass
            case _:
                return False
        origin = self.names.get(name)
        if origin is None or any(isinstance(target, ast.Starred) for target in targets):
            return False
        sizes: dict[int, Size] = {}
        for index, target in enumerate(targets):
            label = target.id.strip("_").upper() if isinstance(target, ast.Name) else ""
            if label and index:
                sizes[index] = label
        self.shapes[origin] = self.shapes.get(origin, Shape()).merged(Shape({}, rank=len(targets)))
        self.shapes[origin] = _named(self.shapes[origin], sizes, len(targets))
        return True

    def _rank(self, test: ast.expr, holds: type[ast.cmpop]) -> None:
        match test:
            case ast.Compare(left=left, ops=[op], comparators=[ast.Constant(value=int() as rank)]):
                name = _rank_of(left)
                if name in self.names and isinstance(op, holds):
                    self.learn(self.names[name], Shape({}, rank=rank))


def _named(shape: Shape, names: Mapping[int, Size], rank: int) -> Shape:
    given = {index % rank for index in shape.sizes if -rank <= index < rank}
    return shape.merged(Shape({index: name for index, name in names.items() if index not in given}))


def _rank_of(node: ast.expr) -> str:
    """``x`` of ``x.dim()`` and ``x.ndim``."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="dim"), args=[]):
            return name
        case ast.Attribute(value=ast.Name(id=name), attr="ndim"):
            return name
        case ast.Call(func=ast.Name(id="len"), args=[ast.Attribute(value=ast.Name(id=name), attr="shape")]):
            return name
    return ""


def _size(value: Any) -> Size:
    return value if isinstance(value, int) and not isinstance(value, bool) else "?"


def input_shapes(
    classes: Classes, function: Function, attributes: Mapping[str, Any], depth: int = 3
) -> dict[str, Shape]:
    """What the body of a function tells about its tensor arguments; `known` says if it is anything.

    Args:
        classes: of the file.
        function: the function or method.
        attributes: of ``self``, as `Classes.layers` gives them.
        depth: how many classes of the file to follow.
    """
    names = [p.name for p in parameters(function, method=False) if p.name != "self"]
    walk = _Walk(classes, attributes, {name: name for name in names}, depth, local=set(names))
    walk.block(function.body)
    found = {name: walk.shapes.get(name, Shape()) for name in names}
    for name in names:
        twin = next(
            (n for n in names if n.rstrip("0123456789") == name.rstrip("0123456789") and known(found[n])), ""
        )
        if twin and not known(found[name]):
            found[name] = found[twin]
    return {
        name: shape if known(shape) or name in walk.opaque else generic() for name, shape in found.items()
    }
