"""Measure numbers that differ, element by element and row by row, against a float64 run of the original.

An element may be off by

    K * max(own, M * median of own over its row, C * eps * max(rms of the row, the element))

where ``own`` is the largest of: the original's error against float64, its change in a rerun, and its change
when inputs and parameters move by two units in the last place; a row is the last dimension. An element whose
``own`` exceeds an eighth of its row's size is ill-conditioned and no evidence either way.

The constants were calibrated by `benchmarks/calibrate.py`, on a CPU with torch 2.13 and 48 seeds: of 11,232
results of thirteen right rewrites (padded products, other orders of summation, other kernels; three dtypes,
six fills) none is rejected; the largest error is 0.65 of its allowance. Of fifteen wrong ones twelve are
rejected; what stays below the resolution of half precision is not, and is left to `finer`: a mean over 512
instead of 513 in float16 and bfloat16, and a factor of 1.01 in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .judge import Difference, Suspect, Trace, compare, number_of, pair_of

K = 4.0  # times the original's own error
M = 4.0  # times the median error of the row: an element may have been lucky
C = {torch.float64: 64.0, torch.float32: 16.0, torch.float16: 2.0, torch.bfloat16: 1.0}
OVERFLOW = 0.25  # of the largest number: beyond it the order of summation decides


class Reference:
    """Further runs of the original, made only when some number differs."""

    def __init__(self, run: Callable[[str], Trace | None]) -> None:
        self._run = run
        self._traces: dict[str, Trace | None] = {}

    def tensor(self, kind: str, suspect: Suspect) -> Tensor | None:
        """The tensor of run ``kind`` (rerun, double, perturbed1 …) at the suspect's place, if it has one."""
        if kind not in self._traces:
            self._traces[kind] = self._run(kind)
        trace = self._traces[kind]
        if trace is None or suspect.position >= len(trace.observed):
            return None
        for path, leaf in trace.observed[suspect.position]["groups"].get(suspect.group) or []:
            if path == suspect.path:
                if leaf[0] == "number":
                    return number_of(leaf) if suspect.exact else pair_of(leaf)
                if leaf[0] == "tensor":
                    found = trace.tensors[leaf[2]]
                    return found if found.shape == suspect.before.shape else None
        return None

    def changed(self, kind: str, difference: Difference, before: Trace) -> bool:
        """Whether this run of the original differs from the first in structure or outcome at that place."""
        if kind not in self._traces:
            self._traces[kind] = self._run(kind)
        trace = self._traces[kind]
        if trace is None:
            return False
        certain = compare(before, trace, False).certain
        return any(
            (d.step, d.group) <= (difference.step, difference.group) or d.step < difference.step
            for d in certain
            if d.group != "files" or difference.group == "files"  # which may name the time
        )


@dataclass(frozen=True)
class Measure:
    """How one suspect was decided."""

    bad: Tensor | None
    largest: float  # of the error over its allowance
    reason: str = ""


def measure(suspect: Suspect, reference: Reference, runs: tuple[str, ...]) -> Measure:
    """Decide one suspect with the given further runs of the original."""
    others = [t for kind in runs if (t := reference.tensor(kind, suspect)) is not None]
    a, b = suspect.before, suspect.after
    if suspect.exact:
        stable = torch.ones(a.shape, dtype=torch.bool)
        for other in others:
            same_kind = other.dtype == a.dtype
            stable &= (other == a) if same_kind else torch.zeros(a.shape, dtype=torch.bool)
        bad = (a != b) & stable
        return Measure(bad if bool(bad.any()) else None, 0.0)
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
        others = [torch.view_as_real(o) if o.is_complex() else o for o in others]
    double = reference.tensor("double", suspect)
    if double is not None and double.is_complex():
        double = torch.view_as_real(double)
    return _measure_floats(a.double(), b.double(), double, [o.double() for o in others], suspect.dtype)


def judged(suspect: Suspect, run: Tensor, others: list[Tensor], reference: Reference) -> Measure:
    """Decide a run of the original as if it were the rewrite, by these others and by the float64 run."""
    a, double = suspect.before.double(), reference.tensor("double", suspect)
    rerun = reference.tensor("rerun", suspect)
    known = [*others, *([] if rerun is None else [rerun])]
    return _measure_floats(a, run.double(), double, [o.double() for o in known], suspect.dtype)


def relative(a: Tensor, b: Tensor) -> Tensor:
    """How far apart two results are, of the greater of an element and the root mean square of its row."""
    a, b = a.double(), b.double()
    rms = _row(a.square(), lambda t: t.mean(-1, keepdim=True)).sqrt()
    return (a - b).abs() / torch.maximum(rms, a.abs()).clamp(min=1e-300)


def real(t: Tensor) -> Tensor:
    """Complex numbers as pairs."""
    return torch.view_as_real(t) if t.is_complex() else t


