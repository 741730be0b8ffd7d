"""CG506: autocast with its cache inside a capture."""

from __future__ import annotations

from refactor.transforms.wording import hits

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_autocast
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("autocast",):
        return None
    return "autocast caches cast weights: those made in a capture live in its pool and are stale afterwards"


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
    with torch.cuda.graph(graph), torch.autocast("cuda", dtype=torch.float16):
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
        return model(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
        y = model(x)
    graph.replay()
    return y.clone()
""",
)

RULE = Rule(
    code="CG506",
    name="autocast-cache",
    summary="autocast keeps cast weights across a capture",
    severity=Severity.WRONG,
    applicability=Applicability.SAFE,
    detect=hits(EventKind.CAPTURE, message=_message),
    what="Reports `autocast` around or inside a capture without `cache_enabled=False`.",
    why="A cast weight made outside is not recomputed in a replay, one made inside is used outside.",
    instead='`torch.autocast("cuda", cache_enabled=False)`.',
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
        with torch.autocast("cuda", cache_enabled=False):
            y = model(static)
    return graph, y.clone()
""",
            "the cache is off",
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
        with torch.autocast("cuda"):  # !
            y = model(static)
    return graph, y.clone()
""",
        ),
    ),
    rewritten=(REWRITTEN,),
    propose=propose_autocast,
)
