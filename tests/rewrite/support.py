"""Facts made by hand for tests of the rewriting alone, and verbs that read well in tests."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path

from refactor.analysis.model import Device, Event, EventKind, Facts, Kind, Region, Value
from refactor.findings import Applicability, Finding, Severity
from refactor.rewrite.model import Patch, Proposal, Refusal, RuntimeImport
from refactor.rewrite.patch import make_patch
from refactor.rule import Hit, Rule
from refactor.source import load, parse

TENSOR = Value(Kind.TENSOR, Device.DEVICE)
Propose = Callable[[Facts, Hit], Proposal | Refusal]
RUNTIME = RuntimeImport("cuda_graphs")


def facts_of(code: str | bytes, names: Mapping[str, Value] | None = None, path: str = "model.py") -> Facts:
    """Facts of a file in which every load of the given names (and of arithmetic on them) has that value."""
    data = code if isinstance(code, bytes) else code.encode()
    source = load(Path(path), data)
    tree = parse(source)
    known = names if names is not None else {"x": TENSOR, "h": TENSOR, "y": TENSOR}
    values: dict[ast.expr, Value] = {}
    parents: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            parents[child] = node
        if isinstance(node, ast.Name) and node.id in known:
            values[node] = known[node.id]
    region = Region("forward", "Model.forward", "model", tree)
    return Facts(source, tree, "model", Path(), (region,), (), values, parents)


def hit_at(facts: Facts, node: ast.AST, kind: EventKind, subject: ast.expr | None = None) -> Hit:
    """A hit of the given kind at a node."""
    statement = node
    while not isinstance(statement, ast.stmt):
        statement = facts.parents[statement]
    function: ast.AST | None = statement
    while function is not None and not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        function = facts.parents.get(function)
    event = Event(kind, node, statement, function, facts.regions[0], (), subject=subject)
    return Hit(event, "because")


def finding_of(facts: Facts, hit: Hit, code: str) -> Finding:
    """The finding that the engine would make of a hit."""
    node = hit.event.node
    start, end = facts.source.span(node)
    return Finding(
        "model.py",
        node.lineno,  # type: ignore[attr-defined]
        node.col_offset + 1,  # type: ignore[attr-defined]
        node.end_lineno,  # type: ignore[attr-defined]
        node.end_col_offset + 1,  # type: ignore[attr-defined]
        code,
        "name",
        Severity.BREAKS,
        Applicability.SAFE,
        hit.message,
        "model:Model.forward",
        start=start,
        end=end,
    )


def rule_of(propose: Propose | None, code: str = "CG401") -> Rule:
    """A rule that only rewrites."""
    return Rule(
        code,
        "name",
        "summary",
        Severity.BREAKS,
        Applicability.SAFE,
        lambda facts: (),
        "what",
        "why",
        "instead",
        propose=propose,
    )


def patch_nodes(
    facts: Facts,
    propose: Propose,
    *nodes: ast.AST,
    kind: EventKind = EventKind.HOST_CONSTANT,
    runtime: RuntimeImport = RUNTIME,
) -> Patch:
    """The patch for hits of one rule at the given nodes."""
    rule = rule_of(propose)
    hits = [hit_at(facts, node, kind) for node in nodes]
    return make_patch(facts, [(rule, hit, finding_of(facts, hit, rule.code)) for hit in hits], runtime)


def calls(facts: Facts, name: str) -> list[ast.Call]:
    """Calls of a function or method by its last name, by place."""
    found = [
        node
        for node in ast.walk(facts.tree)
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) == name
    ]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))
