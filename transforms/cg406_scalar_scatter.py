"""CG406: a Python number assigned through an index on the device."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.fills import propose_fill
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"the number assigned to {quote(facts, event.node)} is copied from the host to the device "
        "at every call"
    )


RULE = Rule(
    code="CG406",
    name="scalar-scatter",
    summary="a Python number assigned through an integer index",
    severity=Severity.BREAKS,
    applicability=Applicability.SAFE,
    detect=hits(EventKind.INDEX_FILL, message=_message),
    what="Reports `x[index] = number` where `index` is an integer tensor on the device.",
    why=(
        "The number becomes a CPU tensor that is copied from unpinned memory, which capture refuses. A "
        "boolean mask takes another path and is safe."
    ),
    instead="`x.index_fill_(0, index, number)`, or a value that is a tensor on the device.",
    error=(
        "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned"
    ),
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, index: torch.LongTensor):
        y = x.clone()
        y[x < 0] = 0.0
        return y.index_fill_(0, index, 1.0)
""",
            "a boolean mask, and `index_fill_`",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor, index: torch.LongTensor):
        y = x.clone()
        y[index] = 0.0  # !
        return y
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Marked(nn.Module):
    def forward(self, x: torch.Tensor):
        best = x.argmax(-1)
        marks = torch.zeros_like(x)
        marks[torch.arange(x.shape[0], device=x.device), best] = 1.0  # one in each row
        marks[0, 0] = -1.0
        return marks
""",
            after="""\
import torch
import torch.nn as nn


class Marked(nn.Module):
    def forward(self, x: torch.Tensor):
        best = x.argmax(-1)
        marks = torch.zeros_like(x)
        marks[torch.arange(x.shape[0], device=x.device), best] = marks.new_full((), 1.0)  # one in each row
        marks[0, 0] = -1.0
        return marks
""",
        ),
    ),
    propose=propose_fill,
)
