"""What a segment saves and costs on the host, so that none is made that is slower than the code it replaces.

Small kernels leave the GPU waiting for the host, so host time is what counts. Measured on an H100 with torch
2.11: launching a kernel eagerly takes 4 to 6 µs; a call of a segment about 12 µs, one fused copy of its
inputs, and for each result a copy out of the graph's memory.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from refactor.analysis.model import Kind
from refactor.rewrite.launches import LAUNCH, work
from refactor.rewrite.plan import Piece
from refactor.rewrite.syntax import same_scope

if TYPE_CHECKING:
    from refactor.rewrite.planner import Planner

COPY = 5.0
"""Host time of the fused copy of the inputs into a graph's memory, and of each copy of a result, in µs."""
REPLAY = 20.0
"""Host time of one call of a segment without its copies, in µs."""
LIGHT = 2 * LAUNCH
"""Work that may as well stay on the host when it stands in the way; what a result more has to save."""


@dataclass(frozen=True)
class Cost:
    """Host time of a piece in µs, eager and as a segment."""

    eager: float
    replayed: float
    line: int

    @property
    def pays(self) -> bool:
        """Whether the segment is not the dearer one."""
        return self.eager >= self.replayed


def of(planner: Planner, piece: Piece) -> Cost:
    """The cost of a piece whose inputs and outputs are known."""
    copied = bool(piece.taken) or any(
        planner.kinds.get(name, {Kind.TENSOR}) & {Kind.TENSOR, Kind.CONTAINER} for name in piece.inputs
    )
    results = len(piece.outputs) + len(piece.parts)
    results += len(_written(piece.nodes) & set(piece.inputs) - set(piece.outputs))
    if piece.returns:
        last = piece.statements[-1]
        assert isinstance(last, ast.Return)
        results += _leaves(last.value)
    nodes: Sequence[ast.AST] = piece.nodes
    line: int = getattr(nodes[0], "lineno", 0)
    saved = work(planner.facts, planner.function, piece.nodes, planner.settled, sure=True)
    return Cost(saved, REPLAY + COPY * (copied + results), line)


def time(planner: Planner, nodes: Iterable[ast.AST]) -> float:
    """Host time of nodes in µs, without what builds constants: other rewrites keep that out."""
    return work(planner.facts, planner.function, nodes, planner.settled)


def worth_moving(planner: Planner, stmt: ast.stmt, parts: Sequence[ast.expr]) -> bool:
    """Whether it is a gain to compute parts of a statement in the piece before it.

    Each part is one more result to copy; a part of one kernel is a gain only if something else need not be a
    result then.
    """
    if not parts or (isinstance(stmt, ast.For) and time(planner, parts) < LIGHT):
        return False
    if all(time(planner, [part]) >= LIGHT for part in parts):
        return True
    loads: dict[str, int] = {}
    for node in same_scope(planner.function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            loads[node.id] = loads.get(node.id, 0) + 1
    for part in parts:
        inside = [n.id for n in (part, *same_scope(part)) if isinstance(n, ast.Name)]
        if any(n in planner.written and inside.count(n) == loads.get(n) for n in inside):
            return True
    return False


def _written(nodes: Iterable[ast.AST]) -> set[str]:
    """The names of what nodes write in place: a replay copies it back to where it came from."""
    found: set[str] = set()
    for node in (n for root in nodes for n in (root, *same_scope(root))):
        target: ast.AST | None = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            target = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = node.func.value if node.func.attr.endswith("_") else None
        if isinstance(target, ast.Name):
            found.add(target.id)
    return found


def _leaves(node: ast.expr | None) -> int:
    if isinstance(node, ast.Tuple | ast.List):
        return sum(_leaves(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        return sum(_leaves(item) for item in node.values)
    return 0 if node is None or isinstance(node, ast.Constant) else 1
