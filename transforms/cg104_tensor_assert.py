"""CG104: a check of a tensor's values that can raise."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is read back to the host here to decide whether to raise"


RULE = Rule(
    code="CG104",
    name="tensor-assert",
    summary="an assertion about the values of a tensor",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.ASSERT, message=_message),
    what=(
        "Reports `assert`, `if …: raise` and `torch._check(…)` whose condition is a tensor on the device "
        "in a region."
    ),
    why="The host has to wait for the condition, which capture forbids. A replay would not check anything.",
    instead=(
        "Check before the region, or `torch._assert_async`, which raises later and without a Python message."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        assert x.dim() == 2, "expected two dimensions"
        return x
""",
            "a shape check",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        assert x.min() >= 0  # !
        return x.sqrt()
""",
        ),
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        torch._check(x.dim() == 2)
        torch._check_with(ValueError, x.min() >= 0, lambda: "negative")  # !
        return x.sqrt()
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x):
        h = self.fc(x).exp()
        assert torch.isfinite(h).all(), "overflow"
        return self.out(h) + h
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    @segment
    def _forward_fc(self, x):
        h = self.fc(x).exp()
        return h, torch.isfinite(h).all()

    @segment
    def _forward_out(self, h):
        return self.out(h) + h

    def forward(self, x):
        h, all_finite = self._forward_fc(x)
        assert all_finite, "overflow"
        return self._forward_out(h)
""",
        ),
    ),
    propose=propose_branch,
)
