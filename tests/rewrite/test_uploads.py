"""What the CPU computes and a method moves to the device: kept by content, unless it is drawn at random."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rewrite.whole import rewrite

MODULE = """\
import random
import numpy
import torch
import torch.nn as nn


def grid(height, width):
    return torch.stack(torch.meshgrid(torch.arange(height) / 3, torch.arange(width), indexing="ij"))


def noise(height):
    return torch.rand(height)


def masked(size):
    return numpy.random.rand(size) > 0.5


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(7, 7))

    def forward(self, x: torch.Tensor, lengths):
        {body}
"""

LEFT_ALONE = {
    "a random draw": "return x + torch.rand(4).to(x.device)",
    "a random draw, by way of a name": """a = torch.rand(4)
        b = a * 2
        return x + b.to(x.device)""",
    "a random draw in place": """a = torch.zeros(4)
        a.normal_()
        return x + (a / 3).to(x.device)""",
    "a function that draws": "return x + (noise(4) / 2).to(x.device)",
    "a list drawn by numpy": """m = masked(4)
        return x * torch.tensor(m, device=x.device)""",
    "memory of a size, written to later": "return x * torch.LongTensor(len(lengths), 7).to(x.device).zero_()",
    "a list that takes in what is read back": """rows = []
        for row in x.cpu().numpy():
            rows.append(numpy.unique(row).tolist())
        return x * torch.tensor(rows, device=x.device)""",
    "a number drawn by Python": """n = random.random()
        return x * torch.tensor([n, n], device=x.device)""",
}


@pytest.mark.parametrize("body", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_drawn_anew_at_every_call_is_left_alone(body: str, tmp_path: Path) -> None:
    code = MODULE.format(body=body)
    assert rewrite(code, tmp_path, ["CG401", "CG402"]) == code


KEPT = {
    "a computed table": (
        "return x + (torch.arange(4) / 3).log1p().to(x.device)",
        "return x + constant((torch.arange(4) / 3).log1p(), device=x.device)",
    ),
    "a function of the code base": (
        "return x + grid(x.shape[0], 4).sum(0).to(x.device)",
        "return x + constant(grid(x.shape[0], 4).sum(0), device=x.device)",
    ),
    "a table built in steps": (
        "a = torch.arange(4) / 3\n        a += 1\n        return x + a.exp().to(x.device)",
        "a = torch.arange(4) / 3\n        a += 1\n        return x + constant(a.exp(), device=x.device)",
    ),
    "a table that is returned": (
        "return (torch.arange(4) / 3).to(x.device)",
        "return constant(torch.arange(4) / 3, device=x.device).clone()",
    ),
    "an index": (
        "d = torch.arange(4)[:, None] / 2 - torch.arange(4)[None]\n        return self.bias[d.long()] + x",
        "d = torch.arange(4)[:, None] / 2 - torch.arange(4)[None]\n"
        "        return self.bias[constant(d.long(), device=self.bias.device)] + x",
    ),
}


@pytest.mark.parametrize(("before", "after"), KEPT.values(), ids=KEPT)
def test_what_shapes_and_numbers_decide_is_computed_as_before_and_its_copy_kept(
    before: str, after: str, tmp_path: Path
) -> None:
    new = rewrite(MODULE.format(body=before), tmp_path, ["CG402", "CG403"])
    assert after in new
