"""CG602: random numbers of the host in a region."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("random",):
        return None
    return f"{quote(facts, event.node)} is drawn once, at capture, and is the same in every replay"


RULE = Rule(
    code="CG602",
    name="host-random",
    summary="random numbers drawn by Python or NumPy in a region",
    severity=Severity.WRONG,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.HOST_STATE, message=_message),
    what="Reports `random` and `numpy.random` calls in a region.",
    why="The number drawn at capture is baked into the graph.",
    instead="Random tensors on the device (`torch.rand`), whose generator advances at every replay.",
    error="",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)
""",
            "drawn on the device",
        ),
    ),
    invalid=(
        Example(
            """\
import random

import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        return x * random.random()  # !
""",
        ),
    ),
)
