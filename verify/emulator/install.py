"""Putting the emulated device into a process, and taking it out again."""

from __future__ import annotations

from typing import Any

import torch

from .autocast import CudaAutocast
from .compat import patch_compat
from .core import Gpu
from .cuda_api import MemPool, Nvtx, make_accelerator_functions, make_cuda_functions, use_mem_pool
from .factories import (
    make_ctc_loss,
    make_factories,
    make_grouping,
    make_half_transforms,
    make_hidden_waits,
    make_one_hot,
)
from .generators import make_generator_type
from .graphs import graph_pool_handle, make_graph_type
from .labels import is_cuda
from .ordinals import patch_ordinals
from .patches import Patches
from .refusals import patch_refusals
from .storages import patch_storages
from .streams import make_any_stream, make_stream_types
from .tensor_api import make_tensor_methods, parse_to
from .threads import watch_threads


class Emulator:
    """The emulated device of this process."""

    def __init__(self) -> None:
        self._gpu = Gpu()
        self._patches = Patches()
        self._autocast = CudaAutocast(self._gpu)
        self._remove_loader: Any = None

    @property
    def captures(self) -> int:
        """How many captures ended well."""
        return self._gpu.captures

    @property
    def replays(self) -> int:
        """How many replays ran."""
        return self._gpu.replays

    def poison_empty(self, on: bool) -> None:
        """Fill what `aten::empty*` returns with NaN or the smallest integer: unwritten results show."""
        self._gpu.poison_empty = on

    def in_flight(self, tensors: list[torch.Tensor]) -> None:
        """Count tensors as being written by the current stream: another one has to wait for it."""
        order, stream = self._gpu.order, self._gpu.watch.stream
        order.in_flight((t for t in tensors if is_cuda(t)), stream)

    def enter(self) -> None:
        """Replace what must be replaced and enter the dispatch mode in this thread.

        Long, because it is the list of everything that is replaced.
        """
        gpu, patches = self._gpu, self._patches
        streams = make_stream_types(gpu)
        functions = make_cuda_functions(gpu)
        graph_type = make_graph_type(gpu)
        patches.set_all(torch.cuda, functions | streams)
        patches.set_all(
            torch.cuda,
            {
                "CUDAGraph": graph_type,
                "graph_pool_handle": graph_pool_handle,
                "MemPool": MemPool,
                "use_mem_pool": use_mem_pool,
            },
        )
        patches.set_all(
            torch.cuda.graphs,
            {
                "CUDAGraph": graph_type,
                "graph_pool_handle": graph_pool_handle,
                "is_current_stream_capturing": functions["is_current_stream_capturing"],
            },
        )
        patches.set(torch.cuda.graph, "default_capture_stream", None)
        patches.set_all(
            torch.cuda.random,
            {
                name: functions[name]
                for name in (
                    "manual_seed",
                    "manual_seed_all",
                    "get_rng_state",
                    "set_rng_state",
                    "seed",
                    "seed_all",
                )
            },
        )
        patches.set(torch._C, "_host_emptyCache", functions["empty_cache"])
        patches.set(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        patches.set(torch.cuda.nvtx, "_nvtx", Nvtx())
        if hasattr(torch, "accelerator"):
            patches.set_all(
                torch.accelerator,
                {
                    name: value
                    for name, value in make_accelerator_functions(
                        gpu, streams, functions["synchronize"]
                    ).items()
                    if hasattr(torch.accelerator, name)
                },
            )
        patches.set_all(torch.Tensor, make_tensor_methods(gpu))
        patches.set_all(torch, make_factories(gpu))
        patches.set(torch, "compile", _compile)
        patches.set(torch, "Generator", make_generator_type(gpu))
        patches.set_all(torch.fft, make_half_transforms())
        hidden = make_hidden_waits(gpu)
        patches.set_all(torch, hidden)
        patches.set_all(torch.Tensor, hidden)
        patches.set(torch, "ctc_loss", make_ctc_loss(gpu))
        patches.set(torch._C, "_group_tensors_by_device_and_dtype", make_grouping())
        patches.set(torch._C._nn, "_parse_to", parse_to)
        patches.set(torch, "Stream", make_any_stream(torch.Stream, streams["Stream"]))
        patches.set(torch, "Event", make_any_stream(torch.Event, streams["Event"]))
        patches.set(torch.nn.functional, "one_hot", make_one_hot(gpu))
        self._remove_loader = patch_storages(gpu, patches)
        self._autocast.patch(patches)
        patch_compat(gpu, patches)
        patch_refusals(patches)
        patch_ordinals(patches)
        watch_threads(gpu, patches)
        gpu.watch.__enter__()  # type: ignore[no-untyped-call]

    def uninstall(self) -> None:
        """Take the device out of this process; tensors on it become CPU tensors."""
        global _installed
        if _installed is not self:
            return
        self._gpu.watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._remove_loader()
        self._autocast.close()
        self._patches.undo()
        torch._C._set_sdp_use_flash(True)
        _installed = None


def _compile(model: Any = None, **options: Any) -> Any:
    """`torch.compile` for a device that no compiler knows: the program runs as it is written."""
    return (lambda fn: fn) if model is None else model


# One process has one torch: installing twice must find the first.
_installed: Emulator | None = None


def install() -> Emulator:
    """Give this process the emulated device; a second call returns the first one's emulator."""
    global _installed
    if _installed is None:
        _installed = Emulator()
        _installed.enter()
    return _installed
