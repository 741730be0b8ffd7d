"""CG304: Python asks a tensor for its truth outside an `if`."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rule


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
    propose=propose_branch,
)
