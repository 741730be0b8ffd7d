"""The plan of one function: which statements stay on the host and which become segments.

Planning repeats until it holds together: a piece that would return a host value, read a variable that may be
unbound or was read back from the device, change outside state or do too little work gives its statements back
to the host.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from refactor.analysis import liveness
from refactor.analysis.model import Facts, Kind
from refactor.rewrite import cost
from refactor.rewrite.cutting import Cutter
from refactor.rewrite.live import conditional_branches, live_as_planned
from refactor.rewrite.names import fresh, names_outside_scopes, used_names
from refactor.rewrite.naming import hoist_name, names_beside, piece_prefix, piece_role
from refactor.rewrite.passing import (
    doubted_in,
    needs,
    objects_in,
    replaced_attributes,
    replaced_in,
    taken_from,
)
from refactor.rewrite.plan import BLOCKS, Block, Decide, Guard, Hoist, Piece
from refactor.rewrite.ragged import ragged
from refactor.rewrite.syntax import ancestors, enclosing_statement, owner_name, same_scope
from refactor.rewrite.work import BREAKING, effects, host_nodes, on_layer, understood

Live = Mapping[ast.stmt, frozenset[str]]


@dataclass
class Planner:
    """Plans one function; `settle` gives the tree of what stays and what becomes a piece."""

    facts: Facts
    function: ast.FunctionDef
    settled: Collection[ast.AST]
    forced: set[ast.stmt] = field(default_factory=set)
    unhoisted: set[ast.stmt] = field(default_factory=set)
    first_on_host: set[ast.stmt] = field(default_factory=set)  # loops whose first test has no piece before it
    shortfall: list[cost.Cost] = field(default_factory=list)  # pieces that were not worth a replay

    def __post_init__(self) -> None:
        self.barred = host_nodes(self.facts, self.function, self.settled)
        self.host = {enclosing_statement(self.facts, node) for node in self.barred}
        arguments = self.function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        self.parameters = frozenset(a.arg for a in every)
        self.written = frozenset(liveness.writes(self.function.body))
        self.locals = self.parameters | self.written
        self.owner = owner_name(self.facts, self.function)
        self.ragged = ragged(self.facts, self.function, self.settled)
        self.expanded = self.branches()
        self.host |= {branch for stmt, branch in self.expanded.items() if stmt in self.host}
        self.kinds: dict[str, set[Kind]] = {}
        for node in same_scope(self.function):
            if isinstance(node, ast.Name) and node in self.facts.values:
                self.kinds.setdefault(node.id, set()).add(self.facts.value(node).kind)
        self.made = self.results_of_layers()
        self.objects = objects_in(self.facts, self.function)
        self.replaced = replaced_attributes(self.facts, self.function)
        self.doubted = doubted_in(self.facts, self.function)

    def results_of_layers(self) -> frozenset[str]:
        """Variables that are assigned what a layer returns, and nothing else."""
        made: dict[str, bool] = {}
        for node in same_scope(self.function):
            if isinstance(node, ast.stmt):
                for name in liveness.writes([node]) if not isinstance(node, BLOCKS) else ():
                    made[name] = made.get(name, True) and self.makes(node)
        return frozenset(name for name, only in made.items() if only)

    def makes(self, stmt: ast.stmt) -> bool:
        """Whether a statement assigns what a layer returns: ``features = self.backbone(x)``."""
        if not isinstance(stmt, ast.Assign) or not isinstance(stmt.targets[0], ast.Name | ast.Tuple):
            return False
        call = stmt.value
        made = isinstance(call, ast.Call) and on_layer(self.facts, call)
        return made and understood(self.facts, self.function, call)  # type: ignore[arg-type]

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
            cutter = Cutter(self)
            block = cutter.block(self.function.body, self.parameters)
            hoisted = {hoist.statement: hoist.parts for hoist in block.hoists()}
            live = live_as_planned(self.function, hoisted, self.expanded, cutter.ordered)
            before = self.state()
            for piece in block.pieces():
                self.complete(piece, live)
            if self.state() == before:
                return block

    def state(self) -> tuple[int, ...]:
        """Grows with everything that was given back."""
        return len(self.forced), len(self.unhoisted), len(self.first_on_host)

    def complete(self, piece: Piece, live: Live) -> None:
        """Fill in parameters and results of a piece, or give its statements back to the host."""
        body = piece.statements
        end = piece.computed or (body[-1] if body else None)
        after = live[end] if end is not None and not piece.returns else frozenset()
        written = liveness.writes(body)
        piece.outputs = tuple(name for name in written if name in after)
        sure = liveness.surely_writes(body)
        tail: list[ast.stmt] = [ast.Expr(part) for part in piece.parts]
        read = liveness.reads([*body, *tail])
        needed = [*read, *(name for name in piece.outputs if name not in sure)]
        inputs = dict.fromkeys(n for n in needed if n in self.locals and n != self.owner)
        piece.taken = {key: nodes for name in inputs for key, nodes in taken_from(self, piece, name).items()}
        piece.inputs = tuple(name for name in inputs if all(name != owner for owner, _ in piece.taken))
        piece.taken |= replaced_in(self, piece)
        if any(name not in piece.sure for name in inputs):
            self.give_back(piece)
            return
        unknown = [name for name in piece.inputs if not self.is_known(name, piece)]
        if unknown:
            whole = [node for node in piece.nodes if any(needs(self, node, name) for name in unknown)]
            if piece.hoist is not None and any(part in whole for part in piece.parts):
                self.unhoisted.add(piece.hoist.statement)
                self.forced.update(s for s in body if s in whole)
            else:
                self.give_back(piece, *(s for s in body if s in whole))
            return
        varying = [s for s in body if self.ragged & set(liveness.reads([s]))]
        if varying or any(self.ragged & set(liveness.reads([ast.Expr(part)])) for part in piece.parts):
            self.give_back(piece, *varying)
            return
        price = cost.of(self, piece)
        if not price.pays:
            self.shortfall.append(price)
            self.give_back(piece, small=True)
            return
        if piece.guarded is not None and self.shows_halfway(piece, live):
            self.give_back(piece)
            return
        for name in piece.inputs:
            users = [s for s in body if self.reads_back(name, s) or self.counts(name, s, piece)]
            if users or any(self.reads_back(name, part) for part in piece.parts):
                self.give_back(piece, *users)
        mutated = set[str]()
        for statement in body:
            mutated |= effects(self.facts, self.function, statement) or set()
        if any(name in piece.inputs or name in piece.outputs or name not in sure for name in mutated):
            self.give_back(piece, *(s for s in body if effects(self.facts, self.function, s)))
        for name in piece.outputs:
            if not self.is_device(name):
                self.give_back(piece, *(s for s in body if name in liveness.writes([s])))

    def is_rename(self, stmt: ast.stmt) -> bool:
        """``z = z_next`` between tensors: it belongs to the work before it."""
        renames = isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.Name)
        return renames and self.facts.value(stmt.value).kind is Kind.TENSOR  # type: ignore[attr-defined]

    def give_back(self, piece: Piece, *statements: ast.stmt, small: bool = False) -> None:
        """Leave statements of a piece to the host, all of them by default."""
        self.forced.update(statements or piece.statements)
        hoist = piece.hoist
        if hoist is None or statements:
            return
        inside = hoist.rotated and any(hoist.statement in ancestors_of(self, s) for s in piece.statements)
        if small and hoist.rotated and not inside and hoist.statement not in self.first_on_host:
            self.first_on_host.add(hoist.statement)
        elif not (small and piece.statements):
            self.unhoisted.add(hoist.statement)

    def is_known(self, name: str, piece: Piece) -> bool:
        """Whether a variable can go into a graph: wherever the piece reads it, its kind is known."""
        if name in self.objects:
            return False  # another one at every call
        reads = [
            node
            for root in piece.nodes
            for node in (root, *same_scope(root))
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
        ]
        kinds = {self.facts.value(node).kind for node in reads}
        if any(node.lineno < self.doubted.get(name, 0) for node in reads):
            return False
        argument = name in self.parameters and name not in self.written
        return not kinds & ({Kind.FUNCTION} if argument else {Kind.UNKNOWN, Kind.FUNCTION})

    def reads_back(self, name: str, stmt: ast.AST) -> bool:
        """Whether a statement uses a number read back from the device: every value would be another graph."""
        return any(
            isinstance(node, ast.Name) and node.id == name and self.facts.value(node).kind is Kind.READBACK
            for node in (stmt, *same_scope(stmt))
        )

    def counts(self, name: str, stmt: ast.stmt, piece: Piece) -> bool:
        """Whether a statement uses a number that a loop around it changes: again a graph for every value.

        A loop over layers is short, and its number goes with the layer: there only light work is left out.
        """
        kinds = self.kinds.get(name, set())
        if name in self.parameters or Kind.HOST not in kinds or name not in _loads(stmt):
            return False
        for loop in ancestors_of(self, stmt):
            if not isinstance(loop, ast.For | ast.While):
                continue
            inside = liveness.writes([loop]) if isinstance(loop, ast.While) else liveness.writes(loop.body)
            if name in inside and name not in liveness.writes(piece.statements):
                return self.moves(loop, name)
            if isinstance(loop, ast.For) and name in liveness.target_names(loop.target):
                over = {n.id for n in same_scope(loop.iter) if isinstance(n, ast.Name)}
                light = cost.time(self, [stmt]) <= cost.LIGHT
                return light if "range" not in over and over & {"enumerate", "zip"} else True
        return False

    def moves(self, loop: ast.stmt, name: str) -> bool:
        """Whether a loop counts a number up: it takes ever new values, unlike a step size that is halved."""
        return any(
            isinstance(node, ast.AugAssign)
            and isinstance(node.op, ast.Add | ast.Sub)
            and getattr(node.target, "id", None) == name
            for node in same_scope(loop)
        )

    def is_device(self, name: str) -> bool:
        """Whether a variable can come out of a graph: tensors and containers of them."""
        kinds = self.kinds.get(name, set())
        if name in self.objects:
            return False
        if kinds == {Kind.UNKNOWN}:
            return name in self.made
        hosted = kinds & {Kind.HOST, Kind.READBACK, Kind.MODULE, Kind.FUNCTION}
        return bool(kinds & {Kind.TENSOR, Kind.CONTAINER}) and not hosted

    def shows_halfway(self, piece: Piece, live: Live) -> bool:
        """Whether an exception in the middle of a piece would leave a variable as the original does not.

        In a ``try`` the function may go on with what was assigned until then.
        """
        if len(piece.statements) + bool(piece.parts) <= 1:
            return False
        seen = frozenset[str]()
        guard: Guard | None = piece.guarded
        while guard is not None:
            stmt = guard.statement
            if isinstance(stmt, ast.Try):
                for handler in stmt.handlers:
                    rest = live.get(stmt, frozenset()) - liveness.surely_writes(handler.body)
                    seen |= frozenset(liveness.reads(handler.body)) | rest
                seen |= frozenset(liveness.reads(stmt.finalbody))
            else:
                seen |= live.get(stmt, frozenset())
            guard = guard.outer
        return bool(seen & frozenset(liveness.writes(piece.statements)))

    # -- names

    def name(self, block: Block) -> dict[Piece, str]:
        """Names of the pieces; the names of what they compute for others go into the hoists."""
        prefix = piece_prefix(self.facts, self.function)
        taken = names_beside(self.facts, self.function)
        module = names_outside_scopes(self.facts.tree)
        variables = set(used_names(self.function)) | module
        names: dict[Piece, str] = {}
        for piece, place in block.placed():
            for owner, attribute in piece.taken:
                new = [*variables, *piece.named.values()]
                piece.named[owner, attribute] = fresh(attribute, new)
            hoist = piece.hoist
            if hoist is not None and not hoist.names:
                self.name_hoist(hoist, variables)
            role = piece_role(self.facts, self.function, piece, place)
            names[piece] = fresh(f"{prefix}_{role}", taken)
            taken.add(names[piece])
        for entry in block.walk():
            if isinstance(entry, Decide) and not entry.hoist.names:
                self.name_hoist(entry.hoist, variables)
        return names

    def name_hoist(self, hoist: Hoist, variables: set[str]) -> None:
        """Names for what is computed before a statement."""
        for part in hoist.parts:
            name = fresh(hoist_name(self.facts, hoist.statement, part), variables)
            variables.add(name)
            hoist.names += (name,)


def ancestors_of(planner: Planner, stmt: ast.stmt) -> list[ast.AST]:
    """The statements around a statement, also around one that stands for a part of an expanded one."""
    if stmt in planner.facts.parents:
        return list(ancestors(planner.facts, stmt))
    around = next((o for o, b in planner.expanded.items() if stmt is b or stmt in (*b.body, *b.orelse)), None)
    return [around, *ancestors(planner.facts, around)] if around is not None else []


def _loads(stmt: ast.AST) -> set[str]:
    return {n.id for n in (stmt, *same_scope(stmt)) if isinstance(n, ast.Name)}
