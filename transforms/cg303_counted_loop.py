"""CG303: a loop whose number of iterations comes from the device."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is read back to the host here to count the iterations"


RULE = Rule(
    code="CG303",
    name="tensor-counted-loop",
    summary="a `for` loop whose number of iterations comes from the device",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.COUNTED_LOOP, message=_message),
    what="Reports `for` loops in a region over `range(...)` of a tensor's value, or over values read back from the device.",
    why="The host waits for the value, which capture forbids; a graph would hold one fixed number of iterations.",
    instead="One graph for the body, replayed by a Python loop outside; or the largest possible count with a mask.",
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Steps(nn.Module):
    def forward(self, x):
        for i in range(x.size(1)):
            x = x + i
        return x
""",
            "the shape is known on the host",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Steps(nn.Module):
    def forward(self, x, lengths: torch.Tensor):
        for _ in range(int(lengths.max())):  # !
            x = x.relu()
        return x
"""
        ),
    ),
    propose=propose_branch,
)
