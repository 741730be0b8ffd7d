"""The plan of one method: which statements stay on the host and which become segments.

Planning repeats until it holds together: a piece that would return a host value, read a variable that may be
unbound or was read back from the device, change outside state or do too little work gives its statements back
to the host.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from refactor.analysis import liveness
from refactor.analysis.model import Facts, Kind
from refactor.rewrite.live import conditional_branches, live_with_tests_replaced
from refactor.rewrite.names import attribute_names, bound_names, fresh, used_names
from refactor.rewrite.naming import method_prefix, piece_role, predicate_name
from refactor.rewrite.plan import Block, Keep, Nest, Piece, Predicate, units_of
from refactor.rewrite.syntax import enclosing_class, enclosing_statement, same_scope, self_name
from refactor.rewrite.work import BREAKING, OUTLINABLE, effects, host_statements, in_training, leaves, work

LEAST_WORK = 3
"""Kernels (a module of several layers counts for three) below which launching costs less than a replay."""


@dataclass
class Planner:
    """Plans one method; `settle` gives the tree of what stays and what becomes a piece."""

    facts: Facts
    function: ast.FunctionDef
    settled: Collection[ast.AST]
    forced: set[ast.stmt] = field(default_factory=set)
    unhoisted: set[ast.If] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.host = host_statements(self.facts, self.function, self.settled)
        arguments = self.function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        self.parameters = frozenset(a.arg for a in every)
        self.written = frozenset(liveness.writes(self.function.body))
        self.locals = self.parameters | self.written
        self.owner = self_name(self.function)
        self.expanded = self.branches()
        self.host |= {branch for stmt, branch in self.expanded.items() if stmt in self.host}
        self.tensors = {event.node: event.extra.get("tensors", ()) for event in self.facts.events}
        for stmt, branch in self.expanded.items():
            found = self.tensors.get(stmt.value, ())  # type: ignore[attr-defined]
            self.tensors[branch] = found or (branch.test,)
        self.kinds: dict[str, set[Kind]] = {}
        for node in same_scope(self.function):
            if isinstance(node, ast.Name) and node in self.facts.values:
                self.kinds.setdefault(node.id, set()).add(self.facts.value(node).kind)

    def branches(self) -> dict[ast.stmt, ast.If]:
        """Statements that are one conditional expression on a tensor, and nothing else that asks the host."""
        asking: dict[ast.stmt, list[ast.AST]] = {}
        for event in self.facts.events:
            if event.function is self.function and event.node not in self.settled and event.kind in BREAKING:
                asking.setdefault(enclosing_statement(self.facts, event.node), []).append(event.node)
        chosen = [s for s, nodes in asking.items() if nodes == [getattr(s, "value", None)]]
        return conditional_branches(chosen)

    # -- planning until it holds

    def settle(self) -> Block:
        """The largest plan in which every piece is sound."""
        while True:
            block = self.block(self.function.body, self.parameters)
            replaced = {p.predicate.branch: p.predicate.test for p in block.pieces() if p.predicate}
            live = live_with_tests_replaced(self.function, replaced, self.expanded)
            before = (len(self.forced), len(self.unhoisted))
            for piece in block.pieces():
                self.complete(piece, live)
            if (len(self.forced), len(self.unhoisted)) == before:
                return block

    def complete(self, piece: Piece, live: Mapping[ast.stmt, frozenset[str]]) -> None:
        """Fill in parameters and results of a piece, or give its statements back to the host."""
        body = piece.statements
        after = live[body[-1]] if body and not piece.returns else frozenset()
        written = liveness.writes(body)
        piece.outputs = tuple(name for name in written if name in after)
        sure = liveness.surely_writes(body)
        tail: list[ast.stmt] = [ast.Expr(piece.predicate.test)] if piece.predicate else []
        read = liveness.reads([*body, *tail])
        needed = [*read, *(name for name in piece.outputs if name not in sure)]
        piece.inputs = tuple(dict.fromkeys(n for n in needed if n in self.locals and n != self.owner))
        unusable = any(name not in piece.sure or not self.is_known(name, piece) for name in piece.inputs)
        if unusable or self.too_little(piece):
            self.give_back(piece)
            return
        for name in piece.inputs:
            users = [s for s in body if self.reads_back(name, s)]
            if users or (piece.predicate and self.reads_back(name, piece.predicate.test)):
                self.give_back(piece, *users)
        mutated = set[str]()
        for statement in body:
            mutated |= effects(self.facts, self.function, statement) or set()
        if any(name in piece.inputs or name in piece.outputs or name not in sure for name in mutated):
            self.give_back(piece, *(s for s in body if effects(self.facts, self.function, s)))
        for name in piece.outputs:
            if not self.is_device(name):
                self.give_back(piece, *(s for s in body if name in liveness.writes([s])))

    def too_little(self, piece: Piece) -> bool:
        """Whether launching the kernels of a piece is cheaper than replaying a graph of them."""
        nodes: list[ast.AST] = list(piece.statements)
        if piece.predicate:
            nodes.append(piece.predicate.test)
        return self.work(nodes) < LEAST_WORK

    def work(self, nodes: Iterable[ast.AST]) -> int:
        """Kernels, without those that build constants: other rewrites keep these out of the hot path."""
        return work(self.facts, self.function, nodes, self.settled)

    def is_rename(self, stmt: ast.stmt) -> bool:
        """``z = z_next`` between tensors: it belongs to the work before it."""
        renames = isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.Name)
        return renames and self.facts.value(stmt.value).kind is Kind.TENSOR  # type: ignore[attr-defined]

    def give_back(self, piece: Piece, *statements: ast.stmt) -> None:
        """Leave statements of a piece to the host, all of them by default."""
        self.forced.update(statements or piece.statements)
        if piece.predicate and not statements:
            self.unhoisted.add(piece.predicate.branch)

    def is_known(self, name: str, piece: Piece) -> bool:
        """Whether a variable can go into a graph: wherever the piece reads it, its kind is known."""
        nodes: list[ast.AST] = [*piece.statements, *([piece.predicate.test] if piece.predicate else [])]
        reads = [
            node
            for root in nodes
            for node in (root, *same_scope(root))
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
        ]
        kinds = {self.facts.value(node).kind for node in reads}
        argument = name in self.parameters and name not in self.written
        return not kinds & ({Kind.FUNCTION} if argument else {Kind.UNKNOWN, Kind.FUNCTION})

    def reads_back(self, name: str, stmt: ast.AST) -> bool:
        """Whether a statement uses a number read back from the device: every value would be another graph."""
        return any(
            isinstance(node, ast.Name) and node.id == name and self.facts.value(node).kind is Kind.READBACK
            for node in (stmt, *same_scope(stmt))
        )

    def is_device(self, name: str) -> bool:
        """Whether a variable can come out of a graph: tensors and containers of them."""
        kinds = self.kinds.get(name, set())
        hosted = kinds & {Kind.HOST, Kind.READBACK, Kind.MODULE, Kind.FUNCTION}
        return bool(kinds & {Kind.TENSOR, Kind.CONTAINER}) and not hosted

    # -- one block

    def block(self, statements: Sequence[ast.stmt], sure: frozenset[str]) -> Block:
        """Cut a list of statements; ``sure`` are the variables that are bound on every path to it."""
        block = Block([])
        run: list[int] = []
        units = [
            [self.expanded.get(unit[0], unit[0])] if len(unit) == 1 else unit for unit in units_of(statements)
        ]
        before: list[frozenset[str]] = []
        for index, unit in enumerate(units):
            before.append(sure)
            if all(self.outlinable(s) for s in unit):
                run.append(index)
            elif isinstance(unit[-1], ast.Return) and self.returnable(unit):
                self.flush(block, units, [*run, index], before, None, returns=True)
                run = []
            else:
                nested = unit[0] if len(unit) == 1 else None
                predicate = self.predicate(nested) if isinstance(nested, ast.If) else None
                self.flush(block, units, run, before, predicate)
                run = []
                block.entries.append(self.host_entry(index, unit, sure))
            sure |= liveness.surely_writes(unit)
        self.flush(block, units, run, before, None)
        return block

    def host_entry(self, index: int, unit: Sequence[ast.stmt], sure: frozenset[str]) -> Keep | Nest:
        """A statement that stays, with the blocks inside it cut in their turn."""
        stmt = unit[0]
        if len(unit) > 1 or not isinstance(stmt, ast.If | ast.For | ast.While | ast.With):
            return Keep(index)
        inner = sure
        if isinstance(stmt, ast.For):
            inner |= frozenset(liveness.target_names(stmt.target))
        elif isinstance(stmt, ast.With):
            inner |= frozenset(
                n for item in stmt.items for n in liveness.target_names(item.optional_vars or stmt)
            )
        body = self.block(stmt.body, inner)
        orelse = self.block(stmt.orelse, sure) if not isinstance(stmt, ast.With) and stmt.orelse else None
        if not any(True for b in (body, orelse) if b is not None for _ in b.pieces()):
            return Keep(index)
        return Nest(index, stmt, body, orelse)

    def outlinable(self, stmt: ast.stmt) -> bool:
        """Whether a segment may hold a statement as far as it can be told without its neighbours."""
        if stmt in self.forced or not isinstance(stmt, OUTLINABLE) or leaves(stmt):
            return False
        if in_training(self.facts, stmt):
            return False  # autograd records there, and a segment would run eagerly
        for node in (stmt, *same_scope(stmt)):
            if node in self.host or node in self.forced:
                return False
            if isinstance(node, ast.stmt) and not isinstance(
                node, (*OUTLINABLE, ast.Raise, ast.Break, ast.Continue, ast.Return, ast.Assert)
            ):
                return False
        if isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Constant):
            return False  # a docstring stays with its function
        return effects(self.facts, self.function, stmt) is not None

    def returnable(self, unit: Sequence[ast.stmt]) -> bool:
        """Whether a segment can compute the value of a ``return``: tensors and displays of them."""
        last = unit[-1]
        assert isinstance(last, ast.Return)
        if last in self.forced or last in self.host or last.value is None:
            return False
        if (
            not all(self.outlinable(s) for s in unit[:-1])
            or effects(self.facts, self.function, last) != set()
        ):
            return False
        return self.only_tensors(last.value)

    def only_tensors(self, node: ast.expr) -> bool:
        """Whether a value is a tensor, or a display of tensors and literals."""
        if isinstance(node, ast.Tuple | ast.List | ast.Dict):
            items = node.values if isinstance(node, ast.Dict) else node.elts
            keys = node.keys if isinstance(node, ast.Dict) else []
            tensors = [item for item in items if not isinstance(item, ast.Constant)]
            named = all(isinstance(key, ast.Constant) for key in keys)
            return named and bool(tensors) and all(self.only_tensors(item) for item in tensors)
        return self.facts.value(node).kind is Kind.TENSOR

    def predicate(self, branch: ast.If) -> Predicate | None:
        """The part of a test that the piece before the ``if`` can compute."""
        tensors = self.tensors.get(branch, ())
        if branch in self.unhoisted or not isinstance(tensors, tuple) or not tensors:
            return None
        test = tensors[0]
        if isinstance(test, ast.Name | ast.Attribute) or not _always_evaluated(branch.test, test):
            return None
        if self.work([test]) == 0 or self.facts.value(test).kind is not Kind.TENSOR:
            return None
        return Predicate(branch, test)

    def flush(
        self,
        block: Block,
        units: Sequence[Sequence[ast.stmt]],
        run: Sequence[int],
        before: Sequence[frozenset[str]],
        predicate: Predicate | None,
        *,
        returns: bool = False,
    ) -> None:
        """End a run: light statements at its ends stay on the host, the rest is a piece."""
        start, end = 0, len(run)

        def light(index: int) -> bool:
            return self.work(units[index]) == 0

        def rename(index: int) -> bool:
            return all(self.is_rename(stmt) for stmt in units[index])

        filled = set[str]()  # containers that the run fills: made in the run, they are no outside state
        for index in run:
            for stmt in units[index]:
                filled |= effects(self.facts, self.function, stmt) or set()
        while start < end and light(run[start]) and not (returns and start == end - 1):
            if filled & set(liveness.writes(units[run[start]])):
                break
            start += 1
        read = liveness.reads([ast.Expr(predicate.test)]) if predicate else ()
        while end > start and not returns and light(run[end - 1]) and not rename(run[end - 1]):
            if set(liveness.writes(units[run[end - 1]])) & set(read):
                break
            end -= 1
        block.entries += [Keep(index) for index in run[:start]]
        statements = [stmt for index in run[start:end] for stmt in units[index]]
        if statements or predicate is not None:
            first = before[run[start]] if statements else before[-1]
            block.entries.append(Piece(tuple(run[start:end]), statements, first, predicate, returns))
        block.entries += [Keep(index) for index in run[end:]]

    # -- names

    def name(self, blocks: Block) -> dict[Piece, str]:
        """Method names of the pieces and, in their predicates, variable names."""
        cls = enclosing_class(self.facts, self.function)
        assert cls is not None
        prefix = method_prefix(self.facts, cls, self.function)
        taken = set(attribute_names(self.facts.tree))
        module = {n for node in self.facts.tree.body for n in bound_names(node) if not _scoped(node)}
        variables = set(used_names(self.function)) | module
        names: dict[Piece, str] = {}
        for piece, place in blocks.placed():
            if piece.predicate:
                piece.predicate.name = fresh(predicate_name(piece.predicate.test), variables)
                variables.add(piece.predicate.name)
            made = piece.outputs or (() if piece.returns else liveness.writes(piece.statements))
            role = piece_role(self.function, piece.statements, made, place)
            names[piece] = fresh(f"{prefix}_{role}", taken)
            taken.add(names[piece])
        return names


def _scoped(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _always_evaluated(test: ast.expr, part: ast.expr) -> bool:
    """Whether ``part`` is computed whenever the test is, and before anything else in it has an effect."""
    if test is part:
        return True
    if isinstance(test, ast.BoolOp):
        return _always_evaluated(test.values[0], part)
    if isinstance(test, ast.UnaryOp):
        return _always_evaluated(test.operand, part)
    if isinstance(test, ast.Compare):
        return _always_evaluated(test.left, part)
    if isinstance(test, ast.Call):
        if isinstance(test.func, ast.Attribute) and not test.args:
            return _always_evaluated(test.func.value, part)
        return (
            isinstance(test.func, ast.Name) and len(test.args) == 1 and _always_evaluated(test.args[0], part)
        )
    return False
