"""A float64 run of the original: floating dtypes promoted, host reads and random draws from a recording.

``Record`` watches a run in working precision; ``Promote`` runs the same sequence in float64. A module that
casts inside (``x.half()``, ``x.to(torch.float32)``, constants built in forward) is promoted as well, because
casts and factories are rewritten at dispatch, below the user's code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
LOW = (torch.float16, torch.bfloat16, torch.float32)
# Operations that add up: in which order is nobody's promise, so their last places are not either.
_SUMS = {
    "linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "einsum",
    "inner", "tensordot", "bilinear", "convolution", "_convolution", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sum", "nansum", "mean", "var",
    "var_mean", "std", "std_mean", "norm", "linalg_vector_norm", "linalg_matrix_norm", "cumsum", "prod",
    "logsumexp", "softmax", "_softmax", "log_softmax", "_log_softmax", "layer_norm", "native_layer_norm",
    "rms_norm", "_fused_rms_norm", "group_norm", "native_group_norm", "batch_norm", "native_batch_norm",
    "cudnn_batch_norm", "_native_batch_norm_legit", "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
}  # fmt: skip
# Where the two factors stand among the arguments.
_PRODUCTS = {
    "linear": 0, "matmul": 0, "mm": 0, "bmm": 0, "mv": 0, "dot": 0, "convolution": 0, "conv1d": 0,
    "conv2d": 0, "conv3d": 0, "addmm": 1, "baddbmm": 1, "addmv": 1,
}  # fmt: skip
_READS = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default)


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that torch does not wrap for compilation, which would cost as much as the operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    supports_higher_order_operators = True

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """Run an operation that calls functions, such as `torch.cond`, as its eager kernel, in this mode."""
        kernel = func.py_kernels[torch._C.DispatchKey.CompositeExplicitAutograd]
        with self:
            if func.name() == "cond":  # whose kernel wants no mode around it
                predicate, then, otherwise, operands = args
                return then(*operands) if predicate else otherwise(*operands)
            return kernel(*args, **(kwargs or {}))


class Counting(_Mode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self.inside(func, args, kwargs)
        self.operations += 1
        return func(*args, **(kwargs or {}))


class Recording:
    """What a run read on the host, and what it drew, in order."""

    def __init__(self) -> None:
        self.reads: list[Any] = []
        self.draws: list[list[Tensor]] = []


def ulps(dtype: torch.dtype) -> float:
    """Relative size of a disturbance: sums in half precision are kept in float32 and rounded once."""
    return torch.finfo(dtype).eps * (0.5 if dtype in (torch.float16, torch.bfloat16) else 2.0)


def disturbed(t: Tensor, generator: torch.Generator, terms: Tensor | None = None) -> Tensor:
    """The same values up to a few units in the last place.

    ``terms`` is the root of the sum of the squared terms that were added up: what cancelled leaves roundings.
    """
    noise = torch.randn(t.shape, generator=generator, dtype=torch.float32).to(t.device).double()
    moved = t.double() * (1 + ulps(t.dtype) * noise)
    if terms is not None and terms.shape == t.shape:
        more = 2 * torch.finfo(torch.promote_types(t.dtype, torch.float32)).eps * terms.double()
        moved = torch.where(more.isfinite(), moved + more * noise, moved)
    return moved.to(t.dtype)


def _terms(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Root of the sum of the squared products behind every element of a matrix product or convolution."""
    name = func.overloadpacket.__name__
    place = _PRODUCTS.get(name)
    if place is None or len(args) < place + 2 or kwargs.get("dtype") is not None:
        return None
    a, b = args[place], args[place + 1]
    if not all(isinstance(t, Tensor) and t.is_floating_point() for t in (a, b)):
        return None
    a, b = a.detach().float().square(), b.detach().float().square()
    if name in ("linear", "convolution", "conv1d", "conv2d", "conv3d"):
        options = {key: value for key, value in kwargs.items() if key != "bias"}
        squared: Tensor = func(a, b, None, *args[3:], **options)
        return squared.sqrt()
    return torch.matmul(a, b).sqrt()


