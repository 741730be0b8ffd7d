"""Programs that make the last places of their inputs large: training through near-zero gradients, for one.

Adam's first steps have the size of the rate whatever the size of the gradient, so a gradient that is nothing
but roundings decides the sign of a whole step. What such a program gives is then one of many results that are
equally right, and the largest of a few disturbed runs is no bound for one more of them: most elements stay
where they are in most runs. So each disturbed run is judged as the rewrite was, by all the others: where some
of them are rejected as well, as often and by as much, the rewrite is one run more of the original.
"""

from __future__ import annotations

from torch import Tensor

from .judge import Suspect
from .measure import Measure, Reference, judged, relative

DISTURBED = tuple(f"perturbed{n}" for n in range(1, 9))
FEWEST = 3  # disturbed runs that the others reject
MORE = 2.0  # times as many elements as in the worst of them
LARGER = 4.0  # and by so much more


def is_unstable(suspect: Suspect, result: Measure, reference: Reference) -> bool:
    """Whether the rewrite is no further from the original than disturbed runs of the original are.

    Asks for ten further runs of the original, most of which have been made by then.
    """
    if suspect.exact or result.bad is None or result.largest == float("inf") or suspect.before.is_complex():
        return False
    runs = [t for kind in DISTURBED if (t := reference.tensor(kind, suspect)) is not None]
    if len(runs) < len(DISTURBED) or any(t.dtype != suspect.before.dtype for t in runs):
        return False
    counts, sizes = [], []
    for k, run in enumerate(runs):
        found = judged(suspect, run, [t for j, t in enumerate(runs) if j != k], reference)
        if found.bad is not None:
            counts.append(int(found.bad.sum()))
            sizes.append(_worst(suspect, run, found.bad))
    if len(counts) < FEWEST:
        return False
    mine = _worst(suspect, suspect.after, result.bad)
    return int(result.bad.sum()) <= MORE * max(counts) and mine <= LARGER * max(sizes)


def _worst(suspect: Suspect, run: Tensor, bad: Tensor) -> float:
    """The largest distance from the original among these elements, of the size of their rows."""
    return float(relative(suspect.before, run)[bad].max())
