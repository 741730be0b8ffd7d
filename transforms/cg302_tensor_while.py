"""CG302: a `while` loop whose condition is a tensor. Its body becomes a graph that is replayed until done."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is read back to the host here before every iteration"


RULE = Rule(
    code="CG302",
    name="tensor-while",
    summary="a `while` loop that ends when a tensor says so",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.WHILE, message=_message),
    what="Reports `while` loops in a region whose condition is a tensor on the device.",
    why=(
        "The host waits for the value before each iteration, which capture forbids; a graph would hold one "
        "fixed number of iterations."
    ),
    instead=(
        "One graph for the body and the test, replayed by a Python loop; or a fixed number of iterations "
        "with a mask."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Unrolled(nn.Module):
    def forward(self, x):
        step = 0
        while step < x.shape[1]:
            x = x.relu()
            step += 1
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

class FixedPoint(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)

    def forward(self, x):
        z = torch.zeros_like(x)
        while (self.f(z) - z).norm() > 1e-3:  # !
            z = self.f(z)
        return z
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class FixedPoint(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)
        self.tolerance = 1e-3

    def forward(self, x):
        z = torch.zeros_like(x)
        error = torch.full((), float("inf"), device=x.device)
        steps = 0
        # Picard iteration
        while error > self.tolerance and steps < 20:
            new = torch.tanh(0.3 * self.f(z) + x)
            error = (new - z).norm() / (new.norm() + 1e-8)
            z = new
            steps += 1
        return z, steps
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class FixedPoint(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)
        self.tolerance = 1e-3

    @segment
    def _forward_f(self, z, x):
        new = torch.tanh(0.3 * self.f(z) + x)
        error = (new - z).norm() / (new.norm() + 1e-8)
        z = new
        return error, z

    def forward(self, x):
        z = torch.zeros_like(x)
        error = torch.full((), float("inf"), device=x.device)
        steps = 0
        # Picard iteration
        while error > self.tolerance and steps < 20:
            error, z = self._forward_f(z, x)
            steps += 1
        return z, steps
""",
        ),
    ),
    propose=propose_branch,
)
