"""CG509: a graph that is replayed too few times to pay for its capture."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail != "few-replays":
        return None
    count = event.extra.get("replays")
    times = "once" if count == 1 else f"{count} times"
    return (
        f"{quote(facts, event.subject)} is captured here and replayed {times}: too seldom to pay for itself"
    )


RULE = Rule(
    code="CG509",
    name="few-replays",
    summary="a graph captured for a hundred replays or fewer",
    severity=Severity.COST,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.CAPTURE, message=_message),
    what=(
        "Reports a capture whose graph does not leave the function and is replayed there a known number of "
        "times, at most 100."
    ),
    why=(
        "Warmup, capture and instantiation cost tens to hundreds of milliseconds; a replay saves the launch "
        "times of one call. Below about a hundred replays the eager code is faster."
    ),
    instead="Keep the graph with the model and replay it in later calls (`graphed` does), or run eagerly.",
    error="",
    valid=(
        Example(
            """\
import torch

def measure(model, x):
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    for _ in range(1000):
        graph.replay()
    return y.clone()
""",
            "replayed often enough",
        ),
        Example(
            """\
import torch

def prepare(model, x):
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    graph.replay()
    return graph, y.clone()
""",
            "the caller keeps the graph",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

def run(model, x):
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # !
        y = model(x)
    for _ in range(10):
        graph.replay()
    return y.clone()
""",
        ),
    ),
)
