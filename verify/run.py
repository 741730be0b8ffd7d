"""Verify targets: one pair of workers each, scenario by scenario, until one differs or all agree."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from .certain import affordable
from .evidence import bound
from .explore import Explored, explore, reduced
from .leaks import leaked
from .process import OutOfTime, interpreter
from .ranges import covered, ranges, wholes
from .recipes import PLAIN_FILLS, Json, Scenario, cycle, plain_call
from .replay import Failing
from .report import Capture, Check, Counterexample, Report, TargetReport
from .scenarios import scenarios
from .script import script
from .session import Outcome, Pair, SetupError
from .sides import sides
from .targets import RUNS, Target, Unfinished
from .timing import Timed, measure
from .trees import Trees
from .trees import pair as pair_of_trees

LIGHT = 600  # operations of a call up to which all examples are drawn


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
    target_limit: float = 1800.0  # seconds one target may take, whatever it is doing
    run_limit: float = 14400.0  # seconds all targets together may take
    budget: float = 240.0  # seconds of drawing for one target: a stop for emergencies, which the report tells
    jobs: int = 1
    timed: bool = True
    root: Path | None = None  # the project, for finding its interpreter
    unfinished: tuple[Unfinished, ...] = ()  # listed as errors, not run
    replay: Mapping[str, Failing] = field(default_factory=dict)  # by target: what failed the last time


def verify(options: Options) -> Report:
    """Verify every target; one that cannot be run is a verdict, and the others go on."""
    trees = pair_of_trees(options.before, options.after, options.src)
    python = interpreter(options.python, options.root or trees.after)
    # what is timed on a GPU has it for itself
    alone = options.device != "emulated" and any(t.device == "cuda" for t in options.targets)
    with ThreadPoolExecutor(1 if alone else max(1, options.jobs)) as pool:
        end = time.monotonic() + options.run_limit
        done = list(pool.map(lambda t: _Verification(t, trees, python, options, end).run(), options.targets))
    device = next((d for _, d, _ in done if d), options.device)
    torch = next((t for _, _, t in done if t), "unknown")
    blank = (TargetReport(t.name, "error", f"{t.place}: {t.reason}") for t in options.unfinished)
    return Report(device, torch, (*(report for report, _, _ in done), *blank))


class _Verification:
    """The course of one target."""

    def __init__(self, target: Target, trees: Trees, python: str, options: Options, end: float) -> None:
        self.target, self.trees, self.options = target, trees, options
        self.pair = Pair(target, trees, python, options.device, options.timeout)
        self.checks: list[Check] = []
        self.capture = Capture()
        self.timed: Timed | None = None
        self.end = end  # of the whole run, by time.monotonic
        self.check = "load"  # what is under way

    def run(self) -> tuple[TargetReport, str, str]:
        """The report, the device's name and the torch version."""
        started = time.monotonic()
        left = min(self.options.target_limit, self.end - started)
        alarm = threading.Timer(max(0.0, left), self.pair.interrupt)
        alarm.daemon = True
        try:
            if left <= 0:
                raise OutOfTime
            alarm.start()
            self.pair.start()
            report = self._explore()
        except OutOfTime as over:
            report = self._stopped(over, left)
        except SetupError as error:
            status = "fail" if error.verdict == "fail" else error.verdict
            check = Check(error.check, status, 0)
            report = TargetReport(self.target.name, error.verdict, error.reason, (*self.checks, check))
        except (
            Exception
        ) as error:  # a fault of the verifier costs one target its verdict, not the others theirs
            text = f"the verifier failed: {type(error).__name__}: {error}; please report it"
            report = TargetReport(
                self.target.name, "error", text, (*self.checks, Check("verifier", "error", 0))
            )
        finally:
            alarm.cancel()
            files = self.pair.loaded()
            self.pair.close()
        report = replace(
            report,
            seconds=time.monotonic() - started,
            before=tuple(bound(self.trees.before, files).items()),
            after=tuple(bound(self.trees.after, files).items()),
        )
        return report, str(self.pair.hello.get("device", "")), str(self.pair.hello.get("torch", ""))

    def _stopped(self, over: OutOfTime, seconds: float) -> TargetReport:
        """No verdict within the limit: what was under way, and what was seen until then."""
        tally = self.pair.tally
        whole = seconds < self.options.target_limit
        limit = f"--run-limit {self.options.run_limit:g}" if whole else f"--target-limit {seconds:g}"
        if seconds <= 0:
            text = f"not started: the time of the whole run was over ({limit})"
        else:
            seen = f"{tally.sequences} sequences, {tally.calls} calls until then, and none differed"
            text = f"stopped after {max(0.0, seconds):.3g} s ({limit}) in {self.check}: {seen}"
        text += f"; last words of the {over.words}" if over.words else ""
        verdict = "inconclusive" if tally.sequences else "error"
        self.checks.append(Check("time limit", verdict, 0))
        return self._report(verdict, text)

    # -- the course -----------------------------------------------------------------------------------------
    def _explore(self) -> TargetReport:
        hints = replace(ranges(self.target, self.pair.clues, self.pair.probe), operations=self._weight())
        hints = wholes(self.target, hints, self.pair.probe, self.pair.weigh)
        self.pair.tally.notes += covered(hints)
        plans = scenarios(self.target, hints)
        known = self.options.replay.get(self.target.name)
        if known is not None:
            steps = list(known.steps)
            outcome = self._once(steps)
            if outcome.status == "differs":
                return self._failed(replace(plans[0], name=known.check), Explored(1, steps, outcome))
        total = sum(p.weight for p in plans)
        share = min(1.0, LIGHT / max(1, hints.operations))  # of calls of many operations fewer are drawn
        start = time.monotonic()
        spent = 0.0
        for number, plan in enumerate(plans):
            wanted = self.options.examples * share * plan.weight / total
            count = max(min(4, self.options.examples), round(wanted))
            spent += plan.weight
            deadline = start + self.options.budget * spent / total
            self.check = plan.name
            if plan.note_only:
                self._noted(plan, count, self.options.seed + number, deadline)
                continue
            found = explore(plan, count, self.options.seed + number, self._once, deadline)
            if found.errors:
                self.checks.append(Check(plan.name, "error", found.examples))
                return self._report("error", found.errors[0].text)
            if found.failing is not None and found.outcome is not None:
                return self._failed(plan, found)
            self.checks.append(Check(plan.name, "pass", found.examples))
            if found.late:
                self.pair.tally.notes.append(f"{plan.name}: drawing was stopped after {start_s(start)} s")
            if number == 0 and self.pair.tally.refused:
                text = f"the original refuses every input that was tried: {self.pair.tally.refused}"
                return self._report("error", text)
            if number == 0 and self.pair.tally.branches:
                tally, seed = self.pair.tally, self.options.seed
                hints = sides(self.target, hints, tally.one_sided, self.pair.probe, seed)
                plans[1:] = scenarios(self.target, hints)[1:]
        return self._after_scenarios(plans, hints.operations)

    def _weight(self) -> int:
        """Operations of one call of the original: what it costs, whatever the clock says."""
        steps = [plain_call(self.target, affordable(self.target), PLAIN_FILLS[0], 5)]
        return self.pair.weigh(steps)

    def _noted(self, plan: Scenario, count: int, seed: int, deadline: float) -> None:
        """An operation the target does not list: a difference is told, and changes no verdict."""
        tally = self.pair.tally
        unmeasured, refused, insensitive = tally.unmeasured, tally.refused, tally.insensitive
        found = explore(plan, count, seed, self._once, deadline)
        tally.unmeasured, tally.refused, tally.insensitive = unmeasured, refused, insensitive
        if found.outcome is not None and found.failing is not None:
            tally.notes.append(f'{plan.name} (fails where vary lists "{plan.name}"): {found.outcome.text}')
        self.checks.append(Check(plan.name, "skipped" if found.failing else "pass", found.examples))

    def _after_scenarios(self, plans: list[Scenario], operations: int) -> TargetReport:
        """Checks that need the whole picture: graphs stop growing, and capture by the verifier."""
        self.check = "graph growth and capture"
        if self.pair.tally.replays:
            grown = self._growth(plans)
            if grown is not None:
                return grown
        elif self.target.device == "cuda":
            self._capture_whole(plans)
        if RUNS not in self.target.vary:
            self.check = "memory growth"
            text = leaked(self.pair, cycle(self.target), operations)
            self.checks.append(Check("memory growth", "fail" if text else "pass", 1))
            if text:
                return self._report("fail", f"memory growth: {text}")
        return self._conclude()

    def _growth(self, plans: list[Scenario]) -> TargetReport | None:
        """The same three calls, again and again: in the last rounds no new graph may be captured.

        Code that uses a cache where it is may meet its second address late, by the allocator's chance, and
        then capture a graph that copies: graphs that still come are looked for again, four times as long.
        Where a call of the original builds models of its own, graphs can only be as short-lived as these.
        """
        steps = cycle(self.target)
        for rounds, settled_after in ((5, 3), (20, 12)):
            outcome, answer = self.pair.run(steps * rounds, self.options.seed)
            if outcome.status == "differs":
                return self._failed(
                    Scenario("graph growth", plans[0].steps), Explored(1, steps * rounds, outcome)
                )
            more, built = (_since(answer.get(k), len(steps) * settled_after) for k in ("growth", "built"))
            if more > 0 and built > 0:
                self.pair.tally.notes.append(
                    "every call builds models of its own, and captures their graphs anew"
                )
                self.checks.append(Check("graph growth", "skipped", 1))
                return None
            if more <= 0:
                self.checks.append(Check("graph growth", "pass", 1))
                return None
        calls = len(steps) * (rounds - settled_after)
        self.checks.append(Check("graph growth", "fail", 1))
        return self._report(
            "fail", f"graph growth: {more} new graphs in {calls} calls with shapes and values seen before"
        )

    def _capture_whole(self, plans: list[Scenario]) -> None:
        """The rewrite owns no graph: capture its call here, and verify the replays as well."""
        captures = replays = examples = 0
        blocked = ""

        def run(steps: list[Json]) -> Outcome:
            nonlocal captures, replays, blocked
            steps = [s for s in steps if s["op"] != "attribute"]  # a graph of a whole call keeps what it read
            outcome, answer = self.pair.run(steps, self.options.seed, captured=True)
            captures += int(answer.get("captures", 0))
            replays += int(answer.get("replays", 0))
            blocked = blocked or str(answer.get("blocked") or "")
            if blocked:
                return Outcome("error", blocked)
            return outcome

        names = ("values", "shapes", "arguments", "rebinding", "kept outputs")
        chosen = [replace(p, always=p.always[:2]) for p in plans if p.name in names]
        for number, plan in enumerate(chosen):
            found = explore(plan, 4, self.options.seed + 100 + number, run, time.monotonic() + 60.0)
            examples += found.examples
            if blocked:
                break
            if found.outcome is not None and found.failing is not None:
                blocked = f"captured as a whole it gives other results ({plan.name}: {found.outcome.text})"
                break
        if blocked or not replays:
            self.capture = Capture(None, 0, 0, blocked or None)
            self.checks.append(Check("captured by the verifier", "skipped", examples))
        else:
            self.capture = Capture("verifier", captures, replays, None)
            self.checks.append(Check("captured by the verifier", "pass", examples))

    def _once(self, steps: list[Json]) -> Outcome:
        return self.pair.run(steps, self.options.seed)[0]

    def _failed(self, plan: Scenario, found: Explored) -> TargetReport:
        assert found.failing is not None
        assert found.outcome is not None
        steps, outcome = found.failing, found.outcome
        with contextlib.suppress(OutOfTime):  # what was found stands, however long it is
            steps, outcome = reduced(found.failing, found.outcome, self._once)
        self.checks.append(Check(plan.name, "fail", found.examples))
        at = f" at step {outcome.step}" if outcome.step is not None else ""
        reason = f"{plan.name}: {outcome.text}{at} of {len(steps)}"
        emulated = bool(self.pair.hello.get("emulated"))
        text = script(self.target, self.trees, steps, self.options.seed, reason, emulated)
        return replace(self._report("fail", reason, Counterexample(tuple(steps), text)), group=outcome.group)

    def _conclude(self) -> TargetReport:
        tally = self.pair.tally
        unseen = [f"{s} is always {v}" for s, v in tally.one_sided.items()]
        self._capture_state()
        if tally.insensitive:
            return self._report(
                "inconclusive", "the results of the original do not depend on the inputs that were tried"
            )
        if tally.unmeasured:
            return self._report("inconclusive", tally.unmeasured)
        if unseen:
            return self._report("inconclusive", f"a branch was seen on one side only: {'; '.join(unseen)}")
        real = self.target.device == "cuda" and not self.pair.hello.get("emulated")
        if real and not self.capture.replays:
            why = f": {self.capture.blocked_by}" if self.capture.blocked_by else ""
            return self._report("inconclusive", f"no graph was replayed{why}")
        if real and self.capture.replays and self.options.timed:
            self.check = "timing"
            self.timed = measure(self.pair, self.options.seed, self.capture.by == "verifier")
            wrong = self.timed.outcome
            self.checks.append(Check("timed results", "pass" if wrong.status == "equal" else "fail", 1))
            if wrong.status == "differs":
                return self._report("fail", f"timed results: {wrong.text} at call {wrong.step}")
        return self._report("pass", self._evidence())

    def _capture_state(self) -> None:
        tally = self.pair.tally
        if tally.replays and not self.capture.by:
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
            self.target.name,
            verdict,
            reason,
            tuple(self.checks),
            example,
            self.capture,
            self.timed.timing if self.timed else None,
            dict(self.timed.memory) if self.timed else {},
            tuple(self.pair.tally.notes),
        )


def start_s(start: float) -> int:
    """Whole seconds since then."""
    return round(time.monotonic() - start)


Named = TypeVar("Named", Target, Unfinished)


def select(targets: Iterable[Named], names: tuple[str, ...]) -> tuple[list[Named], list[str]]:
    """Targets whose names match the given patterns (all without any), and patterns that match none."""
    from fnmatch import fnmatchcase

    everything = list(targets)
    if not names:
        return everything, []
    chosen = [t for t in everything if any(fnmatchcase(t.name, n) for n in names)]
    return chosen, [n for n in names if not any(fnmatchcase(t.name, n) for t in everything)]


def _since(counted: list[int] | None, step: int) -> int:
    """How much was counted from a step on."""
    return counted[-1] - counted[min(step, len(counted) - 1)] if counted else 0
