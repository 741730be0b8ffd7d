"""Operations whose result has a size that the data decides (CG202): the static form, where it is the same."""

from __future__ import annotations

from refactor.analysis.model import Facts
from refactor.rewrite.branch import propose_split
from refactor.rewrite.masks import propose_selection
from refactor.rewrite.model import Proposal, Refusal
from refactor.rule import Hit

_WRITE_INSTEAD = {
    "bincount": (
        "`bincount` is as long as its largest value says, `minlength` or not; if no value is above n - 1, "
        "write `torch.zeros(n, dtype=torch.long, device=x.device).scatter_add_(0, x, torch.ones_like(x))`"
    ),
    "unique": (
        "how many values are distinct only the device knows; sort and compare neighbours, or ask the host "
        "once outside the region"
    ),
    "nonzero": (
        "how many places are found only the device knows; use the condition itself as a mask, or "
        "`torch.nonzero_static(x, size=n)` where n is never exceeded"
    ),
    "repeat_interleave": (
        "how long the result is only the device knows; pass `output_size=`, the sum of the repeats, where "
        "the host knows it"
    ),
    "one_hot": "the number of classes is read from the largest value; pass `num_classes=`",
    "combinations": "the number of combinations is decided on the host; compute the index pairs once",
    "to_sparse": "a sparse tensor is as large as its values say; keep it dense, or build it once",
}


def propose_static(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``masked_select``, ``nonzero``, ``repeat_interleave(x, r)``, ``one_hot(x)`` and their kind."""
    answer = _static(facts, hit)
    return propose_split(facts, hit, answer) if isinstance(answer, Refusal) else answer


def _static(facts: Facts, hit: Hit) -> Proposal | Refusal:
    node, detail = hit.event.node, hit.event.detail
    if detail == "masked_select":
        return propose_selection(facts, node, hit.event.statement)
    word = {"where": "nonzero", "argwhere": "nonzero", "unique_consecutive": "unique"}.get(detail, detail)
    return Refusal(
        _WRITE_INSTEAD.get(word, "the size of the result is decided by the data; compute it outside")
    )
