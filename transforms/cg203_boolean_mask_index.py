"""CG203: a tensor indexed with a boolean mask."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.masks import propose_mask
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"{quote(facts, event.node)} selects as many elements as the mask "
        f"{quote(facts, event.subject)} has, so the host waits for the count"
    )


RULE = Rule(
    code="CG203",
    name="boolean-mask-index",
    summary="a tensor indexed with a boolean mask",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.MASK_INDEX, message=_message),
    what="Reports `x[mask]` and `x[mask] = tensor` with a boolean mask on the device.",
    why="The number of selected elements depends on values: the host waits for it, which capture forbids.",
    instead=(
        "Where what is selected is reduced, compared or assigned element by element, the same can be made of "
        "all elements, and the mask chooses on the device. "
        "Three-argument `torch.where`; `x[mask] = number` is safe. `masked_fill` with a tensor reads that "
        "back, and a multiplication by the mask keeps NaN and infinity."
    ),
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x, index: torch.LongTensor):
        y = x.clone()
        y[x < 0] = 0
        return y[index]
""",
            "a number is filled in without a count; integers on the device select a known number",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        return x[x > 0].sum()  # !
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Masked(nn.Module):
    def forward(self, x: torch.Tensor):
        target = torch.tanh(x)
        valid = target > 0
        error = (x * 2 - target).abs()
        error[valid] *= target[valid]
        x[valid] = target[valid] - 1  # in place, as the caller expects
        return x, (error[valid] > 1).sum()
""",
            after="""\
import torch
import torch.nn as nn


class Masked(nn.Module):
    def forward(self, x: torch.Tensor):
        target = torch.tanh(x)
        valid = target > 0
        error = (x * 2 - target).abs()
        error.mul_(torch.where(valid, target, 1))
        x.copy_(torch.where(valid, target - 1, x))  # in place, as the caller expects
        return x, torch.where(valid, error > 1, 0).sum()
""",
        ),
    ),
    propose=propose_mask,
)
