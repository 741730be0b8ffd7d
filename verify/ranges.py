"""Which integers the original takes where a target declares no bounds: tried before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .certain import affordable, leaves
from .edits import changed
from .recipes import RANGES, WHOLES, Hints, Json, plain_call, unbounded, widened
from .session import Probed
from .spec import ScalarSpec
from .targets import Target, every_tensor

FILLS: tuple[Json, ...] = ({"k": "normal"}, {"k": "spike"})
COSTLY = 20  # times the operations of a plain call: a number that makes a call so long is not tried


def ranges(target: Target, known: Hints, probe: Callable[[list[Json]], list[Probed]]) -> Hints:
    """Hints with the ranges in which the original raises nothing; none where every integer has its bounds."""
    if not any(unbounded(t) for _, spec in target.inputs for t in every_tensor(spec)):
        return known
    high = affordable(target)
    found: list[tuple[int, int]] = []
    refused = 0
    for bounds in RANGES:
        steps = [widened(target, plain_call(target, high, f, 3 + k), bounds) for k, f in enumerate(FILLS)]
        seen = probe(steps)
        if len(seen) == len(steps) and not any(s.raised for s in seen):
            found.append(bounds)
        else:
            refused += 1
        if refused > 1:
            break  # an index or a size: a larger number ends worse
    return replace(known, ranges=tuple(found))


def wholes(
    target: Target,
    known: Hints,
    probe: Callable[[list[Json]], list[Probed]],
    weigh: Callable[[list[Json]], int],
) -> Hints:
    """Hints with the values of `WHOLES` that every plain integer without bounds may take.

    Away from zero in either direction until the original raises, dies, or takes far longer.
    """
    paths = [path for path, spec in leaves(target) if isinstance(spec, ScalarSpec) and open_ended(spec)]
    if not paths:
        return known
    base = plain_call(target, affordable(target), FILLS[0], 3)
    found: list[int] = []
    for values in WHOLES:
        for value in values:
            steps = [changed(base, path, {"v": value}) for path in paths]
            seen = probe(steps)
            if len(seen) < len(steps) or any(s.raised for s in seen):
                break
            if any(weigh([s]) > COSTLY * max(1, known.operations) for s in steps):
                break
            found.append(value)
    return replace(known, wholes=tuple(found))


def open_ended(spec: ScalarSpec) -> bool:
    """Whether it is a plain integer whose range nobody has declared."""
    return spec.kind == "int" and spec.low is None and spec.high is None


def covered(known: Hints) -> list[str]:
    """What was tried of integers whose range is not declared, for the report."""
    told = []
    if known.ranges:
        low, high = min(r[0] for r in known.ranges), max(r[1] for r in known.ranges)
        told.append(f"integer tensors without declared bounds were drawn from {low}..{high} as well")
    if known.wholes:
        low, high = min(0, *known.wholes), max(8, *known.wholes)
        told.append(f"plain integers without declared bounds were tried from {low} to {high}")
    return [f"{text}: the original takes them; declare bounds to narrow this" for text in told]
