"""CG105: an explicit wait for the device."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.node)} waits for the device"


RULE = Rule(
    code="CG105",
    name="explicit-synchronize",
    summary="an explicit wait for the device in a region",
    severity=Severity.BREAKS,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.SYNCHRONIZE, message=_message),
    what=(
        "Reports `torch.cuda.synchronize()`, `stream.synchronize()`, `event.synchronize()` and `elapsed_time`"
        " in a region."
    ),
    why="A stream that is being captured has nothing to wait for: capture fails.",
    instead="Synchronise and time outside the region, around the replay.",
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

def measure(model, x):
    torch.cuda.synchronize()
    return model(x)
""",
            "outside every region",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        y = x * 2
        torch.cuda.synchronize()  # !
        return y
""",
        ),
    ),
)
