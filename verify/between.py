"""Calls on either side of a branch, as near to where it turns as halving gets.

A rewrite that moved the number behind a decision agrees with the original wherever that decision is clear.
Between a call to one side and a call to the other lies one that is on neither: inputs are mixed, and the half
in which the branch turns is halved again. Every mixture on the way is a call to try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .recipes import Json
from .session import Probed

HALVINGS = 14
Probe = Callable[[Sequence[Json | list[Json]]], list[Probed]]


def between(site: str, first: Json, second: Json, probe: Probe) -> list[Json]:
    """Mixtures of two calls that take a branch to either side, the nearest to its turn last.

    Args:
        site: the branch, as probes name it.
        first: a call after which it was False.
        second: one of the same sizes after which it was True.
        probe: calls the original once for each step.
    """
    low, high = 0.0, 1.0
    found: list[Json] = []
    for _ in range(HALVINGS):
        weight = (low + high) / 2
        step = mixed(first, second, weight)
        if step is None:
            return []
        seen = probe([step])
        outcomes = seen[0].taken.get(site, []) if seen else []
        if len(outcomes) != 1:  # not reached, or taken both ways in one call
            break
        found.append(step)
        low, high = (low, weight) if outcomes[0] else (weight, high)
    return found


def mixed(first: Json, second: Json, weight: float) -> Json | None:
    """The call with every tensor of numbers mixed; None where the two calls do not fit together."""
    if list(first["a"]) != list(second["a"]):
        return None
    made = {name: _mixed(recipe, second["a"][name], weight) for name, recipe in first["a"].items()}
    return None if None in made.values() else {**first, "a": made}


def _mixed(a: Json, b: Json, weight: float) -> Json | None:
    if "dict" in a and "dict" in b and list(a["dict"]) == list(b["dict"]):
        parts = {k: _mixed(v, b["dict"][k], weight) for k, v in a["dict"].items()}
        return None if None in parts.values() else {"dict": parts}
    if "list" in a and "list" in b and len(a["list"]) == len(b["list"]):
        items = [_mixed(x, y, weight) for x, y in zip(a["list"], b["list"], strict=True)]
        return None if None in items else {"list": items}
    if "t" in a and "t" in b:
        alike = (a["t"], a["shape"]) == (b["t"], b["shape"]) and "mix" not in a and "mix" not in b
        return {**a, "mix": {"with": b, "by": weight}} if alike else None
    return a if "v" in a and a == b else None
