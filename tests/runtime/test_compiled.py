"""`graphed` over what `torch.compile` made: the compiler's kernels in our graph, and as safe as without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed, segment

pytestmark = pytest.mark.usefixtures("device")
REAL = torch.cuda.is_available()
BACKEND = "aot_eager" if REAL else "eager"  # compiling takes long; what matters here is the same


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def original(net: Any) -> Any:
    return getattr(net, "_orig_mod", net)  # the emulator leaves a module as it is


SCALE = 1.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.gain = 2.0
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.b(self.a(x).relu()) * self.gain * SCALE


def as_module(net: nn.Module) -> Any:
    return torch.compile(net, backend=BACKEND)


def by_inductor(net: nn.Module) -> Any:
    return torch.compile(net, backend="inductor" if REAL else "eager")


def as_function(net: nn.Module) -> Any:
    return torch.compile(lambda x: net(x), backend=BACKEND)


def in_place(net: nn.Module) -> Any:
    net.compile(backend=BACKEND)
    return net


def a_part(net: nn.Module) -> Any:
    net.a = torch.compile(net.a, backend=BACKEND)
    return net


WAYS = {
    "a compiled module": as_module,
    "a module compiled to kernels": by_inductor,
    "a compiled function": as_function,
    "a module compiled in place": in_place,
    "a compiled submodule": a_part,
}


def assign(net: Any) -> None:
    state = {k: v.clone() + 1 for k, v in net.state_dict().items()}
    net.load_state_dict({k.replace("_orig_mod.", ""): v for k, v in state.items()}, assign=True, strict=False)


def rescale(net: Any) -> None:
    global SCALE
    SCALE += 1.0


CHANGES: dict[str, Callable[[Any], Any]] = {
    "parameters are reloaded by assignment": assign,
    "a submodule is replaced": lambda net: setattr(net, "b", nn.Linear(16, 4, device="cuda")),
    "a parameter's data is replaced": lambda net: setattr(net.b.weight, "data", net.b.weight.data * 2),
    "a number attribute changes": lambda net: setattr(net, "gain", net.gain + 1),
    "a global number changes": rescale,
    "a hook is added": lambda net: net.b.register_forward_hook(lambda m, args, out: out + 1),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@torch.no_grad()
def test_results_and_state_are_those_of_plain_calls_for(way: Callable[[nn.Module], Any]) -> None:
    net = Net().cuda()
    plain = copy.deepcopy(net)
    wrapper = graphed(way(net))
    for i in range(6):
        same(wrapper(rnd(3, 8, seed=i)), plain(rnd(3, 8, seed=i)))
        same(net.calls, plain.calls)
    assert wrapper.stats()["replays"] == 5, wrapper.stats()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@torch.no_grad()
def test_nothing_stale_is_replayed_when(change: Callable[[Any], Any]) -> None:
    net = Net().cuda()
    compiled = as_module(net)
    wrapper = graphed(compiled)
    for round in range(2):
        for i in range(3):
            # the compiler itself does not notice a hook that comes later
            same(wrapper(rnd(3, 8, seed=i)), compiled(rnd(3, 8, seed=i)))
        if round == 0:
            change(net)
    assert wrapper.stats()["replays"] >= 4, wrapper.stats()


@torch.no_grad()
def test_a_compiled_module_is_padded_like_any_other() -> None:
    net = Net().cuda()
    del net.calls
    net.calls = 0
    Net.forward, forward = (lambda self, x: self.b(self.a(x).relu()) * self.gain), Net.forward
    try:
        wrapper = graphed(as_module(net), pad="B ...")
        for n in (3, 4, 2, 3, 4, 1, 2):
            same(wrapper(rnd(n, 8, seed=n)), net(rnd(n, 8, seed=n)))
        assert wrapper.stats()["graphs"] <= 3
        assert wrapper.stats()["replays"] >= 3
    finally:
        Net.forward = forward


@torch.no_grad()
def test_a_segment_may_call_compiled_code() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = as_module(Net())

        @segment
        def core(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) + 1

    module = Routed().cuda()
    for i in range(4):
        same(module.core(rnd(3, 8, seed=i)), Net.forward(original(module.net), rnd(3, 8, seed=i)) + 1)


@torch.no_grad()
def test_graphs_of_the_compilers_own_are_left_alone_and_that_is_found_out_once(monkeypatch: Any) -> None:
    looked: list[Any] = []
    look = cuda_graphs._Watch.__init__
    monkeypatch.setattr(
        cuda_graphs._Watch, "__init__", lambda self, *args: (looked.append(args), look(self, *args))[1]
    )
    net = as_module(Net().cuda())
    net.get_compiler_config = lambda: {"triton.cudagraphs": True}
    wrapper = graphed(net)
    with pytest.warns(RuntimeWarning, match="compile with the default mode"):
        wrapper(rnd(3, 8))
    for i in range(3):
        same(wrapper(rnd(3, 8, seed=i)), Net.forward(original(net), rnd(3, 8, seed=i)))
    assert wrapper.stats()["graphs"] == 0
    assert len(looked) == 1


def test_under_autograd_compiled_code_runs_as_it_is() -> None:
    net = Net().cuda()
    wrapper = graphed(as_module(net))
    wrapper(rnd(3, 8)).sum().backward()
    assert net.a.weight.grad is not None
    assert wrapper.stats()["graphs"] == 0
