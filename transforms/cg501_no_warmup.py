"""CG501: a capture without a warmup on a side stream."""

from __future__ import annotations

from refactor.transforms.wording import hits

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_around
from refactor.rule import Example, Rewritten, Rule

_REASONS = {
    "warmup": "nothing captured here has run before: libraries set themselves up in their first call, "
    "which capture forbids",
    "side-stream": "the warmup runs on the default stream; autograd and cuBLAS keep state of the stream they "
    "first ran on",
}


def _message(facts: Facts, event: Event) -> str | None:
    return _REASONS.get(event.detail)


REWRITTEN = Rewritten(
    before="""\
import torch


@torch.no_grad()
def predict(model, batches):
    x = batches[0][0]
    if not torch.cuda.is_available():
        return x
    graph = torch.cuda.CUDAGraph()
    # one batch stands for all
    with torch.cuda.graph(graph):
        y = model(x)
    graph.replay()
    return y.clone()
""",
    after="""\
import torch


@torch.no_grad()
def predict(model, batches):
    x = batches[0][0]
    if not torch.cuda.is_available():
        return x
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            y = model(x)
    torch.cuda.current_stream().wait_stream(side)
    # one batch stands for all
    with torch.cuda.graph(graph):
        y = model(x)
    graph.replay()
    return y.clone()
""",
)

RULE = Rule(
    code="CG501",
    name="no-warmup",
    summary="a capture without warmup on a side stream",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.CAPTURE, message=_message),
    what=(
        "Reports `with torch.cuda.graph(...)` whose calls have not run before it in the same function, its "
        "callers or their helpers in the file, or not under `torch.cuda.stream(...)`."
    ),
    why=(
        "First calls create handles and workspaces, choose algorithms and allocate, none of which may happen "
        "during capture."
    ),
    instead=(
        "Three or more runs on a side stream before the capture, then `wait_stream` both ways; or "
        "`graphed(...)`, which does it."
    ),
    error="operation not permitted when stream is capturing",
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
            "warmed up on a side stream",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

def capture(model, x):
    static = x.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # !
        y = model(static)
    return graph, static, y.clone()
""",
        ),
    ),
    rewritten=(REWRITTEN,),
    propose=propose_around,
)
