"""CG405: a cache that grows by concatenation."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is longer after every call, so no two calls have the same shapes"


RULE = Rule(
    code="CG405",
    name="growing-cache",
    summary="an attribute that grows by `torch.cat` at every call",
    severity=Severity.SHAPE,
    applicability=Applicability.MANUAL,
    detect=hits(EventKind.GROWING_CACHE, message=_message),
    what="Reports `self.cache = torch.cat([self.cache, new])` in a region.",
    why=(
        "A graph holds for one shape and for one address. A cache that grows misses the graph at every call, "
        "and a replay would not grow it."
    ),
    instead=(
        "A cache of the largest size made once, written in place at a position kept on the device "
        "(`index_copy_`, `scatter_`)."
    ),
    error="",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 128, 8))

    def forward(self, x, position: torch.LongTensor):
        self.cache.index_copy_(1, position, x)
        return self.cache.sum(1)
""",
            "a static cache written in place",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 0, 8))

    def forward(self, x: torch.Tensor):
        self.cache = torch.cat([self.cache, x], dim=1)  # !
        return self.cache.sum(1)
""",
        ),
    ),
)
