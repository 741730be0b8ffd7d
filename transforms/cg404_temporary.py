"""CG404: an elementwise result that never leaves its function. It is written into a static buffer."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.escape import Fate, fate
from refactor.rewrite.temporaries import propose_temporary
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str | None:
    if event.subject is None or fate(facts, event.subject) is not Fate.CONSUMED:
        return None
    return f"{quote(facts, event.subject)} allocates a temporary that does not leave this function"


RULE = Rule(
    code="CG404",
    name="fresh-temporary",
    summary="an elementwise temporary that does not leave its function",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.TEMPORARY, message=_message),
    what=(
        "Reports assignments in a region whose elementwise result is used only by later operations of the "
        "same function."
    ),
    why=(
        "Each call allocates the memory again. It captures as it is; outside a graph it costs the "
        "allocator's time."
    ),
    instead="`out=` into a buffer kept between calls (`scratch(...)`).",
    error="",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Block(nn.Module):
    def forward(self, x):
        y = x * 2
        return y
""",
            "what is returned must be fresh",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Block(nn.Module):
    def forward(self, x):
        y = x * 2  # !
        return y.sum()
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 8)

    def forward(self, x):
        u, v = self.fc(x).chunk(2, dim=-1)
        a = u * 1.702
        b = torch.sigmoid(a)
        gate = u * b  # swish, by hand
        return gate * v + x
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import scratch


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 8)

    def forward(self, x):
        u, v = self.fc(x).chunk(2, dim=-1)
        a = torch.mul(u, 1.702, out=scratch(self, "a", u, 1.702))
        b = torch.sigmoid(a, out=scratch(self, "b", a))
        gate = torch.mul(u, b, out=scratch(self, "gate", u, b))  # swish, by hand
        return gate * v + x
""",
        ),
    ),
    propose=propose_temporary,
)
