"""Errors that no single result shows: both programs run in float64 as well, where no rounding hides them.

A factor of 1.04 on a small branch, or a mean over 514 instead of 512, changes a bfloat16 result by less than
its last place, and so does another order of summation. In float64 the second vanishes and the first stays.
That alone could be the work of the float64 run, in which no constant is rounded as it is in half precision.
So the difference must show in half precision as well: over many elements the differences there, which are
mostly roundings, must follow those in float64 with a slope of one. All numbers are in units of the last place
of the larger of an element and the root mean square of its row.

In single precision the same is asked of programs that differ by more than a unit and a half in a fifth of
some tensor, which other orders of summation seldom reach: an epsilon of 1e-6 for 1e-5, or a constant typed
with six digits, lies far below what the rule for single results allows. What is off by less than two units in
float64 is let pass: a constant may be typed with seven digits.

`benchmarks/calibrate.py --part 2`, 48 seeds, on a CPU with torch 2.13: none of 3,696 right targets is
rejected, in three dtypes. Of eighteen wrong ones fourteen are rejected, in 6 to 84 of 84 targets. Not seen
are, in single precision, a mean over 514 for 512 and a factor of 1.005, both far beyond its last places, and
in half precision a constant of six digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .judge import KEPT, Comparison, Difference, Suspect, Trace, compare

HALF = ("torch.float16", "torch.bfloat16")
FLOATS = (*HALF, "torch.float32")
COARSE = 2.0**-14  # of the size: a float32 result that is off by more comes of half precision, as in autocast
LEAST = 1 / 256  # units: what is off by less in float64 is a constant in single precision
MOST = 8.0  # units: a larger difference is no rounding, and was decided already
SINGLE, SINGLE_SHARE = 1.5, 0.2  # units by which so many elements differ where single precision is looked at
SINGLE_LEAST, SINGLE_MOST = 2.0, 64.0  # as above, of single precision
SHARE = 0.25  # of the elements that must be off
FEWEST = 48  # elements that can tell anything
CERTAIN = 6.0  # standard errors that the slope must lie above zero
GROUPS = ("result", "inputs", *KEPT, "input gradients", "attributes", "kept")


def is_coarse(compared: Comparison) -> bool:
    """Whether something differs that was computed in half precision, or that seems off as a whole."""
    return any(s.group in GROUPS and (_is_half(s) or _is_off(s)) for s in compared.suspects)


def _is_off(suspect: Suspect) -> bool:
    """Whether more of a float32 tensor differs by more than a unit than roundings would explain."""
    a, b = suspect.before, suspect.after
    if a.dtype != torch.float32 or b.dtype != torch.float32 or a.shape != b.shape or not a.numel():
        return False
    gap = (a - b).double().abs() / (torch.finfo(torch.float32).eps * _size(a))
    return float((gap[a.isfinite() & b.isfinite()] > SINGLE).double().sum()) >= SINGLE_SHARE * a.numel()


def _is_half(suspect: Suspect) -> bool:
    a, b = suspect.before, suspect.after
    if str(suspect.dtype) in HALF:
        return True
    if a.dtype != torch.float32 or b.dtype != torch.float32 or a.shape != b.shape or not a.numel():
        return False
    gap = ((a - b).double().abs() / _size(a))[a.isfinite() & b.isfinite()]
    return bool(gap.numel()) and float(gap.median()) > COARSE


@dataclass
class Sums:
    """What is added up over the elements of one tensor, call by call."""

    known: int = 0
    off: int = 0
    xx: float = 0.0
    xy: float = 0.0
    x4: float = 0.0
    x3y: float = 0.0
    x2y2: float = 0.0

    single: bool = False

    def add(self, x: Tensor, y: Tensor, single: bool = False) -> None:
        """Differences in float64 and in working precision, both in units of the last place, (n,)."""
        self.single |= single
        self.known += x.numel()
        self.off += int((x.abs() > (SINGLE_LEAST if single else LEAST)).sum())
        self.xx += float((x * x).sum())
        self.xy += float((x * y).sum())
        self.x4 += float((x**4).sum())
        self.x3y += float((x**3 * y).sum())
        self.x2y2 += float((x * x * y * y).sum())

    @property
    def slope(self) -> float:
        """Of the least-squares line through the origin."""
        return self.xy / self.xx if self.xx else 0.0

    @property
    def errors(self) -> float:
        """By how many standard errors, from its residuals, the slope lies above zero."""
        s = self.slope
        spread = max(self.x2y2 - 2 * s * self.x3y + s * s * self.x4, 0.0)
        return self.xy / spread**0.5 if spread else (float("inf") if self.xy > 0 else 0.0)

    @property
    def wrong(self) -> bool:
        """Whether the two programs compute different things."""
        many = self.known >= FEWEST and self.off >= SHARE * self.known
        return many and 0.5 < self.slope < 1.5 and self.errors > CERTAIN


class Finer:
    """The sums of all half-precision tensors of one target, over its sequences."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], Sums] = {}

    def add(self, narrow: tuple[Trace, Trace], wide: tuple[Trace, Trace]) -> Difference | None:
        """One more sequence: original and rewrite in their own precision, then both in float64.

        Nothing is learnt where the float64 runs differ in structure. The first tensor that is wrong by all
        that was seen so far is returned.
        """
        compared = compare(*wide, False)
        if compared.certain:
            return None
        for suspect in compared.suspects:
            pair = [_held(trace, suspect) for trace in narrow]
            if pair[0] is None or pair[1] is None:
                continue
            sums = self.sums.setdefault((suspect.group, _plain(suspect)), Sums())
            sums.add(*differences(suspect.before, suspect.after, pair[0], pair[1]))
            if sums.wrong:
                return Difference(suspect.step, suspect.group, suspect.path, _text(sums))
        return None


