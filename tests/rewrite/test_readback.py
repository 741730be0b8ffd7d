"""Values that stay on the device instead of being read back: same dtypes, values and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.rewrite.whole import rewrite, run

torch = pytest.importorskip("torch")

HEAD = """\
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x: torch.FloatTensor, y: torch.Tensor, k: torch.LongTensor):
        x = x[:, :] * 1.0
"""


def _program(body: str) -> str:
    return HEAD + "".join(f"        {line}\n" for line in body.split("; "))


def _outcome(model: Any, dtype: Any) -> list[Any]:
    torch.manual_seed(1)
    x, y = torch.randn(3, 5).to(dtype).requires_grad_(), torch.randn(4).to(dtype).requires_grad_()
    result = model(x, y, torch.arange(6))
    parts = list(result) if isinstance(result, tuple) else [result]
    loss = sum(p.double().sum() for p in parts if p.requires_grad)
    return [*parts, *torch.autograd.grad(loss, [x, y], allow_unused=True)]


@pytest.mark.parametrize(
    "body",
    [
        "return x / x.abs().max().item(), y * y.sum().item()",
        "s = x.norm().item(); return x * (s * 0.1 + 1), x - s, x > s",
        "n = (x > 0).sum().item(); return x.sum(-1) / (n + 1), x * n, k[1:] * n",
        "n = k.max().item(); return x * (n / 3), x * (n * 0.1 - 1), x / (2 * n)",
        "s = float(x.mean()); t = -s; x *= t; return x, x.add(s), torch.mul(x, t)",
        "return x / max(x.std().item(), 1e-5), x * min(x.mean().item(), 0.1)",
        "a = x.amax().item(); b = x.amin().item(); return (x - b) * (a * 2 - b)",
    ],
)
def test_dtypes_values_and_gradients_are_those_of_the_number(body: str, tmp_path: Path) -> None:
    new = rewrite(_program(body), tmp_path, ["CG101"])
    assert ".item()" not in new
    assert "float(" not in new
    for dtype in (torch.float64, torch.float32, torch.float16):
        pairs = zip(*(_outcome(run(code)["Model"](), dtype) for code in (_program(body), new)), strict=True)
        for one, other in pairs:
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype
                assert torch.equal(one, other)


@pytest.mark.parametrize(
    "body",
    [
        "return x * (1.0 / x.norm().item())",  # Python raises where it is zero
        "return k * x.mean().item()",  # an integer tensor: a float tensor would decide the dtype
        "return x.mean() * x.double().mean().item()",  # both without dimensions: double would win
        "return x * round(x.mean().item())",
        "return x.masked_fill(x > 0, x.mean().item())",  # reads the tensor back itself
        "return x.clamp(max=x.mean().item())",
        "return x[: k.max().item()]",
        "s = x.norm().item(); s += 1; return x * s",
        "s = x.norm().item(); f = lambda t: t * s; return f(x)",
        "return x * x[0, 0].item() ** 2",
        "return x * int(x.mean())",
        "return y * x.double().mean().item()",  # whether y has dimensions is not known
        "return x * (x.mean() > 0).item()",
        "return x.cpu() * x.mean().item()",
    ],
)
def test_what_a_number_alone_can_do_is_left_to_the_host(body: str, tmp_path: Path) -> None:
    code = _program(body)
    assert ".detach()" not in rewrite(code, tmp_path, ["CG101"])
