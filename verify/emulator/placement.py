"""Which operands of a CUDA kernel may stay in host memory, and the error when one may not."""

from __future__ import annotations

from typing import Any

import torch

from .errors import stray_argument, two_devices
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
