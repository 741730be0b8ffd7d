"""Verify targets: one pair of workers each, scenario by scenario, until one differs or all agree."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .explore import Explored, explore, reduced
from .process import interpreter
from .recipes import Hints, Json, Scenario
from .report import Capture, Check, Counterexample, Report, TargetReport
from .scenarios import scenarios
from .script import script
from .session import Outcome, Pair, SetupError, Trees
from .targets import Target
from .trees import pair as pair_of_trees


@dataclass(frozen=True)
class Options:
    """What to verify and how. Directories are absolute or relative to the working directory."""

    targets: tuple[Target, ...]
    before: Path
    after: Path
    device: str = "auto"  # auto, cuda, emulated
    examples: int = 100
    seed: int = 0
    python: str | None = None
    timeout: float = 60.0  # seconds one step may take
    src: tuple[str, ...] = ()
    budget: float = 24.0  # seconds of drawing sequences for one target; every scenario runs a few all the same
    jobs: int = 1
    root: Path | None = None  # the project, for finding its interpreter


def verify(options: Options) -> Report:
    """Verify every target; one that cannot be run is a verdict, and the others go on."""
    trees = pair_of_trees(options.before, options.after, options.src)
    python = interpreter(options.python, options.root or trees.after)
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        done = list(pool.map(lambda t: _Verification(t, trees, python, options).run(), options.targets))
    device = next((d for _, d, _ in done if d), options.device)
    torch = next((t for _, _, t in done if t), "unknown")
    return Report(device, torch, tuple(report for report, _, _ in done))


class _Verification:
    """The course of one target."""

    def __init__(self, target: Target, trees: Trees, python: str, options: Options) -> None:
        self.target, self.trees, self.options = target, trees, options
        self.pair = Pair(target, trees, python, options.device, options.timeout)
        self.checks: list[Check] = []
        self.capture = Capture()

    def run(self) -> tuple[TargetReport, str, str]:
        """The report, the device's name and the torch version."""
        try:
            self.pair.start()
            report = self._explore()
        except SetupError as error:
            status = "fail" if error.verdict == "fail" else error.verdict
            check = Check(error.check, status, 0)
            report = TargetReport(self.target.name, error.verdict, error.reason, (*self.checks, check))
        finally:
            self.pair.close()
        return report, str(self.pair.hello.get("device", "")), str(self.pair.hello.get("torch", ""))

    # -- the course -----------------------------------------------------------------------------------------
    def _explore(self) -> TargetReport:
        hints = Hints()
        plans = scenarios(self.target, hints)
        total = sum(p.weight for p in plans)
        start = time.monotonic()
        spent = 0.0
        for number, plan in enumerate(plans):
            count = max(3, round(self.options.examples * plan.weight / total))
            spent += plan.weight
            deadline = start + self.options.budget * spent / total
            found = explore(plan, count, self.options.seed + number, self._once, deadline)
            if found.errors:
                self.checks.append(Check(plan.name, "error", found.examples))
                return self._report("error", found.errors[0].text)
            if found.failing is not None and found.outcome is not None:
                return self._failed(plan, found)
            self.checks.append(Check(plan.name, "pass", found.examples))
        return self._conclude()

    def _once(self, steps: list[Json]) -> Outcome:
        return self.pair.run(steps, self.options.seed)[0]

    def _failed(self, plan: Scenario, found: Explored) -> TargetReport:
        assert found.failing is not None and found.outcome is not None
        steps, outcome = reduced(found.failing, found.outcome, self._once)
        self.checks.append(Check(plan.name, "fail", found.examples))
        at = f" at step {outcome.step}" if outcome.step is not None else ""
        reason = f"{plan.name}: {outcome.text}{at} of {len(steps)}"
        emulated = bool(self.pair.hello.get("emulated"))
        text = script(self.target, self.trees, steps, self.options.seed, reason, emulated)
        return self._report("fail", reason, Counterexample(tuple(steps), text))

    def _conclude(self) -> TargetReport:
        tally = self.pair.tally
        unseen = [f"{s} is always {v}" for s, v in tally.one_sided.items()]
        self._capture_state()
        if tally.insensitive:
            return self._report("inconclusive", "the results of the original do not depend on the inputs that were tried")
        if tally.unmeasured:
            return self._report("inconclusive", tally.unmeasured)
        if unseen:
            return self._report("inconclusive", f"a branch was seen on one side only: {'; '.join(unseen)}")
        real = self.target.device == "cuda" and not self.pair.hello.get("emulated")
        if real and not self.capture.replays:
            why = f": {self.capture.blocked_by}" if self.capture.blocked_by else ""
            return self._report("inconclusive", f"no graph was replayed{why}")
        return self._report("pass", self._evidence())

    def _capture_state(self) -> None:
        tally = self.pair.tally
        if tally.replays:
            self.capture = Capture("program", tally.captures, tally.replays, None)

    def _evidence(self) -> str:
        tally, hello = self.pair.tally, self.pair.hello
        both = sum(len(v) == 2 for v in tally.branches.values())
        parts = [
            f"{tally.sequences} sequences, {tally.calls} calls",
            f"{self.capture.replays} replays of {self.capture.graphs} graphs",
            f"{both} branches seen both ways" if tally.branches else "",
            f"largest error {tally.largest:.2g} of the allowance",
            "emulated: unverified on GPU" if hello.get("emulated") else f"on {hello.get('device')}",
            f"torch {hello.get('torch')}",
        ]
        return "; ".join(p for p in parts if p)

    def _report(self, verdict: str, reason: str, example: Counterexample | None = None) -> TargetReport:
        if not self.capture.by:
            self._capture_state()
        return TargetReport(
            self.target.name, verdict, reason, tuple(self.checks), example, self.capture, notes=tuple(self.pair.tally.notes)
        )


def select(targets: Iterable[Target], names: tuple[str, ...]) -> tuple[list[Target], list[str]]:
    """Targets whose names match the given patterns (all without any), and patterns that match none."""
    from fnmatch import fnmatchcase

    everything = list(targets)
    if not names:
        return everything, []
    chosen = [t for t in everything if any(fnmatchcase(t.name, n) for n in names)]
    return chosen, [n for n in names if not any(fnmatchcase(t.name, n) for t in everything)]
