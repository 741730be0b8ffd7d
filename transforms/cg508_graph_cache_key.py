"""CG508: a cache of graphs looked up with one key and filled under another."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_key
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("key",):
        return None
    return (
        f"graphs are looked up by {quote(facts, event.subject)} but stored under another key: "
        "every call captures again"
    )


REWRITTEN = Rewritten(
    before="""\
import torch


@torch.no_grad()
def predict(model, batches):
    graphs, results = {}, []
    for x, _ in batches:
        if not torch.cuda.is_available():
            results.append(model(x))
            continue
        key = x.shape
        if key not in graphs:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                model(x)
            torch.cuda.current_stream().wait_stream(side)
            pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                y = model(x)
            graphs[len(x)] = graph, y
        graph, y = graphs[len(x)]
        graph.replay()
        results.append(y.clone())
    return results
""",
    after="""\
import torch


@torch.no_grad()
def predict(model, batches):
    graphs, results = {}, []
    for x, _ in batches:
        if not torch.cuda.is_available():
            results.append(model(x))
            continue
        key = x.shape
        if key not in graphs:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                model(x)
            torch.cuda.current_stream().wait_stream(side)
            pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                y = model(x)
            graphs[key] = graph, y
        graph, y = graphs[key]
        graph.replay()
        results.append(y.clone())
    return results
""",
)

RULE = Rule(
    code="CG508",
    name="graph-cache-key",
    summary="a cache of graphs whose lookup never hits",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.CAPTURE, message=_message),
    what="Reports `if key not in graphs:` whose body captures and stores under a different expression.",
    why="The lookup never hits: each call warms up and captures again, and memory grows without end.",
    instead="One key for both.",
    error="",
    valid=(
        Example(
            """\
import torch

class Runner:
    def __init__(self, model):
        self.model, self.graphs = model, {}

    def __call__(self, x):
        key = x.shape
        if key not in self.graphs:
            self.graphs[key] = self.capture(x)
        return self.graphs[key](x)

    def capture(self, x):
        graph = torch.cuda.CUDAGraph()
        return graph
""",
            "the same key",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

class Runner:
    def __init__(self, model):
        self.model, self.graphs = model, {}

    def __call__(self, x):
        if x.shape not in self.graphs:
            self.graphs[x.shape[0]] = self.capture(x)  # !
        return self.graphs[x.shape[0]](x)

    def capture(self, x):
        graph = torch.cuda.CUDAGraph()
        return graph
""",
        ),
    ),
    rewritten=(REWRITTEN,),
    propose=propose_key,
)
