"""CG504: several graphs, each with a memory pool of its own."""

from __future__ import annotations

from refactor.transforms.wording import hits

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_around
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("pool",):
        return None
    return "this graph gets a memory pool of its own, although others are captured beside it"


REWRITTEN = Rewritten(
    before="""\
import torch


@torch.no_grad()
def predict(model, batches):
    x = batches[0][0]
    if not torch.cuda.is_available():
        return model(x)
    graphs = {}
    side = torch.cuda.Stream()
    for size in (1, 2, 4):
        static = x[:size].clone()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(static)
        graphs[size] = graph, static, y
    return graphs
""",
    after="""\
import torch


@torch.no_grad()
def predict(model, batches):
    x = batches[0][0]
    if not torch.cuda.is_available():
        return model(x)
    graphs = {}
    side = torch.cuda.Stream()
    pool = torch.cuda.graph_pool_handle()
    for size in (1, 2, 4):
        static = x[:size].clone()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            y = model(static)
        graphs[size] = graph, static, y
    return graphs
""",
)

RULE = Rule(
    code="CG504",
    name="pool-per-graph",
    summary="several graphs that share no memory pool",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.CAPTURE, message=_message),
    what="Reports captures in a loop, or several in one function, without `pool=`.",
    why="Each pool keeps its memory for ever: graphs that never run at the same time could share one.",
    instead=(
        "`pool = torch.cuda.graph_pool_handle()` given to all of them, if they are never replayed at the same"
        " time."
    ),
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
            "a single graph",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

def capture(model, x):
    graphs = {}
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x)
    for size in (1, 2, 4):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # !
            model(x[:size])
        graphs[size] = graph
    return graphs
""",
        ),
    ),
    rewritten=(REWRITTEN,),
    propose=propose_around,
)
