"""Count captures and replays, and capture a target's call when the program owns no graph."""

from __future__ import annotations

import contextlib
import copy
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .hardware import Hardware
from .observe import is_data, public_attributes, tensors_of
from .trees import Subject, under

WARMUPS = 3
_CHANGES = "the call changes attributes of Python, which a replay would not"


@dataclass
class Counter:
    """Captures and replays of this process since it started."""

    captures: int = 0
    replays: int = 0
    failed: str = ""
    apart: int = 0  # of the captures, those of callables that a call has handed out

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is captured inside the block belongs to no call of the target."""
        before = self.captures
        try:
            yield
        finally:
            self.apart += self.captures - before

    def install(self, hardware: Hardware) -> None:
        """Wrap the graph class that the program finds in ``torch.cuda``; replays come late on hardware."""
        kind: Any = torch.cuda.CUDAGraph
        begin, end, replay = kind.capture_begin, kind.capture_end, kind.replay

        def settled_begin(graph: Any, *args: Any, **kwargs: Any) -> Any:
            hardware.settle()
            return begin(graph, *args, **kwargs)

        def counted_end(graph: Any, *args: Any, **kwargs: Any) -> Any:
            result = end(graph, *args, **kwargs)
            self.captures += 1
            return result

        def counted_replay(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self.replays += 1
            hardware.delay()
            return replay(graph, *args, **kwargs)

        kind.capture_begin, kind.capture_end, kind.replay = settled_begin, counted_end, counted_replay


class CaptureBlocked(Exception):
    """The call cannot be captured; the message names the user's line."""


@dataclass
class Captured:
    """One graph with the tensors it reads and writes."""

    graph: Any
    inputs: list[Tensor]
    result: Any
    backward: Backward | None = None


@dataclass
class Backward:
    """The graph of a backward pass: gradients of some outputs in, gradients of ``wanted`` out."""

    graph: Any
    outputs: list[Tensor]
    given: list[Tensor]
    wanted: list[Tensor]  # static inputs and parameters
    gradients: list[Tensor | None]


