"""What one stream writes is there for another that has waited, and poison for one that has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

D = "cuda"


def on_side(work: Callable[[], torch.Tensor]) -> tuple[torch.cuda.Stream, torch.Tensor]:
    """The result of work on a second stream that has waited for this one."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        return side, work()


WAITS: dict[str, Callable[[Any], None]] = {
    "wait_stream": lambda side: torch.cuda.current_stream().wait_stream(side),
    "an event": lambda side: torch.cuda.current_stream().wait_event(side.record_event()),
    "the host waits for the stream": lambda side: side.synchronize(),
    "the host waits for an event": lambda side: side.record_event().synchronize(),
    "the host waits for the device": lambda side: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("wait", WAITS)
def test_what_was_waited_for_is_there(wait: str) -> None:
    side, made = on_side(lambda: torch.ones(3, device=D) + 1)
    WAITS[wait](side)
    assert (made * 2).tolist() == [4.0, 4.0, 4.0]


def test_what_was_not_waited_for_is_not_there_yet() -> None:
    _, made = on_side(lambda: torch.ones(3, device=D) + 1)
    assert (made * 2).isnan().all()
    assert made.cpu().isnan().all()


def test_an_event_recorded_before_the_work_orders_nothing() -> None:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        done = side.record_event()
        made = torch.ones(3, device=D) + 1
    torch.cuda.current_stream().wait_event(done)
    assert made.cpu().isnan().all()


def test_views_of_unfinished_work_stay_views_of_it() -> None:
    side, made = on_side(lambda: torch.ones(4, device=D) + 1)
    part = made[1:3]
    torch.cuda.current_stream().wait_stream(side)
    part.fill_(5.0)
    assert made.tolist() == [2.0, 5.0, 5.0, 2.0]


def test_a_replay_reads_what_its_stream_has_seen(emulator: Any) -> None:
    static = torch.zeros(3, device=D)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = static + 1
    given = torch.ones(3, device=D)
    side, _ = on_side(lambda: static.copy_(given))
    graph.replay()
    assert out.cpu().isnan().all()
    with torch.cuda.stream(side):
        static.copy_(given)
    torch.cuda.current_stream().wait_stream(side)
    graph.replay()
    assert out.tolist() == [2.0, 2.0, 2.0]


def test_tensors_in_flight_must_be_waited_for(emulator: Any) -> None:
    x = torch.ones(3, device=D)
    first = torch.cuda.Stream()
    with torch.cuda.stream(first):
        torch.zeros(1, device=D)
    emulator.in_flight([x])
    with torch.cuda.stream(first):
        assert (x + 1).isnan().all()
    first.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(first):
        assert (x + 1).tolist() == [2.0, 2.0, 2.0]


def test_a_copy_to_page_locked_memory_lands_when_the_host_has_waited() -> None:
    host = torch.zeros(3, pin_memory=True)
    host.copy_(torch.ones(3, device=D), non_blocking=True)
    assert host.isnan().all()
    torch.cuda.current_stream().synchronize()
    assert host.tolist() == [1.0, 1.0, 1.0]


def test_the_backward_pass_waits_by_itself() -> None:
    w = torch.ones(3, device=D, requires_grad=True)
    side, loss = on_side(lambda: (w * 3).sum())
    torch.cuda.current_stream().wait_stream(side)
    loss.backward()
    assert w.grad is not None
    assert w.grad.tolist() == [3.0, 3.0, 3.0]


def test_more_than_the_device_holds_is_refused() -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 512\.00 GiB"):
        torch.empty(1 << 37, device=D)


def test_memory_may_be_written_again_once_its_reader_was_waited_for() -> None:
    given = torch.zeros(4, device=D)
    side, made = on_side(lambda: given + 1)
    torch.cuda.current_stream().wait_stream(side)
    given.fill_(5.0)
    assert made.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_memory_written_while_another_stream_may_read_it_spoils_what_that_one_makes() -> None:
    given = torch.zeros(4, device=D)
    before = given + 3
    side, made = on_side(lambda: (given + 1) * 2)
    given.fill_(5.0)
    torch.cuda.current_stream().wait_stream(side)
    assert made.isnan().all()
    assert given.tolist() == [5.0] * 4
    assert before.tolist() == [3.0] * 4


def test_static_inputs_are_not_written_while_a_replay_on_another_stream_may_read_them() -> None:
    static = torch.zeros(4, device=D)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = static + 1
    side = torch.cuda.Stream()

    def replayed(wait: bool) -> list[float]:
        static.copy_(torch.ones(4, device=D))
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            graph.replay()
        if wait:
            torch.cuda.current_stream().wait_stream(side)
        static.copy_(torch.full((4,), 7.0, device=D))
        torch.cuda.current_stream().wait_stream(side)
        return out.tolist()

    assert replayed(True) == [2.0] * 4
    assert all(value != value for value in replayed(False))
    assert replayed(True) == [2.0] * 4
