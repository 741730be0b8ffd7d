"""The tape: what a capture records, what it puts back, and how a replay runs it.

A capture really runs every operation, because later ones need shapes and valid indices, and undoes it at the
end: memory that existed before is restored, memory of the graph is poisoned until the first replay.
A replay reads and writes the memory recorded at capture, whatever the program's tensors point to by then.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import DEVICE_ASSERT, INVALIDATED, NOT_PERMITTED, cuda_error
from .execute import execute, flat, map_tensors, poison, results_of, tensors_in
from .labels import CPU, CUDA, LISTED, Home, home_of, storage_of
from .ops import Op

# They change what a tensor object refers to and write no memory.
_METADATA_ONLY = frozenset(
    [
        "squeeze_",
        "unsqueeze_",
        "t_",
        "transpose_",
        "swapaxes_",
        "swapdims_",
        "as_strided_",
        "resize_",
        "resize_as_",
        "set_",
        "detach_",
        "requires_grad_",
        "rename_",
        "lift_fresh",
        "record_stream",
    ]
)

# What CPU kernels say where CUDA kernels assert on the device.
_OUT_OF_BOUNDS = ("out of range", "out of bounds", "probability tensor contains", "Expected p_in")


class Ledger:
    """How many references tapes hold on each storage: what has no other was freed by the program."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        probe = torch.empty(1)
        key = torch._C.TensorBase.untyped_storage(probe)._cdata
        # Depending on the version, the Python object of a storage counts as a reference to it.
        self._wrapper = torch._C._storage_Use_Count(key) - 1

    def hold(self, tensor: torch.Tensor) -> int | None:
        """Count `tensor`, an alias some tape keeps; returns the key of its storage."""
        storage = storage_of(tensor)
        if storage is None:
            return None
        key: int = storage._cdata
        self._held[key] = self._held.get(key, 0) + 1
        return key

    def drop(self, key: int) -> None:
        """Forget one alias."""
        left = self._held.get(key, 0) - 1
        if left > 0:
            self._held[key] = left
        else:
            self._held.pop(key, None)

    def freed(self, key: int) -> bool:
        """Whether only tapes still refer to the storage `key`."""
        return torch._C._storage_Use_Count(key) <= self._held.get(key, 0) + self._wrapper


@dataclass
class Pool:
    """Memory shared by the graphs captured into it: `blocks` maps a storage to a flat alias of it."""

    id: tuple[int, int]
    blocks: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass
class Step:
    """One recorded operation; `targets` pairs the position of a result with the memory it must fill."""

    op: Op
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    generator: Any
    targets: list[tuple[int, torch.Tensor]]
    grad: bool


