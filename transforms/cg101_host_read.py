"""CG101: a value of a tensor on the device read by the host."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"{quote(facts, event.node)} waits for the device and reads the value of "
        f"{quote(facts, event.subject)} back"
    )


RULE = Rule(
    code="CG101",
    name="host-read",
    summary="a value read back from the device",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.READBACK, message=_message),
    what=(
        "Reports `.item()`, `.tolist()`, `float(t)`, `int(t)`, `bool(t)` and `math` functions of tensors on "
        "the device in a region."
    ),
    why=(
        "The host has to wait for the value, which capture forbids; in a replay the value seen at capture "
        "would stay for ever."
    ),
    instead=(
        "Keep the value on the device (a tensor of rank 0 works in arithmetic, `torch.where`, `clamp`), or "
        "read it after the replay."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, scale: float = 1.0):
        low = float("-inf")
        n = x.shape[0]
        return x * float(scale) + int(n) + low
""",
            "strings, numbers and shapes are host values",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        peak = x.abs().max().item()  # !
        return x / peak
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Normed(nn.Module):
    def forward(self, x: torch.Tensor):
        peak = x.abs().max().item()
        count = (x > 0).sum().item()
        return x / peak, x.mean(-1) * count
""",
            after="""\
import torch
import torch.nn as nn


class Normed(nn.Module):
    def forward(self, x: torch.Tensor):
        peak = x.abs().max().detach()
        count = (x > 0).sum()
        return x / peak, x.mean(-1) * count
""",
        ),
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x):
        h = self.fc(x)
        # the largest entry decides the exponent
        exponent = round(h.abs().max().item())
        h = h * 2.0**-exponent
        return self.out(h).tanh()
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    @segment
    def _forward_fc(self, x):
        h = self.fc(x)
        return h, h.abs().max()

    @segment
    def _forward_out(self, h):
        return self.out(h).tanh()

    def forward(self, x):
        h, h_max = self._forward_fc(x)
        # the largest entry decides the exponent
        exponent = round(h_max.item())
        h = h * 2.0**-exponent
        return self._forward_out(h)
""",
        ),
    ),
    propose=propose_branch,
)
