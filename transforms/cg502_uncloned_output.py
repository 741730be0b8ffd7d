"""CG502: the static output of a graph handed out as it is."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_clone
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail != "uncloned":
        return None
    return (
        f"{quote(facts, event.subject)} is static memory of the graph: "
        "the next replay overwrites what the caller kept"
    )


REWRITTEN = Rewritten(
    before="""\
import torch


@torch.no_grad()
def predict(model, batches):
    x = batches[0][0]
    if not torch.cuda.is_available():
        return model(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x) * 2
    graph.replay()
    return y
""",
    after="""\
import torch


@torch.no_grad()
def predict(model, batches):
    x = batches[0][0]
    if not torch.cuda.is_available():
        return model(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x) * 2
    graph.replay()
    return y.clone()
""",
)

RULE = Rule(
    code="CG502",
    name="uncloned-output",
    summary="a graph's static output handed out without a copy",
    severity=Severity.WRONG,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.CAPTURE, message=_message),
    what=(
        "Reports functions that replay a graph, themselves or through a helper of the file, and return, "
        "yield or collect a tensor assigned inside the capture."
    ),
    why=(
        "Every replay writes its results to the same addresses: outputs kept by the caller change under its "
        "hands."
    ),
    instead="`.clone()` before the tensor leaves, or `copy_` into memory of the caller.",
    error="",
    valid=(
        Example(
            """\
import torch

def capture(model, x):
    static = x.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(static)

    def run(x):
        static.copy_(x)
        graph.replay()
        return y.clone()

    return run
""",
            "the output is cloned",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

def capture(model, x):
    static = x.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(static)

    def run(x):
        static.copy_(x)
        graph.replay()
        return y  # !

    return run
""",
        ),
    ),
    rewritten=(REWRITTEN,),
    propose=propose_clone,
)