class Capture:
    """One capture and, once it has ended well, the graph it became."""

    def __init__(self, ledger: Ledger, pool: Pool, generators: list[Any], mode: str) -> None:
        self.home = Home(CUDA, capture=self)
        self.floating = Home(CPU, floating=True, capture=self)
        self.pool = pool
        self.invalid = False
        self.dead = False
        self.steps: list[Step] = []
        self.generators = generators
        self.mode = mode
        self.thread = threading.get_ident()
        self.forked: set[Any] = set()  # streams with work the capturing stream has not waited for
        self.joined: set[Any] = set()
        self._ledger = ledger
        self._keys: list[int] = []
        self._own: dict[int, torch.Tensor] = {}
        self._outside: dict[int, torch.Tensor] = {}
        self._written: list[torch.Tensor] | None = None
        self._copies_to_host = False
        self._saved: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._states = [g.get_state() for g in generators]
        # What is free in the pool now may be given out again to this graph, whose replays then overwrite it.
        self._reused = [block for key, block in pool.blocks.items() if ledger.freed(key)]

    def reseeded(self, generator: Any) -> None:
        """Keep the state `generator` was given inside the capture."""
        for position, known in enumerate(self.generators):
            if known is generator:
                self._states[position] = generator.get_state()

    # -- while capturing -------------------------------------------------------------------------------------

    def require_valid(self) -> None:
        """Raise what every CUDA call says after the capture was broken."""
        if self.invalid:
            raise cuda_error(INVALIDATED)

    def break_off(self) -> RuntimeError:
        """Invalidate the capture; returns the error of the call that did it."""
        if self.invalid:
            return cuda_error(INVALIDATED)
        self.invalid = True
        return cuda_error(NOT_PERMITTED)

    def run(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], generator: Any) -> Any:
        """Run `op` now for its shapes, remembering what it overwrites."""
        for index in op.writes:
            for tensor in tensors_in(op.argument(index, args, kwargs)):
                self._save(tensor)
        try:
            return execute(op, args, kwargs, generator)
        except (IndexError, RuntimeError):
            # A GPU reads no data while capturing: unwritten indices or odds must not fail here.
            plain = [
                value if index in op.writes else map_tensors(value, _with_plain_data)
                for index, value in enumerate(args)
            ]
            return execute(op, tuple(plain), kwargs, generator)

    def _save(self, tensor: torch.Tensor) -> None:
        storage = storage_of(tensor)
        if storage is None:
            return
        home = getattr(storage, "_home", None)
        if (home is not None and home.capture is self) or storage._cdata in self._saved:
            return
        copy = torch.UntypedStorage(storage.nbytes())  # type: ignore[no-untyped-call]
        copy.copy_(storage, False)
        self._saved[storage._cdata] = (storage, copy)

    def record(
        self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], generator: Any, result: Any, home: Home
    ) -> None:
        """Append `op` to the tape with aliases of its memory; label new memory in the results with `home`."""
        fresh = []
        for position, tensor in enumerate(results_of(result)):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = storage_of(tensor)
            known = getattr(storage, "_home", None)
            if storage is not None and (known is None or (known.floating and known is not self.floating)):
                storage._home = home
                fresh.append((position, tensor))
        if op.name in _METADATA_ONLY or not (fresh or op.writes or op.asserts):
            return
        targets = [(position, self._keep(tensor)) for position, tensor in fresh]
        if op.name == "copy_" and (target := home_of(args[0])) is not None and target.pinned:
            self._copies_to_host = True
        self.steps.append(
            Step(
                op,
                map_tensors(args, self._keep),
                map_tensors(kwargs, self._keep),
                generator,
                targets,
                torch.is_grad_enabled(),
            )
        )

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        home = home_of(tensor)
        if home is None or home is LISTED:
            return tensor.clone()  # a host operand is read at launch, once
        alias = tensor.detach()
        key = self._ledger.hold(alias)
        if key is None:
            return alias
        self._keys.append(key)
        if home.capture is self:
            known = self._own
        elif home.capture is not None and home.capture.pool is self.pool:
            return alias
        else:
            known = self._outside
        if key not in known and alias.layout is torch.strided and not alias.is_nested:
            known[key] = block = flat(alias)
            self._ledger.hold(block)
            self._keys.append(key)
        return alias

    def finish(self) -> None:
        """End the capture: put everything back and poison the graph's own memory."""
        for storage, copy in self._saved.values():
            storage.copy_(copy, False)
        self._saved.clear()
        for generator, state in zip(self.generators, self._states, strict=True):
            generator.set_state(state)
        for block in self._own.values():
            poison(block)
        self.pool.blocks.update(self._own)

    # -- afterwards ------------------------------------------------------------------------------------------

    def replay(self) -> None:
        """Run the tape on the memory it recorded."""
        for block in (*self.lost_inputs(), *self._reused):
            poison(block)
        for step in self.steps:
            torch._C._set_grad_enabled(step.grad)  # kernels choose by it what else they compute
            result = self._execute(step)
            if not step.targets:
                continue
            results = results_of(result)
            for position, target in step.targets:
                if step.op.makes_empty:
                    poison(target)
                else:
                    fill(target, results[position])

    @staticmethod
    def _execute(step: Step) -> Any:
        try:
            return execute(step.op, step.args, step.kwargs, step.generator)
        except (IndexError, RuntimeError) as error:
            if step.op.name == "_assert_async" or any(word in str(error) for word in _OUT_OF_BOUNDS):
                raise cuda_error(DEVICE_ASSERT) from error
            raise

    def blocks(self) -> list[torch.Tensor]:
        """All device memory that the graph reads or writes."""
        return [*self._outside.values(), *self._own.values()]

    def written(self) -> list[torch.Tensor]:
        """Device memory that a replay writes."""
        if self._written is None:
            self._written = list(self._own.values())
            for step in self.steps:
                for index in step.op.writes:
                    self._written += tensors_in(step.op.argument(index, step.args, step.kwargs))
        return self._written

    def host_targets(self) -> list[torch.Tensor]:
        """Page-locked memory that a replay copies to."""
        if not self._copies_to_host:
            return []
        copies = [step.args[0] for step in self.steps if step.op.name == "copy_"]
        return [t for t in copies if (home := home_of(t)) is not None and home.pinned]

    def lost_inputs(self) -> list[torch.Tensor]:
        """Memory this graph reads and the program has freed since: eager, or that of a reset graph."""
        lost = []
        for key, block in self._outside.items():
            home = home_of(block)
            allocator = None if home is None else home.capture
            if allocator.dead if allocator is not None else self._ledger.freed(key):
                lost.append(block)
        return lost

    def release(self) -> None:
        """Give the memory back, as `CUDAGraph.reset` does."""
        self.dead = True
        for key in self._own:
            self.pool.blocks.pop(key, None)
        for key in self._keys:
            self._ledger.drop(key)
        self._keys.clear()
        self.steps.clear()
        self._own.clear()
        self._written = None
        self._outside.clear()
        self._reused.clear()


def fill(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a recomputed result into the memory recorded for it."""
    if target.is_nested:
        target.copy_(value)
        return
    if target.layout is torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(target.stride(), target.shape, strict=True)
    ):
        flat(target).copy_(flat(value))
        return
    target.copy_(value)


def _with_plain_data(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype is torch.bool or tensor.dtype.is_complex:
        return tensor
    return torch.full_like(tensor, 0.5 if tensor.dtype.is_floating_point else 0)


_pool_numbers = itertools.count(1)


def new_pool_id() -> tuple[int, int]:
    """A handle as `torch.cuda.graph_pool_handle` gives: unique, its first number zero."""
    return (0, next(_pool_numbers))
