"""The functions of `torch.cuda` (and of `torch.accelerator`) about the device itself."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import torch

from .core import Gpu
from .errors import cuda_error
from .generators import make_generator
from .labels import CUDA, logical_device
from .placement import TOTAL_MEMORY

NAME = "Emulated CUDA device"
CAPABILITY = (9, 0)


def _index(device: Any) -> int:
    if device is None:
        return 0
    found = logical_device(device)
    if found is not CUDA:
        raise ValueError(f"Expected a cuda device, but got: {found}")
    return 0


def _properties(device: Any = None) -> Any:
    _index(device)
    return SimpleNamespace(
        name=NAME,
        major=CAPABILITY[0],
        minor=CAPABILITY[1],
        total_memory=TOTAL_MEMORY,
        multi_processor_count=132,
        is_integrated=0,
        is_multi_gpu_board=0,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=232448,
        shared_memory_per_multiprocessor=233472,
        warp_size=32,
        L2_cache_size=50 * 1024**2,
        gcnArchName="",
        uuid="emulated",
        pci_bus_id=0,
        pci_device_id=0,
        pci_domain_id=0,
    )


class _Device:
    """`torch.cuda.device`: there is one, so nothing changes."""

    def __init__(self, device: Any) -> None:
        self.idx = -1 if device is None or device == -1 else _index(device)
        self.prev_idx = -1

    def __enter__(self) -> None:
        self.prev_idx = 0

    def __exit__(self, *exc: object) -> None:
        self.prev_idx = -1


class _DeviceOf(_Device):
    """`torch.cuda.device_of`."""

    def __init__(self, obj: Any) -> None:
        super().__init__(0 if obj.is_cuda else -1)


_NUMBERS = [
    "memory_allocated",
    "max_memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
    "memory_cached",
    "max_memory_cached",
    "utilization",
    "memory_usage",
    "temperature",
    "power_draw",
    "clock_rate",
    "device_memory_used",
]
_SILENT = [
    "empty_cache",
    "reset_peak_memory_stats",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_accumulated_memory_stats",
    "set_per_process_memory_fraction",
    "ipc_collect",
    "init",
    "_lazy_init",
    "_lazy_call",
    "_sleep",
    "_check_capability",
    "_check_cubins",
    "set_device",
]


def make_cuda_functions(gpu: Gpu) -> dict[str, Any]:
    """Replacements for functions of `torch.cuda`, bound to `gpu`.

    Long, because it is a list of small functions, one for each name.
    """

    def synchronize(device: Any = None) -> None:
        _index(device)
        gpu.forbid_while_capturing()
        gpu.raise_pending()
        gpu.order.host_sees(gpu.order.latest)

    def manual_seed(seed: int) -> None:
        gpu.generator.manual_seed(int(seed))
        if gpu.watch.stream.capture is not None:
            gpu.watch.stream.capture.reseeded(gpu.generator.cell)

    def get_rng_state(device: Any = "cuda") -> torch.Tensor:
        return gpu.generator.get_state()  # type: ignore[no-any-return]

    def set_rng_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
        gpu.generator.set_state(new_state)

    def set_sync_debug_mode(debug_mode: int | str) -> None:
        modes: dict[int | str, int] = {"default": 0, "warn": 1, "error": 2, 0: 0, 1: 1, 2: 2}
        if debug_mode not in modes:
            raise RuntimeError("invalid value of debug_mode, expected one of `default`, `warn`, `error`")
        gpu.sync_debug = modes[debug_mode]

    def memory_stats(device: Any = None) -> OrderedDict[str, Any]:
        return OrderedDict((f"{name}.all.{kind}", 0) for name in _STATISTICS for kind in _KINDS)

    def seed() -> None:
        gpu.generator.seed()

    functions: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_initialized": True,
        "device_count": lambda: 1,
        "_device_count_nvml": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": _properties,
        "get_arch_list": lambda: ["sm_90"],
        "get_gencode_flags": lambda: "",
        "can_device_access_peer": lambda device, peer_device: False,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_tf32_supported": lambda: True,
        "device": _Device,
        "device_of": _DeviceOf,
        "synchronize": synchronize,
        "current_blas_handle": lambda: 0,
        "mem_get_info": lambda device=None: (TOTAL_MEMORY, TOTAL_MEMORY),
        "memory_stats": memory_stats,
        "memory_stats_as_nested_dict": lambda device=None: {},
        "memory_summary": lambda device=None, abbreviated=False: "",
        "memory_snapshot": lambda mempool_id=None, include_traces=True: [],
        "list_gpu_processes": lambda device=None: "",
        "manual_seed": manual_seed,
        "manual_seed_all": lambda seed: manual_seed(seed),
        "seed": seed,
        "seed_all": lambda: seed(),
        "initial_seed": lambda: gpu.generator.initial_seed(),
        "get_rng_state": get_rng_state,
        "get_rng_state_all": lambda: [get_rng_state()],
        "set_rng_state": set_rng_state,
        "set_rng_state_all": lambda new_states: set_rng_state(next(iter(new_states))),
        "set_sync_debug_mode": set_sync_debug_mode,
        "get_sync_debug_mode": lambda: gpu.sync_debug,
        "is_current_stream_capturing": lambda: gpu.watch.stream.capture is not None,
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
        "_is_in_bad_fork": lambda: False,
        "get_stream_from_external": None,
    }
    functions.pop("get_stream_from_external")
    functions |= {name: _constant(name, 0) for name in _NUMBERS}
    functions |= {name: _constant(name, None) for name in _SILENT}
    gpu.generator = make_generator(gpu)
    functions["default_generators"] = (gpu.generator,)
    return functions


_STATISTICS = (
    "allocated_bytes",
    "reserved_bytes",
    "active_bytes",
    "inactive_split_bytes",
    "allocation",
    "segment",
)
_KINDS = ("current", "peak", "allocated", "freed")


def _constant(name: str, value: Any) -> Any:
    """A function of its own for each name (torch keeps tables keyed by function), accepted without effect."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return value

    function.__name__ = function.__qualname__ = name
    return function