def _held(trace: Trace, suspect: Suspect) -> Tensor | None:
    """The same tensor of a run in working precision; None if it is not there."""
    if suspect.position >= len(trace.observed) or suspect.group not in GROUPS:
        return None
    leaves: list[Any] = trace.observed[suspect.position]["groups"].get(suspect.group) or []
    for path, leaf in leaves:
        if path == suspect.path and leaf[0] == "tensor" and leaf[3] in FLOATS:
            found = trace.tensors[leaf[2]]
            return found if found.shape == suspect.before.shape else None
    return None


def _plain(suspect: Suspect) -> str:
    """The path without the number of the call: results that were kept are those of any call."""
    return suspect.path.partition(": ")[2] or suspect.path


def differences(a: Tensor, b: Tensor, a_half: Tensor, b_half: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Differences in float64 and in working precision, of what can tell, (n,) each; if that is single.

    Left out is what is not finite, and where a float64 run is another computation than the one in working
    precision: a comparison fell otherwise.
    """
    most, single = MOST, False
    size, own = _size(a), (a_half.double() - a.double()).abs()
    if str(a_half.dtype) in HALF:
        unit = torch.finfo(a_half.dtype).eps * size
    else:  # its last place says nothing: the unit is what the original is off by
        sized = (own / size)[own.isfinite() & (size > 0)]
        typical = float(sized.square().mean().sqrt()) if sized.numel() else 0.0
        single = typical <= COARSE
        unit = torch.finfo(torch.float32).eps * size if single else 2 * typical * size
        most = SINGLE_MOST if single else MOST
    x, y = (b.double() - a.double()) / unit, (b_half.double() - a_half.double()) / unit
    known = x.isfinite() & y.isfinite() & (x.abs() < most) & (y.abs() < most) & (own < most * unit)
    return x[known], y[known], single


def _size(a: Tensor) -> Tensor:
    """Of every element the greater of itself and the root mean square of its row, over what is finite."""
    held = torch.where(a.isfinite(), a.double(), torch.zeros_like(a, dtype=torch.float64))
    rms = held.square().mean(-1, keepdim=True).sqrt() if a.dim() and a.numel() else held.abs()
    return torch.maximum(held.abs(), rms)


def _text(sums: Sums) -> str:
    size = (sums.xx / sums.known) ** 0.5
    precision = "single" if sums.single else "half"
    return (
        f"off by {size:.2g} of a unit in the last place over {sums.known} values, in {precision} precision "
        f"(slope {sums.slope:.2f}, {sums.errors:.0f} standard errors above zero) as in float64"
    )
