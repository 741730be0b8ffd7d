"""CG205: a kernel whose launch depends on data."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.node)} sizes its launch by the offsets it is given"


RULE = Rule(
    code="CG205",
    name="data-dependent-launch",
    summary="a kernel whose launch depends on data",
    severity=Severity.BREAKS,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.LAUNCH, message=_message),
    what="Reports grouped matrix multiplications (`grouped_mm`).",
    why="The groups are laid out on the host: it reads or copies the offsets, which capture forbids.",
    instead="Batched multiplication with a fixed capacity for each group.",
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, weight: torch.Tensor):
        return torch.bmm(x, weight)
""",
            "fixed shapes",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor):
        return torch._grouped_mm(x, weight, offs=offs)  # !
""",
        ),
    ),
)
