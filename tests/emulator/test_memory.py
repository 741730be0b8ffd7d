"""Which memory a graph reads, when it is given back, and who may overwrite it."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

D = "cuda"


def test_a_rebound_parameter_is_not_seen_by_the_replay(capture: Any) -> None:
    p = nn.Parameter(torch.ones(2, device=D))
    old = p.data
    graph, out = capture(lambda: p.detach() * 2)
    p.data = torch.full((2,), 5.0, device=D)
    graph.replay()
    assert out.tolist() == [2, 2]
    old.fill_(3)
    graph.replay()
    assert out.tolist() == [6, 6]


def test_memory_of_a_rebound_parameter_that_nobody_keeps_is_garbage(capture: Any) -> None:
    model, x = nn.Linear(2, 2, bias=False).to(D), torch.ones(1, 2, device=D)
    with torch.no_grad():  # else autograd keeps the old weight for the backward pass
        graph, out = capture(lambda: model(x))
    model.load_state_dict({"weight": torch.ones(2, 2, device=D)}, assign=True)
    graph.replay()
    assert out.isnan().all()


def test_an_update_in_place_is_seen_by_the_replay(capture: Any) -> None:
    model, x = nn.Linear(2, 2, bias=False).to(D), torch.ones(1, 2, device=D)
    graph, out = capture(lambda: model(x))
    model.load_state_dict({"weight": torch.ones(2, 2, device=D)})
    graph.replay()
    assert out.tolist() == [[2, 2]]


def test_a_static_input_freed_after_capture_reads_as_garbage(capture: Any) -> None:
    def captured() -> tuple[Any, torch.Tensor]:
        x = torch.ones(3, device=D)
        return capture(lambda: x * 2)  # type: ignore[no-any-return]

    graph, out = captured()
    graph.replay()
    assert out.isnan().all()


def test_an_input_held_by_a_view_or_by_autograd_alone_is_alive(capture: Any) -> None:
    x = torch.ones(3, device=D)
    view = x[1:]
    graph, out = capture(lambda: view * 2)
    del x
    graph.replay()
    assert out.tolist() == [2, 2]
    model, x = nn.Linear(2, 2, bias=False).to(D), torch.ones(1, 2, device=D, requires_grad=True)
    graph, out = capture(lambda: model(x))
    expected = model(x)
    model.weight.data = torch.ones(2, 2, device=D)
    graph.replay()
    assert torch.equal(out, expected)


def test_two_graphs_over_one_input_do_not_keep_it_alive_for_each_other(capture: Any) -> None:
    kept = [torch.ones(3, device=D)]
    first, a = capture(lambda: kept[0] * 2)
    second, b = capture(lambda: kept[0] * 3)
    first.replay()
    second.replay()
    assert (a.tolist(), b.tolist()) == ([2, 2, 2], [3, 3, 3])
    kept.clear()
    first.replay()
    assert a.isnan().all()


def test_a_graph_may_read_the_output_of_another_after_the_program_dropped_it(capture: Any) -> None:
    x, pool = torch.ones(3, device=D), torch.cuda.graph_pool_handle()
    first, y = capture(lambda: x + 1, pool=pool)
    second, z = capture(partial(torch.mul, y, 10), pool=pool)
    del y
    first.replay()
    second.replay()
    assert z.tolist() == [20, 20, 20]


def test_a_graph_captured_later_into_the_pool_overwrites_what_was_free_then(capture: Any) -> None:
    x, pool = torch.ones(3, device=D), torch.cuda.graph_pool_handle()
    first, y = capture(lambda: x + 1, pool=pool)
    second, z = capture(partial(torch.mul, y, 10), pool=pool)
    del y
    third, w = capture(lambda: x * 100, pool=pool)
    for graph in (first, second, third):  # the order of capture is the order that is right
        graph.replay()
    assert (z.tolist(), w.tolist()) == ([20] * 3, [100] * 3)
    for graph in (first, third, second):
        graph.replay()
    assert z.isnan().all()


def test_a_pool_of_its_own_keeps_what_was_dropped(capture: Any) -> None:
    x = torch.ones(3, device=D)
    first, y = capture(lambda: x + 1)
    second, z = capture(partial(torch.mul, y, 10))
    del y
    third, _ = capture(lambda: x * 100)
    for graph in (first, third, second):
        graph.replay()
    assert z.tolist() == [20] * 3


def test_outputs_outlive_their_graph_and_memory_of_a_reset_graph_is_garbage(capture: Any) -> None:
    x = torch.ones(3, device=D)
    first, y = capture(lambda: x + 1)
    first.replay()
    second, z = capture(lambda: y * 10)
    first.reset()
    assert y.tolist() == [2, 2, 2]
    second.replay()
    assert z.isnan().all()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        first.replay()


def test_memory_allocated_by_empty_inside_a_capture_holds_nothing_from_the_replay_before(
    capture: Any,
) -> None:
    def body() -> torch.Tensor:
        total = torch.empty(2, device=D)
        return total.add_(1)

    graph, out = capture(body)
    graph.replay()
    assert out.isnan().all()


def test_a_cast_weight_freed_with_the_autocast_cache_is_garbage(capture: Any) -> None:
    model, x, graph = nn.Linear(4, 4).to(D), torch.ones(2, 4, device=D), torch.cuda.CUDAGraph()
    with torch.autocast("cuda", dtype=torch.float16):
        model(x)
        with torch.cuda.graph(graph):
            y = model(x)
    graph.replay()
    assert y.isnan().all()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
        y = model(x)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    graph.replay()
    assert y.tolist() == [[4] * 4] * 2


def test_the_liveness_check_of_newer_versions_names_the_loss() -> None:
    graph = torch.cuda.CUDAGraph()

    def captured() -> None:
        x = torch.ones(3, device=D)
        with torch.cuda.stream(torch.cuda.Stream()):
            graph.capture_begin(check_input_liveness=True)
            x * 2
            graph.capture_end()

    captured()
    with pytest.raises(RuntimeError, match="deallocated"):
        graph.replay()


def test_released_graphs_leave_nothing_behind(emulator: Any, capture: Any) -> None:
    x = torch.ones(3, device=D)
    ledger = emulator._gpu.ledger
    for _ in range(3):
        graph, out = capture(lambda: x * 2)
        graph.reset()
    assert not ledger._held
    graph, out = capture(lambda: x * 2)
    del graph
    assert not ledger._held
    del out
    gc.collect()
    assert len(emulator._gpu.pools) == 0
