"""A float64 run of the original: floating dtypes promoted, host reads and random draws from a recording.

``Record`` watches a run in working precision; ``Promote`` runs the same sequence in float64. A module that
casts inside (``x.half()``, ``x.to(torch.float32)``, constants built in forward) is promoted as well, because
casts and factories are rewritten at dispatch, below the user's code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
LOW = (torch.float16, torch.bfloat16, torch.float32)
_READS = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default)


class Recording:
    """What a run read on the host, and what it drew, in order."""

    def __init__(self) -> None:
        self.reads: list[Any] = []
        self.draws: list[list[Tensor]] = []


def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments an operation writes into."""
    out = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            out += [v for v in tree_leaves(value) if isinstance(v, Tensor)]
    return out


class Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps host reads and random draws of a run."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _READS:
            self.recording.reads.append(result)
        elif _draws(func):
            self.recording.draws.append(
                [t.detach().clone() for t in tree_leaves(result) if isinstance(t, Tensor)]
            )
        return result


class Promote(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs floating operations in float64; reads and draws come from the recording while it lasts."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = list(recording.reads)
        self.draws = list(recording.draws)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _READS:
            value = func(*tree_map(_up, args), **kwargs)
            return self.reads.pop(0) if self.reads else value
        if _draws(func) and self.draws:
            return self._draw(func, args, kwargs)
        written = {id(t): t for t in _written(func, args, kwargs)}
        if written and not any(t.dtype in LOW for t in written.values()):
            written = {}
        copies: dict[int, Tensor] = {}

        def promote(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dtype in LOW:
                raised = _up(value)
                if id(value) in written:
                    copies[id(value)] = raised
                return raised
            return torch.float64 if isinstance(value, torch.dtype) and value in LOW else value

        args, kwargs = tree_map(promote, args), tree_map(promote, kwargs)
        if func in (aten._softmax.default, aten._log_softmax.default):
            args = (*args[:2], False)
        result = func(*args, **kwargs)
        for key, raised in copies.items():
            if raised is not written[key]:
                written[key].copy_(raised)
        back = {id(raised): written[key] for key, raised in copies.items()}
        return tree_map(lambda v: back.get(id(v), _up(v)) if isinstance(v, Tensor) else v, result)

    def _draw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorded = self.draws.pop(0)
        if func is aten.native_dropout.default:
            mask = recorded[1]
            return _up(args[0]) * mask / max(1.0 - float(args[1]), 1e-12), mask
        written = _written(func, args, kwargs)
        if written:
            for target, value in zip(written, recorded, strict=False):
                target.copy_(value)
            return written[0] if len(written) == 1 else tuple(written)
        raised = [_up(t) for t in recorded]
        return raised[0] if len(raised) == 1 else tuple(raised)


def _up(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype in LOW else value
