"""CG510: a static input bound to another tensor instead of being written into."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.recapture import propose_copy
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail != "rebound":
        return None
    return (
        f"{quote(facts, event.subject)} is bound to another object here, but the graph reads what it was "
        "captured with: the replay computes from old data"
    )


_CAPTURE = """\
import torch


class Runner:
    def __init__(self, model, x: torch.Tensor):
        self.model = model.eval()
        self.x = x.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.model(self.x)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.y = self.model(self.x)

    def __call__(self, x: torch.Tensor):
"""

_LOOP = """\
import torch


@torch.no_grad()
def scores(model, batches):
    x = batches[0][0].clone()
    if not torch.cuda.is_available():
        return [model(batch) for batch, _ in batches]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    found = []
    for batch, _ in batches:
        STEP
        graph.replay()
        found.append(y.cpu())
    return found
"""

RULE = Rule(
    code="CG510",
    name="rebound-input",
    summary="a graph's static input bound to another tensor instead of written into",
    severity=Severity.WRONG,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.CAPTURE, message=_message),
    what=(
        "Reports `static = x` before a replay, where `static` is what the capture read: a name, an attribute "
        "or an element of a container."
    ),
    why=(
        "A graph reads its inputs at the addresses they had when it was captured. The name is another tensor "
        "afterwards, the graph still reads the old one, and nothing raises."
    ),
    instead="`static.copy_(x)`.",
    error="",
    valid=(
        Example(
            _CAPTURE
            + """\
        self.x.copy_(x)
        self.graph.replay()
        return self.y.clone()
""",
            "the input is written where the graph reads it",
        ),
    ),
    invalid=(
        Example(
            _CAPTURE
            + """\
        self.x = x  # !
        self.graph.replay()
        return self.y.clone()
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before=_LOOP.replace("STEP", "x = batch.float()"),
            after=_LOOP.replace("STEP", "x.copy_(batch.float())"),
        ),
    ),
    propose=propose_copy,
)
