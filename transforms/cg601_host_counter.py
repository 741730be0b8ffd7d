"""CG601: a Python counter in a region."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.detail not in ("counter",):
        return None
    return (
        f"{quote(facts, event.subject)} is a Python number: a replay does not advance it, and "
        "what was computed from it is frozen"
    )


RULE = Rule(
    code="CG601",
    name="host-counter",
    summary="a Python number advanced in a region",
    severity=Severity.WRONG,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.HOST_STATE, message=_message),
    what="Reports `self.steps += 1` and global counters in a region.",
    why=(
        "Python does not run in a replay. The number stays as it was at capture, and so does every schedule "
        "that depends on it."
    ),
    instead=(
        "A counter in a buffer on the device (`self.steps.add_(1)`), or one advanced outside the region."
    ),
    error="",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps += 1
        count = 0
        count += 1
        return x * self.steps
""",
            "a buffer, and a local number",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = 0

    def forward(self, x):
        self.steps += 1  # !
        return x / self.steps
""",
        ),
    ),
)
