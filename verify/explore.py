"""Hypothesis drives one scenario: draws sequences, runs them in both trees, shrinks one that differs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from .process import OutOfTime
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
    late: bool = False  # drawing was stopped by the clock


def explore(scenario: Scenario, examples: int, seed: int, run: Run, deadline: float) -> Explored:
    """Run the certain sequences of a scenario, then draw more, ``examples`` in all.

    Of those drawn two are run even when ``deadline`` (of time.monotonic) has passed.
    """
    found = Explored()
    for steps in scenario.always:
        outcome = run(steps)
        found.examples += 1
        if outcome.status == "error":
            found.errors.append(outcome)
            return found
        if outcome.status == "differs":
            found.failing, found.outcome = steps, outcome
            return found
    count = max(2, examples - found.examples)
    drawn = _Drawn(run, found, deadline, found.examples + 2)
    test = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, *(() if scenario.note_only else (Phase.shrink,))),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )(hypothesis.seed(seed)(given(scenario.steps)(drawn.once)))
    try:
        test()
    except OutOfTime:
        if found.failing is None:
            raise
    except (_Differs, hypothesis.errors.HypothesisException):
        if found.failing is None and not found.errors:
            raise
    return found


class _Drawn:
    """What hypothesis calls: a sequence is run once, fewer when it is late, and for a while to shrink one."""

    def __init__(self, run: Run, found: Explored, deadline: float, least: int) -> None:
        self.run, self.found, self.deadline, self.least = run, found, deadline, least
        self.results: dict[str, Outcome] = {}
        self.shrinking: list[float] = []

    def once(self, steps: list[Json]) -> None:
        """Run one drawn sequence; raises _Differs if the two sides do."""
        found, key = self.found, json.dumps(steps, sort_keys=True)
        if key not in self.results:
            if found.errors or self._late():
                return
            self.results[key] = self.run(steps)
            found.examples += not self.shrinking
        outcome = self.results[key]
        if outcome.status == "error":
            found.errors.append(outcome)
        if outcome.status == "differs":
            if not self.shrinking:
                # a worker that dies or hangs takes too long to be tried again and again
                self.shrinking.append(time.monotonic() - (SHRINK_S if outcome.group == "worker" else 0.0))
            if found.failing is None or _size(steps) <= _size(found.failing):
                found.failing, found.outcome = steps, outcome
            raise _Differs

    def _late(self) -> bool:
        now = time.monotonic()
        if not self.shrinking:
            late = now > self.deadline and self.found.examples >= self.least
            self.found.late = self.found.late or late
            return late
        self.shrinking.append(now)
        return now - self.shrinking[0] > SHRINK_S or len(self.shrinking) > SHRINK_RUNS


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
    """Leave out what the difference does not need: first what follows it, then halves, quarters, … steps."""
    if outcome.step is None or outcome.group == "worker":
        return steps, outcome
    end = time.monotonic() + SHRINK_S / 2
    current, result = steps, outcome
    shorter = steps[: outcome.step + 1]
    while shorter and len(shorter) < len(current) and time.monotonic() < end:
        tried = run(shorter)
        if tried.status != "differs":
            break
        current, result = shorter, tried
        shorter = _up_to(current, result)
    length = max(1, (len(current) - 1) // 2)
    while len(current) > 1:
        position = 0
        while position < len(current) - 1 and time.monotonic() < end:
            shorter = current[:position] + current[min(position + length, len(current) - 1) :]
            tried = run(shorter)
            if tried.status == "differs":
                current, result = _up_to(shorter, tried), tried
            else:
                position += length
        if length == 1 or time.monotonic() >= end:
            break
        length //= 2
    return current, result


def _up_to(steps: list[Json], outcome: Outcome) -> list[Json]:
    """The steps up to the one that differs: the rest is not needed to show it."""
    return steps[: (outcome.step if outcome.step is not None else len(steps)) + 1]
