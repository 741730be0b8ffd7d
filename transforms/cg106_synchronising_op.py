"""CG106: an operation that waits for the device inside."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.node)} waits for the device inside"


RULE = Rule(
    code="CG106",
    name="synchronising-op",
    summary="an operation that waits for the device inside",
    severity=Severity.BREAKS,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.SYNC_OP, message=_message),
    what=(
        "Reports operations that read a result back before they return: `allclose`, `equal`, `svd`, `inv`, "
        "`cholesky`, `eigh`, `solve`, `nms` and others on tensors of the device."
    ),
    why="The wait is hidden in the operation, but capture forbids it all the same.",
    instead=(
        "The `_ex` forms of `torch.linalg` with `check_errors=False`, comparisons that stay on the device, a "
        "fixed number of boxes."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        factor, info = torch.linalg.cholesky_ex(x)
        return factor
""",
            "the `_ex` form does not wait",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        return torch.linalg.inv(x)  # !
""",
        ),
    ),
)
