"""Compare two observed sequences: structure exactly, numbers element by element and row by row.

Numbers that differ in any bit are measured against a float64 run of the original. An element may be off by

    K * max(own, M * median of own over its row, C * eps * max(rms of the row, the element))

where ``own`` is the largest of: the original's error against float64, its change in a rerun, and its change
when inputs and parameters move by two units in the last place; a row is the last dimension. An element whose
``own`` exceeds an eighth of its row's size is ill-conditioned and no evidence either way. The constants were
calibrated on padded matrix products, other reduction orders and half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .observe import same_bits
from .spoken import quantum

K = 4.0  # times the original's own error
M = 4.0  # times the median error of the row: an element may have been lucky
C = {torch.float64: 64.0, torch.float32: 16.0, torch.float16: 2.0, torch.bfloat16: 1.0}
OVERFLOW = 0.25  # of the largest number: beyond it the order of summation decides


@dataclass(frozen=True)
class Difference:
    """The first place where the two sides differ."""

    step: int
    group: str
    path: str
    text: str
    size: float = 0.0

    def json(self) -> dict[str, Any]:
        """As it is sent to the parent."""
        return {"step": self.step, "group": self.group, "path": self.path, "text": self.text}


@dataclass
class Trace:
    """One observed sequence with its tensors."""

    observed: list[dict[str, Any]]
    tensors: list[Tensor]


@dataclass
class Suspect:
    """A number or tensor that is not equal in every bit."""

    step: int
    group: str
    path: str
    before: Tensor
    after: Tensor
    position: int
    dtype: torch.dtype
    undefined: bool = False  # a gradient, or what came of one, after inputs that are not finite

    @property
    def exact(self) -> bool:
        """Whether it has no roundings: integers and bools."""
        return not (self.before.is_floating_point() or self.before.is_complex())


@dataclass
class Comparison:
    """Differences that are certain, and numbers that need the float64 run."""

    certain: list[Difference] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


GROUPS = (
    "exception", "result", "inputs", "aliasing", "state", "gradients", "input gradients", "attributes",
    "printed", "recorded", "random", "kept",
)  # fmt: skip


def compare(before: Trace, after: Trace, strides: bool) -> Comparison:
    """All differences of structure, and all places where numbers differ, in order of the steps."""
    found = Comparison()
    seen: set[tuple[int, int]] = set()
    spoiled, finite = False, True
    for position, (mine, theirs) in enumerate(zip(before.observed, after.observed, strict=False)):
        if spoiled:
            _note_after_misuse(found, position, mine, theirs, before, after, strides, seen)
            return found
        raised = "exception" in mine["groups"], "exception" in theirs["groups"]
        settings = mine.get("settings"), theirs.get("settings")
        if "refused" in settings or (settings[0] and raised[0]):
            break  # the original has no such setting, or not this value of it
        if mine["outside"] and raised[0]:
            # outside the declared domain only this is asked: an original that refuses must not be overruled
            if not raised[1]:
                text = f"the original raises {mine['groups']['exception']['type']}, the rewrite returns"
                found.certain.append(Difference(mine["step"], "exception", "call", text))
            spoiled = True
            continue
        if mine["outside"] and raised[1]:
            text = f"the rewrite raises {theirs['groups']['exception']['type']} outside the declared domain"
            found.notes.append(text)
            break
        if mine["outside"]:
            break  # both accept what the target does not declare: nothing from here on is evidence
        finite = finite and _all_finite(mine["groups"].get("inputs") or [], before)
        first = len(found.suspects)
        for group in GROUPS:
            _compare_group(found, position, mine, theirs, group, before, after, strides, seen)
        if not finite and _has_gradients(mine["groups"]):
            for suspect in found.suspects[first:]:
                suspect.undefined = suspect.group in ("gradients", "input gradients", "state")
        if raised[0] != raised[1]:
            break
    if len(before.observed) != len(after.observed) and not found.certain:
        text = f"{len(before.observed)} observations against {len(after.observed)}"
        found.certain.append(Difference(len(before.observed), "result", "sequence", text))
    return found


def _all_finite(leaves: list[Any], trace: Trace) -> bool:
    tensors = (trace.tensors[leaf[2]] for _, leaf in leaves if leaf[0] == "tensor")
    return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())


def _has_gradients(groups: dict[str, Any]) -> bool:
    return any(leaf[0] == "tensor" for _, leaf in groups.get("gradients") or [])


def only_non_finite(suspect: Suspect, bad: Tensor) -> bool:
    """Whether every wrong element is NaN or infinite on one side: backward passes multiply by zero.

    `torch.where` gives NaN to the side that was not taken if that side's derivative is not finite.
    """
    a, b = suspect.before, suspect.after
    if not a.is_floating_point() or bad.shape != a.shape:
        return False
    return not bool((bad & a.isfinite() & b.isfinite()).any())


def _note_after_misuse(
    found: Comparison,
    position: int,
    mine: dict[str, Any],
    theirs: dict[str, Any],
    before: Trace,
    after: Trace,
    strides: bool,
    seen: set[tuple[int, int]],
) -> None:
    """What a refused call outside the declared domain leaves behind is told, and is no failure."""
    later = Comparison()
    for group in ("exception", "result", "state"):
        _compare_group(later, position, mine, theirs, group, before, after, strides, seen)
    if later.certain:
        found.notes.append(f"after a refused call outside the declared domain: {later.certain[0].text}")


def _compare_group(
    found: Comparison,
    position: int,
    mine: dict[str, Any],
    theirs: dict[str, Any],
    group: str,
    before: Trace,
    after: Trace,
    strides: bool,
    seen: set[tuple[int, int]],
) -> None:
    a, b = mine["groups"].get(group), theirs["groups"].get(group)
    step = mine["step"]

    def differs(path: str, text: str) -> None:
        found.certain.append(Difference(step, group, path, text))

    if group == "exception":
        if a is None and b is not None:
            differs("call", f"the rewrite raises {b['type']}: {b['message'][:200]}")
        elif a is not None and b is None:
            differs("call", f"the original raises {a['type']}, the rewrite returns")
        elif a is not None and b is not None and a["type"] != b["type"]:
            differs("call", f"the original raises {a['type']}, the rewrite {b['type']}: {b['message'][:160]}")
        return
    if a is None or b is None:
        return
    if group == "random":
        if a != b:
            differs("generators", "the random generators are in another state: the next draws differ")
        return
    if group == "aliasing":
        if a != b:
            differs(*_alias_text(a, b))
        return
    if group == "attributes":
        b = _present(a, b)
    if group == "recorded":
        b = _known(b, before)
    _compare_leaves(found, position, step, group, a, b, before, after, strides, seen)


def _present(a: list[Any], b: list[Any]) -> list[Any]:
    """Attributes the original has: a rewrite may add its own, and wrap submodules."""
    theirs = dict(b)
    modules = {path.rpartition(".training")[0] for path, _ in b if path.endswith(".training")}
    kept = []
    for path, leaf in a:
        if path in theirs:
            kept.append([path, theirs[path]])
        elif path.rpartition(".")[0] in modules or not modules:
            kept.append([path, ["missing", "nothing"]])
        else:
            kept.append([path, leaf])  # a submodule the rewrite has wrapped
    return kept


def _known(b: list[Any], before: Trace) -> list[Any]:
    """Log records and warnings of kinds the original gives as well: a rewrite may have more to tell."""
    groups = (entry["groups"].get("recorded") or [] for entry in before.observed)
    told = {leaf[2] for leaves in groups for _, leaf in leaves if leaf[0] == "value"}
    kept: list[Any] = []
    counts = {"logged": 0, "warned": 0}
    name = ""
    for path, leaf in b:
        if leaf[0] == "value":
            kind = path.partition(" ")[0]
            name = f"{kind} {counts[kind]}" if leaf[2] in told else ""
            counts[kind] += bool(name)
        if name:
            kept.append([name if leaf[0] == "value" else f"{name} number {path.rpartition(' ')[2]}", leaf])
    return kept


def _alias_text(a: list[Any], b: list[Any]) -> tuple[str, str]:
    before, after = dict(a), dict(b)
    for path in [*before, *after]:
        if before.get(path) != after.get(path):
            mine = ", ".join(before.get(path, [])) or "nothing"
            theirs = ", ".join(after.get(path, [])) or "nothing"
            return path, f"shares memory with {mine} in the original, with {theirs} in the rewrite"
    return "result", "shares memory with other tensors"


def _compare_leaves(
    found: Comparison,
    position: int,
    step: int,
    group: str,
    a: list[Any],
    b: list[Any],
    before: Trace,
    after: Trace,
    strides: bool,
    seen: set[tuple[int, int]],
) -> None:
    for (path, x), (other, y) in zip(a, b, strict=False):
        if path != other:
            found.certain.append(Difference(step, group, path, f"the rewrite has {other} here"))
            return
        text = _describe_difference(x, y, strides)
        if text is not None:
            found.certain.append(Difference(step, group, path, text))
            return
        if x[0] == "number":
            mine, theirs = _number(x), _number(y)
            if not (mine.dtype == theirs.dtype and same_bits(mine, theirs)) and not _printed_alike(x, y):
                mine, theirs = (mine, theirs) if mine.dtype == theirs.dtype else (_pair(x), _pair(y))
                found.suspects.append(Suspect(step, group, path, mine, theirs, position, torch.float32))
        elif x[0] == "tensor":
            if (x[2], y[2]) in seen:
                continue
            mine_t, theirs_t = before.tensors[x[2]], after.tensors[y[2]]
            if same_bits(mine_t, theirs_t):
                seen.add((x[2], y[2]))
            else:
                found.suspects.append(Suspect(step, group, path, mine_t, theirs_t, position, mine_t.dtype))
    if len(a) != len(b):
        path, text = (
            (b[len(a)][0], "only the rewrite has it") if len(b) > len(a) else (a[len(b)][0], "is missing")
        )
        found.certain.append(Difference(step, group, path, text))


def _describe_difference(x: list[Any], y: list[Any], strides: bool) -> str | None:
    """Why two leaves differ in kind, type, shape, dtype or device; None if only numbers can."""
    if x[0] != y[0]:
        return f"{_kind(x)} in the original, {_kind(y)} in the rewrite"
    if x[1] != y[1]:
        return f"a {x[1]} in the original, a {y[1]} in the rewrite"
    if x[0] == "tensor":
        names = ("dtype", "shape", "device", "requires_grad", "strides")
        for name, mine, theirs in zip(names, x[3:], y[3:], strict=True):
            if mine != theirs and (name != "strides" or strides):
                return f"{name} {mine} in the original, {theirs} in the rewrite"
        return None
    if x[0] != "number" and x[2:] != y[2:]:
        return f"{_short(x)} in the original, {_short(y)} in the rewrite"
    return None


def _pair(leaf: list[Any]) -> Tensor:
    value = complex(leaf[2])
    return torch.tensor([value.real, value.imag], dtype=torch.float64)


def _number(leaf: list[Any]) -> Tensor:
    """A Python number or a printed one; whole printed numbers have no roundings."""
    whole = leaf[1] == "printed" and leaf[2].lstrip("+-").isdigit() and len(leaf[2]) < 18
    return torch.tensor([int(leaf[2])]) if whole else _pair(leaf)


def _printed_alike(x: list[Any], y: list[Any]) -> bool:
    """Whether two printed numbers may be one value that is rounded up in one text and down in the other."""
    if x[1] != "printed" or not ("." in x[2] and "." in y[2]):
        return False
    unit = quantum(x[2])
    return unit == quantum(y[2]) and abs(float(x[2]) - float(y[2])) < 1.5 * unit


def _kind(leaf: list[Any]) -> str:
    return f"a {leaf[1]}" if len(leaf) > 1 else str(leaf[0])


def _short(leaf: list[Any]) -> str:
    return str(leaf[2])[:120] if len(leaf) > 2 else str(leaf[1])


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
                    return _number(leaf) if suspect.exact else _pair(leaf)
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
