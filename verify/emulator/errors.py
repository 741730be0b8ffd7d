"""CUDA's own words, so that a program fails here as it would on a GPU.

Texts as torch 2.11 gave them on an H100, and as `c10/cuda/CUDAException.cpp`, `ATen/native/cuda/Copy.cu` and
`ATen/cuda/CUDAGraph.cpp` spell them.
"""

from __future__ import annotations

import warnings

import torch

NOT_PERMITTED = "operation not permitted when stream is capturing"
INVALIDATED = "operation failed due to a previous error during capture"
UNJOINED = "capturing stream has unjoined work"
DEVICE_ASSERT = "device-side assert triggered"
UNPINNED_COPY = (
    "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned. "
    "Please use tensor.pin_memory() or allocate the tensor with pin_memory=True."
)
EVENT_OF_CAPTURE = "operation not permitted on an event last recorded in a capturing stream"
FOREIGN_GENERATOR = "Attempt to increase offset for a CUDA generator not in capture mode."
LEFT_CAPTURING = "Offset increment outside graph capture encountered unexpectedly."
NOT_WHILE_CAPTURING = (
    "{} during CUDA graph capture. If you need this call to be captured, please file an issue. "
    "Current cudaStreamCaptureStatus: cudaStreamCaptureStatusActive"
)
NOT_EMULATED = "{} is not emulated on the device: verify this program on a GPU, with --device cuda"
SYNCHRONIZING = "called a synchronizing CUDA operation"
EMPTY_GRAPH = (
    "The CUDA Graph is empty. "
    "This usually means that the graph was attempted to be captured on wrong device or stream."
)

_NAMES = {
    NOT_PERMITTED: "cudaErrorStreamCaptureUnsupported",
    INVALIDATED: "cudaErrorStreamCaptureInvalidated",
    UNJOINED: "cudaErrorStreamCaptureUnjoined",
    DEVICE_ASSERT: "cudaErrorAssert",
    EVENT_OF_CAPTURE: "cudaErrorCapturedEvent",
    "invalid device ordinal": "cudaErrorInvalidDevice",
}


def cuda_error(what: str) -> RuntimeError:
    """The exception a failed CUDA call becomes: `torch.AcceleratorError` where torch has it (2.8 on)."""
    kind: type[RuntimeError] = getattr(torch, "AcceleratorError", RuntimeError)
    name = _NAMES.get(what, "cudaErrorUnknown")
    return kind(
        f"CUDA error: {what}\n"
        f"Search for `{name}' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html"
        " for more information.\n"
        "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below"
        " might be incorrect.\n"
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
    )


def out_of_memory(needed: int, total: int) -> RuntimeError:
    """What the caching allocator says when the device has no room left."""
    gib = 1024**3
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {needed / gib:.2f} GiB. "
        f"GPU 0 has a total capacity of {total / gib:.2f} GiB of which {total / gib:.2f} GiB is free."
    )


def two_devices(first: torch.device, second: torch.device) -> RuntimeError:
    """What an elementwise kernel says of operands on two devices."""
    return RuntimeError(
        "Expected all tensors to be on the same device, "
        f"but found at least two devices, {first} and {second}!"
    )


def stray_argument(name: str, device: torch.device, common: torch.device, where: str) -> RuntimeError:
    """What the generated device check of a CUDA kernel says of the argument that is elsewhere."""
    return RuntimeError(
        f"Expected all tensors to be on the same device, but got {name} is on {device}, different from other "
        f"tensors on {common} (when checking argument in method wrapper_CUDA_{where})"
    )


def warn_synchronizing() -> None:
    """The warning of `torch.cuda.set_sync_debug_mode("warn")`, at the program's line that synchronised."""
    warnings.warn(f"{SYNCHRONIZING} (emulated)", UserWarning, stacklevel=_program_depth())


def _program_depth() -> int:
    """How many frames up the first one outside this package and torch is."""
    import sys

    depth = 1
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if not any(part in name for part in _OWN):
            return depth
        frame = frame.f_back
        depth += 1
    return depth


_OWN = (__file__.rsplit("errors.py", 1)[0], torch.__file__.rsplit("__init__.py", 1)[0])
