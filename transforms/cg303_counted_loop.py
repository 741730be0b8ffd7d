"""CG303: a loop whose number of iterations comes from the device."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is read back to the host here to count the iterations"


RULE = Rule(
    code="CG303",
    name="tensor-counted-loop",
    summary="a `for` loop whose number of iterations comes from the device",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.COUNTED_LOOP, message=_message),
    what=(
        "Reports `for` loops in a region over `range(...)` of a tensor's value, or over values read back "
        "from the device."
    ),
    why=(
        "The host waits for the value, which capture forbids; a graph would hold one fixed number of "
        "iterations."
    ),
    instead=(
        "One graph for the body, replayed by a Python loop outside; or the largest possible count with a "
        "mask."
    ),
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
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor):
        h = torch.zeros_like(x)
        for _ in range(int(lengths.max())):
            h = self.cell(x, h)
            x = torch.tanh(self.out(h)) + x
        return x
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.out = nn.Linear(4, 4)

    @segment
    def _forward_cell_out(self, h, x):
        h = self.cell(x, h)
        x = torch.tanh(self.out(h)) + x
        return h, x

    def forward(self, x: torch.Tensor, lengths: torch.Tensor):
        h = torch.zeros_like(x)
        for _ in range(int(lengths.max())):
            h, x = self._forward_cell_out(h, x)
        return x
""",
        ),
    ),
    propose=propose_branch,
)
