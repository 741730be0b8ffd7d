"""`torch.cuda.CUDAGraph` on the tape, and what stands beside it in `torch.cuda.graphs`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from .capture import Capture, new_pool_id
from .core import Gpu
from .errors import (
    DEVICE_ASSERT,
    EMPTY_GRAPH,
    INVALIDATED,
    NOT_PERMITTED,
    NOT_WHILE_CAPTURING,
    UNJOINED,
    cuda_error,
)


def make_graph_type(gpu: Gpu) -> type:
    """The class `torch.cuda.CUDAGraph`, bound to `gpu`: long, because it is one class and no more."""

    class CUDAGraph:
        """A recorded tape that `replay` runs again."""

        def __init__(self, keep_graph: bool = False) -> None:
            self._keep_graph = keep_graph
            self._recording: Capture | None = None
            self._graph: Capture | None = None
            self._stream: Any = None
            self._pool: Any = None
            self._check_liveness = False
            self._registered: list[Any] = []

        def capture_begin(
            self, pool: Any = None, capture_error_mode: str = "global", check_input_liveness: bool = False
        ) -> None:
            """Start recording on the current stream, which must not be the default one."""
            watch = gpu.watch
            if self._graph is not None:
                raise RuntimeError(
                    "This CUDAGraph instance already owns a captured graph. "
                    "To capture a new graph, create a new instance."
                )
            if watch.stream is gpu.default_stream:
                raise RuntimeError(
                    "CUDA graphs must be captured on a non-default stream. "
                    "(However, after capture, it's ok to replay them on the default stream.)"
                )
            if capture_error_mode not in ("global", "thread_local", "relaxed"):
                raise RuntimeError(
                    "Unknown capture error mode. Expected `global`, `thread_local`, or `relaxed`, "
                    f"got {capture_error_mode}"
                )
            if watch.stream.capture is not None:
                raise watch.stream.capture.break_off()
            self._stream = watch.stream
            self._pool = gpu.pool(pool)
            self._check_liveness = check_input_liveness
            self._recording = Capture(
                gpu.ledger, self._pool, [gpu.generator.cell, *self._registered], capture_error_mode
            )
            self._stream.capture = self._recording
            gpu.capturing.append(self._recording)

        def capture_end(self) -> None:
            """Stop recording; raises if anything inside broke the capture."""
            recording = self._recording
            if recording is None:
                raise cuda_error(NOT_PERMITTED)
            self._recording = None
            self._stream.capture = None
            unjoined = [stream for stream in recording.forked if stream.capture is recording]
            for stream in recording.joined | recording.forked:
                stream.capture = None
            gpu.capturing.remove(recording)
            with _disable_current_modes(), torch.inference_mode():
                recording.finish()
            if recording.invalid or unjoined:
                gpu.left_capturing |= {generator._cdata for generator in recording.generators}
                recording.release()
                raise cuda_error(INVALIDATED if recording.invalid else UNJOINED)
            if not recording.steps:
                warnings.warn(EMPTY_GRAPH, UserWarning, stacklevel=2)
            gpu.left_capturing -= {generator._cdata for generator in recording.generators}
            self._graph = recording
            gpu.captures += 1

        def instantiate(self) -> None:
            """Nothing to build."""
            self._require("instantiate")

        def replay(self) -> None:
            """Run the recorded operations on the recorded memory."""
            graph = self._require("replay")
            capture = gpu.watch.stream.capture
            if capture is not None:
                raise RuntimeError(
                    NOT_WHILE_CAPTURING.format("Cannot prepare for replay during capturing stage.")
                )
            if self._check_liveness and graph.lost_inputs():
                raise RuntimeError("An external input of this CUDA graph was deallocated before replay.")
            gpu.replays += 1
            stream = gpu.watch.stream
            try:
                with _disable_current_modes(), torch.inference_mode(), torch._C._DisableAutocast():
                    tick = gpu.order.before_replay(graph.blocks(), stream)
                    graph.replay()
                    gpu.order.wrote(graph.written(), stream, tick)
                    for target in graph.host_targets():
                        gpu.order.arrives_late(target, stream, tick)
            except RuntimeError as error:
                if DEVICE_ASSERT not in str(error):
                    raise
                gpu.pending = error  # reported where the program waits for the device, and from then on

        def _require(self, what: str) -> Capture:
            if self._graph is None:
                raise RuntimeError(f"Called CUDAGraph::{what} without a preceding successful capture.")
            return self._graph

        def reset(self) -> None:
            """Free the graph and its memory."""
            if self._graph is not None:
                self._graph.release()
                self._graph = None

        def __del__(self) -> None:
            graph = getattr(self, "_graph", None)
            if graph is not None:
                graph.release()

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("cannot pickle 'CUDAGraph' object")

        def pool(self) -> tuple[int, int]:
            """The handle of the pool this graph's memory is in."""
            if self._pool is None:
                raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
            return self._pool.id  # type: ignore[no-any-return]

        def register_generator_state(self, generator: Any) -> None:
            """Let `generator` draw inside this graph and advance with each replay."""
            known = gpu.generators.get(generator._cdata)
            if known is None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            self._registered.append(known)

        def enable_debug_mode(self) -> None:
            """Accepted; the tape has no dump."""

        def debug_dump(self, debug_path: str) -> None:
            """Accepted; the tape has no dump."""

        def raw_cuda_graph(self) -> int:
            """A number standing for `cudaGraph_t`."""
            return id(self._require("raw_cuda_graph"))

        def raw_cuda_graph_exec(self) -> int:
            """A number standing for `cudaGraphExec_t`."""
            return id(self._require("raw_cuda_graph_exec"))

    CUDAGraph.__module__ = "torch.cuda"
    CUDAGraph.__qualname__ = "CUDAGraph"
    return CUDAGraph


def graph_pool_handle() -> tuple[int, int]:
    """A handle for `torch.cuda.graph(pool=…)`."""
    return new_pool_id()
