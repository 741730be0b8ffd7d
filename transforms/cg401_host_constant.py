"""CG401: a tensor built from Python values on the device. It is built once instead."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.constants import propose_constant
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.node)} copies Python values from the host to the device at every call"


RULE = Rule(
    code="CG401",
    name="host-constant",
    summary="a tensor built from Python values on the device",
    severity=Severity.BREAKS,
    applicability=Applicability.SAFE,
    detect=hits(EventKind.HOST_CONSTANT, message=_message),
    what=(
        "Reports `torch.tensor(value, device=...)`, `torch.as_tensor(...)` and `new_tensor(...)` of Python "
        "values in a region."
    ),
    why="The values are packed on the host and copied from unpinned memory, which capture refuses.",
    instead=(
        "`torch.full`, `zeros` or `ones` on the device for one value, a buffer or `constant(...)` for "
        "several."
    ),
    error=(
        "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned"
    ),
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Floor(nn.Module):
    def forward(self, x):
        floor = torch.full((), -1e4, device=x.device)
        return torch.maximum(x, floor)
""",
            "`full`, `zeros`, `ones` and `arange` fill memory on the device",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Normalise(nn.Module):
    def forward(self, x):
        mean = torch.tensor([0.5, 0.4, 0.3], device=x.device)  # !
        return x - mean
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn

MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics


class Normalise(nn.Module):
    def forward(self, x):
        mean = torch.tensor(MEAN, dtype=x.dtype, device=x.device)
        floor = torch.tensor(-1.0, device=x.device)
        return torch.maximum(x - mean, floor)
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import constant

MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics


class Normalise(nn.Module):
    def forward(self, x):
        mean = constant(MEAN, dtype=x.dtype, device=x.device)
        floor = torch.full((), -1.0, device=x.device)
        return torch.maximum(x - mean, floor)
""",
        ),
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Anchors(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = [8.0, 16.0, 32.0]

    def forward(self, x):
        anchors = torch.tensor(self.sizes, device=x.device)
        anchors *= x.shape[-1]
        return x.sum() + anchors
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import constant


class Anchors(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = [8.0, 16.0, 32.0]

    def forward(self, x):
        anchors = constant(self.sizes, device=x.device).clone()
        anchors *= x.shape[-1]
        return x.sum() + anchors
""",
        ),
    ),
    propose=propose_constant,
)
