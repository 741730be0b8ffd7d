"""What one emulated GPU knows, and the dispatch mode through which every operation of a thread passes."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from . import special
from .capture import Capture, Ledger, Pool, new_pool_id
from .errors import (
    FOREIGN_GENERATOR,
    LEFT_CAPTURING,
    NOT_EMULATED,
    SYNCHRONIZING,
    UNPINNED_COPY,
    warn_synchronizing,
)
from .execute import execute, poison, tensors_in
from .labels import CPU, CUDA, FLOATING, ON_CUDA, PINNED, home_of, logical_device, settle, storage_of
from .ops import Op, op_of
from .order import Order
from .placement import check_placement, require_memory

_Tensor = torch.Tensor
_untyped_storage = torch._C.TensorBase.untyped_storage
_AUTOCAST = torch._C.DispatchKey.AutocastCPU
HIGHER = ("while_loop", "wrap", "tag_activation_checkpoint", "flex_attention")
_MISSING: dict[str, Any] = {}


class Gpu:
    """The state of the emulated device that all threads share."""

    def __init__(self) -> None:
        self.generator: Any = None  # the device's default one, set by `generators.install`
        self.generators: dict[int, Any] = {}  # by address of a generator: what holds its state
        self.handles: list[Any] = []
        self.ledger = Ledger()
        self.pools: weakref.WeakValueDictionary[tuple[int, int], Pool] = weakref.WeakValueDictionary()
        self.capturing: list[Capture] = []
        self.left_capturing: set[int] = set()
        self.sync_debug = 0
        self.pending: RuntimeError | None = None
        self.poison_empty = False
        self.captures = 0
        self.replays = 0
        self.default_stream: Any = None
        self.order = Order()
        self._threads = threading.local()

    @property
    def watch(self) -> Watch:
        """The mode of the calling thread."""
        watch: Watch | None = getattr(self._threads, "watch", None)
        if watch is None:
            watch = self._threads.watch = Watch(self, self.default_stream)
        return watch

    def pool(self, pool_id: tuple[int, int] | None) -> Pool:
        """The pool with this handle, a new one if it is new or None."""
        key = pool_id or new_pool_id()
        return self.pools.setdefault(key, Pool(key))

    def raise_pending(self) -> None:
        """Raise the error of an earlier kernel, as the first synchronising call after it does."""
        if self.pending is not None:
            raise self.pending

    def waited(self) -> None:
        """Account for a wait outside capture: sync debug mode, errors of earlier kernels."""
        self.raise_pending()
        if self.sync_debug == 1:
            warn_synchronizing()
        elif self.sync_debug == 2:
            raise RuntimeError(SYNCHRONIZING)

    def require_usable(self, generator: Any, capture: Capture | None) -> None:
        """Raise what a generator says that a broken capture has left in capture mode (pytorch#171265)."""
        if capture is None and generator._cdata in self.left_capturing:
            raise RuntimeError(LEFT_CAPTURING)

    def forbid_while_capturing(self) -> None:
        """For calls that concern the whole device: they break every capture in progress."""
        errors = [capture.break_off() for capture in self.capturing]
        if errors:
            raise errors[0]

    def forbid_unsafe(self) -> None:
        """For unsafe calls: captures begun as "global" forbid them to all threads, "thread_local" to one."""
        thread = threading.get_ident()
        for capture in self.capturing:
            if capture.mode == "global" or (capture.mode == "thread_local" and capture.thread == thread):
                raise capture.break_off()


class Watch(TorchDispatchMode):
    """Keeps the logical device through every operation of one thread, and records those of a capture."""

    def __init__(self, gpu: Gpu, stream: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpu = gpu
        self.stream = stream
        self.autocasts: frozenset[str] | None = None  # what casts by itself, while autocast is on
        self.cuda_autocast = False
        self.building = False  # inside torch.tensor and its like

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not wrapped for compilation: the wrapper would import `torch._dynamo` at the first operation."""
        return False

    supports_higher_order_operators = True  # such as `torch.cond`: see `_higher`

    def wait(self, kind: str) -> None:
        """A synchronisation (`stream`, `quiet`) or an unpinned copy (`copy`): raises what CUDA raises."""
        capture = self.stream.capture
        if capture is None:
            if kind == "quiet":
                self.gpu.raise_pending()
            else:
                self.gpu.waited()
            self.gpu.order.host_sees(self.stream.clock)
            return
        capture.require_valid()
        if kind == "copy":
            raise RuntimeError(UNPINNED_COPY)
        if kind == "stream":
            self.gpu.waited()
        raise capture.break_off()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or _MISSING
        if isinstance(func, HigherOrderOperator):
            return self._higher(func, args, kwargs)
        op = op_of(func)
        if self.autocasts is not None and op.composite and func.name() not in self.autocasts:
            return self._cast_inside(func, args, kwargs)
        on_cuda, on_host, floating = survey(args, kwargs)
        device = kwargs.get("device") if op.creates else None
        if on_cuda or (device is not None and device.type == "cuda"):
            return self._on_device(op, args, kwargs, device, on_host, floating)
        if op.name == "_to_copy" and _asks_cuda(kwargs):
            return special.to_copy(self, op, args, kwargs)
        if op.name == "lift_fresh":
            return special.lift(self, op, args, kwargs)
        if device is not None or floating or op.takes_generator or kwargs.get("pin_memory"):
            return self._on_host(op, args, kwargs, on_host, floating)
        result = func(*args, **kwargs)
        if op.makes_empty and self.gpu.poison_empty:
            poison(result)
        return result

    def _higher(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that calls functions runs as its eager kernel, whose parts are watched one by one."""
        kernel = func.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd)
        with self:
            if func.name() == "cond":  # whose kernel wants no mode around it
                predicate, then, otherwise, operands = args
                return then(*operands) if predicate else otherwise(*operands)
            if func.name() in HIGHER and kernel is not None:
                return kernel(*args, **kwargs)
        raise NotImplementedError(NOT_EMULATED.format(f"torch.ops.higher_order.{func.name()}"))

    def _cast_inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A composite seen whole under inference mode: its parts cast, though autocast is off in here."""
        excluded = torch._C._dispatch_tls_set_dispatch_key_excluded
        excluded(_AUTOCAST, False)
        try:
            with self:
                return func.decompose(*args, **kwargs)
        finally:
            excluded(_AUTOCAST, True)

    def _on_host(
        self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], on_host: bool, floating: bool
    ) -> Any:
        generator = op.argument(op.generator_at, args, kwargs) if op.takes_generator else None
        if generator is not None and generator._cdata in self.gpu.generators:
            raise RuntimeError("Expected a 'cpu' device type for generator but found 'cuda'")
        pinned = bool(kwargs.get("pin_memory"))
        if pinned:
            kwargs = {**kwargs, "pin_memory": False}
        result = op.func(*args, **kwargs)
        if op.makes_empty and self.gpu.poison_empty:
            poison(result)
        if pinned:
            settle(result, PINNED)
        elif not on_host and (floating or (op.creates and "device" in kwargs and "pin_memory" not in kwargs)):
            capture = self.stream.capture
            if capture is not None and not capture.invalid:
                capture.record(op, args, kwargs, None, result, capture.floating)
            for tensor in tensors_in(result):
                settle(tensor, FLOATING)
        return result

    def _on_device(
        self,
        op: Op,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        device: Any,
        on_host: bool,
        floating: bool,
    ) -> Any:
        if op.composite and (on_host or not op.whole):
            if op.sync and self.stream.capture is not None:
                self.wait(op.sync)
            with self:
                return op.func.decompose(*args, **kwargs)
        handler = special.HANDLERS.get(op.name)
        if handler is not None:
            result = handler(self, op, args, kwargs)
            if result is not NotImplemented:
                return result
        if device is not None:
            if device.type == "cuda":
                logical_device(device)
                require_memory(op, args, kwargs)
                kwargs = {**kwargs, "device": CPU}
            elif "pin_memory" in kwargs:
                return self._make_on_host(op, args, kwargs)
        if on_host:
            check_placement(op, args, kwargs)
        kind = op.reads_size(args, kwargs)
        if kind:
            self.wait(kind)
        return self.launch(op, args, kwargs, floating)

    def _make_on_host(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pinned = bool(kwargs.get("pin_memory"))
        result = op.func(*args, **{**kwargs, "pin_memory": False})
        if pinned:
            settle(result, PINNED)
        return result

    def launch(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], floating: bool = True) -> Any:
        """Run a kernel of the device, or record it when the current stream is capturing."""
        capture = self.stream.capture
        if capture is None and self.gpu.capturing:
            self._launch_beside(op)
        generator = (
            self._generator(op, args, kwargs, capture) if op.draws and op.drawing(args, kwargs) else None
        )
        if capture is not None:
            capture.require_valid()
            result = capture.run(op, args, kwargs, generator)
            capture.record(op, args, kwargs, generator, result, capture.home)
        else:
            result = self._run(op, args, kwargs, generator)
        if floating:
            self._adopt(args, kwargs)
        if capture is None and op.makes_empty and self.gpu.poison_empty:
            poison(result)
        return result

    def _run(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], generator: Any) -> Any:
        """Run a kernel outside capture, on what the current stream has certainly been given."""
        order, stream = self.gpu.order, self.stream
        tick = 0 if op.views else order.launch(stream)
        if order.several:
            args, kwargs = order.guarded(op, args, kwargs, stream)
        result = execute(op, args, kwargs, generator)
        made = (result,) if isinstance(result, _Tensor) else tuple(tensors_in(result))
        for tensor in made:
            settle(tensor, ON_CUDA)
        if order.several and not op.views:
            order.wrote(made, stream, tick)
            for index in op.writes:
                order.wrote(tensors_in(op.argument(index, args, kwargs)), stream, tick)
        return result

    def _launch_beside(self, op: Op) -> None:
        """A kernel on a stream that takes no part in the capture of this thread: its allocation is unsafe."""
        thread = threading.get_ident()
        for capture in self.gpu.capturing:
            if capture.thread == thread and capture.mode != "relaxed" and not op.writes:
                raise capture.break_off()

    @staticmethod
    def _adopt(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for part in (*args, *kwargs.values()):
            for tensor in tensors_in(part):
                storage = storage_of(tensor)
                home = getattr(storage, "_home", None)
                if home is not None and home.floating:
                    storage._home = ON_CUDA if home.capture is None else home.capture.home

    def _generator(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], capture: Any) -> Any:
        given = op.argument(op.generator_at, args, kwargs) if op.takes_generator else None
        if given is None:
            self.gpu.require_usable(self.gpu.generator.cell, capture)
            return self.gpu.generator.cell
        if given._cdata not in self.gpu.generators:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        known = self.gpu.generators[given._cdata]
        if capture is not None and all(known is not other for other in capture.generators):
            raise RuntimeError(FOREIGN_GENERATOR)
        self.gpu.require_usable(known, capture)
        return known


def survey(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Whether any operand is on the device, in host memory, or floating between them."""
    on_cuda = on_host = floating = False
    for part in (*args, *kwargs.values()) if kwargs else args:
        found = (part,) if isinstance(part, _Tensor) else part if isinstance(part, (list, tuple)) else ()
        for tensor in found:
            if not isinstance(tensor, _Tensor):
                continue
            try:
                home = getattr(_untyped_storage(tensor), "_home", None)
            except (NotImplementedError, RuntimeError):
                home = home_of(tensor)
            if home is None:
                on_host = True
            elif home.device is CUDA:
                on_cuda = True
            elif home.floating:
                floating = True
            else:
                on_host = True
    return on_cuda, on_host, floating


def _asks_cuda(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and device.type == "cuda"
