"""CG507: a generator of one's own inside a capture."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_around
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("generator",):
        return None
    return f"{quote(facts, event.subject)} is not registered with the graph"


REWRITTEN = Rewritten(
    before="""\
import torch


@torch.no_grad()
def predict(model, batches):
    x = batches[0][0]
    if not torch.cuda.is_available():
        return model(x)
    noise = torch.Generator(device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x) + torch.rand(3, device="cuda", generator=noise)
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
    noise = torch.Generator(device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(noise)
    with torch.cuda.graph(graph):
        y = model(x) + torch.rand(3, device="cuda", generator=noise)
    graph.replay()
    return y.clone()
""",
)

RULE = Rule(
    code="CG507",
    name="unregistered-generator",
    summary="a generator that the graph does not know",
    severity=Severity.BREAKS,
    applicability=Applicability.SAFE,
    detect=hits(EventKind.CAPTURE, message=_message),
    what=(
        "Reports `generator=` arguments inside a capture whose generator was made in the function and is not "
        "registered."
    ),
    why=(
        "The graph has to advance the generator's offset at every replay, and does so only for those it "
        "knows."
    ),
    instead="`graph.register_generator_state(generator)` before the capture.",
    error="Attempt to increase offset for a CUDA generator not in capture mode",
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
        y = model(static) + torch.rand(4, device=x.device)
    return graph, y.clone()
""",
            "the default generator is registered by itself",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

def capture(model, x):
    static = x.clone()
    own = torch.Generator(device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(static) + torch.rand(4, device=x.device, generator=own)  # !
    return graph, y.clone()
""",
        ),
    ),
    rewritten=(REWRITTEN,),
    propose=propose_around,
)
