"""What the verifier disturbs on a real GPU, tried on one that is not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refactor.verify.worker.graphs import Counter
from refactor.verify.worker.hardware import Hardware


class Device:
    """Notes in order what is asked of the streams of `torch.cuda`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.stream = 1
        said = self.said

        class Event:
            def record(self, stream: Any) -> None:
                self.of = stream.cuda_stream

            def synchronize(self) -> None:
                said.append(f"host waits for the delay of stream {self.of}")

        class Graph:
            def capture_begin(self) -> None:
                said.append("capture begins")

            def capture_end(self) -> None:
                said.append("capture ends")

            def replay(self) -> None:
                said.append("replay")

        for name, value in {
            "is_current_stream_capturing": lambda: False,
            "_sleep": lambda cycles: said.append(f"delay on stream {self.stream}"),
            "current_stream": lambda: SimpleNamespace(cuda_stream=self.stream),
            "Event": Event,
            "CUDAGraph": Graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_a_capture_does_not_begin_behind_the_delay_of_its_own_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, hardware = Device(monkeypatch), Hardware()
    hardware.active = True
    Counter().install(hardware)
    device.stream = 7
    hardware.delay()
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()
    graph.capture_end()
    device.stream = 1
    graph.replay()
    assert device.said == [
        "delay on stream 7",
        "host waits for the delay of stream 7",
        "capture begins",
        "capture ends",
        "delay on stream 1",
        "replay",
    ]


def test_a_capture_waits_for_no_other_stream_and_for_no_delay_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    device, hardware = Device(monkeypatch), Hardware()
    hardware.active = True
    Counter().install(hardware)
    hardware.delay()
    device.stream = 7
    torch.cuda.CUDAGraph().capture_begin()
    device.stream = 1
    torch.cuda.CUDAGraph().capture_begin()
    torch.cuda.CUDAGraph().capture_begin()
    assert device.said == [
        "delay on stream 1",
        "capture begins",
        "host waits for the delay of stream 1",
        "capture begins",
        "capture begins",
    ]
