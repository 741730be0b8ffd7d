"""CG301: a branch decided by a tensor. The decision stays on the host, the work around it moves into graphs."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is read back to the host here to choose a branch"


RULE = Rule(
    code="CG301",
    name="tensor-branch",
    summary="a branch decided by the value of a tensor",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.BRANCH, message=_message),
    what="Reports `if`, `elif` and conditional expressions in a region whose test is a tensor on the device.",
    why="The host has to wait for the value, which capture forbids; a graph could hold only one of the sides.",
    instead="One graph for each straight-line piece and the decision in Python between the replays, or "
    "`torch.where` where both sides are cheap, pure and elementwise.",
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch.nn as nn

class Scale(nn.Module):
    def forward(self, x, scale=None):
        if scale is not None:
            x = x * scale
        if x.shape[0] > 4 and self.training:
            x = x.relu()
        return x
""",
            "shapes, `None` and module flags are known on the host",
        ),
    ),
    invalid=(
        Example(
            """\
import torch.nn as nn

class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.Linear(8, 8)

    def forward(self, x):
        if x.mean() > 0:  # !
            return self.deep(x)
        return x
"""
        ),
    ),
    propose=propose_branch,
)
