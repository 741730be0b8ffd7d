"""Selections by a mask: the same values, gradients, dtypes and aliases, with NaN in what is not selected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.rewrite.whole import reasons, rewrite, run

torch = pytest.importorskip("torch")

HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    def forward(self, x: torch.FloatTensor, y: torch.FloatTensor, t: torch.FloatTensor):
        x = x * 1.0
        y = y.view_as(x) * 1.0
        m = x.detach() > 0
"""


def _program(body: str) -> str:
    return HEAD + "".join(f"        {line}\n" for line in body.split("; "))


def _outcome(model: Any, dtype: Any, spoil: bool, empty: bool) -> list[Any]:
    """Result, the tensors written in place, and gradients."""
    torch.manual_seed(3)
    x = torch.randn(4, 6, dtype=torch.float64).to(dtype)
    y = torch.randn(4, 6, dtype=torch.float64).to(dtype) + 3
    if empty:
        x = -x.abs()
    if spoil:
        bad = torch.tensor([float("nan"), float("inf"), -0.0], dtype=dtype)[torch.randint(0, 3, (4, 6))]
        y = torch.where(x > 0, y, bad)
    leaves = [x.requires_grad_(), y.requires_grad_()]
    result = model(*leaves, torch.tensor(1.25, dtype=dtype))
    parts = list(result) if isinstance(result, tuple) else [result]
    wanted = [p for p in parts if p.requires_grad]
    # What is not selected may be NaN in the result itself: only the rest is differentiated.
    loss = sum(torch.where(p.isfinite(), p, 0).sum() for p in wanted)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if wanted else (None, None)
    return [*parts, *grads]


SAME = [
    "return x[m].sum(), torch.sum(y[m]), y[m].sum() / m.sum()",
    "return y[m].mean(), torch.mean(x[m]), y[m].mean() * 2",
    "return (x[m] - y[m]).abs().mean(), (x[m] * y[m]).sum(), (y[m] / 2 + 1).sum()",
    "return y[m].log().sum(), (1 / y[m]).sum(), torch.sqrt(x[m]).sum(), (y[m].log() - x[m].exp()).mean()",
    "return (x[m] / y[m]).sum(), (y[m] ** 2).mean(), y[m].square().sum(), x[m].sigmoid().mean()",
    "return (x[m] > y[m]).sum(), (x[m] < y[m]).float().mean(), ((x[m] > 1) & (y[m] > 2)).all()",
    "return y.masked_select(m).sum(), torch.masked_select(y, m).mean()",
    "return F.mse_loss(x[m], y[m], reduction='sum'), F.l1_loss(y[m], x[m] * 2, reduction='sum')",
    "x[m] = y[m]; return x, x[:, 1:]",
    "x[m] = y[m] * 2 - t; x[~m] = x[~m] - 1; return x",
    "x[m] = y[m] / x[m]; return x",
    "x[m] = y[m].log() * x[m].abs(); return x",
    "v = x[:, 1:]; x[m] = x.sum() * 0 + 1; return x, v",
    "x[m] += y[m]; return x",
    "x[m] -= y[m]; x[m] *= y[m]; return x",
    "x[m] /= y[m]; x[x < 0] *= 0.5; return x",
    "x[m] += t; x[m] *= t; x[m] -= 2; return x",
    "x[..., m] = y[..., m]; return x, x[..., m].sum()",
    "r = m.any(-1); x[r] = y[r]; return x[r].sum(), x",
    "r = m.all(-1) | m[:, 0]; x[r, :] *= y[r, :]; return y[r].mean(), x",
]


@pytest.mark.parametrize("body", SAME)
def test_values_and_gradients_are_those_of_the_selection(body: str, tmp_path: Path) -> None:
    code = _program(body)
    new = rewrite(code, tmp_path, ["CG202", "CG203"])
    assert new != code
    before, after = run(code)["Model"](), run(new)["Model"]()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for spoil in (False, True):
            for empty in (False, True):
                old, made = (_outcome(model, dtype, spoil, empty) for model in (before, after))
                for one, other in zip(old, made, strict=True):
                    if one is None or other is None:
                        assert one is None or not one.any()
                        assert other is None or not other.any()
                        continue
                    assert one.dtype == other.dtype
                    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 5e-2)
                    torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_a_mean_in_half_precision_does_not_overflow(tmp_path: Path) -> None:
    model = (
        HEAD.partition("    def")[0]
        + "    def forward(self, x: torch.Tensor):\n        return x[x > 0].mean()\n"
    )
    new = rewrite(model, tmp_path, ["CG203"])
    x = torch.full((4, 1000), 6e4, dtype=torch.float16)
    assert "torch.where" in new
    assert run(new)["Model"]()(x).item() == run(model)["Model"]()(x).item() == 6e4


