"""Streams and events. Work is done at once; what is kept is who is capturing and who has waited for whom."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from .core import Gpu
from .errors import EVENT_OF_CAPTURE, NOT_PERMITTED, cuda_error
from .labels import CUDA
from .order import join


def make_stream_types(gpu: Gpu) -> dict[str, Any]:
    """`Stream`, `ExternalStream`, `Event` and `stream` of `torch.cuda`, bound to `gpu`.

    Long, because it is a handful of small classes that share `gpu` and name each other.
    """
    numbers = itertools.count(0)

    class Stream:
        """A queue of the emulated device."""

        def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None:
            number = kwargs.get("stream_id")
            self.stream_id: int = next(numbers) if number is None else number
            self.device = CUDA
            self.device_index = 0
            self.device_type = 1
            self.priority = priority
            self.capture: Any = None
            self.clock: dict[int, int] = {}
            self._entered: list[Any] = []

        @property
        def cuda_stream(self) -> int:
            return self.stream_id

        @property
        def native_handle(self) -> int:
            return self.stream_id

        @property
        def _as_parameter_(self) -> Any:
            import ctypes

            return ctypes.c_void_p(self.stream_id)

        @staticmethod
        def priority_range() -> tuple[int, int]:
            return (0, -5)

        def wait_event(self, event: Any) -> None:
            """Later work waits for `event`: inside a capture this forks to, or joins, another stream."""
            capture = event._capture
            if capture is None:
                join(self.clock, event._clock)
                return
            if capture.dead:
                return
            if self.capture is None:
                self.capture = capture
                capture.forked.add(self)
            elif self.capture is capture:
                capture.forked.discard(event._stream)
                capture.joined.add(event._stream)

        def wait_stream(self, stream: Any) -> None:
            self.wait_event(stream.record_event())

        def record_event(self, event: Any = None) -> Any:
            event = Event() if event is None else event
            event.record(self)
            return event

        def query(self) -> bool:
            self._leave_capture()
            gpu.raise_pending()
            gpu.order.host_sees(self.clock)
            return True

        def synchronize(self) -> None:
            self._leave_capture()
            gpu.waited()
            gpu.order.host_sees(self.clock)

        def is_capturing(self) -> bool:
            return self.capture is not None

        def _leave_capture(self) -> None:
            if self.capture is not None:
                raise self.capture.break_off()
            gpu.forbid_unsafe()

        def __enter__(self) -> Any:
            watch = gpu.watch
            self._entered.append(watch.stream)
            watch.stream = self
            return self

        def __exit__(self, *exc: object) -> None:
            gpu.watch.stream = self._entered.pop()

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Stream) and other.stream_id == self.stream_id

        def __hash__(self) -> int:
            return hash((self.stream_id, "cuda:0"))

        def __repr__(self) -> str:
            return f"<torch.cuda.Stream device=cuda:0 cuda_stream={self.stream_id:#x}>"

    class ExternalStream(Stream):
        """A stream named by a raw pointer."""

        def __init__(self, stream_ptr: int, device: Any = None, **kwargs: Any) -> None:
            super().__init__(device, stream_id=stream_ptr)

    class Event:
        """A mark in a stream, reached as soon as it is recorded."""

        def __init__(
            self,
            enable_timing: bool = False,
            blocking: bool = False,
            interprocess: bool = False,
            external: bool = False,
            device: Any = None,
        ) -> None:
            self.enable_timing = enable_timing
            self.blocking = blocking
            self.device = CUDA
            self._external = external
            self._time: float | None = None
            self._stream: Any = None
            self._capture: Any = None
            self._clock: dict[int, int] = {}

        @property
        def cuda_event(self) -> int:
            return id(self)

        def record(self, stream: Any = None) -> None:
            self._stream = gpu.watch.stream if stream is None else stream
            self._capture = None if self._external else self._stream.capture
            self._clock = dict(self._stream.clock)
            self._time = time.perf_counter()

        def wait(self, stream: Any = None) -> None:
            (gpu.watch.stream if stream is None else stream).wait_event(self)

        def query(self) -> bool:
            self._leave_capture()
            gpu.raise_pending()
            gpu.order.host_sees(self._clock)
            return True

        def synchronize(self) -> None:
            self._leave_capture()
            gpu.raise_pending()
            gpu.order.host_sees(self._clock)

        def _leave_capture(self) -> None:
            if self._capture is not None and self._capture in gpu.capturing:
                self._capture.break_off()
                raise cuda_error(EVENT_OF_CAPTURE)
            gpu.forbid_unsafe()

        def elapsed_time(self, end_event: Any) -> float:
            if not (self.enable_timing and end_event.enable_timing):
                raise ValueError("Both events must be created with argument 'enable_timing=True'.")
            if self._time is None or end_event._time is None:
                raise ValueError("Both events must be recorded before calculating elapsed time.")
            if self._capture is not None or end_event._capture is not None:
                raise cuda_error(NOT_PERMITTED)
            return 1e3 * float(end_event._time - self._time)

        def ipc_handle(self) -> bytes:
            return b"\0" * 64

        def __repr__(self) -> str:
            return "<torch.cuda.Event uninitialized>" if self._time is None else "<torch.cuda.Event>"

    class StreamContext:
        """Makes a stream current for a block; None leaves the current one."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream
            self._before: list[Any] = []

        def __enter__(self) -> None:
            watch = gpu.watch
            self._before.append(watch.stream)
            if self.stream is not None:
                watch.stream = self.stream

        def __exit__(self, *exc: object) -> None:
            gpu.watch.stream = self._before.pop()

    def current_stream(device: Any = None) -> Any:
        return gpu.watch.stream

    def default_stream(device: Any = None) -> Any:
        return gpu.default_stream

    def set_stream(stream: Any) -> None:
        if stream is not None:
            gpu.watch.stream = stream

    for kind in (Stream, ExternalStream, Event, StreamContext):
        kind.__module__ = "torch.cuda"
        kind.__qualname__ = kind.__name__
    gpu.default_stream = Stream()
    return {
        "Stream": Stream,
        "ExternalStream": ExternalStream,
        "Event": Event,
        "StreamContext": StreamContext,
        "stream": lambda stream: StreamContext(stream),
        "current_stream": current_stream,
        "default_stream": default_stream,
        "set_stream": set_stream,
    }


def make_any_stream(original: Any, cuda_type: Any) -> Any:
    """The device-agnostic `torch.Stream` or `torch.Event`: CUDA's unless another device is named."""

    class AnyMeta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, (original, cuda_type))

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, (original, cuda_type))

    class Any_(metaclass=AnyMeta):
        def __new__(cls, device: Any = None, *args: Any, **kwargs: Any) -> Any:
            if device is None or torch.device(device).type == "cuda":
                return cuda_type(*args, **kwargs)
            return original(device, *args, **kwargs)

    Any_.__name__ = Any_.__qualname__ = original.__name__
    Any_.__module__ = "torch"
    return Any_
