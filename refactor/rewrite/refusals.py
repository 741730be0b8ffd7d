"""A plan in words: what becomes a graph and what splits it, or why a method is not cut at all."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from refactor.analysis.model import Facts, Kind
from refactor.rewrite.experts import advice
from refactor.rewrite.launches import work
from refactor.rewrite.model import CutPlan
from refactor.rewrite.plan import Block, Keep, Nest, Piece
from refactor.rewrite.planner import Planner
from refactor.rewrite.syntax import FunctionNode, code_of, enclosing_statement, same_scope
from refactor.rewrite.training import in_training
from refactor.rewrite.work import effects, qualname, understood

_LONGEST = 40  # characters of code in a message


def nothing_to_cut(planner: Planner) -> str:
    """Why the plan of a method has no segment."""
    advised = advice(planner.facts, planner.function)
    if advised:
        return advised
    hindrance = next(_hindrances(planner), None)
    if hindrance is not None:
        return f"no segment can hold the work around it: {hindrance}"
    short = [price for price in planner.shortfall if price.eager]
    if short:
        best = max(short, key=lambda price: price.eager - price.replayed)
        return (
            f"too little device work around it: launching what starts in line {best.line} takes the host "
            f"about {best.eager:.0f} µs, calling a segment about {best.replayed:.0f} µs; leave it as it is"
        )
    return "there is no device work around it that a segment could hold; nothing would be gained"


def described(planner: Planner, block: Block, names: Mapping[Piece, str]) -> CutPlan:
    """The plan of a method, a line for each graph and for what stays between them."""
    steps: list[str] = []
    for entry in block.walk():
        if isinstance(entry, Piece):
            nodes = [n for n in entry.nodes if hasattr(n, "lineno")]
            first = min(n.lineno for n in nodes)
            last = max(n.end_lineno for n in nodes)  # type: ignore[attr-defined]
            lines = f"lines {first}-{last}" if last > first else f"line {first}"
            steps.append(f"{lines}: graph {names[entry]}")
        elif isinstance(entry, Nest | Keep) and entry.statement in planner.host:
            steps.append(_stays(planner, entry.statement))
    function = planner.function
    return CutPlan(qualname(planner.facts, function), function.lineno, tuple(steps))


def _stays(planner: Planner, stmt: ast.stmt) -> str:
    text = planner.facts.source.lines[stmt.lineno - 1][1].strip().rstrip(":")
    return f"line {stmt.lineno}: stays on the host: `{_shortened(text)}`"


def _hindrances(planner: Planner) -> Iterator[str]:
    facts, function = planner.facts, planner.function
    for node in sorted(_statements(function), key=lambda stmt: stmt.lineno):
        if node in planner.host or work(facts, function, _header(node), planner.settled) == 0:
            unknown = _unknown_call(facts, function, node)
            if unknown is not None and node not in planner.host:
                yield unknown
            continue
        if in_training(facts, node):
            yield f"line {node.lineno} runs only in training, where autograd records and nothing is replayed"
        elif (unknown := _unknown_call(facts, function, node)) is not None:
            yield unknown
        elif effects(facts, function, node) is None:
            yield f"line {node.lineno} also changes or asks host state; put that on a line of its own"


def _header(stmt: ast.stmt) -> list[ast.AST]:
    return [n for n in ast.iter_child_nodes(stmt) if isinstance(n, ast.expr)]


def _statements(function: FunctionNode) -> list[ast.stmt]:
    return [n for n in same_scope(function) if isinstance(n, ast.stmt) and not isinstance(n, FunctionNode)]


def _unknown_call(facts: Facts, function: FunctionNode, stmt: ast.stmt) -> str | None:
    """A call in a statement of which the analysis cannot tell what it does."""
    for root in _header(stmt):
        for node in (root, *same_scope(root)):
            if not isinstance(node, ast.Call) or understood(facts, function, node):
                continue
            if enclosing_statement(facts, node) is stmt and _takes_tensor(facts, node):
                name = _shortened(code_of(facts, node.func))
                where = f"what `{name}(…)` in line {node.lineno} returns is not known"
                return f"{where}; annotate what it belongs to"
    return None


def _takes_tensor(facts: Facts, call: ast.Call) -> bool:
    arguments = [*call.args, *(word.value for word in call.keywords)]
    return any(facts.value(a).kind in (Kind.TENSOR, Kind.CONTAINER) for a in arguments)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
