"""CG106: an operation that waits for the device inside."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import or_split
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    what = quote(facts, event.node)
    if event.detail.endswith("validate_args"):
        return f"{what} waits for the values that it checks; `validate_args=False` leaves the check out"
    if event.detail.endswith("error_if_nonfinite"):
        return f"{what} asks the device whether to raise; without `error_if_nonfinite` it does not wait"
    return f"{what} waits for the device inside"


RULE = Rule(
    code="CG106",
    name="synchronising-op",
    summary="an operation that waits for the device inside",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.SYNC_OP, message=_message),
    what=(
        "Reports operations that read a result back before they return: `allclose`, `equal`, `svd`, `inv`, "
        "`cholesky`, `eigh`, `solve`, `nms` and others on tensors of the device, and distributions that "
        "check their arguments."
    ),
    why="The wait is hidden in the operation, but capture forbids it all the same.",
    instead=(
        "The `_ex` forms of `torch.linalg` with `check_errors=False`, comparisons that stay on the device, a "
        "fixed number of boxes, `validate_args=False` for a distribution whose arguments are right."
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
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Whiten(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU())

    def forward(self, x: torch.Tensor):
        h = self.encoder(x)
        covariance = h.mT @ h
        u, s, _ = torch.linalg.svd(covariance)
        return self.head(h @ u / s)
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Whiten(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU())

    @segment
    def _forward_encoder(self, x: torch.Tensor):
        h = self.encoder(x)
        covariance = h.mT @ h
        return h, covariance

    @segment
    def _forward_head(self, h, u, s):
        return self.head(h @ u / s)

    def forward(self, x: torch.Tensor):
        h, covariance = self._forward_encoder(x)
        u, s, _ = torch.linalg.svd(covariance)
        return self._forward_head(h, u, s)
""",
        ),
    ),
    propose=or_split(),
)
