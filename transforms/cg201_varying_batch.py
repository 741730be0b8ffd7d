"""CG201: a model called in a loop over batches whose size varies. Padding makes the shape static."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.pad import propose_pad
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"{quote(facts, event.subject)} is called for every batch of this loop, and the last "
        "batch is rarely as large as the others"
    )


RULE = Rule(
    code="CG201",
    name="varying-batch",
    summary="a model called in a loop over batches of varying size",
    severity=Severity.SHAPE,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.BATCH_LOOP, message=_message),
    what=(
        "Reports a loop over batches, under `no_grad` or `inference_mode`, that calls a model on each batch."
    ),
    why=(
        "A graph holds for one shape. A last, smaller batch (or a sequence of another length) misses the "
        "graph and is captured again or runs eagerly."
    ),
    instead="`graphed(model, pad=...)`: inputs are padded to the next bucket and outputs sliced back.",
    error="",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

def train(model, loader, optimizer):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
""",
            "a training step is no inference loop",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

@torch.inference_mode()
def predict(model, loader):
    model.eval()
    outputs = []
    for batch in loader:
        outputs.append(model(batch))  # !
    return torch.cat(outputs)
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch


@torch.inference_mode()
def predict(model, loader):
    model.eval()
    outputs = []
    # the last batch is smaller
    for batch, _ in loader:
        outputs.append(model(batch))
    return torch.cat(outputs)
""",
            after="""\
import torch
from cuda_graphs import graphed


@torch.inference_mode()
def predict(model, loader):
    model.eval()
    outputs = []
    graphed_model = graphed(model)
    # the last batch is smaller
    for batch, _ in loader:
        outputs.append(graphed_model(batch))
    return torch.cat(outputs)
""",
        ),
        Rewritten(
            before="""\
import torch


class Service:
    def __init__(self, model):
        self.model = model.eval()

    def scores(self, batches):
        with torch.no_grad():
            for step, batch in enumerate(batches):
                out = self.model(**batch)
                yield step, out.softmax(-1)
""",
            after="""\
import torch
from cuda_graphs import graphed


class Service:
    def __init__(self, model):
        self.model = model.eval()

    def scores(self, batches):
        with torch.no_grad():
            graphed_model = graphed(self.model)
            for step, batch in enumerate(batches):
                out = graphed_model(**batch)
                yield step, out.softmax(-1)
""",
        ),
    ),
    propose=propose_pad,
)
