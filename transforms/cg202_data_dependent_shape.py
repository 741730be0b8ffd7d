"""CG202: an operation whose result has a shape that depends on the data."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.sizes import propose_static
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"the shape of {quote(facts, event.node)} depends on values, so the host waits for them"


RULE = Rule(
    code="CG202",
    name="data-dependent-shape",
    summary="an operation whose result's shape depends on the data",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.DYNAMIC_OP, message=_message),
    what=(
        "Reports `nonzero`, `argwhere`, one-argument `where`, `masked_select`, `unique`, `bincount`, "
        "`repeat_interleave(x, repeats)` and `one_hot(x)` of tensors on the device."
    ),
    why=(
        "The host needs the size to allocate the result and waits for it, which capture forbids; a graph has "
        "one shape only."
    ),
    instead=(
        "A mask in the place of indices, and sizes that the host knows: "
        "three-argument `torch.where`, `nonzero_static(size=…)`, `output_size=`, `num_classes=`, "
        "`zeros(n).scatter_add_`."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, index: torch.Tensor):
        hot = nn.functional.one_hot(index, 10)
        return torch.where(x > 0, x, 0.0), hot, x.repeat_interleave(2, dim=0)
""",
            "sizes are given",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        rows = torch.nonzero(x)  # !
        return rows
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Hits(nn.Module):
    def forward(self, x: torch.Tensor):
        hits = (x - x.mean()).abs() > 1
        hits[torch.where(x < -2)] = False
        return hits.masked_select(x > 0).sum()
""",
            after="""\
import torch
import torch.nn as nn


class Hits(nn.Module):
    def forward(self, x: torch.Tensor):
        hits = (x - x.mean()).abs() > 1
        hits[x < -2] = False
        return torch.where(x > 0, hits, 0).sum()
""",
        ),
    ),
    propose=propose_static,
)
