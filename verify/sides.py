"""Calls that take every branch of the original to both sides: from a grid, from drawn calls, by search."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .between import between
from .explore import samples
from .recipes import Calls, Hints, Json, boundaries, cheap, dims_of, plain_call, probes, scalar
from .scenarios import scenarios
from .session import Probed
from .spec import ScalarSpec
from .targets import Target

Probe = Callable[[Sequence[Json | list[Json]]], list[Probed]]
SEARCHES = 6
MOST_PROBES = 400  # calls of the original for one side of one branch: a count, so that no clock decides
SHUFFLES = 24  # other parameters that are tried for a side which no argument reaches
MOST_SIDES = 8
TRIED = 6  # calls to either side, until two of one size are found


def sides(target: Target, known: Hints, one_sided: Mapping[str, bool], probe: Probe, seed: int) -> Hints:
    """Hints with fills and calls that turn branches, and a pair of calls for each branch seen both ways.

    Args:
        target: whose original is probed.
        known: what is known of it.
        one_sided: branches with the only outcome seen so far.
        probe: calls the original once for each step.
        seed: of what is drawn.
    """
    seen: dict[str, dict[bool, list[Json]]] = {}

    def note(step: Json, found: Probed) -> None:
        for site, outcomes in found.taken.items():
            if len(outcomes) == 1:
                seen.setdefault(site, {}).setdefault(outcomes[0], []).append(step)

    grid = probes(target, known.edges)
    fills: list[Json] = []
    for (fill, step), found in zip(grid, probe([s for _, s in grid]), strict=False):
        note(step, found)
        if fill not in fills and any((not only) in found.taken.get(s, []) for s, only in one_sided.items()):
            fills.append(fill)
    wanted = {s: not only for s, only in one_sided.items() if (not only) not in seen.get(s, {})}
    if wanted:
        drawn = samples(scenarios(target, known)[0], 60, seed)
        steps = [s for steps in drawn for s in steps if s["op"] == "call"][:300]
        for step, found in zip(steps, probe(steps), strict=False):
            note(step, found)
    wanted = {s: side for s, side in wanted.items() if side not in seen.get(s, {})}
    for site, side in list(wanted.items())[:SEARCHES]:
        found_step = search(target, known, site, side, probe, seed)
        if found_step is not None:
            note(found_step, Probed({site: [side]}, {}))
    wanted = {s: side for s, side in wanted.items() if side not in seen.get(s, {})}
    turned = shuffled(target, known, wanted, probe) if wanted and known.state else []
    calls = [seen[s][not only][0] for s, only in one_sided.items() if (not only) in seen.get(s, {})]
    pairs = [pair for outcomes in seen.values() for pair in _pair(outcomes)]
    near = [_near(site, outcomes, probe) for site, outcomes in list(seen.items())[:MOST_SIDES]]
    known = replace(known, near=tuple(steps for steps in near if steps))
    known = replace(known, fills=tuple(fills[:8]), calls=tuple(calls[:12]), turned=tuple(turned))
    return replace(known, sides=tuple(pairs[:MOST_SIDES]))


def shuffled(target: Target, known: Hints, wanted: Mapping[str, bool], probe: Probe) -> list[list[Json]]:
    """For each wanted side a sequence that reaches it with the parameters shuffled, where there is one."""
    if "rebinding" not in target.vary:
        return []
    tried: list[list[Json]] = []
    for seed in range(SHUFFLES):
        dims = {n: boundaries(*v)[-1 - seed % 3 :][0] for n, v in target.dims}
        if cheap(target, dims, 1 << 20):
            change = {"op": "rebind", "how": "inplace", "seed": seed, "shuffled": True}
            tried.append([change, plain_call(target, dims, {"k": "normal"}, 300 + seed)])
    found: dict[str, list[Json]] = {}
    for steps, result in zip(tried, probe(tried), strict=False):
        for site, side in wanted.items():
            if side in result.taken.get(site, []):
                found.setdefault(site, steps)
    return list(found.values())[:MOST_SIDES]


def _near(site: str, outcomes: Mapping[bool, list[Json]], probe: Probe) -> list[Json]:
    """Calls near to where a branch turns, between the first two of one size that differ in what they are."""
    for first in outcomes.get(False, [])[:TRIED]:
        for second in outcomes.get(True, [])[:TRIED]:
            if _sizes(first) == _sizes(second) and plain(first) and plain(second):
                found = between(site, first, second, probe)
                if found:
                    return found
    return []


def plain(step: Json) -> bool:
    """Whether every tensor of a call is filled with finite numbers of a usual size."""
    text = json.dumps(step)
    return not any(f'"k": "{kind}"' in text for kind in ("nan", "inf", "huge", "tiny"))


def _pair(outcomes: Mapping[bool, list[Json]]) -> list[tuple[Json, Json]]:
    """A call to each side, of the same sizes where there are such."""
    if len(outcomes) < 2:
        return []
    for first in outcomes[True]:
        for second in outcomes[False]:
            if _sizes(first) == _sizes(second):
                return [(first, second)]
    return [(outcomes[True][0], outcomes[False][0])]


def _sizes(step: Json) -> list[object]:
    return [recipe.get("shape") for recipe in step["a"].values()]


class _Turned(Exception):
    """Raised inside hypothesis by a call that takes the branch to the wanted side."""


def search(target: Target, known: Hints, site: str, wanted: bool, probe: Probe, seed: int) -> Json | None:
    """A call that takes one branch to one side, found by moving the comparison in it across its threshold.

    The margin that the original reports is what hypothesis is told to raise; without one it draws at random.
    """
    found: list[Json] = []
    place = site.partition(" (")[0]

    def once(step: Json) -> None:
        for result in probe([step]):
            if wanted in result.taken.get(site, []):
                found.append(step)
                raise _Turned
            if place in result.margins:
                hypothesis.target(result.margins[place] * (1 if wanted else -1), label=site)

    test = settings(
        max_examples=MOST_PROBES,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )(hypothesis.seed(seed)(given(moved(target, known))(once)))
    with contextlib.suppress(_Turned, hypothesis.errors.HypothesisException):
        test()
    return found[0] if found else None


def moved(target: Target, known: Hints) -> SearchStrategy[Json]:
    """Single calls; each argument has a scale and a shift of its own, numbers that can be climbed."""
    calls = Calls(target, known)
    sizes = dims_of(target).filter(lambda d: cheap(target, d))

    @st.composite
    def strategy(draw: DrawFn) -> Json:
        dims = draw(sizes)
        made: Json = {}
        for name, spec in target.inputs:
            if isinstance(spec, ScalarSpec):
                made[name] = {"v": draw(scalar(spec, dims, known.thresholds))}
                continue
            shift = draw(st.integers(-2000, 2000)) / 20.0
            scale = 10.0 ** (draw(st.integers(-30, 30)) / 10.0)
            fill = {"k": "normal", "s": scale, "m": shift}
            made[name] = calls.value(draw, spec, dims, fill, draw(st.integers(0, 50)))
        return calls.step(draw, made)

    return strategy()
