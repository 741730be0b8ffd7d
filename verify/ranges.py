"""Which integers the original takes where a target declares no bounds: tried before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .certain import affordable
from .recipes import RANGES, Hints, Json, plain_call, unbounded, widened
from .session import Probed
from .targets import Target, every_tensor

FILLS: tuple[Json, ...] = ({"k": "normal"}, {"k": "spike"})


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