def obvious(suspect: Suspect) -> float | None:
    """The error over its allowance where no further run is needed to accept it, else None.

    Off by at most ``(K - 1) * floor`` from the original is off by at most ``K * max(own, floor)`` from any
    float64 run, whatever ``own`` is.
    """
    a, b, dtype = real(suspect.before), real(suspect.after), suspect.dtype
    if not a.is_floating_point() or a.shape != b.shape:
        return None
    a, b = a.double(), b.double()
    if not torch.equal(a.isnan(), b.isnan()) or not torch.equal(a.isinf(), b.isinf()):
        return None
    finite = a.isfinite() & b.isfinite()
    if bool(((a != b) & ~finite & ~a.isnan()).any()):
        return None
    zero = torch.zeros_like(a)
    gap, size = torch.where(finite, (a - b).abs(), zero), torch.where(finite, a.abs(), zero)
    floor = _floor(size, dtype)
    if bool((gap > 0.9 * (K - 1) * floor).any()):
        return None
    return float((gap / (K * floor).clamp(min=1e-300)).max()) if a.numel() else 0.0


def amplified(suspect: Suspect) -> bool:
    """Whether the two differ by at most the square root of a rounding, as where small is divided by small."""
    a, b = real(suspect.before), real(suspect.after)
    if not a.is_floating_point() or not a.numel():
        return False
    a, b = a.double(), b.double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return False
    finite, zero = a.isfinite(), torch.zeros_like(a)
    size = torch.where(finite, a.abs(), zero)
    rms = _row(size.square(), lambda t: t.mean(-1, keepdim=True)).sqrt()
    eps = torch.finfo(suspect.dtype if suspect.dtype.is_floating_point else torch.float32).eps
    gap = torch.where(finite, (a - b).abs(), zero)
    return not bool((gap > eps**0.5 * torch.maximum(rms, size)).any())


def _floor(size: Tensor, dtype: torch.dtype) -> Tensor:
    eps = torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps
    rms = _row(size.square(), lambda t: t.mean(-1, keepdim=True)).sqrt()
    return C.get(dtype, 16.0) * eps * torch.maximum(rms, size)


def _measure_floats(
    a: Tensor, b: Tensor, double: Tensor | None, others: list[Tensor], dtype: torch.dtype
) -> Measure:
    info = torch.finfo(dtype if dtype.is_floating_point else torch.float32)
    ref = a if double is None else double.double()
    steady = torch.ones(a.shape, dtype=torch.bool)
    for other in (*others, *([] if double is None else [ref])):
        steady &= (other.isnan() == a.isnan()) & (other.isinf() == a.isinf())
    steady &= ~(ref.isfinite() & (ref.abs() > info.max * OVERFLOW))
    wrong_kind = (
        (a.isnan() != b.isnan()) | (a.isinf() != b.isinf()) | (a.isinf() & b.isinf() & (a != b))
    ) & steady
    if bool(wrong_kind.any()):
        return Measure(wrong_kind, float("inf"))
    finite = a.isfinite() & b.isfinite() & ref.isfinite() & steady
    zero = torch.zeros_like(a)
    own = torch.where(finite, (a - ref).abs(), zero)
    for other in others:
        own = torch.where(finite & other.isfinite(), torch.maximum(own, (other - a).abs()), own)
    size = torch.where(finite, ref.abs(), zero)
    rms = _row(size.square(), lambda t: t.mean(-1, keepdim=True)).sqrt()
    typical = _row(own, lambda t: t.median(-1, keepdim=True).values)
    floor = _floor(size, dtype)
    allowed = K * torch.maximum(
        torch.maximum(own, M * typical), torch.maximum(floor, torch.full_like(a, info.tiny))
    )
    error = torch.where(finite, (b - ref).abs(), zero)
    ill = own * K > 0.5 * torch.maximum(size, rms)
    bad = (error > allowed) & finite & ~ill
    ratio = float((torch.where(finite & ~ill, error / allowed, zero)).max()) if a.numel() else 0.0
    return Measure(bad if bool(bad.any()) else None, ratio)


def _row(t: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    if t.dim() == 0:
        return t
    if t.numel() == 0:
        return t
    return reduce(t).expand(t.shape)


def explain(suspect: Suspect, bad: Tensor) -> str:
    """The worst wrong element, in words."""
    a, b = suspect.before, suspect.after
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    count, total = int(bad.sum()), bad.numel()
    gap = torch.where(
        bad, (a.double() - b.double()).abs().nan_to_num(nan=float("inf")), torch.zeros(a.shape).double()
    )
    place = int(gap.argmax()) if total else 0
    index: list[int] = []
    for n in reversed(a.shape):
        place, i = divmod(place, n)
        index.insert(0, i)
    at = "".join(f"[{i}]" for i in index)
    mine, theirs = a[tuple(index)].item(), b[tuple(index)].item()
    text = f"{mine!r:.20} in the original, {theirs!r:.20} in the rewrite"
    return f"{count} of {total} values differ; at {at or 'the scalar'} {text}"
