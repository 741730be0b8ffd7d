"""Count captures and replays, and capture a target's call when the program owns no graph."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .observe import is_data, public_attributes, tensors_of
from .trees import Subject, under

WARMUPS = 3


@dataclass
class Counter:
    """Captures and replays of this process since it started."""

    captures: int = 0
    replays: int = 0
    failed: str = ""

    def install(self) -> None:
        """Wrap the graph class the program will find in ``torch.cuda``."""
        kind: Any = torch.cuda.CUDAGraph
        end, replay = kind.capture_end, kind.replay

        def counted_end(graph: Any, *args: Any, **kwargs: Any) -> Any:
            result = end(graph, *args, **kwargs)
            self.captures += 1
            return result

        def counted_replay(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self.replays += 1
            return replay(graph, *args, **kwargs)

        kind.capture_end, kind.replay = counted_end, counted_replay


class CaptureBlocked(Exception):
    """The call cannot be captured; the message names the user's line."""


@dataclass
class Captured:
    """One graph with the tensors it reads and writes."""

    graph: Any
    inputs: list[Tensor]
    result: Any


@dataclass
class Capturing:
    """Calls a target through graphs of its own: one per input key, static inputs, cloned outputs."""

    subject: Subject
    root: Path
    graphs: dict[Any, Captured] = field(default_factory=dict)
    report: Callable[[str], None] = lambda text: None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the graph of this key, captured first if there is none. Raises CaptureBlocked."""
        if torch.is_grad_enabled():
            return self.subject.call(*args, **kwargs)
        given = [t for _, t in tensors_of([list(args), kwargs])]
        key = self._key(args, kwargs, given)
        if key not in self.graphs:
            self.graphs[key] = self._capture(args, kwargs, given)
        captured = self.graphs[key]
        for static, value in zip(captured.inputs, given, strict=True):
            static.copy_(value)
        captured.graph.replay()
        for static, value in zip(captured.inputs, given, strict=True):
            if not torch.equal(static, value) and not (static.isnan() & value.isnan()).any():
                value.copy_(static)
        return mapped(captured.result, lambda t: t.clone())

    def _key(self, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        network = self.subject.network
        state = tuple(t.data_ptr() for t in network.state_dict().values()) if network is not None else ()
        modes = tuple(m.training for m in network.modules()) if network is not None else ()
        shapes = tuple((tuple(t.shape), t.dtype, t.stride()) for t in given)
        same = tuple(i for i, t in enumerate(given) for u in given[:i] if t is u)
        plain = repr(mapped([list(args), kwargs], lambda t: None))
        return shapes, same, plain, state, modes, torch.is_inference_mode_enabled()

    def _capture(self, args: Any, kwargs: Any, given: list[Tensor]) -> Captured:
        statics = {id(t): t.clone() for t in given}
        s_args = mapped(list(args), lambda t: statics[id(t)])
        s_kwargs = mapped(dict(kwargs), lambda t: statics[id(t)])
        network = self.subject.network
        saved = {k: v.clone() for k, v in network.state_dict().items()} if network is not None else {}
        plain = self._plain()
        cpu, cuda = torch.get_rng_state(), torch.cuda.get_rng_state()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUPS):
                self.subject.call(*s_args, **s_kwargs)
        torch.cuda.current_stream().wait_stream(side)
        if network is not None:
            with torch.no_grad():
                for name, value in network.state_dict().items():
                    value.copy_(saved[name])
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state(cuda)
        if self._plain() != plain:
            raise CaptureBlocked("the call changes attributes of Python, which a replay would not")
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                result = self.subject.call(*s_args, **s_kwargs)
        except Exception as error:
            raise CaptureBlocked(self._line(error)) from error
        return Captured(graph, [statics[id(t)] for t in given], result)

    def _plain(self) -> str:
        network = self.subject.network
        if network is None:
            return ""
        held = [
            (n, k, v)
            for n, m in network.named_modules()
            for k, v in public_attributes(m)
            if is_data(v) and not isinstance(v, Tensor)
        ]
        return repr(held)

    def _line(self, error: BaseException) -> str:
        """``FILE:LINE: message`` of the first failure; later ones follow from it."""
        first: BaseException = error
        while first.__context__ is not None:
            first = first.__context__
        for candidate in (first, error):
            frames = [
                f for f in traceback.extract_tb(candidate.__traceback__) if under(f.filename, self.root)
            ]
            if frames:
                where = f"{Path(frames[-1].filename).relative_to(self.root)}:{frames[-1].lineno}"
                said = str(first).strip().splitlines()
                return f"{where}: {said[0] if said else type(first).__name__}"
        return f"{type(first).__name__}: {first}"[:300]


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same structure with every tensor replaced; unknown objects are returned as they are."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        new = {k: mapped(v, change) for k, v in value.items()}
        return (
            new
            if type(value) is dict
            else type(value)(**new)
            if hasattr(value, "to_tuple")
            else type(value)(new)
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(v, change) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(v, change) for v in value)
    return value
