"""Streams, events, threads, and the debug mode that names waits."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

D = "cuda"


def test_streams_nest_and_are_restored() -> None:
    default, a, b = torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    assert torch.cuda.current_stream() == default
    with torch.cuda.stream(a):
        assert torch.cuda.current_stream() == a
        with torch.cuda.stream(b), torch.cuda.stream(None):
            assert torch.cuda.current_stream() == b
        with b:
            assert torch.cuda.current_stream() == b
        assert torch.cuda.current_stream() == a
    assert torch.cuda.current_stream() == default
    assert len({default, a, b, a}) == 3
    assert a.query()
    assert isinstance(a, torch.Stream)
    assert torch.cuda.ExternalStream(a.cuda_stream) == a


def test_events_time_and_refuse_what_cannot_be_timed() -> None:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with pytest.raises(ValueError, match="must be recorded before calculating elapsed time"):
        start.elapsed_time(end)
    start.record()
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) >= 0
    with pytest.raises(ValueError, match="enable_timing=True"):
        start.elapsed_time(torch.cuda.Event())


def test_a_stream_forked_inside_a_capture_is_captured_and_must_be_joined() -> None:
    x, side, graph = torch.ones(2, device=D), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = x * 2
        torch.cuda.current_stream().wait_stream(side)
        z = y + 1
    x.fill_(5)
    graph.replay()
    assert z.tolist() == [11, 11]
    assert not side.is_capturing()

    def unjoined() -> None:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                x * 2

    with pytest.raises(RuntimeError, match="capturing stream has unjoined work"):
        unjoined()


def test_work_on_a_stream_outside_of_the_capture_breaks_it() -> None:
    x, side = torch.ones(2, device=D), torch.cuda.Stream()

    def beside() -> None:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            x + 1
            with torch.cuda.stream(side):
                x * 2

    with pytest.raises(RuntimeError, match="previous error"):
        beside()


MODES = {"global": True, "thread_local": False, "relaxed": False}


@pytest.mark.parametrize("mode", MODES)
def test_whether_another_thread_may_wait_is_up_to_the_error_mode(mode: str) -> None:
    x, graph, heard = torch.ones(2, device=D), torch.cuda.CUDAGraph(), []

    def wait() -> None:
        try:
            torch.cuda.Stream().synchronize()
        except RuntimeError as error:
            heard.append(str(error))

    def block() -> None:
        with torch.cuda.graph(graph, capture_error_mode=mode):
            x * 2
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()

    if MODES[mode]:
        with pytest.raises(RuntimeError, match="previous error"):
            block()
    else:
        block()
    assert bool(heard) is MODES[mode]


def test_every_kind_of_thread_has_the_device(capture: Any) -> None:
    def work(value: float) -> tuple[bool, list[float]]:
        x = torch.full((2,), value, device=D)
        graph, out = capture(lambda: x * 2)
        graph.replay()
        return out.is_cuda, out.tolist()

    class Worker(threading.Thread):
        def run(self) -> None:
            self.result = work(3.0)

    worker = Worker()
    worker.start()
    worker.join()
    assert worker.result == (True, [6, 6])
    with ThreadPoolExecutor(1) as pool:
        assert list(pool.map(work, (1.0, 2.0))) == [(True, [2, 2]), (True, [4, 4])]


def test_a_capture_in_one_thread_records_nothing_of_another() -> None:
    x, graph, seen = torch.ones(2, device=D), torch.cuda.CUDAGraph(), []

    def other() -> None:
        seen.append((x + 1).tolist())

    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        y = x * 2
    assert seen == [[2, 2]]
    graph.replay()
    assert y.tolist() == [2, 2]


WAITS = {
    "item": lambda x: x.sum().item(),
    "cpu": lambda x: x.cpu(),
    "x[mask]": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "print": lambda x: repr(x),
    "torch.tensor": lambda x: torch.tensor(1.0, device=D),
    "x[[0, 1]]": lambda x: x[[0, 1]],
    "a stream": lambda x: torch.cuda.Stream().synchronize(),
    "bincount": lambda x: x.long().bincount(),
}
SILENT = {
    "arithmetic": lambda x: (x * 2).sum(),
    "x[mask] = 0": lambda x: x.clone().masked_fill_(x > 0, 0.0),
    "pinned": lambda x: torch.ones(2).pin_memory().to(D, non_blocking=True),
    "to the host without waiting": lambda x: x.to("cpu", non_blocking=True),
    "multinomial": lambda x: torch.multinomial(x, 1),
    "the device": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("name", WAITS)
def test_debug_mode_warns_and_raises_at_a_wait(name: str) -> None:
    x = torch.ones(3, device=D)
    torch.cuda.set_sync_debug_mode("warn")
    with pytest.warns(UserWarning, match="called a synchronizing CUDA operation") as record:
        WAITS[name](x)
    assert record[0].filename == __file__
    torch.cuda.set_sync_debug_mode("error")
    assert torch.cuda.get_sync_debug_mode() == 2
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        WAITS[name](x)
    torch.cuda.set_sync_debug_mode("default")
    WAITS[name](x)


@pytest.mark.parametrize("name", SILENT)
def test_debug_mode_is_silent_where_nothing_waits(name: str) -> None:
    x = torch.ones(3, device=D)
    torch.cuda.set_sync_debug_mode("error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SILENT[name](x)
    torch.cuda.set_sync_debug_mode(0)
