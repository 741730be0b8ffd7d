"""CG403: a device tensor indexed with a Python list or a CPU tensor."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.constants import propose_index
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is an index on the host and is copied to the device at every call"


RULE = Rule(
    code="CG403",
    name="index-list",
    summary="a device tensor indexed with a list or a CPU tensor",
    severity=Severity.BREAKS,
    applicability=Applicability.SAFE,
    detect=hits(EventKind.INDEX_LIST, message=_message),
    what="Reports `x[[0, 2]]` and `x[index]` with an index made on the CPU, where `x` is on the device.",
    why="The index is turned into a CPU tensor and copied from unpinned memory, which capture refuses.",
    instead="An index kept on the device (a buffer or `constant(...)`), or slices.",
    error=(
        "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned"
    ),
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Last(nn.Module):
    def forward(self, x, index: torch.Tensor):
        return x[:, -1], x[index]
""",
            "numbers, slices and integer tensors on the device",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Corners(nn.Module):
    def forward(self, x):
        return x[:, [0, 2]]  # !
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Corners(nn.Module):
    def forward(self, x: torch.Tensor):
        return x[:, [0, -1]] * 2
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import constant


class Corners(nn.Module):
    def forward(self, x: torch.Tensor):
        return x[:, constant([0, -1], device=x.device)] * 2
""",
        ),
    ),
    propose=propose_index,
)
