"""CG103: a tensor printed, formatted or logged."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is read back to the host here to be shown"


RULE = Rule(
    code="CG103",
    name="shown-tensor",
    summary="a tensor printed, formatted or logged in a region",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.SHOW, message=_message),
    what=(
        "Reports `print`, f-strings and logging calls that show the values of a tensor on the device in a "
        "region."
    ),
    why="Showing the values copies them to the host, which capture forbids.",
    instead="Show shapes and dtypes, which the host knows, or show values after the replay.",
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        print("input", x.shape, x.dtype)
        return x
""",
            "shapes are known on the host",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        print(x.mean())  # !
        return x
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Chatty(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x):
        h = self.fc(x).relu()
        print("activation", h.mean())
        return self.out(h) + h
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Chatty(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    @segment
    def _forward_fc(self, x):
        return self.fc(x).relu()

    @segment
    def _forward_out(self, h):
        return self.out(h) + h

    def forward(self, x):
        h = self._forward_fc(x)
        print("activation", h.mean())
        return self._forward_out(h)
""",
        ),
    ),
    propose=propose_branch,
)
