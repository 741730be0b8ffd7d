"""Cuts the blocks of a method: runs of device work become pieces, what asks the host stays between them.

A statement that only counts or collects on the host does not end a run: it moves in front of it or behind
it, where that changes nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from refactor.analysis import liveness
from refactor.analysis.model import Kind
from refactor.rewrite import cost
from refactor.rewrite.hoist import asks_host, parts_of
from refactor.rewrite.plan import Block, Decide, Guard, Hoist, Keep, Nest, Piece, reading, suites_of, units_of
from refactor.rewrite.syntax import dotted, is_owner, same_scope
from refactor.rewrite.training import in_training
from refactor.rewrite.work import OUTLINABLE, effects, leaves, on_layer

if TYPE_CHECKING:
    from refactor.rewrite.planner import Planner

_LEAVING = (ast.Return, ast.Break, ast.Continue, ast.Raise)
_SUPPRESS = ("suppress", "raises")


@dataclass
class _Run:
    """Device work that was met, and host statements that will stand before and behind it."""

    units: list[int] = field(default_factory=list)
    early: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


class Cutter:
    """One round of planning: cuts all blocks by what is known to belong to the host so far."""

    def __init__(self, planner: Planner) -> None:
        self.planner, self.facts, self.function = planner, planner.facts, planner.function
        self.orders: dict[int, list[ast.stmt]] = {}

    def ordered(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """The statements of a block in the order in which they will stand."""
        return self.orders.get(id(statements), statements)

    def block(
        self,
        statements: list[ast.stmt],
        sure: frozenset[str],
        guard: Guard | None = None,
        last: Hoist | None = None,
    ) -> Block:
        """Cut a list of statements.

        Args:
            statements: of one block.
            sure: variables that are bound on every path to it.
            guard: the ``try`` around it.
            last: what has to be computed at the end of the block.
        """
        cut = _Cut(self, guard)
        cut.units = [
            [self.planner.expanded.get(unit[0], unit[0])] if len(unit) == 1 else unit
            for unit in units_of(statements)
        ]
        for index, unit in enumerate(cut.units):
            cut.sure.append(sure)
            cut.add(index, unit)
            sure |= liveness.surely_writes(unit)
        cut.sure.append(sure)
        cut.flush(last)
        back: dict[ast.stmt, ast.stmt] = {b: s for s, b in self.planner.expanded.items()}
        order: list[ast.stmt] = []
        for entry in cut.block.entries:
            if not isinstance(entry, Decide):
                positions = entry.units if isinstance(entry, Piece) else (entry.unit,)
                order += [back.get(stmt, stmt) for i in positions for stmt in cut.units[i]]
            if isinstance(entry, Piece | Decide) and entry.computed is not None:
                order.append(entry.computed)
        self.orders[id(statements)] = order
        return cut.block

    def nested(self, index: int, stmt: ast.stmt, sure: frozenset[str], guard: Guard | None) -> Keep | Nest:
        """A statement that stays, with the blocks inside it cut in their turn."""
        if isinstance(stmt, ast.For):
            sure |= frozenset(liveness.target_names(stmt.target))
        elif isinstance(stmt, ast.If | ast.While):
            sure |= liveness.surely_writes([ast.Expr(stmt.test)])  # by ``:=``
        elif isinstance(stmt, ast.With):
            found = (liveness.target_names(item.optional_vars or stmt) for item in stmt.items)
            sure |= frozenset(name for names in found for name in names)
        blocks = []
        for number, suite in enumerate(suites_of(stmt)):
            around = guard
            if (self.catches(stmt) and (number == 0 or not isinstance(stmt, ast.Try))) or (
                isinstance(stmt, ast.Try) and stmt.finalbody
            ):
                around = Guard(stmt, guard)
            blocks.append(self.block(suite, self.bound(stmt, number, sure), around) if suite else Block())
        if not any(True for block in blocks for _ in block.pieces()):
            return Keep(index, stmt)
        return Nest(index, stmt, tuple(blocks))

    def bound(self, stmt: ast.stmt, number: int, sure: frozenset[str]) -> frozenset[str]:
        """Variables surely bound at the start of a block of a compound statement."""
        if isinstance(stmt, ast.For) and number == 1:
            return sure - frozenset(liveness.target_names(stmt.target))
        if isinstance(stmt, ast.Try) and suites_of(stmt)[number] is stmt.orelse:
            return sure | liveness.surely_writes(stmt.body)
        return sure

    def catches(self, stmt: ast.stmt) -> bool:
        """Whether the function may go on after an exception in the body of a statement."""
        if isinstance(stmt, ast.With):
            calls = [i.context_expr.func for i in stmt.items if isinstance(i.context_expr, ast.Call)]
            return any((dotted(self.facts, func) or "").endswith(_SUPPRESS) for func in calls)
        return isinstance(stmt, ast.Try)

    # -- what a segment may hold

    def outlinable(self, stmt: ast.stmt) -> bool:
        """Whether a segment may hold a statement as far as it can be told without its neighbours."""
        planner = self.planner
        if stmt in planner.forced or not isinstance(stmt, OUTLINABLE) or leaves(stmt):
            return False
        if in_training(self.facts, stmt):
            return False  # autograd records there, and a segment would run eagerly
        for node in (stmt, *same_scope(stmt)):
            if node in planner.host or node in planner.forced:
                return False
            if isinstance(node, ast.stmt) and not isinstance(
                node, (*OUTLINABLE, ast.Raise, ast.Break, ast.Continue, ast.Return, ast.Assert)
            ):
                return False
            if isinstance(node, ast.With) and not all(
                isinstance(i.context_expr, ast.Call) for i in node.items
            ):
                return False  # an object such as a lock, which a replay would not take
        if isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Constant):
            return False  # a docstring stays with its function
        return effects(self.facts, self.function, stmt) is not None

    def returnable(self, unit: Sequence[ast.stmt]) -> bool:
        """Whether a segment can compute the value of a ``return``: tensors and displays of them."""
        last = unit[-1]
        assert isinstance(last, ast.Return)
        planner = self.planner
        if last in planner.forced or last in planner.host or last.value is None:
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
        if isinstance(node, ast.Call) and self.facts.value(node).kind is Kind.UNKNOWN:
            return on_layer(self.facts, node)
        return self.facts.value(node).kind is Kind.TENSOR

    # -- what may move

    def collects(self, stmt: ast.stmt) -> bool:
        """``kept.append(h)`` for a list that the function made."""
        if not isinstance(stmt, ast.Expr) or not isinstance(stmt.value, ast.Call):
            return False
        func, arguments = stmt.value.func, stmt.value.args
        own = isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.attr == "append"
        if not own or stmt.value.keywords or not all(isinstance(a, ast.Name) for a in arguments):
            return False
        name: str = func.value.id  # type: ignore[attr-defined]
        return name in self.planner.written and name not in self.planner.parameters

    def counts(self, stmt: ast.stmt) -> bool:
        """``steps += 1``: assigns local variables values that need no tensor and cannot fail."""
        if isinstance(stmt, ast.Assign):
            targets = stmt.targets
        elif isinstance(stmt, ast.AugAssign | ast.AnnAssign):
            targets = [stmt.target]
        else:
            return False
        if stmt.value is None or not all(isinstance(target, ast.Name) for target in targets):
            return False
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if any(self.planner.kinds.get(name, set()) - {Kind.HOST} for name in names):
            return False
        inner = [stmt.value, *same_scope(stmt.value)]
        if any(isinstance(node, ast.Call | ast.Subscript | ast.Lambda | ast.NamedExpr) for node in inner):
            return False
        known = isinstance(stmt.value, ast.Constant) or self.facts.value(stmt.value).kind is Kind.HOST
        return known and not any(node in self.planner.barred or asks_host(self.facts, node) for node in inner)

    def prepares(self, stmt: ast.stmt) -> bool:
        """``alive = t < lengths``: one value made of arguments that nothing changes."""
        if not isinstance(stmt, ast.Assign) or stmt not in self.planner.forced or stmt in self.planner.host:
            return False
        names = [n.id for n in same_scope(stmt.value) if isinstance(n, ast.Name)]
        single = len(stmt.targets) == 1 and isinstance(stmt.targets[0], ast.Name)
        fixed = all(
            (n in self.planner.parameters and n not in self.planner.written)
            or self.planner.kinds.get(n) == {Kind.HOST}
            or n not in self.planner.locals
            for n in names
        )
        if not single or not fixed or effects(self.facts, self.function, stmt) != set():
            return False
        return not any(isinstance(n, ast.Attribute) and _is_owner(self, n.value) for n in same_scope(stmt))


class _Cut:
    """One block being cut."""

    def __init__(self, cutter: Cutter, guard: Guard | None) -> None:
        self.cutter, self.planner, self.guard = cutter, cutter.planner, guard
        self.block = Block()
        self.units: list[list[ast.stmt]] = []
        self.sure: list[frozenset[str]] = []
        self.run = _Run()

    def add(self, index: int, unit: list[ast.stmt]) -> None:
        """Deal with the next unit."""
        cutter, run = self.cutter, self.run
        if all(cutter.outlinable(s) for s in unit):
            if any(_conflict(self.units[i], unit) for i in run.late):
                self.flush()
            self.run.units.append(index)
            return
        if isinstance(unit[-1], ast.Return) and cutter.returnable(unit):
            if run.late:
                self.flush()
            self.run.units.append(index)
            self.flush(returns=True)
            return
        if run.units and len(unit) == 1 and self.moved(index, unit[0]):
            return
        self.stays(index, unit)

    def moved(self, index: int, stmt: ast.stmt) -> bool:
        """Whether a host statement can stand before or behind the run that it interrupts."""
        run, cutter = self.run, self.cutter
        if self.guard is not None:
            return False
        counts, prepares = cutter.counts(stmt), cutter.prepares(stmt)
        if not counts and not prepares and not cutter.collects(stmt):
            return False
        met = [self.units[i] for i in (*run.units, *run.late)]
        if prepares and any(_mentions(unit) & _mentions([stmt]) - {"torch"} for unit in met):
            return False
        if (counts or prepares) and not any(_conflict(unit, [stmt]) for unit in met):
            run.early.append(index)
        elif not prepares:
            run.late.append(index)
        else:
            return False
        return True

    def stays(self, index: int, unit: list[ast.stmt]) -> None:
        """End the run before a host statement; parts of that may join the run."""
        stmt = unit[0]
        hoist = self.hoist(unit) if len(unit) == 1 else None
        if hoist is not None and any(_conflict(self.units[i], [reading(hoist)]) for i in self.run.late):
            self.flush()
        loop = isinstance(stmt, ast.While) and hoist is not None
        if loop and stmt in self.planner.first_on_host:
            assert hoist is not None
            self.flush()
            decide = Decide(hoist)
            self.block.entries.append(decide)
        else:
            self.flush(hoist)
        if len(unit) > 1:
            self.block.entries.append(Keep(index, stmt))
        elif loop:
            assert hoist is not None
            assert isinstance(stmt, ast.While)
            body = self.cutter.block(stmt.body, self.sure[index], self.guard, hoist)
            orelse = self.cutter.block(stmt.orelse, self.sure[index], self.guard) if stmt.orelse else Block()
            self.block.entries.append(Nest(index, stmt, (body, orelse)))
        else:
            self.block.entries.append(self.cutter.nested(index, stmt, self.sure[index], self.guard))

    def hoist(self, unit: Sequence[ast.stmt]) -> Hoist | None:
        """What can be computed before a statement."""
        stmt, planner = unit[0], self.planner
        if (
            stmt in planner.unhoisted
            or stmt in planner.settled
            or (stmt in planner.forced and stmt not in planner.host)
        ):
            return None
        parts = parts_of(planner.facts, planner.function, stmt, planner.barred, planner.settled)
        if isinstance(stmt, ast.While):
            return self.rotation(stmt, parts)
        return Hoist(stmt, tuple(parts)) if cost.worth_moving(planner, stmt, parts) else None

    def rotation(self, stmt: ast.While, parts: Sequence[ast.expr]) -> Hoist | None:
        """The test of a loop, if the end of the body can compute it for the next round."""
        goes_on = any(isinstance(node, ast.Continue) for node in _own(stmt.body))
        if goes_on or len(parts) != 1 or cost.time(self.planner, parts) < cost.LIGHT:
            return None
        names = {node.id for node in same_scope(parts[0]) if isinstance(node, ast.Name)}
        if names & self.planner.locals - self.sure[-1]:
            return None
        body = [s for s in stmt.body if self.cutter.outlinable(s)]
        if cost.time(self.planner, body) == 0 or isinstance(stmt.body[-1], _LEAVING):
            return None
        return Hoist(stmt, tuple(parts), rotated=True)

    def flush(self, hoist: Hoist | None = None, *, returns: bool = False) -> None:
        """End a run: light statements at its ends stay on the host, the rest is a piece."""
        run, self.run = self.run, _Run()
        units = run.units
        start, end = 0, len(units)
        written = self.filled(units)
        while start < end and self.light(units[start]) and not (returns and start == end - 1):
            if written & set(liveness.writes(self.units[units[start]])):
                break
            start += 1
        read = {name for part in (hoist.parts if hoist else ()) for name in liveness.reads([ast.Expr(part)])}
        while end > start and not returns and self.light(units[end - 1]) and not self.renames(units[end - 1]):
            if set(liveness.writes(self.units[units[end - 1]])) & read or written & read:
                break
            end -= 1
        if hoist is not None and hoist.rotated:
            start = self.needed(units, start, end, read)
        self.block.entries += [Keep(i, self.units[i][0]) for i in (*run.early, *units[:start])]
        statements = [stmt for index in units[start:end] for stmt in self.units[index]]
        if statements or hoist is not None:
            first = self.sure[units[start]] if statements else self.sure[-1]
            first |= liveness.surely_writes([stmt for i in run.early for stmt in self.units[i]])
            self.block.entries.append(
                Piece(tuple(units[start:end]), statements, first, hoist, returns, self.guard)
            )
        self.block.entries += [Keep(i, self.units[i][0]) for i in (*units[end:], *run.late)]

    def needed(self, units: Sequence[int], start: int, end: int, read: set[str]) -> int:
        """The start of a piece at the end of a loop: renames that its test reads belong to it."""
        while start > 0 and self.renames(units[start - 1]):
            if not set(liveness.writes(self.units[units[start - 1]])) & read:
                break
            start -= 1
        return start

    def filled(self, units: Sequence[int]) -> set[str]:
        """Containers that a run fills: made in the run, they are no outside state."""
        return {
            name
            for index in units
            for stmt in self.units[index]
            for name in effects(self.planner.facts, self.planner.function, stmt) or ()
        }

    def light(self, index: int) -> bool:
        """Whether a unit launches nothing."""
        return cost.time(self.planner, self.units[index]) == 0

    def renames(self, index: int) -> bool:
        """Whether a unit only gives tensors other names."""
        return all(self.planner.is_rename(stmt) for stmt in self.units[index])


def _is_owner(cutter: Cutter, node: ast.expr) -> bool:
    return is_owner(cutter.facts, cutter.function, node)


def _mentions(unit: Sequence[ast.stmt]) -> set[str]:
    return {n.id for s in unit for n in same_scope(s) if isinstance(n, ast.Name)}


def _conflict(first: Sequence[ast.stmt], second: Sequence[ast.stmt]) -> bool:
    """Whether the order of two units matters for variables of the function."""
    one, two = set(liveness.writes(first)), set(liveness.writes(second))
    filled = {
        s.value.func.value.id
        for s in (*first, *second)
        if isinstance(s, ast.Expr)
        and isinstance(s.value, ast.Call)
        and isinstance(s.value.func, ast.Attribute)
        and isinstance(s.value.func.value, ast.Name)
    }
    both = _mentions(first) & _mentions(second)
    return bool((one | two | filled) & both)


def _own(body: Sequence[ast.stmt]) -> list[ast.AST]:
    """Statements of a loop's body, those of loops inside it apart."""
    found: list[ast.AST] = []
    stack: list[ast.AST] = list(body)
    while stack:
        node = stack.pop()
        found.append(node)
        if isinstance(node, ast.For | ast.While):
            stack += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            stack += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.ExceptHandler)]
            stack += [c for n in getattr(node, "cases", ()) for c in n.body]
    return found
