"""The verdict on numbers that differ: further runs of the original, the cheapest first, until it is clear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from . import reference
from .episode import Plan
from .judge import KEPT, Comparison, Difference, Suspect, Trace, only_non_finite
from .measure import Reference, amplified, explain, measure, obvious
from .observe import same_bits
from .unstable import is_unstable

FREE_RUNS = ("free1", "free2")  # in float64, with draws and reads of their own
FIRST_RUNS = ("rerun", "double")
MORE_RUNS = ("rerun", "double", "perturbed1", "perturbed2")
CLEARLY_WRONG = 1e4  # times the allowance: no further run of the original would explain it
# Which of two equal values an index names is drawn anew by each disturbed run: two of them agree too often.
TIE_RUNS = (*MORE_RUNS, *(f"perturbed{n}" for n in range(3, 9)))
# An optimizer inside a graph must step in torch's capturable form, whose roundings are others.
STEP_RUNS = ("capturable", "capturable rate")
EXACT_RUNS = tuple(f"exact{n}" for n in range(1, 5))  # what is rounded is disturbed, and nothing else
STEP = 2.0**-10  # of the size of a row: smaller differences of what is exact are no steps of a rounding


@dataclass(frozen=True)
class Kind:
    """One way to run the original again, such as ``rerun``, ``double``, ``free1`` or ``perturbed2``."""

    name: str
    recording: reference.Recording = field(default_factory=reference.Recording)

    def prepare(self, plan: Plan) -> None:
        """Set up a plan for it; a rerun fills the recording that the float64 run reads."""
        if self.name == "rerun":
            plan.contexts = [lambda: reference.Record(self.recording)]
        elif self.name == "double":
            plan.double = True
            plan.contexts = [lambda: reference.Promote(self.recording)]
        elif self.name in FREE_RUNS:
            plan.double = True
            plan.contexts = [lambda: reference.Promote(reference.Recording())]
        elif self.name in STEP_RUNS:
            plan.contexts = [lambda: reference.capturable(rate=self.name == STEP_RUNS[1])]
        elif self.name in EXACT_RUNS:
            plan.contexts = [lambda: reference.Inexact(int(self.name[-1]))]
        else:
            plan.perturb = int(self.name[-1])
            plan.contexts = [lambda: reference.Disturb(plan.perturb), reference.capturable]


def decide(
    again: Callable[[Kind], Trace | str],
    mine: Trace,
    compared: Comparison,
    stepped: bool = False,
    placed: frozenset[int] = frozenset(),
) -> dict[str, Any]:
    """What is sent to the parent. Long, because the order of the runs and what each settles is the decision.

    Args:
        again: runs the sequence of the original once more; what it raised where that is not possible.
        mine: the first run of the original.
        compared: what differed, and what may.
        stepped: whether an optimizer that has a capturable form was stepped.
        placed: steps whose inputs lie exactly at numbers that a program compares with.
    """
    recording = reference.Recording()
    impossible: dict[str, str] = {}

    def run(kind: str) -> Trace | None:
        made = again(Kind(kind, recording))
        if isinstance(made, str):
            impossible[kind] = made
            return None
        return made

    runs = Reference(run)
    notes, largest = list(compared.notes), 0.0
    found: list[Difference] = []
    unmeasured = unsteady = ""
    doubtful = []
    for suspect in compared.suspects:
        ratio = obvious(suspect)
        if ratio is None and stepped:
            ratio = _as_captured(suspect, runs)
        if ratio is None:
            doubtful.append(suspect)
        else:
            largest = max(largest, ratio)
    undefined: int | None = None  # the step from which nothing is evidence any more
    for suspect in doubtful:
        if found or undefined is not None:
            break
        first = result = measure(suspect, runs, FIRST_RUNS)
        if result.bad is not None:
            result = measure(suspect, runs, MORE_RUNS)
        if result.bad is not None and (suspect.exact or result.largest < CLEARLY_WRONG):
            result = measure(suspect, runs, TIE_RUNS)
        if result.bad is not None and is_unstable(suspect, result, runs):
            notes.append(f"{suspect.path}: ill-conditioned: the last places of the inputs decide")
            result = replace(result, bad=None, largest=0.0)
        elif result.bad is None and first.bad is not None:
            result = replace(result, bad=_stepped(suspect, first.bad, runs))
        if result.bad is None and suspect.step in placed:
            result = replace(result, bad=_turned(suspect, runs))
        if result.bad is not None and suspect.undefined and only_non_finite(suspect, result.bad):
            notes.append(f"{suspect.path}: gradients differ after inputs that are not finite")
            undefined = suspect.step
        elif result.bad is not None:
            found.append(Difference(suspect.step, suspect.group, suspect.path, explain(suspect, result.bad)))
        elif suspect.group in KEPT and _overflowed(suspect):
            notes.append(f"{suspect.path}: overflows, from there on nothing is compared")
            undefined = suspect.step
        elif suspect.group == "files" and _unsteady(suspect, runs):
            notes.append(f"{suspect.path}: the original writes other numbers when it is run again")
        elif _unsteady(suspect, runs):
            unsteady = f"{suspect.path}: the original gives other results when it is run again"
        elif runs.tensor("double", suspect) is None and suspect.before.is_floating_point():
            why = impossible.get("double", "it lacks this value")
            unmeasured = f"{suspect.path} differs, and no float64 run of the original was possible: {why}"
        else:
            largest = max(largest, result.largest)
    for difference in compared.certain:
        if undefined is not None and difference.step >= undefined:
            continue
        if found and difference.step >= found[0].step:  # the first is what is told
            break
        if runs.changed("rerun", difference, mine):
            text = f"{difference.path}: the original itself changes when it is run again"
            if difference.group == "files":  # a date, a duration, a name drawn at random
                notes.append(text)
            else:
                unsteady = text
        elif any(runs.changed(kind, difference, mine) for kind in ("perturbed1", "perturbed2")):
            notes.append(
                f"{difference.path}: the original itself changes under a disturbance in the last place"
            )
        else:
            found.append(difference)
    notes += [f"a {k} run of the original was not possible: {w}" for k, w in impossible.items()]
    found.sort(key=lambda d: d.step)
    if found:
        return {"equal": False, "difference": found[0].json(), "notes": notes, "largest": largest}
    return {"equal": True, "notes": notes, "largest": largest, "unmeasured": unsteady or unmeasured}


def head(compared: Comparison, length: int) -> tuple[int, Comparison] | None:
    """How many steps show the first thing that is not settled yet, and what differs in them.

    None where that is more than half of a sequence of this length: its further runs are made whole at once.
    """
    steps = [d.step for d in compared.certain]
    steps += [next((s.step for s in compared.suspects if obvious(s) is None), length)]
    first = min(steps)
    if 2 * (first + 1) > length:
        return None
    certain = [d for d in compared.certain if d.step <= first]
    return first + 1, Comparison(certain, [s for s in compared.suspects if s.step <= first])


def _as_captured(suspect: Suspect, runs: Reference) -> float | None:
    """The error over its allowance against the original with its optimizers in capturable form, else None.

    That run is the original as it may stand inside a graph: what agrees with it is right, however far a few
    steps of training have carried it from the run on the host.
    """
    for kind in STEP_RUNS:
        other = runs.tensor(kind, suspect)
        if other is not None and other.dtype == suspect.before.dtype:
            ratio = obvious(replace(suspect, before=other))
            if ratio is not None:
                return ratio
    return None


def _stepped(suspect: Suspect, excused: torch.Tensor, runs: Reference) -> torch.Tensor | None:
    """Of elements that a disturbance of the inputs excuses, those that the original computes exactly.

    A half that is rounded up instead of to the even neighbour lies where the smallest disturbance turns it,
    but the original comes to it without a rounding of its own, and so must the rewrite. Only where the two
    agree to the bit elsewhere, as values on a grid do, and differ by a step of that grid.
    """
    a, b, double = suspect.before, suspect.after, runs.tensor("double", suspect)
    if double is None or excused.shape != a.shape or a.is_complex():
        return None
    same = a == b
    if float(same.double().mean()) < 0.5:
        return None
    found = excused & (double.double() == a.double())
    if not suspect.exact:
        found &= grid_step(a, b)
    for kind in EXACT_RUNS:
        if not bool(found.any()):
            return None
        again = runs.tensor(kind, suspect)
        if again is None or again.dtype != a.dtype:
            return None
        found &= again == a
    return found if bool(found.any()) else None


def _turned(suspect: Suspect, runs: Reference) -> torch.Tensor | None:
    """Elements a step apart although the original comes to its own without a rounding that matters.

    The inputs lie exactly at a number that is compared with: the smallest disturbance of them turns the
    comparison, and so does float64 where the number is none of single precision. Roundings inside the
    original turn nothing, so the rewrite must decide as it does.
    """
    a, b = suspect.before, suspect.after
    if suspect.exact or a.is_complex() or a.shape != b.shape or a.dtype != b.dtype:
        return None
    found = grid_step(a, b)
    for kind in EXACT_RUNS:
        if not bool(found.any()):
            return None
        again = runs.tensor(kind, suspect)
        if again is None or again.dtype != a.dtype:
            return None
        found &= again.isfinite() & ~grid_step(a, again, STEP / 16)
    return found if bool(found.any()) else None


def grid_step(a: torch.Tensor, b: torch.Tensor, step: float = STEP) -> torch.Tensor:
    """Where two results are finite and further apart than ``step`` of their row's size."""
    finite = a.isfinite() & b.isfinite()
    a, b = (torch.where(finite, t.double(), torch.zeros_like(t, dtype=torch.float64)) for t in (a, b))
    rms = a.square().mean(-1, keepdim=True).sqrt() if a.dim() else a.abs()
    return finite & ((a - b).abs() > step * torch.maximum(a.abs(), rms)) & (torch.maximum(a.abs(), rms) > 0)


def _overflowed(suspect: Suspect) -> bool:
    """Whether something that is kept is finite on one side alone: excused once, it shows in every call."""
    a, b = suspect.before, suspect.after
    return a.is_floating_point() and a.shape == b.shape and not torch.equal(a.isfinite(), b.isfinite())


def _unsteady(suspect: Suspect, runs: Reference) -> bool:
    """Whether the original is another program each time: what differs in a rerun is no rounding made large.

    An optimizer divides small numbers by small ones, and the last places of a matrix product may hang on
    where its operands lie in memory. In float64 such a program repeats itself; one that asks the clock does
    not.
    """
    rerun = runs.tensor("rerun", suspect)
    if rerun is None or rerun.dtype != suspect.before.dtype or same_bits(suspect.before, rerun):
        return False
    if not _apart(suspect, suspect.before, rerun):
        return False
    first, second = (runs.tensor(kind, suspect) for kind in FREE_RUNS)
    return first is None or second is None or _apart(suspect, first, second)


def _apart(suspect: Suspect, a: torch.Tensor, b: torch.Tensor) -> bool:
    pair = replace(suspect, before=a, after=b)
    return obvious(pair) is None and not amplified(pair)
