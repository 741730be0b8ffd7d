"""CG402: a tensor made on the CPU and moved to the device inside a region."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.transfers import propose_transfer
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} was made on the CPU and is copied to the device at every call"


RULE = Rule(
    code="CG402",
    name="host-to-device",
    summary="a tensor made on the CPU and moved to the device",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.HOST_TO_DEVICE, message=_message),
    what=(
        "Reports tensors made on the CPU in a region, or kept there as a plain attribute, that are moved to"
        " the device in the region."
    ),
    why="The copy starts from unpinned memory, which capture refuses, and it repeats at every call.",
    instead=(
        "Make it on the device (`device=x.device`), register it as a buffer, or keep it as a `constant(...)`."
    ),
    error=(
        "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned"
    ),
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Positions(nn.Module):
    def forward(self, x):
        steps = torch.arange(x.shape[1], device=x.device)
        return x + steps.to(x.dtype)
""",
            "made on the device; a change of dtype copies nothing from the host",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Positions(nn.Module):
    def forward(self, x):
        steps = torch.arange(x.shape[1])
        return x + steps.to(x.device)  # !
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.linspace(0.0, 1.0, 4)

    def forward(self, x):
        steps = torch.arange(x.shape[1]).to(x.device)
        causal = torch.triu(torch.ones(4, 4), diagonal=1).bool().to(x.device)
        x = x + steps + self.scale.to(x.device)
        return x.unsqueeze(1).masked_fill(causal, 0.0) @ torch.eye(4).to(x)
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import constant


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.linspace(0.0, 1.0, 4)

    def forward(self, x):
        steps = torch.arange(x.shape[1], device=x.device)
        causal = torch.triu(torch.ones(4, 4, device=x.device), diagonal=1).bool()
        x = x + steps + constant(self.scale, device=x.device)
        return x.unsqueeze(1).masked_fill(causal, 0.0) @ torch.eye(4, dtype=x.dtype, device=x.device)
""",
        ),
    ),
    propose=propose_transfer,
)
