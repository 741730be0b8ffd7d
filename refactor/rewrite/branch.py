"""Decisions on tensors and other host work (CG301, CG302, CG303 …): the device work around it is outlined.

A method is cut into a tree of blocks. Statements that ask the host something stay where they are, and
straight runs of device work become methods of their own, with exactly the live variables as parameters and
results. The test of an ``if`` is computed in the piece before it, where there is one. The methods through
which a region reaches the place are cut as well, so that what they do besides runs from graphs, too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from refactor.analysis import liveness
from refactor.analysis.model import EventKind, Facts
from refactor.analysis.project import FunctionInfo, last_name
from refactor.rewrite.choice import propose_choice
from refactor.rewrite.experts import advice
from refactor.rewrite.model import Joint, Proposal, Refusal
from refactor.rewrite.outline import Outliner
from refactor.rewrite.planner import Planner
from refactor.rewrite.readback import propose_kept
from refactor.rewrite.receiver import made_in_calls, module_of
from refactor.rewrite.refusals import described, nothing_to_cut
from refactor.rewrite.segmented import belongs_to_segments
from refactor.rewrite.syntax import (
    FunctionNode,
    ancestors,
    dotted,
    enclosing_class,
    is_owner,
    owner_name,
    same_scope,
)
from refactor.rewrite.training import computes_loss, only_trains
from refactor.rule import Hit

Propose: TypeAlias = Callable[[Facts, Hit], Proposal | Refusal]
_GRAPHS = frozenset({"segment", "graphed"})
_DECORATORS = (
    "torch.no_grad",
    "torch.inference_mode",
    "torch.enable_grad",
    "torch.autocast",
    "typing.override",
    "property",
    "functools.cached_property",
    "typing.final",
)
_READS_CODE = frozenset(
    {"getsource", "compile", "exec", "eval", "script", "jit", "trace", "ast", "dis", "__code__"}
)
_FRAME_BUILTINS = ("locals", "vars", "globals", "eval", "exec", "dir")
_NOT_REACHED = Refusal("no method of this file leads to it; apply to the file whose region does")


def propose_branch(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """A statement that makes the host wait for the device, in a method or in what a method calls."""
    if hit.event.kind is EventKind.BRANCH and not _decided_in_segment(facts, hit):
        choice = propose_choice(facts, hit.event.node)
        if choice is not None:
            return choice
    if hit.event.kind is EventKind.READBACK:
        kept = propose_kept(facts, hit)
        if kept is not None:
            return kept
    return propose_around(facts, hit)


def _decided_in_segment(facts: Facts, hit: Hit) -> bool:
    """Whether an earlier run cut the method here: the test is what a segment gave."""
    node, function = hit.event.node, hit.event.function
    if not isinstance(function, ast.FunctionDef) or not isinstance(node, ast.If | ast.IfExp):
        return False
    asked = {inner.id for inner in (node.test, *same_scope(node.test)) if isinstance(inner, ast.Name)}
    return not asked.isdisjoint(_given_by_segments(facts, function))


@lru_cache(maxsize=8)
def _given_by_segments(facts: Facts, function: ast.FunctionDef) -> frozenset[str]:
    """Variables of a function that calls of segments assign."""
    return frozenset(
        name
        for stmt in same_scope(function)
        if isinstance(stmt, ast.Assign)
        and isinstance(stmt.value, ast.Call)
        and _is_segment_call(facts, function, stmt.value)
        for target in stmt.targets
        for name in liveness.target_names(target)
    )


def or_split(propose: Propose | None = None) -> Propose:
    """The rewrite of a rule, and where it has none for a hit, segments around the place."""

    def proposal(facts: Facts, hit: Hit) -> Proposal | Refusal:
        first = propose(facts, hit) if propose is not None else None
        if isinstance(first, Proposal):
            return first
        return propose_around(facts, hit) if first is None else propose_split(facts, hit, first)

    return proposal


def propose_around(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """What no graph can hold stays on the host; the device work before and behind it becomes segments.

    The hit may stand in another file that a method of this one leads to.
    """
    if hit.event.region.kind == "captured" and hit.event.region.node in ancestors(facts, hit.event.node):
        return Refusal(
            "it stands in a capture made by hand, where nothing can wait for the device; move it behind the "
            "replay, or end the capture before it"
        )
    functions = _functions(facts, hit)
    reasons = [_unfit(facts, function) for function in functions]
    if not any(reason == "" for reason in reasons):
        return Refusal(reasons[0] if reasons else "only code in functions is rewritten; move this into one")

    def plan(hits: Sequence[Hit], settled: Collection[ast.AST]) -> Mapping[Hit, Proposal | Refusal]:
        return _plan(facts, hits, settled)

    return Proposal((), "", joint=Joint(("outline", id(facts.tree)), plan))


def propose_split(facts: Facts, hit: Hit, static: Refusal) -> Proposal | Refusal:
    """What has no static form stays on the host, and the device work around it is outlined."""
    cut = propose_around(facts, hit)
    return static if isinstance(cut, Refusal) else replace(cut, otherwise=static)


def _functions(facts: Facts, hit: Hit) -> list[FunctionNode]:
    """The function around a hit and those of this file that lead to it, innermost first."""
    found: dict[FunctionNode, None] = {}
    if isinstance(hit.event.function, ast.FunctionDef) and hit.event.function in facts.parents:
        found[hit.event.function] = None
    for name in reversed(hit.event.chain[:-1]):
        node = _by_qualname(facts.tree, name)
        if node is not None:
            found[node] = None
    return list(found)


def _by_qualname(tree: ast.Module, qualname: str) -> FunctionNode | None:
    body: Sequence[ast.stmt] = tree.body
    *classes, last = qualname.split(".")
    for name in classes:
        owner = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == name), None)
        if owner is None:
            return None
        body = owner.body
    return next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == last), None)


def _plan(
    facts: Facts, hits: Sequence[Hit], settled: Collection[ast.AST]
) -> Mapping[Hit, Proposal | Refusal]:
    """Cut every function once; functions that share a hit are one rewrite."""
    made: dict[FunctionNode, Proposal | Refusal] = {}
    groups: list[set[FunctionNode]] = []
    cut: dict[Hit, list[FunctionNode]] = {}
    for hit in hits:
        for function in _functions(facts, hit):
            if function not in made:
                reason = _unfit(facts, function)
                made[function] = Refusal(reason) if reason else _outline(facts, function, settled)
        cut[hit] = [f for f in _functions(facts, hit) if isinstance(made[f], Proposal)]
        joined = set(cut[hit]).union(*(group for group in groups if group & set(cut[hit])))
        groups = [group for group in groups if not group & joined] + ([joined] if joined else [])
    merged = [(group, _merged([made[f] for f in made if f in group])) for group in groups]
    answers: dict[Hit, Proposal | Refusal] = {}
    for hit in hits:
        proposal = next((p for group, p in merged if group & set(cut[hit])), None)
        answers[hit] = proposal if proposal is not None else _first_refusal(made, _functions(facts, hit))
    return answers


def _first_refusal(
    made: Mapping[FunctionNode, Proposal | Refusal], functions: Sequence[FunctionNode]
) -> Refusal:
    refusals = [r for r in (made[f] for f in functions) if isinstance(r, Refusal)]
    return refusals[0] if refusals else _NOT_REACHED


def _merged(parts: Sequence[Proposal | Refusal]) -> Proposal:
    proposals = [part for part in parts if isinstance(part, Proposal)]
    if len(proposals) == 1:
        return proposals[0]
    runtime = frozenset[str]().union(*(part.runtime for part in proposals))
    changes = tuple(change for part in proposals for change in part.changes)
    plans = tuple(plan for part in proposals for plan in part.plans)
    return Proposal(changes, "; ".join(part.note for part in proposals), runtime, plans=plans)


@lru_cache(maxsize=64)
def _unfit(facts: Facts, function: FunctionNode) -> str:
    """Why the function as a whole cannot be cut; empty if it can."""
    cls = enclosing_class(facts, function)
    owner = owner_name(facts, function)
    if cls is None and facts.parents.get(function) is not facts.tree:
        return "it stands inside another function or block; move it to the top level of the file"
    if cls is None and ("loss" in function.name.lower() or computes_loss(function)):
        return "it is part of a loss, which autograd records; graphs are replayed without gradients alone"
    static = any(getattr(d, "id", "") in ("staticmethod", "classmethod") for d in function.decorator_list)
    if cls is not None and (owner is None or static):
        return f"it takes no instance of `{cls.name}` to keep graphs with; make it a function of the file"
    if cls is not None and not _holds_graphs(facts, cls):
        return f"`{cls.name}` has __slots__, so its instances cannot keep graphs; add `__dict__` to them"
    if cls is not None and (made := made_in_calls(facts, cls)):
        return (
            f"a `{cls.name}` is made at every call (line {made}) and graphs are kept with the instance; "
            "move the work into a method of the model or into a function"
        )
    if only_trains(facts, function):
        return "it runs only in training, where autograd records and no graph is replayed"
    for decorator in function.decorator_list:
        name = dotted(facts, decorator.func if isinstance(decorator, ast.Call) else decorator)
        if not _GRAPHS.isdisjoint((last_name(decorator), (name or "").rpartition(".")[2])):
            return "this is a segment already; move the decision into the function that calls it"
        if name not in _DECORATORS and not _leaves_body_alone(facts, decorator):
            return (
                f"nothing is known of the decorator in line {decorator.lineno}, which may read or compile "
                "the body; move the body into one without it"
            )
    for node in same_scope(function):
        line: int = getattr(node, "lineno", function.lineno)
        if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await):
            text = f"line {line} makes the function a generator or coroutine"
            return f"{text}; move the device work into methods of its own"
        if isinstance(node, ast.Global | ast.Nonlocal):
            return f"line {line} declares outer variables, which segments could not assign; use attributes"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FRAME_BUILTINS:
            return (
                f"`{node.func.id}()` in line {line} depends on local variables; pass what it needs explicitly"
            )
        if isinstance(node, ast.Name) and node.id == owner and not isinstance(node.ctx, ast.Load):
            return f"`{owner}` is assigned in line {line}; use another name for that"
        if isinstance(node, ast.Call) and _is_segment_call(facts, function, node):
            return "the work around this decision is in segments already"
    if belongs_to_segments(facts, function):
        return "what it calls, or what calls it, is in segments already; `refactor undo`, then apply to both"
    return ""


def _holds_graphs(facts: Facts, cls: ast.ClassDef) -> bool:
    """Whether instances have a ``__dict__``, where segments keep their graphs."""
    for stmt in cls.body:
        targets = stmt.targets if isinstance(stmt, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__slots__" for target in targets):
            return bool(cls.bases) or "__dict__" in ast.unparse(stmt)
    slotted = [d for d in cls.decorator_list if isinstance(d, ast.Call)]
    return not any(word.arg == "slots" for decorator in slotted for word in decorator.keywords)


def _leaves_body_alone(facts: Facts, decorator: ast.expr) -> bool:
    """Whether a decorator is a function of the code base that only wraps calls, as far as its names tell."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(target, ast.Name) and target.id in ("property", "cached_property"):
        return True
    found = module_of(facts).resolve(target)
    if not isinstance(found, FunctionInfo) or isinstance(found.node, ast.Lambda):
        return False
    names = {
        n.id if isinstance(n, ast.Name) else n.attr
        for n in found.nodes
        if isinstance(n, ast.Name | ast.Attribute)
    }
    wraps = any(isinstance(n, ast.FunctionDef) and n is not found.node for n in found.nodes)
    return wraps and not names & _READS_CODE


