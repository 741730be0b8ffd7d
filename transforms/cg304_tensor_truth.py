"""CG304: Python asks a tensor for its truth outside an `if`."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"Python needs the truth of {quote(facts, event.subject)} here ({event.detail}) and waits "
        "for the device"
    )


RULE = Rule(
    code="CG304",
    name="tensor-truth",
    summary="`and`, `or`, `not`, `in`, `max` or `sorted` asks a tensor for its truth",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.BOOL_OP, message=_message),
    what=(
        "Reports `and`, `or`, `not`, `in`, chained comparisons, and the builtins `max`, `min`, `sorted`, "
        "`any`, `all` on tensors of the device."
    ),
    why="Each asks for a Python bool: the host waits for the value, which capture forbids.",
    instead="`&`, `|`, `~`, `torch.maximum`, `torch.minimum`, `torch.sort`, `.any()`.",
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, mask=None):
        flag = mask is not None and x.dim() == 2
        return torch.maximum(x, x.abs()) if flag else x
""",
            "identity and shapes are host values",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        top = max(x.mean(), x.std())  # !
        return x / top
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.limit = 3.0

    def forward(self, x):
        h = self.fc(x).relu()
        bound = max(h.amax(), torch.ones_like(h).sum())
        return self.out(h) / bound
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.limit = 3.0

    @segment
    def _forward_fc(self, x):
        return self.fc(x).relu()

    @segment
    def _forward_out(self, h, bound):
        return self.out(h) / bound

    def forward(self, x):
        h = self._forward_fc(x)
        bound = max(h.amax(), torch.ones_like(h).sum())
        return self._forward_out(h, bound)
""",
        ),
    ),
    propose=propose_branch,
)
