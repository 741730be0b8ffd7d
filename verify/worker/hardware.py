"""What a real GPU hides by being fast, made to show in untimed runs.

A block that the allocator gives out again often still holds the right numbers, and a small kernel is done
before a stream that does not wait reads what it writes. Here fresh memory is poisoned, and work comes late: a
right program cannot tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

LATE_CYCLES = 300_000  # about 0.2 ms: longer than a caller needs to launch what reads the result
_EMPTY = ("empty", "empty_like", "empty_strided", "empty_permuted")
_NEW_EMPTY = ("new_empty", "new_empty_strided")


class Hardware:
    """The disturbances of one process; off until `install`, and while timing."""

    def __init__(self) -> None:
        self.active = False
        self.emulator: Any = None
        self._delayed: dict[int, Any] = {}  # by stream: an event behind the last delay

    def install(self) -> None:
        """Wrap the functions that programs allocate with, and the entry of streams."""
        from torch.utils._device import _device_constructors

        _device_constructors()  # remembers torch's own functions, which is what function modes are told of
        for owner, names in ((torch, _EMPTY), (torch.Tensor, _NEW_EMPTY)):
            for name in names:
                if hasattr(owner, name):
                    setattr(owner, name, self._poisoning(getattr(owner, name)))
        enter = torch.cuda.StreamContext.__enter__
        hardware = self

        def entered(context: Any) -> Any:
            result = enter(context)  # type: ignore[no-untyped-call]
            hardware.delay()
            return result

        torch.cuda.StreamContext.__enter__ = entered  # type: ignore[method-assign]
        self.active = True

    def _poisoning(self, original: Any) -> Any:
        def allocate(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            if self.active and type(made) is Tensor and made.is_cuda:
                with torch.no_grad(), contextlib.suppress(RuntimeError, NotImplementedError):
                    poison(made)
            return made

        allocate.__name__ = allocate.__qualname__ = original.__name__
        allocate.__doc__ = original.__doc__
        return allocate

    def delay(self) -> None:
        """Keep the current stream busy for a moment, unless it is being captured."""
        if self.active and not torch.cuda.is_current_stream_capturing():
            torch.cuda._sleep(LATE_CYCLES)  # type: ignore[no-untyped-call]
            stream = torch.cuda.current_stream()
            behind: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            behind.record(stream)
            self._delayed[stream.cuda_stream] = behind

    def settle(self) -> None:
        """Wait for this class's own delay of the current stream: a capture is about to begin on it.

        Where a capture begins torch writes zero into the offsets of its generators, on that stream; a replay
        on another writes the true ones and does not wait. Only a delay that no program makes turns the order
        round, and the replay would draw the numbers of the first one again.
        """
        behind = self._delayed.pop(torch.cuda.current_stream().cuda_stream, None)
        if behind is not None:
            behind.synchronize()

    def arrive_late(self, tensors: list[Tensor]) -> None:
        """Write every tensor anew behind a delay: a stream that does not wait reads poison."""
        if self.emulator is not None:
            self.emulator.in_flight(tensors)
            return
        whole = [t for t in tensors if t.is_cuda and t.layout is torch.strided and not _overlaps(t)]
        if not self.active or not whole:
            return
        with torch.no_grad():
            values = [t.detach().clone() for t in whole]
            for t in whole:
                poison(t)
            torch.cuda.synchronize()
            self.delay()
            for t, value in zip(whole, values, strict=True):
                t.copy_(value)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """No disturbance inside the block."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before


def poison(t: Tensor) -> None:
    """Fill with what no right program reads: NaN, the smallest integer, True."""
    if t.is_floating_point() or t.is_complex():
        t.fill_(float("nan"))
    elif t.dtype is torch.bool:
        t.fill_(True)
    else:
        t.fill_(torch.iinfo(t.dtype).min)


def _overlaps(t: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape, strict=True))
