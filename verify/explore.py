"""Hypothesis drives one scenario: draws sequences, runs them in both trees, shrinks one that differs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from .recipes import Json, Scenario
from .session import Outcome

SHRINK_S = 12.0  # seconds spent on making a failing sequence shorter
SHRINK_RUNS = 120

Run = Callable[[list[Json]], Outcome]


class _Differs(Exception):
    """Raised inside hypothesis for a sequence that fails."""


@dataclass
class Explored:
    """What one scenario has shown."""

    examples: int = 0
    failing: list[Json] | None = None
    outcome: Outcome | None = None
    errors: list[Outcome] = field(default_factory=list)


def explore(scenario: Scenario, examples: int, seed: int, run: Run, deadline: float) -> Explored:
    """Run up to ``examples`` sequences; fewer, but four, when ``deadline`` (of time.monotonic) passes."""
    found = Explored()
    results: dict[str, Outcome] = {}
    shrinking: list[float] = []

    def once(steps: list[Json]) -> None:
        key = json.dumps(steps, sort_keys=True)
        if key not in results:
            now = time.monotonic()
            late = now > deadline and found.examples >= 4
            if shrinking:
                late = now - shrinking[0] > SHRINK_S or len(shrinking) > SHRINK_RUNS
                shrinking.append(now)
            if late or found.errors:
                return
            results[key] = run(steps)
            found.examples += not shrinking
        outcome = results[key]
        if outcome.status == "error":
            found.errors.append(outcome)
        if outcome.status == "differs":
            if not shrinking:
                # a worker that dies or hangs takes too long to be tried again and again
                shrinking.append(time.monotonic() - (SHRINK_S if outcome.group == "worker" else 0.0))
            if found.failing is None or _size(steps) <= _size(found.failing):
                found.failing, found.outcome = steps, outcome
            raise _Differs

    test = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, *(() if scenario.note_only else (Phase.shrink,))),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )(hypothesis.seed(seed)(given(scenario.steps)(once)))
    for steps in scenario.always:
        test = hypothesis.example(steps)(test)
    try:
        test()
    except (_Differs, hypothesis.errors.HypothesisException):
        if found.failing is None and not found.errors:
            raise
    return found


def samples(scenario: Scenario, count: int, seed: int) -> list[list[Json]]:
    """Sequences as hypothesis draws them, without running any."""
    drawn: list[list[Json]] = []

    def keep(steps: list[Json]) -> None:
        drawn.append(steps)

    collect = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )(hypothesis.seed(seed)(given(scenario.steps)(keep)))
    collect()
    return drawn


def _size(steps: list[Json]) -> tuple[int, int]:
    return len(steps), len(json.dumps(steps))


def reduced(steps: list[Json], outcome: Outcome, run: Run) -> tuple[list[Json], Outcome]:
    """Cut what follows the failing step, which hypothesis keeps where a list has a minimum length."""
    if outcome.step is None or outcome.group == "worker":
        return steps, outcome
    current, result = steps, outcome
    shorter = steps[: outcome.step + 1]
    started = time.monotonic()
    while shorter and len(shorter) < len(current) and time.monotonic() - started < SHRINK_S / 2:
        tried = run(shorter)
        if tried.status != "differs":
            break
        current, result = shorter, tried
        shorter = current[: (result.step if result.step is not None else len(current)) + 1]
    position = 0
    while position < len(current) - 1 and time.monotonic() - started < SHRINK_S / 2:
        shorter = current[:position] + current[position + 1 :]
        tried = run(shorter)
        if tried.status == "differs":
            current, result = shorter, tried
        else:
            position += 1
    return current, result
