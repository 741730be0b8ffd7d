"""CG102: a tensor copied from the device to the host."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.branch import propose_branch
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return f"{quote(facts, event.subject)} is copied to the host here"


RULE = Rule(
    code="CG102",
    name="copy-to-host",
    summary="a tensor copied from the device to the host",
    severity=Severity.BREAKS,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.TO_HOST, message=_message),
    what=(
        'Reports `.cpu()`, `.numpy()`, `.to("cpu")` and NumPy functions of tensors on the device in a region.'
    ),
    why="The copy to unpinned memory makes the host wait, which capture forbids.",
    instead="The same computation with torch on the device, or the copy after the replay.",
    error=(
        "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned"
    ),
    valid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        index = torch.arange(4).numpy()
        return x + index.sum()
""",
            "made on the CPU",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        order = x.cpu().numpy().argsort()  # !
        return x, order
""",
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn as nn


class Ranked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x):
        h = self.fc(x).softmax(-1)
        order = sorted(range(4), key=h.mean(0).cpu().tolist().__getitem__)
        h = self.out(h) + h
        return h, order
""",
            after="""\
import torch
import torch.nn as nn
from cuda_graphs import segment


class Ranked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.out = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    @segment
    def _forward_fc(self, x):
        return self.fc(x).softmax(-1)

    @segment
    def _forward_out(self, h):
        return self.out(h) + h

    def forward(self, x):
        h = self._forward_fc(x)
        order = sorted(range(4), key=h.mean(0).cpu().tolist().__getitem__)
        h = self._forward_out(h)
        return h, order
""",
        ),
    ),
    propose=propose_branch,
)
