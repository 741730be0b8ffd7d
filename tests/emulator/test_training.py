"""Autograd, optimizers, autocast and graphed callables."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

D = "cuda"
STEPS = 5


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)).to(
        D
    )


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    host = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 4, generator=host).to(D), torch.randn(6, 1, generator=host).to(D))
        for _ in range(STEPS)
    ]


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD with momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, 0.01, capturable=True),
    "Adam, one by one": lambda p: torch.optim.Adam(p, 0.01, capturable=True, foreach=False),
    "AdamW, a tensor as learning rate": lambda p: torch.optim.AdamW(
        p, torch.tensor(0.01, device=D), capturable=True
    ),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, 0.01, capturable=True, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, capturable=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_captured_step_trains_as_the_eager_one(name: str) -> None:
    def train(captured: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
        net = model()
        optimizer = OPTIMIZERS[name](net.parameters())
        (x, y), losses = (t.clone() for t in batches()[0]), []

        def step() -> torch.Tensor:
            loss = F.mse_loss(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        side = torch.cuda.Stream()
        torch.cuda.manual_seed(7)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()  # the warmup is a step of training in both
        torch.cuda.current_stream().wait_stream(side)
        optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                loss = step()
        for a, b in batches():
            x.copy_(a)
            y.copy_(b)
            if captured:
                graph.replay()
            else:
                optimizer.zero_grad(set_to_none=True)
                loss = step()
            losses.append(loss.item())
        return losses, net.state_dict()

    (losses, state), (expected, reference) = train(True), train(False)
    assert losses == expected
    assert all(torch.equal(state[key], reference[key]) for key in state)


def test_an_optimizer_that_is_not_capturable_says_so() -> None:
    net = model()
    optimizer = torch.optim.Adam(net.parameters())
    net(batches()[0][0]).sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


def test_gradients_captured_outside_of_grad_are_replayed(capture: Any) -> None:
    net, (x, y) = model().eval(), batches()[0]
    weights = list(net.parameters())
    graph, grads = capture(lambda: torch.autograd.grad(F.mse_loss(net(x), y), weights))
    graph.replay()
    expected = torch.autograd.grad(F.mse_loss(net(x), y), weights)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))


def test_static_gradients_are_overwritten_by_a_replay_and_eager_ones_accumulate(capture: Any) -> None:
    w, x = nn.Parameter(torch.ones(2, device=D)), torch.ones(2, device=D)

    def body() -> None:
        w.grad = None
        (w * x).sum().backward()

    graph, _ = capture(body)
    graph.replay()
    graph.replay()
    assert w.grad is not None
    assert w.grad.tolist() == [1, 1]
    (w * x).sum().backward()
    assert w.grad.tolist() == [2, 2]


def test_graphed_callables_give_the_gradients_of_the_originals() -> None:
    torch.manual_seed(0)
    nets = [nn.Linear(4, 4).to(D) for _ in range(2)]
    twins = copy.deepcopy(nets)
    sample = tuple((torch.randn(3, 4, device=D, requires_grad=True),) for _ in nets)
    graphed = torch.cuda.make_graphed_callables(tuple(nets), sample)
    for _ in range(3):
        x = torch.randn(3, 4, device=D, requires_grad=True)
        twin = x.detach().clone().requires_grad_()
        a, b = x, twin
        for net, other in zip(graphed, twins, strict=True):
            a, b = net(a).relu(), other(b).relu()
        for net in (*nets, *twins):
            net.zero_grad(set_to_none=True)
        a.sum().backward()
        b.sum().backward()
        assert torch.allclose(a, b)
        assert torch.allclose(x.grad, twin.grad)
        assert all(torch.allclose(n.weight.grad, t.weight.grad) for n, t in zip(nets, twins, strict=True))


def test_graphed_callables_do_not_accumulate_gradients_on_an_h100_nor_here() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 4).to(D)
    twin = copy.deepcopy(net)
    graphed = torch.cuda.make_graphed_callables(net, (torch.randn(2, 4, device=D, requires_grad=True),))
    same = []
    for _ in range(3):
        x = torch.randn(2, 4, device=D)
        graphed(x).sum().backward()
        twin(x).sum().backward()
        same.append(torch.allclose(net.weight.grad, twin.weight.grad))
    assert same == [True, False, False]


def test_a_gradient_scaler_skips_steps_with_infinities() -> None:
    net = nn.Linear(2, 1).to(D)
    optimizer, scaler = torch.optim.SGD(net.parameters(), 0.1), torch.amp.GradScaler("cuda", init_scale=4.0)
    before = net.weight.detach().clone()
    for value, moves in ((float("inf"), False), (1.0, True)):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = net(torch.full((1, 2), value, device=D)).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(net.weight, before) is not moves
    assert scaler.get_scale() == 2.0


# (dtype of the result for a float32 operand, for a float16 one) inside autocast("cuda"), from an H100.
F32, F16, C64, C32 = torch.float32, torch.float16, torch.complex64, torch.complex32
AUTOCAST: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], torch.dtype, torch.dtype]] = {
    "linear": (lambda a, x: F.linear(a, x), F16, F16),
    "matmul": (lambda a, x: a @ x.T, F16, F16),
    "einsum": (lambda a, x: torch.einsum("ij,kj->ik", a, a), F16, F16),
    "conv1d": (lambda a, x: F.conv1d(a[None], x[:2, :4, None]), F16, F16),
    "conv_transpose1d": (lambda a, x: F.conv_transpose1d(a[None], x[:, :2, None]), F16, F16),
    "addmm": (lambda a, x: torch.addmm(x[:, :4], a, x.T), F16, F16),
    "mv": (lambda a, x: a.mv(x[0]), F16, F16),
    "multi_dot": (lambda a, x: torch.linalg.multi_dot([a, x.T, x]), F16, F16),
    "attention": (lambda a, x: F.scaled_dot_product_attention(a[None], a[None], a[None]), F16, F16),
    "softmax": (lambda a, x: a.softmax(-1), F32, F32),
    "log_softmax": (lambda a, x: a.log_softmax(-1), F32, F32),
    "sum": (lambda a, x: a.sum(), F32, F32),
    "cumsum": (lambda a, x: a.cumsum(0), F32, F32),
    "exp": (lambda a, x: a.exp(), F32, F32),
    "pow": (lambda a, x: a**2, F32, F32),
    "norm": (lambda a, x: a.norm(), F32, F32),
    "logsumexp": (lambda a, x: a.logsumexp(0), F32, F32),
    "layer_norm": (lambda a, x: F.layer_norm(a, (8,)), F32, F32),
    "group_norm": (lambda a, x: F.group_norm(a[None], 2), F32, F32),
    "cross_entropy": (lambda a, x: F.cross_entropy(a, torch.arange(4, device=D)), F32, F32),
    "mse_loss": (lambda a, x: F.mse_loss(a, a), F32, F32),
    "interpolate": (lambda a, x: F.interpolate(a[None], scale_factor=2.0), F32, F32),
    "cat": (lambda a, x: torch.cat([a, x]), F32, F32),
    "add": (lambda a, x: a + x, F32, F32),
    "addcmul": (lambda a, x: torch.addcmul(x, a, a), F32, F32),
    "trace": (lambda a, x: a.trace(), F32, F32),
    "mean": (lambda a, x: a.mean(), F32, F16),
    "sqrt": (lambda a, x: a.abs().sqrt(), F32, F16),
    "batch_norm": (lambda a, x: F.batch_norm(a, None, None, training=True), F32, F16),
    "rms_norm": (lambda a, x: F.rms_norm(a, (8,)), F32, F16),
    "gelu": (lambda a, x: F.gelu(a), F32, F16),
    "pad": (lambda a, x: F.pad(a[None], (1, 1), mode="reflect"), F32, F16),
    "avg_pool3d": (lambda a, x: F.avg_pool3d(a[None, None, None], (1, 2, 2)), F32, F16),
    "fft": (lambda a, x: torch.fft.rfft(a), C64, C32),
    "LSTM": (lambda a, x: nn.LSTM(8, 8).to(D)(a)[0], F16, F16),
}


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_gives_the_dtypes_of_the_gpu(name: str) -> None:
    operation, wide, half = AUTOCAST[name]
    x = torch.randn(4, 8, device=D)
    for inference in (False, True):
        with torch.inference_mode(inference), torch.autocast("cuda", dtype=torch.float16):
            assert operation(x, x).dtype is wide
            assert operation(x.half(), x).dtype is half


def test_autocast_of_the_two_devices_are_told_apart() -> None:
    net, x = nn.Linear(4, 4).to(D), torch.ones(2, 4, device=D)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert net(x).dtype is torch.bfloat16
        with torch.autocast("cuda", enabled=False):
            assert net(x).dtype is torch.float32
        assert net(x).dtype is torch.bfloat16
    assert net(x).dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.is_autocast_enabled()
        assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype is torch.bfloat16
        assert nn.Linear(4, 4)(torch.ones(2, 4)).softmax(-1).dtype is torch.bfloat16


def test_a_captured_step_under_autocast_and_a_scaler_replays() -> None:
    net, x = nn.Linear(4, 1).to(D), torch.ones(2, 4, device=D)
    twin = copy.deepcopy(net)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
            loss = net(x).float().sum()
        loss.backward()
    for _ in range(2):
        graph.replay()
    with torch.autocast("cuda", dtype=torch.float16):
        reference = twin(x).float().sum()
    reference.backward()
    assert torch.equal(loss, reference)
    assert torch.equal(net.weight.grad, twin.weight.grad)


def test_host_autocast_casts_inside_composites_under_inference_mode(emulator: Any) -> None:
    def dtypes() -> list[torch.dtype]:
        x = torch.ones(2, 3, 4)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            attention = nn.MultiheadAttention(4, 2)(x, x, x)[0]
            return [
                torch.einsum("bij,bkj->bik", x, x).dtype,
                attention.dtype,
                x.softmax(-1).dtype,
                x.sum().dtype,
            ]

    under = dtypes()
    emulator.uninstall()
    assert under == dtypes()
