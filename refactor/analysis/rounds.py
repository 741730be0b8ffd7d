"""What the host reads back in every round of a loop that drives a model: the token, whether all are finished.

Between two graphs a read breaks nothing; the device idles while the host waits for it and launches what
follows. Only values that surely come from the device are followed: the outputs of the model in the loop, and
what tensor operations make of them. Order counts: a value that was copied to the host once is the host's.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from refactor.analysis.liveness import target_names
from refactor.analysis.model import Event, EventKind
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.repeats import RepeatedCall
from refactor.analysis.tensornames import TENSOR_NAMES
from refactor.analysis.torchops import HOST_ATTRIBUTES, HOST_METHODS, names
from refactor.analysis.trees import walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_HOST, _GIVEN, _TENSOR = 0, 1, 2
"""A host value or unknown; an output of the model, in whatever structure; a tensor on the device."""
_READS = frozenset({"item", "tolist"})
_NUMBERS = frozenset({"int", "float", "bool"})
_MATHS = frozenset({"math.isnan", "math.isinf", "math.isfinite", "math.exp", "math.log", "math.sqrt"})
_SHOWS = frozenset({"print"})
_ENDS = (ast.Break, ast.Return, ast.Raise)
_NOT_TENSOR = frozenset({"values", "name", "data_ptr", "is_tensor", "save", "index", "type", "get_device"})
_HOST_BUILTINS = names(
    "len range isinstance type id str repr hasattr getattr print enumerate callable format open"
)
_OPERATIONS = TENSOR_NAMES - _NOT_TENSOR
_LEAST = 2
"""Rounds that a value needs to come back to where it is read."""
_DEPTH = 3


@dataclass(frozen=True, eq=False)
class RoundRead:
    """One place where the host waits in every round."""

    node: ast.expr
    kind: EventKind  # what it would be inside a region
    repeat: RepeatedCall
    place: str  # "line 12" of the helper that reads; "": here


def round_reads(
    module: ModuleInfo, repeats: Sequence[RepeatedCall], inside: Collection[ast.AST]
) -> Iterator[RoundRead]:
    """The reads of every loop that calls a model again and again, in order of their place.

    ``inside``: functions that are part of a region, whose reads break a capture and are reported as such.
    """
    loops: dict[int, list[RepeatedCall]] = {}
    for repeat in repeats:
        if repeat.function is None or repeat.function not in inside:
            loops.setdefault(id(repeat.loop), []).append(repeat)
    for group in loops.values():
        loop = group[0].loop
        flow = _Flow(
            module, frozenset(id(call) for repeat in group for call in repeat.calls), group[0].function
        )
        for _ in range(_LEAST):
            flow.reads.clear()
            flow.round(loop)
        for node, kind, place in sorted(flow.reads.values(), key=lambda r: (r[0].lineno, r[0].col_offset)):
            yield RoundRead(node, kind, group[0], place)


def between(event: Event) -> str:
    """What to do about a read between the graphs of a loop: one clause."""
    kind = event.extra.get("as")
    if kind in (EventKind.BRANCH, EventKind.WHILE, EventKind.BOOL_OP):
        return "ask only every few steps (`step % 8 == 0 and …`) and cut off what was computed beyond"
    if kind is EventKind.SHOW:
        return "show it only every few steps, or collect the tensors and show them after the loop"
    if kind is EventKind.ASSERT:
        return "check it once, after the loop, or use torch._assert_async"
    return (
        "unless the next step needs it on the host, keep the tensors on the device and read them together, "
        "after the loop or every few steps"
    )


@dataclass(eq=False)
class _Flow:
    """One walk over the statements of a loop or a helper; ``known`` says where names live at this point."""

    module: ModuleInfo
    calls: frozenset[int]  # of the model
    function: FunctionNode | None
    depth: int = 0
    muted: int = 0  # in what does not run in every round
    known: dict[str, int] = field(default_factory=dict)
    reads: dict[int, tuple[ast.expr, EventKind, str]] = field(default_factory=dict)
    returned: int = _HOST

    def round(self, loop: ast.For | ast.While) -> None:
        """One round of a loop."""
        before = dict(self.known)
        if isinstance(loop, ast.While):
            self.truth(loop.test, EventKind.WHILE)
        else:
            self.bind(loop.target, self.value(loop.iter))
        self.block(loop.body)
        self.join(before)

    def join(self, other: dict[str, int]) -> None:
        """What holds on either way here."""
        for name, where in other.items():
            self.known[name] = max(where, self.known.get(name, _HOST))

    def block(self, stmts: Iterable[ast.stmt]) -> None:
        for stmt in stmts:
            self.statement(stmt)

    def statement(self, stmt: ast.stmt) -> None:
        if isinstance(stmt, FunctionNode | ast.ClassDef):
            return
        if isinstance(stmt, ast.If):
            self.branch(stmt)
        elif isinstance(stmt, ast.For | ast.While):
            for _ in range(_LEAST):
                self.round(stmt)
            self.block(stmt.orelse)
        elif isinstance(stmt, ast.Assign):
            where = self.value(stmt.value)
            for target in stmt.targets:
                self.assign(target, stmt.value, where)
        elif isinstance(stmt, ast.AnnAssign) and stmt.value is not None:
            self.assign(stmt.target, stmt.value, self.value(stmt.value))
        elif isinstance(stmt, ast.AugAssign):
            where = self.value(stmt.value)
            if isinstance(stmt.target, ast.Name):
                self.known[stmt.target.id] = max(where, self.known.get(stmt.target.id, _HOST))
        elif isinstance(stmt, ast.Assert):
            self.truth(stmt.test, EventKind.ASSERT)
        elif isinstance(stmt, ast.Return):
            self.muted += not self.depth
            self.returned = max(self.returned, self.value(stmt.value) if stmt.value is not None else _HOST)
            self.muted -= not self.depth
        elif isinstance(stmt, ast.With | ast.AsyncWith):
            for item in stmt.items:
                self.value(item.context_expr)
            self.block(stmt.body)
        elif isinstance(stmt, ast.Try):
            self.block([*stmt.body, *stmt.orelse, *stmt.finalbody])
        elif isinstance(stmt, ast.Expr):
            self.value(stmt.value)

    def branch(self, stmt: ast.If) -> None:
        """A branch that leaves the loop runs once, one that counts rounds not in each."""
        self.truth(stmt.test, EventKind.BRANCH)
        rare = _counts(stmt.test)
        before = dict(self.known)
        for body in (stmt.body, stmt.orelse):
            after, self.known = self.known, dict(before)
            once = (bool(body) and isinstance(body[-1], _ENDS) and not self.depth) or (
                rare and body is stmt.body
            )
            self.muted += once
            self.block(body)
            self.muted -= once
            if body is stmt.orelse:
                self.join(after)

    def assign(self, target: ast.expr, value: ast.expr, where: int) -> None:
        """``a, b = x, y`` takes each its own."""
        parts = isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List)
        if parts and len(target.elts) == len(value.elts):  # type: ignore[attr-defined]
            known = [self.value(v) for v in value.elts]  # type: ignore[attr-defined]
            for one, its in zip(target.elts, known, strict=True):  # type: ignore[attr-defined]
                self.bind(one, its)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            if where:
                several = isinstance(target.slice, ast.Tuple | ast.Slice)
                self.raise_to(target.value.id, _TENSOR if several and where == _TENSOR else _GIVEN)
        else:
            self.bind(target, where)

    def bind(self, target: ast.expr, where: int) -> None:
        for name in target_names(target):
            self.known[name] = where

    def raise_to(self, name: str, where: int) -> None:
        self.known[name] = max(where, self.known.get(name, _HOST))

    # -- expressions -----------------------------------------------------------------------------------------

    def truth(self, test: ast.expr, kind: EventKind) -> None:
        """A test: each part that is a tensor is read back."""
        if isinstance(test, ast.BoolOp):
            rare = False
            for part in test.values:
                self.muted += rare
                self.truth(part, kind)
                self.muted -= rare
                rare = rare or (isinstance(test.op, ast.And) and _counts(part))
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.truth(test.operand, kind)
        elif self.value(test) == _TENSOR:
            self.read(test, kind)

    def read(self, node: ast.expr, kind: EventKind, place: str = "") -> int:
        if not self.muted:
            self.reads.setdefault(id(node), (node, kind, place))
        return _HOST

    def value(self, node: ast.expr) -> int:
        """Where the value of an expression lives; what is read back on the way is noted."""
        if id(node) in self.calls:
            self.most(ast.iter_child_nodes(node))
            return _GIVEN
        if isinstance(node, ast.Name):
            return self.known.get(node.id, _HOST)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.Attribute):
            inner = self.value(node.value)
            return _HOST if node.attr in HOST_ATTRIBUTES else inner
        if isinstance(node, ast.Subscript):
            self.value(node.slice)
            return self.value(node.value)
        if isinstance(node, ast.Compare):
            return self.compare(node)
        if isinstance(node, ast.BoolOp):
            self.truth(ast.copy_location(ast.BoolOp(node.op, node.values[:-1]), node), EventKind.BOOL_OP)
            return self.value(node.values[-1])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.truth(node.operand, EventKind.BOOL_OP)
            return _HOST
        if isinstance(node, ast.IfExp):
            self.truth(node.test, EventKind.BRANCH)
            return max(self.value(node.body), self.value(node.orelse))
        if isinstance(node, ast.NamedExpr):
            where = self.value(node.value)
            self.bind(node.target, where)
            return where
        if isinstance(node, ast.JoinedStr):
            return self.shown(p.value for p in node.values if isinstance(p, ast.FormattedValue))
        if isinstance(node, ast.Lambda | ast.Constant):
            return _HOST
        if isinstance(node, ast.Tuple | ast.List | ast.Dict | ast.Set):
            return min(_GIVEN, self.most(ast.iter_child_nodes(node)))
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            for generator in node.generators:
                self.bind(generator.target, self.value(generator.iter))
            return min(_GIVEN, self.value(node.elt))
        return self.most(ast.iter_child_nodes(node))

    def most(self, nodes: Iterable[ast.AST]) -> int:
        """The most that one of them is."""
        found = _HOST
        for node in nodes:
            part = node.value if isinstance(node, ast.keyword) else node
            if isinstance(part, ast.expr):
                found = max(found, self.value(part))
        return found

    def compare(self, node: ast.Compare) -> int:
        where = self.most((node.left, *node.comparators))
        if all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            return _HOST
        if any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            member = self.value(node.left) == _TENSOR and isinstance(
                node.comparators[0], ast.List | ast.Tuple
            )
            return self.read(node, EventKind.BOOL_OP) if member else _HOST
        return where

    def shown(self, parts: Iterable[ast.expr]) -> int:
        for part in parts:
            if self.value(part) == _TENSOR:
                self.read(part, EventKind.SHOW)
        return _HOST

    def call(self, node: ast.Call) -> int:
        name, func = last_name(node.func), node.func
        resolved = self.module.resolve(func)
        dotted = resolved if isinstance(resolved, str) else ""
        if isinstance(func, ast.Name) and resolved is None:
            if name in _SHOWS:
                return self.shown(node.args)
            where = self.most((*node.args, *node.keywords))
            if name in _NUMBERS:
                return self.read(node, EventKind.READBACK) if where == _TENSOR else _HOST
            return _HOST if name in _HOST_BUILTINS else min(where, _GIVEN)
        where = self.most((*node.args, *node.keywords))
        if dotted in _MATHS:
            return self.read(node, EventKind.READBACK) if where == _TENSOR else _HOST
        if dotted.startswith("torch."):
            return _TENSOR if where and name not in HOST_METHODS and name not in _NOT_TENSOR else _HOST
        target = self.helper(func) if where else None
        if target is not None:
            return self.helped(node, target)
        if isinstance(func, ast.Attribute) and not dotted:
            return self.method(node, func, where)
        return min(where, _GIVEN) if isinstance(resolved, str) and isinstance(func, ast.Name) else _HOST

    def method(self, node: ast.Call, func: ast.Attribute, where: int) -> int:
        """``x.name(...)``, ``where``: the most that its arguments are."""
        owner, name = self.value(func.value), func.attr
        if name in ("append", "extend", "add") and where and isinstance(func.value, ast.Name):
            self.raise_to(func.value.id, _GIVEN)
            if name != "add":
                return _HOST
        if name in HOST_METHODS:
            return _HOST
        if owner:
            if name in _READS:
                return self.read(node, EventKind.READBACK)
            if name == "cpu" or (name == "to" and _to_cpu(node)):
                return self.read(node, EventKind.TO_HOST)
            if name == "numpy":
                return _HOST  # of a tensor on the device it fails: this one is not
            return (
                _TENSOR if owner == _TENSOR or (name in TENSOR_NAMES and name not in _NOT_TENSOR) else owner
            )
        return _TENSOR if where == _TENSOR and name in TENSOR_NAMES and name not in _NOT_TENSOR else _HOST

    def helper(self, func: ast.expr) -> FunctionInfo | None:
        """The function of the code base that is called: one of a file, or a method of the own class."""
        if self.depth >= _DEPTH:
            return None
        found = self.module.resolve(func)
        if isinstance(found, FunctionInfo):
            return found
        first = self.function.args.args[:1] if self.function is not None else []
        owner = self.module.parents.get(self.function) if self.function is not None else None
        if not (isinstance(func, ast.Attribute) and isinstance(owner, ast.ClassDef) and first):
            return None
        cls = self.module.lookup(owner.name)
        if not isinstance(cls, ClassInfo) or getattr(func.value, "id", "") != first[0].arg:
            return None
        bound = cls.find(func.attr)
        return bound[1] if bound is not None and isinstance(bound[1], FunctionInfo) else None

    def helped(self, node: ast.Call, target: FunctionInfo) -> int:
        """What a helper returns; that it reads what it is given is told where it is called."""
        inner = target.node
        if not isinstance(inner, ast.FunctionDef):
            return _GIVEN
        names = [a.arg for a in (*inner.args.posonlyargs, *inner.args.args)]
        if isinstance(node.func, ast.Attribute) and target.cls and "staticmethod" not in target.decorators:
            names = names[1:]
        known = {n: self.value(a) for n, a in zip(names, node.args, strict=False)}
        known |= {k.arg: self.value(k.value) for k in node.keywords if k.arg}
        flow = _Flow(target.module, frozenset(), inner, self.depth + 1, known=known)
        flow.block(inner.body)
        if any(isinstance(n, ast.Yield | ast.YieldFrom) for n in walk(inner)):
            return _GIVEN
        if flow.reads:
            first = min(flow.reads.values(), key=lambda r: r[0].lineno)
            same = target.module is self.module
            where = f"line {first[0].lineno}" + ("" if same else f" of {target.module.source.path.name}")
            kind = first[1] if first[1] is EventKind.TO_HOST else EventKind.READBACK
            self.read(node, kind, where)
        return flow.returned


def _to_cpu(node: ast.Call) -> bool:
    given = [*node.args, *(k.value for k in node.keywords)]
    return any(isinstance(n, ast.Constant) and n.value == "cpu" for a in given for n in walk(a))


def _counts(test: ast.expr) -> bool:
    """Whether a test asks for one round in several: ``step % 8 == 0``."""
    return any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for n in walk(test))
