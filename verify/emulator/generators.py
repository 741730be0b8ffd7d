"""`torch.Generator` on the emulated device: a CPU generator that says `cuda:0`."""

from __future__ import annotations

from typing import Any

import torch

from .core import Gpu
from .errors import NOT_WHILE_CAPTURING
from .labels import CPU, CUDA, logical_device

_Base: Any = torch._C.Generator


class CudaGenerator(_Base):  # type: ignore[misc]
    """A generator of the emulated device: a handle on a cell that holds its state and may be shared."""

    gpu: Gpu
    cell: Any

    @property
    def device(self) -> torch.device:
        """The logical device."""
        return CUDA

    def manual_seed(self, seed: int) -> CudaGenerator:
        """Start the sequence of this seed."""
        self.cell.manual_seed(seed)
        return self

    def seed(self) -> int:
        """Start a sequence that nobody has chosen."""
        return self.cell.seed()  # type: ignore[no-any-return]

    def initial_seed(self) -> int:
        """The seed of the sequence."""
        return self.cell.initial_seed()  # type: ignore[no-any-return]

    def get_state(self) -> torch.Tensor:
        """The state as bytes."""
        return self.cell.get_state()  # type: ignore[no-any-return]

    def set_state(self, state: torch.Tensor) -> CudaGenerator:
        """Go on from a state."""
        self.cell.set_state(state)
        return self

    def clone_state(self) -> CudaGenerator:
        """A generator of its own that goes on from here."""
        made = make_generator(self.gpu)
        made.cell.set_state(self.cell.get_state())
        return made

    def graphsafe_get_state(self) -> CudaGenerator:
        """A handle on the same state: who draws from one moves both."""
        return make_generator(self.gpu, self.cell)

    def graphsafe_set_state(self, state: CudaGenerator) -> CudaGenerator:
        """Go on with the state of another handle, shared from now on."""
        self.cell = self.gpu.generators[self._cdata] = state.cell
        return self


def make_generator_type(gpu: Gpu) -> Any:
    """The replacement of the class `torch.Generator`; every generator is an instance of it."""

    class GeneratorMeta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, _Base)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, _Base)

    class Generator(metaclass=GeneratorMeta):
        """Makes a generator of the device asked for."""

        def __new__(cls, device: Any = None) -> Any:
            wanted = CPU if device is None else logical_device(device)
            if wanted is not CUDA:
                return _Base() if device is None else _Base(device=device)
            if gpu.watch.stream.capture is not None:
                raise RuntimeError(NOT_WHILE_CAPTURING.format("Cannot construct a new CUDAGeneratorImpl"))
            return make_generator(gpu)

    Generator.__module__ = "torch"
    Generator.__qualname__ = "Generator"
    return Generator


def make_generator(gpu: Gpu, cell: Any = None) -> CudaGenerator:
    """A new generator of the emulated device, known to `gpu` by its address for as long as it lives."""
    generator = CudaGenerator()
    generator.gpu = gpu
    if cell is None:
        cell = _Base()
        first = gpu.generator is None
        cell.manual_seed(torch.default_generator.initial_seed() if first else 67280421310721)
    generator.cell = cell
    # References for good: an operation hands back another Python object for the same generator.
    gpu.generators[generator._cdata] = cell
    gpu.handles.append(generator)
    return generator
