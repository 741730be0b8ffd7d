"""Which operands of a CUDA kernel may stay in host memory, what fits the device, and errors where not."""

from __future__ import annotations

import math
from typing import Any

import torch

from .errors import out_of_memory, stray_argument, two_devices
from .execute import tensors_in
from .labels import CPU, CUDA, home_of, real_device
from .ops import Op


def check_placement(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise torch's own error unless every operand of `op` may be where it is.

    Elementwise kernels read a host operand of no dimension as a number, if it is not what they write to.
    """
    order: list[torch.device] = []
    strays: list[tuple[str, torch.device]] = []
    for index, name in enumerate(op.arguments):
        for tensor in tensors_in(op.argument(index, args, kwargs)):
            home = home_of(tensor)
            if home is not None and home.floating:
                continue
            device = CPU if home is None else home.device
            if device is CPU and real_device(tensor).type != "cpu":
                continue
            if device is not CUDA:
                if op.wants_host(index):
                    continue
                if op.lenient and tensor.dim() == 0 and index not in op.writes:
                    continue
            order.append(device)
            if device is not order[0]:
                strays.append((name, device))
    if not strays:
        return
    if op.lenient:
        raise two_devices(CUDA, CPU)
    name, device = strays[0]
    raise stray_argument(name, device, order[0], op.name)


TOTAL_MEMORY = 80 * 1024**3


def require_memory(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise torch's own error for a new tensor larger than the device."""
    size = op.argument(op.arguments.index("size"), args, kwargs) if "size" in op.arguments else None
    if not isinstance(size, (list, tuple)) or not all(isinstance(n, int) for n in size):
        return
    given = kwargs.get("dtype") or torch.get_default_dtype()
    needed = math.prod(size) * given.itemsize
    if needed > TOTAL_MEMORY:
        raise out_of_memory(needed, TOTAL_MEMORY)
