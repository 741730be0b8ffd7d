"""`torch.Generator` on the emulated device: a CPU generator that says `cuda:0`."""

from __future__ import annotations

from typing import Any

import torch

from .core import Gpu
from .errors import NOT_WHILE_CAPTURING
from .labels import CPU, CUDA, logical_device

_Base: Any = torch._C.Generator


class CudaGenerator(_Base):  # type: ignore[misc]
    """A generator of the emulated device."""

    @property
    def device(self) -> torch.device:
        """The logical device."""
        return CUDA


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


def make_generator(gpu: Gpu) -> CudaGenerator:
    """A new generator of the emulated device, known to `gpu` by its address for as long as it lives."""
    generator = CudaGenerator()
    generator.manual_seed(torch.default_generator.initial_seed() if gpu.generator is None else 67280421310721)
    # A reference for good: an operation hands back another Python object for the same generator.
    gpu.generators[generator._cdata] = generator
    return generator
