"""Run every pair through the verifier: ``python -m tests.verify.pairs.score [--device cuda] [NAME…]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from refactor.verify.report import TargetReport
from refactor.verify.run import Options, verify
from refactor.verify.targets import load

from . import inference, stateful
from .model import Mutant, Pair

PAIRS = (*inference.PAIRS, *stateful.PAIRS)


def judge(pair: Pair, mutant: Mutant | None, device: str, examples: int, budget: float) -> TargetReport:
    """The verdict on a pair, or on one of its wrong rewrites."""
    with tempfile.TemporaryDirectory() as name:
        folder = pair.write(Path(name), mutant)
        targets = tuple(load(folder / "targets.toml"))
        options = Options(
            targets,
            folder / "before",
            folder / "after",
            device=device,
            examples=examples,
            budget=budget,
            timed=False,
        )
        return verify(options).targets[0]


def main() -> None:
    """Print one line each, and the two numbers that count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="emulated")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--mutants-only", action="store_true")
    given = parser.parse_args()
    work = [(p, m) for p in PAIRS for m in (None, *p.mutants) if m or not given.mutants_only]
    work = [
        (p, m)
        for p, m in work
        if not given.names or any(n in f"{p.name}.{m.name if m else ''}" for n in given.names)
    ]
    killed = alarms = named = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        reports = pool.map(lambda w: judge(w[0], w[1], given.device, given.examples, 24.0), work)
        for (pair, mutant), report in zip(work, reports, strict=True):
            right = report.verdict == ("fail" if mutant else "pass")
            checks = (report.group, *(c.name for c in report.checks if c.status == "fail"))
            as_named = mutant is None or mutant.shown_by in checks
            killed += bool(mutant) and right
            alarms += mutant is None and not right
            named += bool(mutant) and right and as_named
            label = f"{pair.name}.{mutant.name}" if mutant else pair.name
            other = "" if as_named or mutant is None else f"(not by {mutant.shown_by} but {report.group})"
            print("ok  " if right else "MISS", label, report.verdict, other, report.reason[:150], flush=True)
    mutants = sum(m is not None for _, m in work)
    print(f"{given.device}: killed {killed}/{mutants}, {named} as named")
    print(f"controls rejected: {alarms}/{len(work) - mutants}")
    sys.exit(0 if killed == mutants and not alarms else 1)


if __name__ == "__main__":
    main()
