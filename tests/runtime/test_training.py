"""Steps that call backward themselves: weights and gradients as plain steps give them, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refactor.runtime.cuda_graphs import graphed

pytestmark = pytest.mark.usefixtures("device")


def rnd(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 1)).cuda()


Step = Callable[..., Any]


def sgd(model: nn.Module) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def adamw(model: nn.Module) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01, device="cuda"), capturable=True)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.mse_loss(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def kept_zeros(model: nn.Module) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def micro_batches(model: nn.Module) -> Step:
    def step(x: Tensor, y: Tensor) -> Tensor:
        for part in range(2):
            (F.mse_loss(model(x[part::2]), y[part::2]) / 2).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * p.grad)
                p.grad = None
        return x.sum()

    return step


def plain_sgd(model: nn.Module) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def accumulating(model: nn.Module) -> Step:
    """Four micro-batches a step, gradients cleared before the first."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, capturable=True)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        total = x.new_zeros(())
        for part, target in zip(x.chunk(4), y.chunk(4), strict=True):
            loss = F.mse_loss(model(part), target) / 4
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return total

    return step


def clipped_and_scheduled(model: nn.Module) -> Step:
    """The learning rate is a tensor: the schedule writes it, the graph reads it."""
    rate = torch.tensor(0.05, device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, capturable=True)
    factor = torch.tensor(0.9, device="cuda")

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(model(x), y)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        rate.mul_(factor)
        return norm

    return step


def backward_only(model: nn.Module) -> Step:
    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    return step


def check(model: nn.Module, other: nn.Module) -> None:
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name


