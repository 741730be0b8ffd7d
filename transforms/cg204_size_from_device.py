"""CG204: a size, bound or index that the host needs comes from the device."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import or_split
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"{quote(facts, event.subject)} is on the device, but the host needs its value here ({event.detail})"
    )


RULE = Rule(
    code="CG204",
    name="size-from-device",
    summary="a size, slice bound or index taken from a tensor",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.DEVICE_SIZE, message=_message),
    what=(
        "Reports slices with tensor bounds, tensors of rank 0 used as an index, and sizes given as tensors."
    ),
    why="The host reads the value back to compute a shape or an address, which capture forbids.",
    instead="`torch.arange` and a mask of fixed size, `index_select`, or a size known on the host.",
    error="operation not permitted when stream is capturing",
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        return x[: x.shape[0] // 2]
""",
            "the shape is known on the host",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor, length: torch.Tensor):
        return x[: length.max()]  # !
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x: torch.Tensor):
        h = self.encoder(x)
        longest = (h > 0).sum(-1).max()
        return h[:, :longest]
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    @segment
    def _forward_encoder(self, x: torch.Tensor):
        h = self.encoder(x)
        longest = (h > 0).sum(-1).max()
        return h, longest

    def forward(self, x: torch.Tensor):
        h, longest = self._forward_encoder(x)
        return h[:, :longest]
""",
        ),
    ),
    propose=or_split(),
)
