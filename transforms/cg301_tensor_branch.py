"""CG301: a branch decided by a tensor. The decision stays on the host, the work around it becomes graphs."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is read back to the host here to choose a branch"


RULE = Rule(
    code="CG301",
    name="tensor-branch",
    summary="a branch decided by the value of a tensor",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.BRANCH, message=_message),
    what=(
        "Reports `if`, `elif` and conditional expressions in a region whose test is a tensor on the device."
    ),
    why=(
        "The host has to wait for the value, which capture forbids; a graph could hold only one of the sides."
    ),
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
    rewritten=(
        Rewritten(
            before='''\
import torch
import torch.nn as nn


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.deep = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.shallow = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))

    def forward(self, x: torch.Tensor):
        """Easy inputs take the shallow path."""
        h = self.stem(x)  # (B, 8)
        if h.mean() > 0:
            return self.deep(h)
        # most inputs are easy
        return self.shallow(h)
''',
            after='''\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.deep = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.shallow = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))

    @segment
    def _forward_stem(self, x: torch.Tensor):
        h = self.stem(x)  # (B, 8)
        return h, h.mean() > 0

    @segment
    def _forward_deep(self, h):
        return self.deep(h)

    @segment
    def _forward_shallow(self, h):
        # most inputs are easy
        return self.shallow(h)

    def forward(self, x: torch.Tensor):
        """Easy inputs take the shallow path."""
        h, is_positive = self._forward_stem(x)
        if is_positive:
            return self._forward_deep(h)
        return self._forward_shallow(h)
''',
        ),
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.head = nn.Linear(8, 3)
        self.threshold = 0.4

    def forward(self, x):
        used = 0
        for block in self.blocks:
            x = x + torch.relu(block(x))
            logits = self.head(x)
            used += 1
            if logits.softmax(-1).amax(-1).min() > self.threshold:
                break
        return logits, used
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.head = nn.Linear(8, 3)
        self.threshold = 0.4

    @segment
    def _forward_block_head(self, x, block):
        x = x + torch.relu(block(x))
        logits = self.head(x)
        return x, logits, logits.softmax(-1).amax(-1).min() > self.threshold

    def forward(self, x):
        used = 0
        for block in self.blocks:
            x, logits, exceeds_threshold = self._forward_block_head(x, block)
            used += 1
            if exceeds_threshold:
                break
        return logits, used
""",
        ),
    ),
    propose=propose_branch,
)