@pytest.mark.parametrize(
    "make", [sgd, plain_sgd, adamw, kept_zeros, micro_batches, accumulating, clipped_and_scheduled]
)
def test_ten_steps_give_the_weights_and_gradients_of_plain_steps(make: Callable[[nn.Module], Step]) -> None:
    plain, model = net(), net()
    step, wrapper = make(plain), graphed(make(model))
    for i in range(10):
        want, got = step(rnd(4, 8, seed=i), rnd(4, 1, seed=i)), wrapper(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
        assert torch.equal(want.detach(), got)
        assert not got.requires_grad
        check(plain, model)
    assert wrapper.stats()["replays"] >= 8


def test_gradients_accumulate_over_micro_batches_with_the_optimizer_outside() -> None:
    plain, model = net(), net()
    step, wrapper = backward_only(plain), graphed(backward_only(model))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (plain, model)]
    for i in range(12):
        step(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
        wrapper(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
        check(plain, model)
        if i % 3 == 2:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=i % 2 == 0)
    assert wrapper.stats()["replays"] >= 8


def test_models_that_share_a_step_accumulate_gradients_each_of_its_own() -> None:
    def backward(model: nn.Module, x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        return loss.detach()

    step = graphed(backward)
    ours, theirs = [net(), net()], [net(), net()]
    for i, which in enumerate((0, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1)):
        loss, expected = step(ours[which], rnd(4, 8, seed=i)), backward(theirs[which], rnd(4, 8, seed=i))
        assert torch.equal(loss, expected)
        for p, q in zip(ours[which].parameters(), theirs[which].parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
        if i % 3 == 2:
            ours[which].zero_grad()
            theirs[which].zero_grad()
    assert step.stats()["replays"] > 3


def test_a_schedule_outside_the_step_is_followed_through_a_learning_rate_on_the_device() -> None:
    plain, model = net(), net()

    def make(m: nn.Module) -> Any:
        lr = torch.tensor(0.1, device="cuda")
        optimizer = torch.optim.AdamW(m.parameters(), lr=lr, capturable=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)

        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(m(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step, schedule

    (step, a), (inner, b) = make(plain), make(model)
    wrapper = graphed(inner)
    for i in range(12):
        want, got = step(rnd(4, 8, seed=i), rnd(4, 1, seed=i)), wrapper(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
        assert torch.equal(want, got)
        a.step()
        b.step()
        check(plain, model)
    assert wrapper.stats()["replays"] >= 9


def test_a_gradient_scaler_outside_the_step_skips_and_rescales_as_ever() -> None:
    plain, model = net(), net()

    def make(m: nn.Module) -> Any:
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, growth_interval=3)
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1)

        def backward(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(m(x), y)
            scaler.scale(loss).backward()
            return loss.detach()

        return backward, scaler, optimizer

    (step, a, first), (inner, b, second) = make(plain), make(model)
    wrapper = graphed(inner)
    for i in range(12):
        x = rnd(4, 8, seed=i) * (float("inf") if i == 5 else 1.0)
        want, got = step(x, rnd(4, 1, seed=i)), wrapper(x.clone(), rnd(4, 1, seed=i))
        torch.testing.assert_close(want, got, rtol=0, atol=0, equal_nan=True)
        for scaler, optimizer in ((a, first), (b, second)):
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            assert torch.equal(p, q)
        assert a.get_scale() == b.get_scale()
    assert wrapper.stats()["replays"] >= 9


def test_a_gradient_that_is_kept_is_not_overwritten_by_the_next_step() -> None:
    model = net()
    wrapper = graphed(sgd(model))
    kept = []
    for i in range(5):
        wrapper(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
        kept.append((model[0].weight.grad, model[0].weight.grad.clone()))
    assert all(torch.equal(a, b) for a, b in kept)
    assert len({a.data_ptr() for a, _ in kept}) == 5


def test_an_optimizer_step_alone_reads_the_gradients_of_now() -> None:
    plain, model = net(), net()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.5) for m in (plain, model)]
    wrapper = graphed(optimizers[1].step)
    for i in range(8):
        for m, step in ((plain, optimizers[0].step), (model, wrapper)):
            m.zero_grad(set_to_none=True)
            F.mse_loss(m(rnd(4, 8, seed=i)), rnd(4, 1, seed=i)).backward()
            step()
        check(plain, model)


def test_a_learning_rate_that_is_a_number_is_followed_and_then_given_up() -> None:
    plain, model = net(), net()

    def make(m: nn.Module) -> Any:
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1)

        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(m(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return optimizer, step

    (a, step), (b, inner) = make(plain), make(model)
    wrapper = graphed(inner)
    for i in range(16):
        for optimizer in (a, b):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + i // 2 * (i < 12))
        step(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
        wrapper(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
        check(plain, model)
    assert wrapper.stats()["replays"] > 4


def test_an_optimizer_that_counts_on_the_host_stays_plain_code() -> None:
    plain, model = net(), net()

    def make(m: nn.Module) -> Step:
        optimizer = torch.optim.Adam(m.parameters(), lr=0.01)

        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(m(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    step, wrapper = make(plain), graphed(make(model))
    with pytest.warns(RuntimeWarning, match="CPU memory"):  # noqa: PT031
        for i in range(5):
            step(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
            wrapper(rnd(4, 8, seed=i), rnd(4, 1, seed=i))
            check(plain, model)


def test_a_module_that_steps_itself_in_forward_is_plain_code() -> None:
    class Trainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        @torch.enable_grad()
        def forward(self, x: Tensor, y: Tensor, last: bool) -> Tensor:
            loss = F.mse_loss(self.net(x), y)
            loss.backward()
            if last:
                with torch.no_grad():
                    for p in self.net.parameters():
                        p.sub_(0.1 * p.grad)
                        p.grad = None
            return loss.detach()

    plain = Trainer()
    model = copy.deepcopy(plain)
    wrapper = graphed(model)
    for mode in (torch.enable_grad, torch.no_grad):
        for i, last in enumerate((True, False, False, True, False, True)):
            with mode():
                want = plain(rnd(4, 8, seed=i), rnd(4, 1, seed=i), last)
                got = wrapper(rnd(4, 8, seed=i), rnd(4, 1, seed=i), last)
            torch.testing.assert_close(got, want)
            check(plain, model)
