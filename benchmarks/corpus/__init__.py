"""Pairs of programs that measure the verifier: right rewrites it must pass, wrong ones it must fail."""

from __future__ import annotations

from . import (
    aliasing,
    branches,
    buffers,
    calling,
    capturable,
    capture,
    concurrency,
    contracts,
    corners,
    decoding,
    edges,
    fields,
    gradients,
    guises,
    habits,
    holders,
    idioms,
    isolation,
    leaving,
    lookups,
    manners,
    margins,
    numerics,
    optimizing,
    outputs,
    padding,
    programs,
    rng,
    roundings,
    scripts,
    sequences,
    state,
    steps,
    streams,
    thresholds,
    training,
    undecided,
    ungraphed,
    values,
    written,
)
from .pair import Pair

FAMILIES = (
    aliasing, branches, buffers, capture, concurrency, numerics, padding, rng, state, training, undecided,
    idioms, programs, sequences, steps, ungraphed, decoding,
    outputs, optimizing, values, isolation, streams,
    manners, margins, scripts, contracts, roundings, edges, habits, holders, gradients, fields,
    corners, capturable, lookups,
    written, calling, leaving, thresholds, guises,
)  # fmt: skip
PAIRS: tuple[Pair, ...] = tuple(pair for family in FAMILIES for pair in family.PAIRS)

__all__ = ["PAIRS", "Pair"]
