"""Whether the copy of a tensor that the CPU computes at every call may be kept on the device.

``constant(value, device=…)`` computes the value on the CPU as before and keeps its copy on the device,
found again by its bytes. Eager code gets the same bits. A captured graph keeps the copy that it saw, so the
value must be the same whenever the graph is replayed: it may come from shapes, numbers and attributes, never
from a random draw, from data on the device, or from a CPU tensor that a caller hands in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from refactor.analysis.model import Device, Facts, Kind, Value
from refactor.analysis.trees import walk
from refactor.rewrite.ops import METADATA, names_in
from refactor.rewrite.syntax import dotted, enclosing_function, self_name

_DRAWS = names_in(
    """rand randn randint randperm rand_like randn_like randint_like bernoulli multinomial normal
    poisson normal_ uniform_ random_ bernoulli_ exponential_ geometric_ log_normal_ cauchy_ dropout
    dropout_ alpha_dropout shuffle sample choice choices random uniform gauss getrandbits urandom
    time perf_counter monotonic uuid4 standard_normal permutation default_rng"""
)
_SIZES = names_in("size dim numel ndimension element_size is_floating_point get_device stride")
_READS = frozenset({"cpu", "numpy", "tolist", "item"})
_KNOWN = ("torch", "builtins", "math", "numpy", "itertools", "functools", "operator")
_DEPTH = 4
_EMPTY = frozenset({"empty", "empty_like", "empty_strided", "new_empty"})
_TAKES_IN = frozenset({"append", "extend", "insert", "add", "update", "appendleft"})


def varies(facts: Facts, node: ast.expr) -> str:
    """Why the value of a CPU computation may differ when a graph is replayed; empty if it does not."""
    origin = _Origin(facts, strict=True)
    origin.root = node
    return origin.value(node)


def draws(facts: Facts, node: ast.expr) -> str:
    """The same for Python numbers and lists: only whether they are drawn at random, the rest is content."""
    return _Origin(facts, strict=False).value(node)


def _may_hold_tensors(value: Value) -> bool:
    if value.kind is Kind.CONTAINER:
        return value.items is None or any(map(_may_hold_tensors, value.items))
    return value.kind in (Kind.TENSOR, Kind.UNKNOWN)


class _Origin:
    def __init__(self, facts: Facts, strict: bool) -> None:
        self.facts = facts
        self.strict = strict
        self.root: ast.expr | None = None
        self.seen: set[tuple[ast.AST | None, str]] = set()

    def doubt(self, why: str) -> str:
        """A reason that counts only where the value itself must be understood, not just its numbers."""
        return why if self.strict else ""

    def value(self, node: ast.expr) -> str:
        """What the expression is made of, names followed to what is assigned to them."""
        if isinstance(node, ast.Constant):
            return ""
        if isinstance(node, ast.Lambda | ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
            return self.doubt("part of it is not a plain expression")
        if self.facts.value(node).kind is Kind.READBACK:
            return "it is computed from a value that is read back from the device"
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            parts = [node.value, node.key] if isinstance(node, ast.DictComp) else [node.elt]
            return self.first([*parts, *(inner.iter for inner in node.generators)])
        return self.first(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))

    def first(self, nodes: Iterable[ast.expr]) -> str:
        return next((why for child in nodes if (why := self.value(child))), "")

    def loosely(self, nodes: Iterable[ast.expr]) -> str:
        """Only whether numbers are drawn: what they are is seen at every call."""
        strict, self.strict = self.strict, False
        try:
            return self.first(nodes)
        finally:
            self.strict = strict

    def attribute(self, node: ast.Attribute) -> str:
        known = self.facts.value(node)
        if node.attr in METADATA or known.kind is Kind.HOST:
            return ""
        if known.kind is Kind.TENSOR and known.device is Device.DEVICE:
            return self.doubt(f"`{ast.unparse(node)}` is on the device")
        function = enclosing_function(self.facts, node)
        own = (
            isinstance(node.value, ast.Name) and function is not None and node.value.id == self_name(function)
        )
        return "" if own else self.value(node.value)

    def name(self, node: ast.Name) -> str:
        known = self.facts.value(node)
        function = enclosing_function(self.facts, node)
        if known.kind in (Kind.FUNCTION, Kind.MODULE) or (function, node.id) in self.seen:
            return ""
        self.seen.add((function, node.id))
        spec = function.args if function is not None else None
        given = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg] if spec else []
        handed = any(arg is not None and arg.arg == node.id for arg in given)
        if handed and _may_hold_tensors(known) and self.strict:
            return f"`{node.id}` is handed in by the caller"
        if known.kind is Kind.TENSOR and known.device is Device.DEVICE:
            return self.doubt(f"`{node.id}` is on the device")
        made = (value for value in self.bindings(function, node.id) if not self.is_itself(value))
        return self.loosely(made) if known.kind is Kind.HOST else self.first(made)

    def is_itself(self, value: ast.expr) -> bool:
        """``mask = mask.to(x)``: what is assigned is made of what is asked about, not the reverse."""
        return self.root is not None and any(node is self.root for node in walk(value))

    def bindings(self, function: ast.AST | None, name: str) -> Iterator[ast.expr]:
        """What a local name is made of: assigned values, what loops run over, writes by its own methods."""
        for node in walk(function) if function is not None else self.top():
            if isinstance(node, ast.Assign) and any(_stores(target, name) for target in node.targets):
                yield node.value
            elif isinstance(node, ast.AugAssign | ast.AnnAssign) and _stores(node.target, name):
                if node.value is not None:
                    yield node.value
            elif isinstance(node, ast.For | ast.comprehension) and _stores(node.target, name):
                yield node.iter
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                if any(isinstance(arg, ast.Name) and arg.id == name for arg in node.value.args):
                    yield node.value  # which may write into it
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                own = isinstance(node.func.value, ast.Name) and node.func.value.id == name
                if own and node.func.attr.endswith("_"):
                    yield node
                elif own and node.func.attr in _TAKES_IN:
                    yield from node.args

    def top(self) -> Iterator[ast.AST]:
        """The statements of the file outside functions and classes, and all in them."""
        for stmt in self.facts.tree.body:
            if not isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from walk(stmt)

    def call(self, node: ast.Call) -> str:
        func = node.func
        word = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
        if word in _DRAWS:
            return f"`{word}` draws another value at every call"
        if isinstance(func, ast.Attribute) and word in _SIZES:
            return ""
        if word in _EMPTY or (word.endswith("Tensor") and _is_sized(self.facts, node)):
            return f"`{ast.unparse(node)}` is memory that nothing was written to"
        if isinstance(func, ast.Attribute) and word in _READS:
            read = self.facts.value(func.value)
            if read.kind is Kind.TENSOR and read.device is not Device.HOST:
                return "it is computed from a value that is read back from the device"
        target = self.facts.value(func)
        scope, _, inner = (target.qualname or "").partition(":")
        why = ""
        if target.kind is Kind.MODULE:
            why = self.doubt("it is computed by a module")
        elif target.kind is Kind.FUNCTION and inner:
            if scope.partition(".")[0] not in _KNOWN:
                why = _body_varies(self.facts, scope, inner, self.strict)
        elif (
            isinstance(func, ast.Attribute)
            and (dotted(self.facts, func) or "").partition(".")[0] not in _KNOWN
        ):
            receiver = self.facts.value(func.value).kind
            why = self.value(func.value)
            if not why and receiver not in (Kind.TENSOR, Kind.HOST, Kind.CONTAINER):
                why = self.doubt(f"what `{ast.unparse(func)}` does is not known")
        elif not isinstance(func, ast.Attribute) and target.kind is Kind.UNKNOWN:
            why = self.doubt(f"what `{ast.unparse(func)}` does is not known")
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        return why or self.first(a.value if isinstance(a, ast.Starred) else a for a in arguments)


def _is_sized(facts: Facts, call: ast.Call) -> bool:
    """``torch.LongTensor(3, 4)``: sizes, not data."""
    if not (dotted(facts, call.func) or "").startswith("torch.") or call.keywords:
        return False
    only = call.args[0] if len(call.args) == 1 else None
    return only is None or facts.value(only).dtype == "int"


def _stores(target: ast.expr, name: str) -> bool:
    """Whether a target binds the name, or writes into what it holds."""
    if isinstance(target, ast.Tuple | ast.List):
        return any(_stores(element, name) for element in target.elts)
    while isinstance(target, ast.Subscript | ast.Starred):
        target = target.value
    return isinstance(target, ast.Name) and target.id == name


@lru_cache(maxsize=64)
def _module(facts: Facts, scope: str) -> ast.Module | None:
    """The tree of a module of the code base."""
    for known in (facts, *facts.foreign):
        if known.module == scope:
            return known.tree
    base = facts.root / Path(*scope.split("."))
    file = next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)
    try:
        return None if file is None else ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _body_varies(facts: Facts, scope: str, qualname: str, strict: bool, depth: int = 0) -> str:
    """Whether a function of the code base may draw: the names in its body, and in what it calls by name."""
    unknown = f"what `{qualname}` does is not known" if strict else ""
    tree = _module(facts, scope) if depth < _DEPTH else None
    node: ast.AST | None = tree
    for part in qualname.split("."):
        body = getattr(node, "body", ())
        node = next(
            (n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part), None
        )
    if node is None or tree is None:
        return unknown
    own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    for inner in ast.walk(node):
        word = (
            inner.attr
            if isinstance(inner, ast.Attribute)
            else inner.id
            if isinstance(inner, ast.Name)
            else ""
        )
        if word in _DRAWS:
            return f"`{qualname}` uses `{word}`, which may give another value at every call"
        if (
            isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Name)
            and inner.func.id in own - {qualname}
        ):
            why = _body_varies(facts, scope, inner.func.id, strict, depth + 1)
            if why:
                return why
    return ""
