"""Reference runs of the original: what they disturb, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from refactor.verify.worker import reference
from refactor.verify.worker.episode import disturbed
from torch import nn

ROW = torch.tensor([[1.0e4, -1.0e4, 1.0]])


def test_roundings_of_what_cancelled_are_as_large_as_its_terms() -> None:
    ones = torch.ones(3, 1)
    with reference.Disturb(1):
        moved = abs(float(ROW @ ones) - 1.0)
    assert 1e-4 < moved < 1e-2, "ten thousand cancels ten thousand in float32"


@pytest.mark.parametrize("zero", [torch.zeros(4, 3), torch.zeros(4, 0)], ids=["zeros", "nothing"])
def test_zero_stays_zero(zero: torch.Tensor) -> None:
    with reference.Disturb(1):
        assert not (zero @ torch.ones(zero.shape[1], 2)).any()


def test_elementwise_operations_and_comparisons_are_left_alone() -> None:
    x = torch.linspace(-1, 1, 9)
    with reference.Disturb(1):
        assert torch.equal(x * 3, x + x + x) or torch.equal(x * 2, x + x)
        assert (x >= 0.25).tolist() == (x >= 0.25).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_disturbance_is_a_few_units_in_the_last_place(dtype: torch.dtype) -> None:
    x = torch.ones(1000, dtype=dtype)
    moved = (disturbed(x, 1).double() - 1).abs()
    assert 0 < moved.max() <= 12 * torch.finfo(dtype).eps


def test_a_module_that_casts_inside_runs_in_float64() -> None:
    class Casts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.half().to(torch.float32) / torch.tensor(3.0)).bfloat16()

    x = torch.tensor([1 / 3, 2.0], dtype=torch.float64)
    with reference.Promote(reference.Recording()):
        result = Casts()(x)
    assert result.dtype == torch.float64
    assert torch.equal(result, x / 3)


def test_optimizers_step_in_capturable_form_inside_and_are_let_go_after() -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    with reference.capturable():
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert not optimizer.param_groups[0]["capturable"], "parameters in host memory cannot"
    optimizer.step()


def test_only_what_is_rounded_is_disturbed() -> None:
    x = torch.tensor([0.5, 1.5, 0.1])
    with reference.Inexact(1):
        product, sums, into = x * 8, x + 0.25, x.clone().mul_(2)
        tenth, row = x / 10, torch.tensor([[1.0, 2.0], [0.1, 0.7]]) @ torch.tensor([[2.0], [0.3]])
        kept = torch.where(x > 0.3, x, 0.0)
    assert torch.equal(product, x * 8)
    assert torch.equal(into, x * 2)
    assert torch.equal(kept, torch.tensor([0.5, 1.5, 0.0]))
    assert torch.equal(sums[:2], x[:2] + 0.25)
    assert bool((tenth != x / 10).any())
    assert bool((row != torch.tensor([[1.0, 2.0], [0.1, 0.7]]) @ torch.tensor([[2.0], [0.3]])).any())


def test_what_is_written_in_place_is_disturbed_in_place() -> None:
    x = torch.full((64,), 0.1)
    with reference.Inexact(1):
        same = x.mul_(0.3)
    assert same is x
    assert bool((x != torch.full((64,), 0.1) * 0.3).any())
