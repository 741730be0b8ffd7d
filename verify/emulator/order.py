"""Which work of which stream has certainly been done: what another stream may still write reads as poison.

Work is done at once here, whatever stream it is on. What a GPU may do later is kept as clocks: every launch
is a tick of its stream, events and waits pass on what a stream has seen, and the host sees a stream's ticks
when it waits for them. Work that writes over what another stream may still read spoils what that stream made
since. A copy to page-locked memory that does not block lands when the host has waited.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .execute import flat, map_tensors, poison, tensors_in
from .labels import storage_of
from .ops import Op

DEFAULT = 0  # number of the default stream
REMEMBERED = 256  # blocks of memory that a stream wrote last
Clock = dict[int, int]  # by number of a stream: its last tick that is known to be done


@dataclass
class Late:
    """A copy to the host that has not landed."""

    stream: int
    tick: int
    target: torch.Tensor
    value: torch.Tensor


class Order:
    """Clocks of one device."""

    def __init__(self) -> None:
        self.host: Clock = {}
        self.latest: Clock = {}
        self.late: list[Late] = []
        self.several = False  # whether a stream beside the default one has ever worked
        self.made: dict[int, deque[tuple[int, weakref.ref[Any], torch.dtype]]] = {}  # by stream, with ticks

    def launch(self, stream: Any) -> int:
        """A tick of a stream, after everything that the host has seen."""
        join(stream.clock, self.host)
        if torch._C._current_graph_task_id() != -1:
            join(stream.clock, self.latest)  # the autograd engine waits for the streams of the forward pass
        self.several = self.several or stream.stream_id != DEFAULT
        tick = self.latest.get(stream.stream_id, 0) + 1
        self.latest[stream.stream_id] = stream.clock[stream.stream_id] = tick
        return tick

    def host_sees(self, clock: Clock) -> None:
        """The host has waited for this much."""
        join(self.host, clock)
        if self.late:
            self._land(self.host)

    def guarded(
        self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The operands with poison in place of what another stream may still be writing."""
        if op.views:
            return args, kwargs
        given = [t for part in (*args, *kwargs.values()) for t in tensors_in(part)]
        self._reads(given, stream)
        if not any(self._unseen(t, stream) for t in given):
            return args, kwargs
        writes = {op.arguments[i] for i in op.writes}

        def guard(name: str, value: Any) -> Any:
            def change(tensor: torch.Tensor) -> torch.Tensor:
                if not self._unseen(tensor, stream):
                    return tensor
                early = tensor if name in writes else tensor.detach().clone()
                unwritten(early)
                return early

            return map_tensors(value, change)

        with torch._C._DisableTorchDispatch():
            named = zip(op.arguments, args, strict=False)
            return tuple(guard(n, v) for n, v in named), {n: guard(n, v) for n, v in kwargs.items()}

    def wrote(self, tensors: Iterable[torch.Tensor], stream: Any, tick: int) -> None:
        """Their memory holds what this tick writes; who may still have been reading it read that instead."""
        mine = stream.stream_id
        made = self.made.setdefault(mine, deque(maxlen=REMEMBERED))
        for tensor in tensors:
            storage = storage_of(tensor)
            if storage is None:
                continue
            for reader, read in getattr(storage, "_read", {}).items():
                if reader != mine and stream.clock.get(reader, 0) < read:
                    self._spoil(reader, read)
            storage._read = {}
            storage._written = (mine, tick)
            made.append((tick, weakref.ref(storage), tensor.dtype))

    def in_flight(self, tensors: Iterable[torch.Tensor], stream: Any) -> None:
        """Count tensors as being written by a stream, in an order that is nobody's fault."""
        tick = self.launch(stream)
        for tensor in tensors:
            storage = storage_of(tensor)
            if storage is not None:
                storage._written = (stream.stream_id, tick)

    def _reads(self, tensors: Iterable[torch.Tensor], stream: Any) -> None:
        """The last launch of a stream reads them."""
        tick = stream.clock.get(stream.stream_id, 0)
        for tensor in tensors:
            storage = storage_of(tensor)
            if storage is not None:
                storage._read = {**getattr(storage, "_read", {}), stream.stream_id: tick}

    def _spoil(self, stream: int, since: int) -> None:
        """Poison what a stream has made since a tick."""
        for tick, known, dtype in self.made.get(stream, ()):
            storage = known()
            if tick >= since and storage is not None:
                with torch.inference_mode(), torch._C._DisableTorchDispatch():
                    count = storage.nbytes() // dtype.itemsize
                    unwritten(torch.empty(0, dtype=dtype).set_(storage, 0, (count,), (1,)))

    def arrives_late(self, target: torch.Tensor, stream: Any, tick: int) -> None:
        """What was just copied to page-locked memory is there when the host has waited for it."""
        with torch._C._DisableTorchDispatch():
            alias = target.detach()
            self.late.append(Late(stream.stream_id, tick, alias, alias.clone()))
            unwritten(alias)

    def reads_host(self, stream: Any) -> None:
        """Work of a stream that reads host memory comes after the copies that the stream has seen."""
        if self.late:
            self._land(stream.clock)

    def before_replay(self, blocks: Iterable[torch.Tensor], stream: Any) -> int:
        """A tick for a replay; memory that another stream may still write is not there yet."""
        tick = self.launch(stream)
        if self.several:
            held = list(blocks)
            self._reads(held, stream)
            for block in held:
                if self._unseen(block, stream):
                    unwritten(block)
        return tick

    def _unseen(self, tensor: torch.Tensor, stream: Any) -> bool:
        written = getattr(storage_of(tensor), "_written", None)
        return written is not None and stream.clock.get(written[0], 0) < written[1]

    def _land(self, clock: Clock) -> None:
        waiting = []
        with torch._C._DisableTorchDispatch(), torch.inference_mode():
            for copy in self.late:
                if clock.get(copy.stream, 0) >= copy.tick:
                    copy.target.copy_(copy.value)
                else:
                    waiting.append(copy)
        self.late = waiting


def join(clock: Clock, other: Clock) -> None:
    """Know what the other knows as well."""
    for stream, tick in other.items():
        if clock.get(stream, 0) < tick:
            clock[stream] = tick


def unwritten(tensor: torch.Tensor) -> None:
    """Fill with what no program takes for its own; integers stay usable as indices."""
    with torch.inference_mode(), torch._C._DisableTorchDispatch():
        if tensor.layout is not torch.strided or tensor.is_nested:
            return
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
            poison(flat(tensor) if tensor._is_view() else tensor)
        else:
            tensor.zero_()
