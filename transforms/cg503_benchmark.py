"""CG503: cuDNN's benchmark mode in code that captures."""

from __future__ import annotations

from refactor.transforms.wording import hits

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_benchmark
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("benchmark",):
        return None
    return (
        "cuDNN times its algorithms at the first call of each shape; during capture it cannot, "
        "and the choice made then is frozen"
    )


REWRITTEN = Rewritten(
    before="""\
import torch

torch.backends.cudnn.benchmark = True


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
        y = model(x)
    graph.replay()
    return y.clone()
""",
    after="""\
import torch

torch.backends.cudnn.benchmark = False


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
        y = model(x)
    graph.replay()
    return y.clone()
""",
)

RULE = Rule(
    code="CG503",
    name="benchmark-in-capture",
    summary="`cudnn.benchmark` in code that captures",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.CAPTURE, message=_message),
    what="Reports `torch.backends.cudnn.benchmark = True` in a file that captures graphs.",
    why=(
        "Trials run kernels and synchronise. A capture that meets a new shape fails or keeps the default "
        "algorithm."
    ),
    instead="Leave it off, or warm up every shape before it is captured.",
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
        ),
    ),
    invalid=(
        Example(
            """\
import torch

torch.backends.cudnn.benchmark = True  # !

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
        ),
    ),
    rewritten=(REWRITTEN,),
    propose=propose_benchmark,
)
