"""CG603: a result kept as an attribute in a region."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str | None:
    name = quote(facts, event.subject)
    if event.detail == "attribute":
        return f"{name} is assigned at capture only; after a replay it still is the tensor of the capture"
    return f"{name} grows at capture only, not in a replay" if event.detail == "append" else None


RULE = Rule(
    code="CG603",
    name="stored-result",
    summary="an attribute assigned or appended to in a region",
    severity=Severity.WRONG,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.HOST_STATE, message=_message),
    what="Reports `self.name = tensor` and `self.items.append(...)` in a region.",
    why=(
        "Assignments run at capture, not in a replay: the attribute keeps pointing at memory of the capture."
    ),
    instead="Return the value, or write it in place into a buffer (`self.last.copy_(h)`).",
    error="",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(8))
        self.table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.ones(8, device=x.device)
        self.last.copy_(x[0])
        return x + self.table
""",
            "written in place, and made once",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        h = x.relu()
        self.last = h  # !
        return h * 2
""",
        ),
    ),
)