class Disturb(_Mode):
    """Moves what sums and products of matrices return by a few units in the last place.

    Disturbing the inputs alone shows nothing where they are zero or tiny: equal rows stay equal. Which of
    several equal values `topk` and an unstable `sort` name first is left to chance: NaN ties with NaN.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self.inside(func, args, kwargs)
        if func in (aten.topk.default, aten.sort.default):
            return self._reordered(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _SUMS and not _written(func, args, kwargs or {}):
            if isinstance(result, Tensor) and result.is_floating_point() and result.layout is torch.strided:
                return disturbed(result, self.generator, _terms(func, args, kwargs or {}))
            return tree_map(self._moved, result)
        return result

    def _reordered(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run on the entries in another order along the dimension; indices are those of the given order."""
        data, place = args[0], 2 if func is aten.topk.default else 1
        if data.dim() == 0:
            return func(*args, **kwargs)
        dim = args[place] if len(args) > place else kwargs.get("dim", -1)
        order = torch.randperm(data.shape[dim], generator=self.generator).to(data.device)
        values, index = func(data.index_select(dim, order), *args[1:], **kwargs)
        return values, order[index]

    def _moved(self, value: Any) -> Any:
        moves = isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided
        return disturbed(value, self.generator) if moves else value


class Inexact(Disturb):  # type: ignore[no-untyped-call]
    """Moves, of every operation, only what it has rounded: what float64 gives as well stays as it is.

    Inputs are left alone. A value that no such run moves was computed without a rounding that matters,
    however near it lies to where a step or a comparison turns.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self.inside(func, args, kwargs)
        kwargs = kwargs or {}
        if func in (aten.topk.default, aten.sort.default):
            return self._reordered(func, args, kwargs)
        if _draws(func) or _views(func) or not any(map(_is_low, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        wide = _in_float64(func, args, kwargs)  # first: the operation may write into what it is given
        result = func(*args, **kwargs)
        leaves = tree_leaves(result)
        for place, t in enumerate(leaves):
            if _is_low(t) and t.layout is torch.strided:
                exact = wide[place] if place < len(wide) and len(wide) == len(leaves) else None
                self._move(t, exact)
        return result

    def _move(self, t: Tensor, exact: Any) -> None:
        moved = disturbed(t, self.generator)
        if isinstance(exact, Tensor) and exact.shape == t.shape:
            known = t.double()
            moved = torch.where((exact == known) | (exact.isnan() & known.isnan()), t, moved)
        t.copy_(moved)


def _is_low(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in LOW


def _views(func: Any) -> bool:
    """Whether an operation returns memory of its arguments without writing into it."""
    infos = [r.alias_info for r in func._schema.returns]
    return any(i is not None and not i.is_write for i in infos)


def _in_float64(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What an operation gives for copies of its arguments in float64; nothing where it cannot."""
    try:
        wide = tree_map(
            lambda v: torch.float64 if isinstance(v, torch.dtype) and v in LOW else _up(v), (args, kwargs)
        )
        return tree_leaves(func(*wide[0], **wide[1]))
    except (RuntimeError, TypeError, NotImplementedError):
        return []


@contextlib.contextmanager
def capturable(rate: bool = False) -> Iterator[None]:
    """Optimizers step in torch's capturable form, as they must inside a graph; ``rate``: as a tensor too.

    Its bias corrections are float32 on the device, no doubles on the host: `1 - 0.999` differs by 3e-5.
    """
    rates: list[tuple[dict[str, Any], float]] = []

    def switch(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            if "capturable" not in group or not all(p.is_cuda for p in group["params"]):
                continue
            group["capturable"] = True
            for p in group["params"]:
                held = optimizer.state.get(p, {})
                for key, value in list(held.items()):  # counts of steps, products of momentums
                    if isinstance(value, Tensor) and value.dim() == 0 and value.device != p.device:
                        held[key] = value.to(p.device)
            if rate and isinstance(group["lr"], float) and group["params"]:
                rates.append((group, group["lr"]))
                group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)

    def back(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        while rates:  # schedules and programs go on with the number they know
            group, number = rates.pop()
            group["lr"] = number

    hooks = register_optimizer_step_pre_hook(switch), register_optimizer_step_post_hook(back)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


class Record(_Mode):
    """Keeps host reads and random draws of a run."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self.inside(func, args, kwargs)
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _READS:
            self.recording.reads.append(result)
        elif _draws(func):
            self.recording.draws.append(
                [t.detach().clone() for t in tree_leaves(result) if isinstance(t, Tensor)]
            )
        return result


class Promote(_Mode):
    """Runs floating operations in float64; reads and draws come from the recording while it lasts."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = list(recording.reads)
        self.draws = list(recording.draws)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self.inside(func, args, kwargs)
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
