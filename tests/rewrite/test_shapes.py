"""Which tensors of a function have the same shape: what is not sure is not claimed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from refactor.analysis.analyze import analyze
from refactor.analysis.project import Project
from refactor.rewrite.shapes import Shapes
from refactor.source import load

HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.fc, self.norm = nn.Embedding(8, 4), nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x, y, ids: torch.LongTensor, n: int = 2):
"""


def _of(tmp_path: Path, body: str) -> tuple[Shapes, list[ast.expr]]:
    """The shapes of a function and the two expressions that it returns."""
    path = tmp_path / "model.py"
    path.write_text(HEAD + "".join(f"        {line}\n" for line in body.split("; ")), encoding="utf-8")
    facts = analyze(load(path), Project(tmp_path))
    assert facts is not None
    function = next(n for n in ast.walk(facts.tree) if getattr(n, "name", "") == "forward")
    returned = next(n for n in ast.walk(function) if isinstance(n, ast.Return)).value
    assert isinstance(returned, ast.Tuple)
    return Shapes(facts, function), returned.elts


@pytest.mark.parametrize(
    "body",
    [
        "return x, y",
        "m = x > 0; x = x[:1]; return m, x",
        "m = x > 0; x = self.fc(x); x = x.sum(); return m, x",
        "m = x[..., None] > 0; return m, x.sum(-1)",
        "m = x[..., None]; return m, x",
        "m = x > y; return m, x",
        "m = x @ y; return m, x",
        "h = x.reshape(-1); return h, x",
        "h = x\n        for _ in range(n):\n            y = h\n            h = h[1:]\n        return h, y",
        "h = x; h = h.unsqueeze_(0); return h, x",
        "a = 0.0; a += x; return a, x.sum()",
        "h = x.sum(-1, True); return h, x.sum(-1)",
        "h = torch.zeros(x.shape[0]); return h, x",
        "return x.max(-1)[0], x",
        "return self.fc(x), x",
        "m = [x > 0 for x in [y]]; return m[0], x",
    ],
)  # fmt: skip
def test_shapes_that_may_differ_are_not_called_the_same(body: str, tmp_path: Path) -> None:
    shapes, (one, other) = _of(tmp_path, body)
    assert not shapes.same(one, other)


@pytest.mark.parametrize(
    ("body", "behind"),
    [
        ("m = (x * 2 - 1).abs() > n; return m, x", 0),
        ("m = x.sum(-1) > 0; return m, x.relu()", 1),
        ("h = self.norm(x); m = h.isnan() | (x > 1); return m, h", 0),
        ("h = self.emb(ids); return ids == 3, h", 1),
        ("h = self.fc(x); return x.mean(dim=-1), h", 1),
        ("h = torch.zeros_like(x); h[0] = 1; h += 2; return x > 0, h", 0),
        ("m = x.max(-1)[0] > x.amax(-1); return m, x", 1),
        ("h = torch.full(x.shape, 0.5); return x[..., 0] > 0, h", 1),
        ("m = y.expand_as(x) > 0; return m, x", 0),
        ("if n > 1:\n            y = x > 0\n        m = x < 1; return m, x", 0),
        ("e = F.mse_loss(x, x * 2, reduction='none'); return x > 0, e", 0),
    ],
)
def test_what_leads_the_sizes_of_another_is_known(body: str, behind: int, tmp_path: Path) -> None:
    shapes, (one, other) = _of(tmp_path, body)
    assert shapes.behind(one, other) == behind
