"""Modules that a target holds without being one: a trainer's, those of a file, those in a closure.

A training step is often a method of a plain class, or a function beside a model of the file, or one that a
factory returned. What it trains is then nobody's ``state_dict``, and what it returns says little about it: a
running average may be looked at for the first time an hour later.
"""

from __future__ import annotations

import functools
import pickle
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .holdings import FUNCTION, modules
from .observe import STATE_LIMIT, Leaves, Recorder
from .trees import Subject

DEPTH = 4  # functions around functions

Held = list[tuple[str, nn.Module]]


def held(subject: Subject, root: Path) -> Held:
    """Modules by public names, with the prefix of their paths; each once, and no part of the target."""
    seen = {id(m) for m in subject.network.modules()} if subject.network is not None else set()
    found: Held = []
    for path, value in named(subject, root):
        network = value if isinstance(value, nn.Module) else _wrapped(value)
        if network is not None and id(network) not in seen:
            seen |= {id(m) for m in network.modules()}
            found.append((path, network))
    return found


def named(subject: Subject, root: Path) -> Iterator[tuple[str, Any]]:
    """Paths and values of everything a target may hold beside itself."""
    owner = subject.owner
    if subject.network is None and owner is not None and not isinstance(owner, types.FunctionType):
        yield from _public("self", getattr(owner, "__dict__", {}))
    yield from closed_over(subject.call)
    for module in modules(subject, root):
        yield from _public(module.__name__, vars(module))


def beside(subject: Subject, root: Path) -> Iterator[tuple[str, Any]]:
    """What a closure and a file hold: whatever is the owner's own is looked at there."""
    return ((path, value) for path, value in named(subject, root) if not path.startswith("self."))


def _public(prefix: str, names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(names.items()):
        if isinstance(name, str) and not name.startswith("_"):
            yield f"{prefix}.{name}", value


def closed_over(call: Any, depth: int = DEPTH, label: str = "") -> Iterator[tuple[str, Any]]:
    """What a function, and the functions in its cells, remember under public names.

    The path has the name of the outermost: a rewrite may move what it captures into another function.
    """
    call = getattr(call, "__func__", call)
    if isinstance(call, functools.partial):
        yield from closed_over(call.func, depth, label)
        return
    if not isinstance(call, types.FunctionType) or not depth:
        return
    label = label or call.__name__
    for name, cell in zip(call.__code__.co_freevars, call.__closure__ or (), strict=False):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if isinstance(value, (types.FunctionType, functools.partial)):
            yield from closed_over(value, depth - 1, label)
        elif not name.startswith("_"):
            yield f"{FUNCTION}{label}.{name}", value


def _wrapped(value: Any) -> nn.Module | None:
    """The module behind an object that stands for one, as a wrapper with a graph does."""
    inner = getattr(value, "__wrapped__", None) if not isinstance(value, types.FunctionType) else None
    return inner if isinstance(inner, nn.Module) else None


def doubled(subject: Subject, root: Path) -> list[tuple[Tensor, torch.dtype]]:
    """Put the target and what it holds into float64; gives back what it holds with the dtypes it had."""
    if subject.network is not None:
        subject.network.double()
    networks = [network for _, network in held(subject, root)]
    tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    before = [(t, t.dtype) for t in tensors if t.is_floating_point()]
    for network in networks:
        network.double()
    return before


def narrowed(tensors: list[tuple[Tensor, torch.dtype]]) -> None:
    """Undo it: a model of a file that is not imported anew is there for the next run."""
    for t, dtype in tensors:
        t.data, t.grad = t.data.to(dtype), None


def pickled(network: nn.Module) -> nn.Module:
    """The module written and read again, on the device it was on, as a checkpoint of a whole module is."""
    device = next((p.device for p in network.parameters()), None)
    made: nn.Module = pickle.loads(pickle.dumps(network))
    return made.to(device) if device is not None else made


def size(found: Held) -> int:
    """Elements of their state."""
    return sum(
        t.numel() for _, m in found for t in m.state_dict(keep_vars=True).values() if isinstance(t, Tensor)
    )


def state(found: Held, recorder: Recorder, index: int, at_end: bool = False) -> Leaves:
    """Keys and values of their ``state_dict``; large ones only at the end."""
    out: Leaves = []
    if at_end or size(found) <= STATE_LIMIT:
        for path, network in found:
            for key, value in network.state_dict(keep_vars=True).items():
                if isinstance(value, Tensor):
                    out += recorder.leaves(value.detach(), f"{path}: {key}", f"{index}:")
    return out


def gradients(found: Held, recorder: Recorder, index: int, at_end: bool = False) -> Leaves:
    """``grad`` of their parameters, None included."""
    out: Leaves = []
    if at_end or size(found) <= STATE_LIMIT:
        for path, network in found:
            for name, p in network.named_parameters():
                out += recorder.leaves(p.grad, f"{path}: grad of {name}", f"{index}:")
    return out
