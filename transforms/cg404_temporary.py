"""CG404: elementwise results that never leave their function. They are written into static buffers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.escape import Fate, fate
from refactor.rewrite.model import Proposal
from refactor.rewrite.temporaries import propose_temporary
from refactor.rule import Example, Hit, Rewritten, Rule

_FEWEST = 2  # in one function; a buffer for a single temporary saves less than the longer line costs a reader


def _message(facts: Facts, event: Event) -> str | None:
    if event.subject is None or fate(facts, event.subject) is not Fate.CONSUMED:
        return None
    return f"{quote(facts, event.subject)} allocates a temporary that does not leave this function"


def _detect(facts: Facts) -> Iterable[Hit]:
    """Only what can be given a buffer: a hint about cost that nobody can act on is noise."""
    found = [
        hit
        for hit in hits(EventKind.TEMPORARY, message=_message)(facts)
        if isinstance(propose_temporary(facts, hit), Proposal)
    ]
    blocks = Counter(hit.event.function for hit in found)
    return [hit for hit in found if blocks[hit.event.function] >= _FEWEST]


RULE = Rule(
    code="CG404",
    name="fresh-temporary",
    summary="an elementwise temporary that does not leave its function",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=_detect,
    what=(
        "Reports assignments in a method whose elementwise result is used only by later operations of the "
        "same call, where there are at least two of them that can be given a buffer."
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
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        h = self.fc(x)
        a = h * 2
        b = a + 1
        return b, a
""",
            "what is returned must be fresh",
        ),
        Example(
            """\
import torch
import torch.nn as nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        scaled = self.fc(x) * 2
        return scaled.sum()
""",
            "one temporary alone is not worth a buffer",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        h = self.fc(x)
        a = h * 2  # !
        b = torch.exp(a)  # !
        return b.sum()
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
