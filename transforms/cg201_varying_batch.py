"""CG201: a model called in a loop over batches whose size varies. Padding makes the shape static."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.pad import propose_pad
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is called for every batch of this loop, and the last batch is rarely as large as the others"


RULE = Rule(
    code="CG201",
    name="varying-batch",
    summary="a model called in a loop over batches of varying size",
    severity=Severity.SHAPE,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.BATCH_LOOP, message=_message),
    what="Reports a loop over batches, under `no_grad` or `inference_mode`, that calls a model on each batch.",
    why="A graph holds for one shape. A last, smaller batch (or a sequence of another length) misses the graph and is captured again or runs eagerly.",
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
    propose=propose_pad,
)
