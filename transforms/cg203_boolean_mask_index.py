"""CG203: a tensor indexed with a boolean mask."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"{quote(facts, event.node)} selects as many elements as the mask "
        f"{quote(facts, event.subject)} has, so the host waits for the count"
    )


RULE = Rule(
    code="CG203",
    name="boolean-mask-index",
    summary="a tensor indexed with a boolean mask",
    severity=Severity.BREAKS,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.MASK_INDEX, message=_message),
    what="Reports `x[mask]` and `x[mask] = tensor` with a boolean mask on the device.",
    why="The number of selected elements depends on values: the host waits for it, which capture forbids.",
    instead=(
        "Three-argument `torch.where`, `masked_fill`, or a multiplication by the mask. `x[mask] = number` is "
        "safe."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, index: torch.LongTensor):
        y = x.clone()
        y[x < 0] = 0
        return y[index]
""",
            "a number is filled in without a count; integers on the device select a known number",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        return x[x > 0].sum()  # !
""",
        ),
    ),
)
