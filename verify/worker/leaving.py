"""What a call leaves behind for everything that comes after it: settings of the process, flags, hooks."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules

from .observe import Leaves, state_tensors
from .trees import Subject, under

NOISY = ("TORCH", "PYTORCH", "TRITON", "KINETO", "PYTEST")  # variables that libraries set where they are used
SETTLED = 3  # calls that may add a hook each: a rewrite may keep one of its own for every part
_HOOKS = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_GLOBAL_HOOKS = (
    "_global_backward_pre_hooks", "_global_backward_hooks",
    "_global_forward_pre_hooks", "_global_forward_hooks",
)  # fmt: skip


def flags(
    subject: Subject, before: Mapping[str, str], after: Mapping[str, str], held: Mapping[str, Tensor]
) -> Leaves:
    """Settings of the process after a call, which hold for everything that comes after it.

    ``before`` and ``after`` are what `settings` gave right before and right after the call: of the others
    only those a call leaves changed count. ``held`` are the parameters before the call: an optimizer goes on
    with these objects.
    """
    found = {
        "gradients are on": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "autocast is on": torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu"),
    }
    leaves: Leaves = [
        [f"setting of torch: {name}", ["value", "setting", str(v)]] for name, v in found.items()
    ]
    for name, value in after.items():
        same = before.get(name) == value
        text = "as before the call" if same else f"left at {value}"
        leaves.append([f"setting of the process: {name}", ["value", "setting", text]])
    for name, t in state_tensors(subject).items():
        if isinstance(t, nn.Parameter):
            leaves.append([f"requires_grad of {name}", ["value", "bool", str(t.requires_grad)]])
            other = name in held and held[name] is not t
            leaves.append(
                [f"parameter {name}", ["value", "parameter", "another object" if other else "kept"]]
            )
    return leaves


def said(left: Mapping[str, str]) -> Leaves:
    """Whether filters of warnings and standard output are what they were before the call."""
    return [[f"setting of the process: {name}", ["value", "setting", text]] for name, text in left.items()]


def settings() -> dict[str, str]:
    """Settings of the process that a call may change and forget to put back."""
    cuda: Any = torch.cuda
    kernels: Any = torch.backends.cuda
    matmul, cudnn = kernels.matmul, torch.backends.cudnn
    found: dict[str, Any] = {
        "collection of garbage": gc.isenabled(),
        "working directory": os.getcwd(),
        "path of modules": sys.path,
        "limit of recursion": sys.getrecursionlimit(),
        "when garbage is collected": gc.get_threshold(),
        "handler of interrupts": _named(signal.getsignal(signal.SIGINT)),
        "hook for exceptions": _named(sys.excepthook),
        "how tensors are printed": vars(torch._tensor_str.PRINT_OPTS),
        "every warning is given": torch.is_warn_always_enabled(),
        "variables of the environment": _environment(),
        "level below which nothing is logged": logging.root.manager.disable,
        "level of the root logger": logging.root.level,
        "threads": torch.get_num_threads(),
        "default device": torch.get_default_device(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "detection of anomalies": torch.is_anomaly_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "hooks for saved tensors": _saving(),
        "modes of torch functions": torch._C._len_torch_function_stack(),
        "cache of autocast": torch.is_autocast_cache_enabled(),
        "cudnn.benchmark": cudnn.benchmark,
        "cudnn.deterministic": cudnn.deterministic,
        "cudnn.enabled": cudnn.enabled,
        "cudnn.allow_tf32": cudnn.allow_tf32,
        "sums of float16 products": matmul.allow_fp16_reduced_precision_reduction,
        "sums of bfloat16 products": matmul.allow_bf16_reduced_precision_reduction,
        "attention kernels": (
            kernels.flash_sdp_enabled(),
            kernels.mem_efficient_sdp_enabled(),
            kernels.math_sdp_enabled(),
        ),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        found["errors of NumPy"] = numpy.geterr()
        found["how arrays are printed"] = numpy.get_printoptions()
    if cuda.is_available() and cuda.is_initialized():
        found["current device"] = cuda.current_device()
        found["current stream is the default one"] = cuda.current_stream() == cuda.default_stream()
    return {name: str(value) for name, value in found.items()}


def replaced(root: Path) -> Leaves:
    """Functions of torch in whose place the program has put one of its own, for everybody."""
    found = [
        f"{owner.__name__}.{name}"
        for owner in (torch, torch.nn.functional, Tensor, nn.Module)
        for name, value in vars(owner).items()
        if isinstance(value, types.FunctionType) and under(value.__code__.co_filename, root)
    ]
    text = ", ".join(sorted(found)) or "none"
    return [["functions of torch that the program replaces", ["value", "functions", text]]]


def _named(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))


def _saving() -> bool:
    """Whether hooks for saved tensors are on; which function of torch tells it depends on the release."""
    told: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if told is None:
        return False
    try:
        return told(True) is not None
    except TypeError:
        return told() is not None


def _environment() -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(NOISY)}
    return ", ".join(f"{k}={v}" for k, v in sorted(kept.items()))


class Hooks:
    """Whether calls go on adding hooks to modules and parameters, instance by instance."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._risen: dict[int, int] = {}

    def left(self, index: int, networks: list[nn.Module]) -> Leaves:
        """One leaf: whether more hooks have come with more than a few calls."""
        count = sum(1 for network in networks for _ in hooks_of(network)) + sum(
            len(getattr(_modules, name, ())) for name in _GLOBAL_HOOKS
        )
        before = self._last.setdefault(index, count)
        self._risen[index] = self._risen.get(index, 0) + (count > before)
        self._last[index] = count
        text = "come with every call" if self._risen[index] > SETTLED else "are taken off again"
        return [["hooks of modules", ["value", "hooks", text]]] if networks else []


def hooks_of(network: nn.Module) -> Iterator[Any]:
    """Every hook of a module, of its parts and of its parameters."""
    for part in network.modules():
        for name in _HOOKS:
            with contextlib.suppress(TypeError):
                yield from getattr(part, name, None) or ()
    for p in network.parameters():
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            with contextlib.suppress(TypeError):
                yield from getattr(p, name, None) or ()