class MemPool:
    """`torch.cuda.MemPool`: a handle; memory is the host's."""

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, **kwargs: Any) -> None:
        from .capture import new_pool_id

        self.id = new_pool_id()
        self.allocator = allocator

    def use_count(self) -> int:
        """One holder: this object."""
        return 1

    def snapshot(self, include_traces: bool = True) -> list[Any]:
        """No segments."""
        return []


@contextlib.contextmanager
def use_mem_pool(pool: Any, device: Any = None) -> Any:
    """Accepted; memory is the host's."""
    yield


def make_accelerator_functions(gpu: Gpu, streams: dict[str, Any], synchronize: Any) -> dict[str, Any]:
    """Replacements for functions of `torch.accelerator`."""
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "current_device_idx": lambda: 0,
        "set_device_index": _constant("set_device_index", None),
        "set_device_idx": _constant("set_device_idx", None),
        "current_stream": streams["current_stream"],
        "set_stream": streams["set_stream"],
        "synchronize": synchronize,
        "device_index": _Device,
        "empty_cache": _constant("empty_cache", None),
        "memory_allocated": lambda device_index=None: 0,
        "memory_reserved": lambda device_index=None: 0,
        "max_memory_allocated": lambda device_index=None: 0,
        "max_memory_reserved": lambda device_index=None: 0,
        "reset_peak_memory_stats": _constant("reset_peak_memory_stats", None),
        "get_memory_info": lambda device_index=None: (TOTAL_MEMORY, TOTAL_MEMORY),
    }


class Nvtx:
    """Stands for `torch._C._nvtx`: ranges and marks that no profiler reads."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: 0


__all__ = [
    "MemPool",
    "Nvtx",
    "cuda_error",
    "make_accelerator_functions",
    "make_cuda_functions",
    "use_mem_pool",
]