def test_integers_and_booleans_keep_their_dtype(tmp_path: Path) -> None:
    body = (
        "k = (x * 3).long(); b = x > 1; k[m] += 2; k[b] = k[b] * 3; b[m] = ~b[m]; "
        "return k[m].sum(), k, b[m].sum(), b[m].any(), b[m].all(), b, k[b].sum(dtype=torch.int32)"
    )
    new = rewrite(_program(body), tmp_path, ["CG203"])
    assert "[m]" not in new.replace("~b[m]", "")
    before, after = run(_program(body))["Model"](), run(new)["Model"]()
    for one, other in zip(
        _outcome(before, torch.float32, False, False),
        _outcome(after, torch.float32, False, False),
        strict=True,
    ):
        assert one is other or (one.dtype == other.dtype and torch.equal(one, other))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return x[m].max()", "raises an error where nothing is selected"),
        ("return x[m]", "the number of selected elements becomes a size"),
        ("return x[m].shape[0]", "how many elements are selected"),
        ("return F.mse_loss(x[m], y[m])", 'reduction="sum"'),
        ("x[m] = t[None].expand(3); return x", "can be computed for all elements"),
        ("k = x.long(); x[m] = k[m]; return x", "dtype int cannot be assigned to one of dtype float"),
        ("k = x.long(); k[m] *= 0.5; return k", "dtype float cannot be assigned to one of dtype int"),
        ("k = x.long(); return k[m].mean()", "`mean` of integers raises"),
        ("x[m] = y[m].softmax(0); return x", "can be computed for all elements"),
        ("x[m] = y[m].cumsum(0); return x", "can be computed for all elements"),
        ("x[torch.rand_like(x) > 0.5] = y[0, 0] + t; return x", "is computed in the brackets"),
        ("q = y[0].expand(4, 6); q[m] = x[m]; return q", "elements of an expanded tensor share memory"),
        ("x[:, 1:][m[:, 1:]] *= y[:, 1:][m[:, 1:]]; return x", "bind it to a name first"),
        ("return x[m].sum(-1)", "reduces over a part"),
        ("return (x[m] + t * y[:1]).sum()", "can be computed for all elements"),
        ("x[m] **= 2.0; return x", "only sums and products"),
        ("x[m], y[m] = y[m], x[m]; return x", "becomes a size"),
        ("return x[m].std(), x[m].median()", "becomes a size"),
        ("k = (x[m] > 1); return x[m][k].sum()", "bind both to names"),
    ],
)  # fmt: skip
def test_what_depends_on_the_number_of_selected_elements_is_left_alone(
    body: str, reason: str, tmp_path: Path
) -> None:
    assert any(reason in found for found in reasons(_program(body), tmp_path, ["CG203"]))


def test_a_mask_made_before_its_tensor_was_reshaped_is_spread_by_what_it_is_then(tmp_path: Path) -> None:
    body = "r = x[:, 0] > 0; x = x.reshape(4, 2, 3); return x[r].sum(), x[r].mean()"
    new = rewrite(_program(body), tmp_path, ["CG203"])
    before, after = run(_program(body))["Model"](), run(new)["Model"]()
    for one, other in zip(
        _outcome(before, torch.float64, False, False),
        _outcome(after, torch.float64, False, False),
        strict=True,
    ):
        assert one is other or torch.allclose(one, other)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_lines_that_are_put_before_a_mean_end_as_the_others_do(end: str, tmp_path: Path) -> None:
    head = (
        "import torch\nfrom torch import nn\n\n\nclass M(nn.Module):\n\tdef forward(self, x: torch.Tensor):\n"
    )
    code = head + "\t\tkeep = x > 0  # some\n\t\treturn x[keep].mean()"
    new = rewrite(code.replace("\n", end), tmp_path)
    assert new.replace(end, "\n") == head + (
        "\t\tkeep = x > 0  # some\n"
        "\t\ttotal = torch.where(keep, x, 0).sum(dtype=torch.promote_types(x.dtype, torch.float32))\n"
        "\t\treturn (total / keep.sum()).to(x.dtype)"
    )
