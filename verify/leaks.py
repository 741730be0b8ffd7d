"""Memory outside the graphs: what the rewrite leaves behind with every call, and the original does not."""

from __future__ import annotations

from collections.abc import Sequence

from .recipes import Json
from .session import Pair

LIGHT = 600  # operations of a call up to which many rounds are run
# Rounds before each of three looks: a bounded cache fills up before the first one of the second row.
ROUNDS = ((8, 8, 8), (60, 40, 40))
FEW_ROUNDS = ((3, 3, 3), (16, 8, 8))
# What a call may leave, on the average, beyond what the original leaves: less is chance.
MOST = {
    "tensors": (0.3, "tensors"),
    "device bytes": (128.0, "bytes of device memory"),
    "bytes": (8.0, "bytes of tensors"),
    "threads": (0.3, "threads"),
    "open files": (0.3, "open files"),
}


def leaked(pair: Pair, steps: list[Json], operations: int) -> str:
    """What stays behind with each call of the rewrite, again and again; empty where nothing does.

    Args:
        pair: of workers that are up.
        steps: calls that are repeated, all of which were made before.
        operations: of one call, 0 if that is not known.
    """
    text = ""
    for rounds in FEW_ROUNDS if operations > LIGHT else ROUNDS:
        answers = pair.levels(steps, list(rounds))
        if answers is None:
            return ""
        text = rising(*answers, [n * len(steps) for n in rounds])
        if not text:
            return ""
    return text


def rising(before: Sequence[Json], after: Sequence[Json], calls: Sequence[int]) -> str:
    """What has grown more in the rewrite between any two looks, as a sentence; empty if nothing has."""
    told = []
    for key, (most, name) in MOST.items():
        if not all(key in level for level in (*before, *after)):
            continue
        own, theirs = ([level[key] for level in levels] for levels in (before, after))
        rises = [
            (theirs[k] - theirs[k - 1] - max(0, own[k] - own[k - 1])) / calls[k] for k in range(1, len(own))
        ]
        if rises and min(rises) >= most:
            told.append(f"{rises[-1]:.3g} {name}")
    if not told:
        return ""
    return f"every call of the rewrite leaves {' and '.join(told[:3])} behind that the original frees"
