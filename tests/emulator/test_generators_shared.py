"""Generators that share a state, and tensors that come by DLPack."""

from __future__ import annotations

import torch

D = "cuda"


def test_handles_on_one_state_move_together_and_a_clone_goes_its_own_way() -> None:
    own = torch.Generator(device=D).manual_seed(3)
    shared, cloned = own.graphsafe_get_state(), own.clone_state()
    first = torch.rand(4, device=D, generator=own)
    assert torch.equal(first, torch.rand(4, device=D, generator=cloned))
    assert not torch.equal(first, torch.rand(4, device=D, generator=shared))
    other = torch.Generator(device=D)
    other.graphsafe_set_state(shared)
    own.manual_seed(3)
    assert torch.equal(first, torch.rand(4, device=D, generator=other))


def test_a_graph_draws_from_the_state_that_was_registered() -> None:
    own, x, graph = torch.Generator(device=D).manual_seed(1), torch.zeros(3, device=D), torch.cuda.CUDAGraph()
    graph.register_generator_state(own.graphsafe_get_state())
    with torch.cuda.graph(graph):
        x.uniform_(generator=own)
    graph.replay()
    first = x.tolist()
    graph.replay()
    assert x.tolist() != first
    own.manual_seed(1)
    graph.replay()
    assert x.tolist() == first


def test_the_default_generator_shares_its_state_too() -> None:
    other = torch.Generator(device=D)
    other.graphsafe_set_state(torch.cuda.default_generators[0].graphsafe_get_state())
    torch.cuda.manual_seed(5)
    first = torch.rand(2, device=D, generator=other)
    torch.cuda.manual_seed(5)
    assert torch.equal(first, torch.rand(2, device=D))


def test_tensors_that_come_by_dlpack_stay_on_the_device_and_share_memory() -> None:
    x = torch.arange(3.0, device=D)
    for y in (torch.from_dlpack(x), torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x))):
        assert y.device == x.device
        y.add_(1)
    assert x.tolist() == [2.0, 3.0, 4.0]
    assert torch.from_dlpack(torch.zeros(2)).device.type == "cpu"
