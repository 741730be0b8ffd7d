"""CG205: a kernel whose launch depends on data."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import or_split
from refactor.rewrite.grouped import propose_grouped
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.node)} sizes its launch by the offsets it is given"


RULE = Rule(
    code="CG205",
    name="data-dependent-launch",
    summary="a kernel whose launch depends on data",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.LAUNCH, message=_message),
    what="Reports grouped matrix multiplications (`grouped_mm`).",
    why=(
        "Except for bfloat16 on Hopper and later, the groups are laid out on the host: it reads the offsets, "
        "which capture forbids."
    ),
    instead=(
        "`grouped_mm` of the runtime: in a capture it multiplies blocks of rows, as many of them "
        "whatever the offsets are. Elsewhere it is torch's own."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, weight: torch.Tensor):
        return torch.bmm(x, weight)
""",
            "fixed shapes",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor):
        return torch._grouped_mm(x, weight, offs=offs)  # !
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn
import torch.nn.functional as F


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x: torch.Tensor):
        first = (x[:, 0] > 0).sum()
        ends = torch.stack([first, torch.full_like(first, x.shape[0])]).to(torch.int32)
        return F.silu(F.grouped_mm(x, self.weight, offs=ends))
""",
            after="""\
import torch
import torch.nn as nn
import torch.nn.functional as F
from cuda_graphs import grouped_mm


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x: torch.Tensor):
        first = (x[:, 0] > 0).sum()
        ends = torch.stack([first, torch.full_like(first, x.shape[0])]).to(torch.int32)
        return F.silu(grouped_mm(x, self.weight, offs=ends))
""",
        ),
    ),
    propose=or_split(propose_grouped),
)
