"""Random numbers: the device has a stream of its own, and replays advance it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

D = "cuda"


def test_the_device_draws_from_a_stream_of_its_own() -> None:
    torch.manual_seed(3)
    first, host = torch.randn(4, device=D), torch.randn(4)
    torch.manual_seed(3)
    torch.randn(100)
    assert torch.equal(torch.randn(4, device=D), first)
    torch.manual_seed(3)
    torch.randn(100, device=D)
    F.dropout(torch.ones(50, device=D))
    assert torch.equal(torch.randn(4), host)
    torch.cuda.manual_seed_all(3)
    assert torch.equal(torch.randn(4, device=D), first)


def test_the_state_can_be_taken_and_put_back() -> None:
    state = torch.cuda.get_rng_state()
    a = torch.rand(3, device=D)
    with torch.random.fork_rng(devices=[0]):
        torch.rand(7, device=D)
    b = torch.rand(3, device=D)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3, device=D), a)
    assert torch.equal(torch.rand(3, device=D), b)
    torch.cuda.default_generators[0].set_state(state)
    assert torch.equal(torch.rand(3, device=D), a)


def test_a_generator_belongs_to_a_device() -> None:
    generator = torch.Generator(device=D).manual_seed(1)
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.default_generator, torch.Generator)
    assert generator.device == torch.device("cuda:0")
    a = torch.randn(3, device=D, generator=generator)
    assert torch.equal(torch.randn(3, device=D, generator=generator.manual_seed(1)), a)
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'cuda'"):
        torch.randn(3, generator=generator)
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        torch.randn(3, device=D, generator=torch.Generator())


def test_a_capture_draws_nothing_and_each_replay_draws_anew(capture: Any) -> None:
    x = torch.ones(64, device=D)
    state = torch.cuda.get_rng_state()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = F.dropout(x, 0.5) + torch.rand(64, device=D)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    eager = [F.dropout(x, 0.5) + torch.rand(64, device=D) for _ in range(2)]
    torch.cuda.set_rng_state(state)
    for expected in eager:
        graph.replay()
        assert torch.equal(y, expected)


def test_a_generator_of_ones_own_advances_once_it_is_registered() -> None:
    generator, graph = torch.Generator(device=D).manual_seed(0), torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        y = torch.rand(3, device=D, generator=generator)
    graph.replay()
    first = y.clone()
    graph.replay()
    assert not torch.equal(y, first)
    generator.manual_seed(0)
    graph.replay()
    assert torch.equal(y, first)


def test_a_seed_set_inside_a_capture_stays() -> None:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.cuda.manual_seed(11)
        torch.ones(1, device=D)
    a = torch.rand(3, device=D)
    torch.cuda.manual_seed(11)
    assert torch.equal(torch.rand(3, device=D), a)
