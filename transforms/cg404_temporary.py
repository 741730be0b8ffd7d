"""CG404: elementwise results that never leave their function. They are written into static buffers."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.escape import Fate, fate
from refactor.rewrite.model import Proposal
from refactor.rewrite.syntax import ancestors
from refactor.rewrite.temporaries import propose_temporary
from refactor.rule import Example, Hit, Rewritten, Rule

_FEWEST = 2  # in one call; a buffer for a single temporary saves less than the longer line costs a reader


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
    places = [(hit.event.function, _arms(facts, hit.event)) for hit in found]
    alike = Counter(places)
    return [hit for hit, place in zip(found, places, strict=True) if _together(place, alike) >= _FEWEST]


_Arms = frozenset[tuple[ast.If, bool]]  # every `if` around a place, and whether it is below the condition
_Place = tuple[ast.AST | None, _Arms]  # the function, and where in it


def _arms(facts: Facts, event: Event) -> _Arms:
    arms = set()
    node: ast.AST = event.statement
    for around in ancestors(facts, node):
        if isinstance(around, ast.If):
            arms.add((around, any(node is statement for statement in around.body)))
        node = around
    return frozenset(arms)


def _together(place: _Place, alike: Counter[_Place]) -> int:
    """How many places may run in one call with one, itself included; it stops counting at `_FEWEST`."""
    function, arms = place
    count = alike[place]
    for other, sides in alike:
        if count >= _FEWEST:
            break
        if other is function and sides != arms and not any((node, not side) in arms for node, side in sides):
            count += alike[other, sides]
    return count


RULE = Rule(
    code="CG404",
    name="fresh-temporary",
    summary="an elementwise temporary that does not leave its function",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=_detect,
    what=(
        "Reports assignments in a method whose elementwise result is used only by later operations of the "
        "same call, where there are at least two of them that can be given a buffer. A method that no other "
        "calls and that returns the sum or mean of a tensor is taken for a loss, which autograd records, and "
        "left alone."
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
        Example(
            """\
import torch
import torch.nn as nn

class Focal(nn.Module):
    def forward(self, x, target):
        p = torch.sigmoid(x)
        weight = (p - target) ** 2
        return (weight * x).mean()
""",
            "a loss runs under autograd",
        ),
        Example(
            """\
import torch
import torch.nn as nn

class Attention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.fused = fused

    def forward(self, x, bias):
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.fused:
            scaled = bias * 2
            return nn.functional.scaled_dot_product_attention(q, k, v, scaled)
        else:
            weights = q * 0.5
            return torch.softmax(weights @ k.mT, -1) @ v
""",
            "no call computes more than one of the two",
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
        return b.sum(-1)
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
