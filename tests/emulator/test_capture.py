"""What a capture leaves untouched, what a replay does, and how captures fail."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

D = "cuda"


def test_a_capture_changes_nothing_and_its_outputs_are_poisoned_until_the_replay(capture: Any) -> None:
    x, counts = torch.ones(3, device=D), torch.zeros(2, dtype=torch.int64, device=D)
    graph, (y, n) = capture(lambda: (x.add_(1) * 2, counts.add_(1) + 1), warmup=0)
    assert (x.tolist(), counts.tolist()) == ([1, 1, 1], [0, 0])
    assert y.isnan().all()
    assert (n == torch.iinfo(torch.int64).min).all()
    graph.replay()
    assert (x.tolist(), counts.tolist()) == ([2, 2, 2], [1, 1])
    assert (y.tolist(), n.tolist()) == ([4, 4, 4], [2, 2])


def test_a_replay_computes_from_the_static_inputs_bit_for_bit(capture: Any) -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).to(D).eval()
    static = torch.zeros(2, 5, 8, device=D)
    for inference in (False, True):
        with torch.inference_mode(inference):
            graph, out = capture(lambda: model(static))
            for seed in range(3):
                x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed)).to(D)
                static.copy_(x)
                graph.replay()
                assert torch.equal(out, model(x))


def test_views_slices_and_writes_through_views_replay(capture: Any) -> None:
    x = torch.arange(6.0, device=D)
    kept = torch.zeros(2, 3, device=D)

    def body() -> Any:
        kept[1].copy_(x.view(2, 3)[0])
        kept[:, 0] += 1
        top = x.view(2, 3).sort(descending=True).values[:, :2]
        return (
            top.t(),
            torch.cat([top, top]).expand(2, 4, 2),
            x.unbind()[0] + torch.ones((), device=D).expand(3),
        )

    expected = [body() for _ in range(2)][1]
    state = kept.clone()
    kept.zero_()
    graph, outputs = capture(body)
    assert kept[0, 0] == 1  # the warmup ran, the capture did not
    graph.replay()
    assert torch.equal(kept, state)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def test_an_output_kept_across_replays_is_overwritten(capture: Any) -> None:
    x = torch.ones(2, device=D)
    graph, out = capture(lambda: x * 2)
    graph.replay()
    kept = out
    x.fill_(5)
    graph.replay()
    assert kept.tolist() == [10, 10]


def test_python_values_and_host_scalars_are_baked_in(capture: Any) -> None:
    x, scalar, step = torch.ones(2, device=D), torch.tensor(3.0), 0

    def body() -> torch.Tensor:
        return x * scalar + step

    graph, out = capture(body)
    scalar.fill_(100)
    step = 100
    graph.replay()
    assert out.tolist() == [3, 3]


def test_a_pinned_copy_reads_the_host_memory_again_at_each_replay(capture: Any) -> None:
    source, target = torch.ones(2).pin_memory(), torch.zeros(2).pin_memory()

    def body() -> torch.Tensor:
        x = source.to(D, non_blocking=True) * 2
        target.copy_(x, non_blocking=True)
        return x

    graph, out = capture(body)
    assert target.tolist() == [2, 2]
    source.fill_(5)
    graph.replay()
    assert (out.tolist(), target.tolist()) == ([10, 10], [10, 10])


def test_batch_norm_statistics_advance_at_replays_only(capture: Any) -> None:
    norm, x = nn.BatchNorm1d(3).to(D), torch.randn(4, 3, device=D)
    twin = nn.BatchNorm1d(3)
    twin(x.cpu())
    graph, _ = capture(lambda: norm(x))
    assert torch.equal(norm.running_mean.cpu(), twin.running_mean)
    assert norm.num_batches_tracked.item() == 1
    for _ in range(2):
        graph.replay()
        twin(x.cpu())
    assert torch.allclose(norm.running_mean.cpu(), twin.running_mean)
    assert norm.num_batches_tracked.item() == 3


def test_unwritten_index_tensors_do_not_fail_a_capture() -> None:
    table, ids = torch.randn(4, 2, device=D), torch.empty(3, dtype=torch.int64, device=D).fill_(-(2**40))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = nn.functional.embedding(ids, table)
    ids.copy_(torch.tensor([1, 0, 3]))
    graph.replay()
    assert torch.equal(out, table[[1, 0, 3]])


def test_an_index_out_of_bounds_is_reported_where_the_program_next_waits(emulator: Any, capture: Any) -> None:
    table, ids = torch.randn(4, 2, device=D), torch.zeros(1, dtype=torch.int64, device=D)
    graph, _ = capture(lambda: nn.functional.embedding(ids, table))
    ids.fill_(100)
    graph.replay()
    with pytest.raises(RuntimeError, match="device-side assert triggered"):
        torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match="device-side assert triggered"):
        table.sum().item()


def test_a_false_assertion_on_the_device_is_reported_where_the_program_next_waits() -> None:
    torch._assert_async(torch.zeros(1, device=D))
    with pytest.raises(RuntimeError, match="device-side assert triggered"):
        torch.cuda.synchronize()


def test_a_refused_copy_that_is_swallowed_lets_the_capture_go_on() -> None:
    x, graph = torch.ones(2, device=D), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with contextlib.suppress(RuntimeError):
            torch.tensor([1.0], device=D)
        y = x * 2
    graph.replay()
    assert y.tolist() == [2, 2]


def test_a_wait_breaks_all_that_follows_in_the_capture() -> None:
    x, graph, heard = torch.ones(2, device=D), torch.cuda.CUDAGraph(), []

    def listen(fn: Any) -> None:
        try:
            fn()
        except RuntimeError as error:
            heard.append(str(error).splitlines()[0])

    def block() -> None:
        with torch.cuda.graph(graph):
            listen(lambda: x.sum().item())
            listen(lambda: x * 2)
            listen(lambda: x.sum().item())

    listen(block)
    broken = "CUDA error: operation failed due to a previous error during capture"
    assert heard == ["CUDA error: operation not permitted when stream is capturing", broken, broken, broken]
    assert not torch.cuda.is_current_stream_capturing()
    assert x.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="Called CUDAGraph::replay without a preceding successful capture"):
        graph.replay()


def test_a_broken_capture_leaves_the_generator_unusable_until_one_succeeds() -> None:
    x = torch.ones(2, device=D)
    with pytest.raises(RuntimeError, match="previous error"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.sum().item()
    torch.cuda.set_stream(torch.cuda.default_stream())
    with pytest.raises(RuntimeError, match="Offset increment outside graph capture encountered unexpectedly"):
        torch.rand(2, device=D)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x * 2
    assert torch.rand(2, device=D).device.type == "cuda"


MISUSE = {
    "on the default stream": (
        lambda graph, x: graph.capture_begin(),
        "CUDA graphs must be captured on a non-default stream",
    ),
    "without a capture": (lambda graph, x: graph.replay(), "without a preceding successful capture"),
    "with an unknown mode": (
        lambda graph, x: torch.cuda.graph(graph, capture_error_mode="lax").__enter__(),
        "Unknown capture error mode",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_a_graph_used_wrongly_says_so(name: str) -> None:
    call, words = MISUSE[name]
    with pytest.raises(RuntimeError, match=words):
        call(torch.cuda.CUDAGraph(), torch.ones(1, device=D))
    torch.cuda.set_stream(torch.cuda.default_stream())


def test_a_second_capture_into_one_graph_and_an_empty_one_are_told(capture: Any) -> None:
    x = torch.ones(2, device=D)
    graph, _ = capture(lambda: x * 2)
    with pytest.raises(RuntimeError, match="already owns a captured graph"), torch.cuda.graph(graph):
        x * 2
    torch.cuda.set_stream(torch.cuda.default_stream())
    with pytest.warns(UserWarning, match="The CUDA Graph is empty"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        pass


def test_a_graph_kept_and_instantiated_by_hand_replays() -> None:
    x, graph = torch.ones(2, device=D), torch.cuda.CUDAGraph(keep_graph=True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        graph.capture_begin()
        assert torch.cuda.is_current_stream_capturing()
        y = x * 2
        graph.capture_end()
    graph.instantiate()
    graph.replay()
    assert y.tolist() == [2, 2]


def test_counters_tell_what_ran(emulator: Any, capture: Any) -> None:
    x = torch.ones(2, device=D)
    before = (emulator.captures, emulator.replays)
    graph, _ = capture(lambda: x * 2)
    graph.replay()
    graph.replay()
    assert (emulator.captures, emulator.replays) == (before[0] + 1, before[1] + 2)


@pytest.mark.parametrize("outer", [True, False], ids=["around the capture", "inside the capture"])
def test_inference_mode_may_be_entered_around_or_inside_and_modes_are_as_before(outer: bool) -> None:
    model, x, graph = nn.Linear(3, 3).to(D), torch.ones(1, 3, device=D), torch.cuda.CUDAGraph()
    with torch.inference_mode(outer), torch.cuda.graph(graph), torch.inference_mode():
        y = model(x)
    assert y.isnan().all()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            graph.replay()
            assert torch.is_grad_enabled() is grad
            assert not torch.is_inference_mode_enabled()
    assert torch.equal(y, model(x))


def test_unwritten_odds_do_not_fail_a_capture(capture: Any) -> None:
    odds, graph = torch.full((2, 4), float("nan"), device=D), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = torch.multinomial(odds, 2)
    odds.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]))
    graph.replay()
    assert drawn.sort().values.tolist() == [[0, 1], [2, 3]]


def test_an_assertion_inside_a_graph_is_checked_at_each_replay(capture: Any) -> None:
    x = torch.ones(2, device=D)
    graph, _ = capture(lambda: torch._assert_async((x > 0).all()))
    graph.replay()
    torch.cuda.synchronize()
    x.fill_(-1)
    graph.replay()
    with pytest.raises(RuntimeError, match="device-side assert triggered"):
        torch.cuda.synchronize()