class _Graphed(torch.autograd.Function):
    """A replayed forward pass whose backward pass is replayed as well."""

    @staticmethod
    def forward(ctx: Any, captured: Captured, *wanted: Tensor) -> tuple[Tensor, ...]:
        captured.graph.replay()
        assert captured.backward is not None
        ctx.backward_of = captured.backward
        return tuple(t.detach().clone() for t in captured.backward.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        known: Backward = ctx.backward_of
        for static, gradient in zip(known.given, gradients, strict=True):
            static.zero_() if gradient is None else static.copy_(gradient)
        known.graph.replay()
        return (None, *(None if g is None else g.detach().clone() for g in known.gradients))


@dataclass
class Capturing:
    """Calls a target through graphs of its own: one per input key, static inputs, cloned outputs."""

    subject: Subject
    root: Path
    graphs: dict[Any, Captured] = field(default_factory=dict)
    report: Callable[[str], None] = lambda text: None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the graph of this key, captured first if there is none. Raises CaptureBlocked."""
        given = [t for _, t in tensors_of([list(args), kwargs])]
        key = self._key(args, kwargs, given)
        if key not in self.graphs:
            self.graphs[key] = self._capture(args, kwargs, given)
        captured = self.graphs[key]
        with torch.no_grad():
            for static, value in zip(captured.inputs, given, strict=True):
                static.copy_(value)
        if captured.backward is not None:
            return self._differentiable(captured, given)
        captured.graph.replay()
        for static, value in zip(captured.inputs, given, strict=True):
            if not torch.equal(static, value) and not (static.isnan() & value.isnan()).any():
                value.copy_(static)
        return cloned(captured.result)

    def _differentiable(self, captured: Captured, given: list[Tensor]) -> Any:
        """Replay forward with a backward pass to come; parameters and inputs get its gradients."""
        known = captured.backward
        assert known is not None
        callers = {id(s): t for s, t in zip(captured.inputs, given, strict=True)}
        apply: Any = _Graphed.apply
        made = apply(captured, *(callers.get(id(t), t) for t in known.wanted))
        fresh = {id(t): new for t, new in zip(known.outputs, made, strict=True)}
        return mapped(captured.result, lambda t: fresh[id(t)] if id(t) in fresh else t.detach().clone())

    def _key(self, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        network = self.subject.network
        state = tuple(t.data_ptr() for t in _held_by(network))
        modes = tuple(m.training for m in network.modules()) if network is not None else ()
        shapes = tuple((tuple(t.shape), t.dtype, t.stride(), t.requires_grad) for t in given)
        same = tuple(i for i, t in enumerate(given) for u in given[:i] if t is u)
        plain = repr(mapped([list(args), kwargs], lambda t: None))
        grad = torch.is_grad_enabled()
        return shapes, same, plain, state, modes, grad, torch.is_inference_mode_enabled()

    def _capture(self, args: Any, kwargs: Any, given: list[Tensor]) -> Captured:
        statics = {id(t): t.detach().clone().requires_grad_(t.requires_grad) for t in given}
        s_args = mapped(list(args), lambda t: statics[id(t)])
        s_kwargs = mapped(dict(kwargs), lambda t: statics[id(t)])
        network = self.subject.network
        saved = [(t, t.detach().clone()) for t in _held_by(network)]
        plain = self._plain()
        cpu, cuda = torch.get_rng_state(), torch.cuda.get_rng_state()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())

        def as_before() -> None:
            with torch.no_grad():
                for held, value in saved:
                    held.copy_(value)
            torch.set_rng_state(cpu)
            torch.cuda.set_rng_state(cuda)

        with torch.cuda.stream(side):
            first = self._rehearse(s_args, s_kwargs)
            if self._plain() != plain:
                plain = self._settled(first, saved, as_before, s_args, s_kwargs)
            for _ in range(WARMUPS - 1):
                self._rehearse(s_args, s_kwargs)
        torch.cuda.current_stream().wait_stream(side)
        as_before()
        if self._plain() != plain:
            raise CaptureBlocked(_CHANGES)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                result = self.subject.call(*s_args, **s_kwargs)
            backward = self._capture_backward(result, list(statics.values()))
        except Exception as error:
            raise CaptureBlocked(self._line(error)) from error
        return Captured(graph, [statics[id(t)] for t in given], result, backward)

    def _settled(
        self,
        first: Any,
        saved: list[tuple[Tensor, Tensor]],
        as_before: Callable[[], None],
        args: Any,
        kwargs: Any,
    ) -> str:
        """The attributes after a first call that only kept something for later ones, such as a table.

        A second call from the same state must give the same and change nothing, buffers included; everything
        else, a counter or an initialisation from data, raises CaptureBlocked.
        """
        plain = self._plain()
        first = cloned(first)
        if not all(_equal(held.detach(), value) for held, value in saved):
            raise CaptureBlocked(_CHANGES)
        as_before()
        again = self._rehearse(args, kwargs)
        ours, theirs = tensors_only(first), tensors_only(again)
        same = len(ours) == len(theirs) and all(map(_equal, ours, theirs))
        if not same or repr(mapped(first, _no_value)) != repr(mapped(again, _no_value)):
            raise CaptureBlocked(_CHANGES)
        return plain

    def _rehearse(self, args: Any, kwargs: Any) -> Any:
        """Run once, backward as well. Raises CaptureBlocked if the call trains by itself."""
        network = self.subject.network
        held = [] if network is None or not torch.is_grad_enabled() else list(network.parameters())
        before = [(p.grad, p.detach().clone()) for p in held]
        result = self.subject.call(*args, **kwargs)
        if any(p.grad is not g or not torch.equal(p, old) for p, (g, old) in zip(held, before, strict=True)):
            raise CaptureBlocked("the call trains by itself, which the verifier does not capture")
        outputs = _differentiable_in(result)
        wanted = [t for t in (*tensors_only([args, kwargs]), *held) if t.requires_grad]
        if outputs and wanted:
            given = [torch.ones_like(t) for t in outputs]
            torch.autograd.grad(outputs, wanted, given, allow_unused=True)
        return result

    def _capture_backward(self, result: Any, statics: list[Tensor]) -> Backward | None:
        outputs = _differentiable_in(result) if torch.is_grad_enabled() else []
        held = [] if self.subject.network is None else list(self.subject.network.parameters())
        wanted = [t for t in (*statics, *held) if t.requires_grad]
        if not outputs or not wanted:
            return None
        given = [torch.ones_like(t) for t in outputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gradients = torch.autograd.grad(outputs, wanted, given, allow_unused=True)
        return Backward(graph, outputs, given, wanted, list(gradients))

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


def _equal(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, NaN to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _no_value(tensor: Tensor) -> None:
    """What stands for a tensor where only the rest of a structure counts."""


def _held_by(network: nn.Module | None) -> list[Tensor]:
    """Parameters and buffers, those that are not saved as well."""
    return [] if network is None else [*network.parameters(), *network.buffers()]


def _differentiable_in(result: Any) -> list[Tensor]:
    found = {id(t): t for t in tensors_only(result) if t.requires_grad and t.is_floating_point()}
    return list(found.values())


def tensors_only(value: Any) -> list[Tensor]:
    """Every tensor in a value."""
    return [t for _, t in tensors_of(value)]


def cloned(value: Any) -> Any:
    """The same structure in memory of its own, in which tensors that share memory share it again."""
    held: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    for _, t in tensors_of(value):
        if t.layout is torch.strided:
            held.setdefault((t.untyped_storage().data_ptr(), t.dtype), []).append(t)
    copies: dict[tuple[int, torch.dtype], Tensor] = {}

    def fresh(t: Tensor) -> Tensor:
        key = (t.untyped_storage().data_ptr(), t.dtype) if t.layout is torch.strided else (0, t.dtype)
        if len(held.get(key, ())) < 2 or not key[0]:
            return t.clone()
        if key not in copies:
            size = t.untyped_storage().nbytes() // t.element_size()
            copies[key] = t.as_strided((size,), (1,), 0).clone()
        return copies[key].as_strided(t.shape, t.stride(), t.storage_offset())

    return mapped(value, fresh)


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
    fields = dict(attributes_of(value))
    if not any(_holds_tensor(v) for v in fields.values()):
        return value
    made = copy.copy(value)
    for name, field_value in fields.items():
        object.__setattr__(made, name, mapped(field_value, change))
    return made


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes and slots of a plain object, private ones as well; of modules and code objects none."""
    if isinstance(value, (nn.Module, type, types.ModuleType)) or callable(value):
        return
    yield from (getattr(value, "__dict__", None) or {}).items()
    for kind in type(value).__mro__:
        for name in vars(kind).get("__slots__", ()) if kind is not object else ():
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _holds_tensor(value: Any, depth: int = 4) -> bool:
    if isinstance(value, Tensor):
        return True
    if not depth or value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype)):
        return False
    if isinstance(value, dict):
        return any(_holds_tensor(v, depth - 1) for v in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_tensor(v, depth - 1) for v in value)
    return any(_holds_tensor(v, depth - 1) for _, v in attributes_of(value))
