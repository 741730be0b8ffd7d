"""A training step (CG207) outlined into one function that runs from a graph, and called where it stood.

In a method whose instance holds nothing else the function becomes a method; everywhere else it stands before
the code that uses it and gets the model, the loss and the optimizer as arguments, so that its graphs outlive
one call of the code around it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from refactor.analysis.model import Facts
from refactor.analysis.project import last_name
from refactor.analysis.steps import Owner, backward_of
from refactor.analysis.trees import walk
from refactor.rewrite.model import Joint, Proposal, Refusal
from refactor.rewrite.passes import holds_passes
from refactor.rewrite.stepplan import Plan, proposal_of
from refactor.rewrite.window import Reader, Window
from refactor.rule import Hit

_FOREIGN = {
    "DistributedDataParallel": "gradients are exchanged inside `backward`",
    "FullyShardedDataParallel": "gradients are exchanged inside `backward`",
    "torch.distributed": "gradients may be exchanged inside `backward`",
    "deepspeed": "deepspeed may run the step",
    "accelerate": "accelerate may run the step",
    "torch.compile": "the model is compiled already",
    "make_graphed_callables": "the model runs from graphs already",
    "CUDAGraph": "this file captures graphs by hand",
    "detect_anomaly": "anomaly detection looks at every value on the host",
}


def propose_step(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``zero_grad``, forward, loss, ``backward``, ``step`` in one block."""
    event = hit.event
    call, owner, block = event.node, event.extra["owner"], event.extra["block"]
    function = event.function
    assert isinstance(call, ast.Call)
    assert isinstance(owner, Owner)
    assert isinstance(block, tuple)
    for word, why in _FOREIGN.items():
        if word in facts.source.text:
            return Refusal(f"{why} (`{word}` in this file); wrap the step by hand")
    if isinstance(function, ast.AsyncFunctionDef):
        return Refusal("other coroutines can run between steps; wrap the step where they are started")
    if function is not None and _is_closure(facts, function):
        return Refusal(
            "the optimizer calls this closure several times and looks at its loss on the host; one graph of "
            "forward and backward under `graphed`, called from the closure, is what can be replayed"
        )
    shared = call.keywords and all(k.arg == "retain_graph" for k in call.keywords)
    if (call.args or call.keywords) and not (shared and event.extra["passes"] != 1):
        return Refusal("`backward` takes arguments here, so the step is more than one pass; wrap it by hand")
    window = _window(facts, hit)[1]
    if isinstance(window, str) and not shared:
        return Refusal(window)
    return Proposal((), "", joint=Joint(("step", id(facts.tree)), lambda hits, _: _together(facts, hits)))


def _is_closure(facts: Facts, function: ast.AST) -> bool:
    """Whether a function is given to ``optimizer.step``, as LBFGS needs it."""
    return any(
        isinstance(node, ast.Call)
        and last_name(node.func) == "step"
        and any(isinstance(arg, ast.Name) and arg.id == getattr(function, "name", "") for arg in node.args)
        for node in walk(facts.tree)
    )


def _window(facts: Facts, hit: Hit) -> tuple[Reader, Window | str]:
    """The statements for the graph around one backward pass: earlier passes with it, or this one alone."""
    function, block = hit.event.function, hit.event.extra["block"]
    assert isinstance(block, tuple)
    assert function is None or isinstance(function, ast.FunctionDef)
    index = int(hit.event.extra["index"])  # type: ignore[call-overload]
    earlier = [i for i in range(index) if backward_of(block[i]) is not None]
    reader = Reader(facts, function, block, index)
    window = reader.window()
    if earlier and (isinstance(window, str) or not holds_passes(reader, window)):
        reader = Reader(facts, function, block, index, floor=earlier[-1] + 1)
        window = reader.window()
    return reader, window


def _together(facts: Facts, hits: Sequence[Hit]) -> Mapping[Hit, Proposal | Refusal]:
    """All steps of a file at once: each function has a name of its own, those at one place one proposal."""
    answers: dict[Hit, Proposal | Refusal] = {}
    groups: list[list[tuple[Hit, Plan]]] = []
    names: set[str] = set()
    windows = {hit: _window(facts, hit) for hit in hits}
    within: dict[Hit, Hit] = {}  # an earlier pass of a block, by the pass whose graph holds it as well
    plans: dict[Hit, Plan] = {}
    for hit in sorted(hits, key=lambda hit: -hit.event.statement.lineno):
        reader, window = windows[hit]
        same = [h for h, p in plans.items() if p.owner is hit.event.extra["owner"]]
        around = next((h for h in same if hit.event.statement in plans[h].window.inside), None)
        call = hit.event.node
        if around is not None:
            within[hit] = around
        elif isinstance(window, str):
            answers[hit] = Refusal(window)
        elif isinstance(call, ast.Call) and call.keywords:
            answers[hit] = Refusal(
                "the pass keeps its autograd graph for a later one, and one graph cannot hold both; add the "
                "losses and call `backward()` once"
            )
        elif any(plans[h].window.start < window.stop for h in same):
            answers[hit] = Refusal("this pass and the next one share statements; separate them")
        else:
            plans[hit] = _planned(hit, reader, window)
    plans = {hit: plans[hit] for hit in hits if hit in plans}
    for hit, plan in plans.items():
        plan.elsewhere = [other.window for other in plans.values() if other is not plan]
        reason = plan.settle(names)
        if reason:
            answers[hit] = Refusal(reason)
            continue
        names.add(plan.name)
        shared = [group for group in groups if any(plan.places() & other.places() for _, other in group)]
        for group in shared:
            groups.remove(group)
        groups.append([*(member for group in shared for member in group), (hit, plan)])
    for group in groups:
        proposal = proposal_of([plan for _, plan in group])
        answers.update((hit, proposal) for hit, _ in group)
    answers.update((hit, answers[around]) for hit, around in within.items())
    return answers


def _planned(hit: Hit, reader: Reader, window: Window) -> Plan:
    """The plan of a step whose window was found before, to be settled."""
    owner, block, function = hit.event.extra["owner"], hit.event.extra["block"], hit.event.function
    assert isinstance(owner, Owner)
    assert isinstance(block, tuple)
    assert function is None or isinstance(function, ast.FunctionDef)
    return Plan(reader.facts, function, owner, block, reader, window)
