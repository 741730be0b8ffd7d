"""CG505: a captured backward pass that adds to gradients of the warmup."""

from __future__ import annotations

from refactor.transforms.wording import hits

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("zero-grad",):
        return None
    return "gradients of the warmup are still there: the graph adds to them at every replay"


RULE = Rule(
    code="CG505",
    name="gradients-kept",
    summary="a captured backward pass without cleared gradients",
    severity=Severity.WRONG,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.CAPTURE, message=_message),
    what="Reports captures that call `backward()` in a function that never clears the gradients.",
    why=(
        "With gradients present the captured pass accumulates; with none it creates them in the graph's pool "
        "and overwrites them at every replay."
    ),
    instead="`optimizer.zero_grad(set_to_none=True)` between the warmup and the capture.",
    error="",
    valid=(
        Example(
            """\
import torch

def capture(model, x, optimizer):
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x).sum().backward()
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss = model(x).sum()
        loss.backward()
    return graph
""",
            "cleared before the capture",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

def capture(model, x):
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x).sum().backward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # !
        loss = model(x).sum()
        loss.backward()
    return graph
""",
        ),
    ),
)
