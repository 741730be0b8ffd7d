"""CG505: a captured backward pass that adds to gradients of the warmup."""

from __future__ import annotations

from refactor.transforms.wording import hits

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_around
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("zero-grad",):
        return None
    return "gradients of the warmup are still there: the graph adds to them at every replay"


REWRITTEN = Rewritten(
    before="""\
import torch


def train(model, batches):
    x = batches[0][0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if not torch.cuda.is_available():
        return [p.sum().item() for p in model.parameters()]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
    return graph
""",
    after="""\
import torch


def train(model, batches):
    x = batches[0][0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if not torch.cuda.is_available():
        return [p.sum().item() for p in model.parameters()]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
    return graph
""",
)

RULE = Rule(
    code="CG505",
    name="gradients-kept",
    summary="a captured backward pass without cleared gradients",
    severity=Severity.WRONG,
    applicability=Applicability.VERIFY,
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
    rewritten=(REWRITTEN,),
    propose=propose_around,
)