def _is_segment_call(facts: Facts, function: FunctionNode, call: ast.Call) -> bool:
    """Whether a call is that of a segment of the same instance, or of a graphed function of the file."""
    func, cls = call.func, enclosing_class(facts, function)
    if isinstance(func, ast.Name):
        body, name, word = facts.tree.body, func.id, "graphed"
    elif isinstance(func, ast.Attribute) and cls is not None and is_owner(facts, function, func.value):
        body, name, word = cls.body, func.attr, "segment"
    else:
        return False
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            names = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
            return any(ast.unparse(name).rpartition(".")[2].endswith(word) for name in names)
    return False


def _outline(facts: Facts, function: FunctionNode, settled: Collection[ast.AST]) -> Proposal | Refusal:
    assert isinstance(function, ast.FunctionDef)
    planner = Planner(facts, function, settled)
    blocks = planner.settle()
    pieces = list(blocks.pieces())
    if not pieces:
        return Refusal(nothing_to_cut(planner))
    names = planner.name(blocks)
    outliner = Outliner(facts, function, blocks, names)
    count = "one segment" if len(pieces) == 1 else f"{len(pieces)} segments"
    note = f"{function.name} cut into {count} with the decisions between them; verify both sides of each"
    if advised := advice(facts, function):
        note = f"{note}; {advised}"
    plan = described(planner, blocks, names)
    return Proposal(tuple(outliner.changes()), note, frozenset({outliner.decorator}), plans=(plan,))
