"""Measure the verifier's own speed: sequences of one small target, and several targets at the same time.

    python benchmarks/verify.py [--examples N] [--targets N] [--jobs 1,2]

Emulated, on a right rewrite of the corpus, so that every sequence is run. The budget is 20 s for 100
sequences of one target after torch is imported; the seconds of CPU, in which that import is counted twice,
tell the same on a machine that does other work as well.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from corpus import PAIRS
from corpus.pair import FILE
from refactor.verify.run import Options, verify
from refactor.verify.session import Pair
from refactor.verify.targets import load

NAME = "scalar_argument_on_device"


def cpu() -> float:
    """Seconds of CPU of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> int:
    """Print one line for each number of jobs; exits 1 if a verdict is not a pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--targets", type=int, default=1, help="how many targets, all alike")
    parser.add_argument("--jobs", default="1", help="numbers of targets at the same time, with commas")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pair = next(p for p in PAIRS if p.name == NAME)
    starts: list[float] = []
    start = Pair.start

    def timed(self: Pair) -> None:
        begun = time.monotonic()
        start(self)
        starts.append(time.monotonic() - begun)

    Pair.start = timed  # type: ignore[method-assign]
    good = True
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        root = Path(folder)
        for side, text in (("before", pair.before), ("after", pair.after)):
            (root / side).mkdir()
            (root / side / FILE).write_text(text, encoding="utf-8")
        (root / "targets.toml").write_text(pair.toml, encoding="utf-8")
        (target,) = load(root / "targets.toml")
        several = tuple(replace(target, name=f"{target.name} {k}") for k in range(options.targets))
        for jobs in map(int, options.jobs.split(",")):
            starts.clear()
            begun, used = time.monotonic(), cpu()
            report = verify(
                Options(
                    several, root / "before", root / "after",
                    device="emulated", examples=options.examples, jobs=jobs,
                )
            )  # fmt: skip
            wall, used = time.monotonic() - begun, cpu() - used
            sequences = sum(c.examples for t in report.targets for c in t.checks)
            good &= report.verdict == "pass"
            slowest = max(t.seconds for t in report.targets)
            print(
                f"{len(several)} targets, {jobs} at a time: {report.verdict}, {sequences} sequences; "
                f"{wall:.1f} s in all, {wall - sum(starts) / jobs:.1f} s without starting the workers "
                f"({sum(starts) / len(starts):.1f} s a target); slowest target {slowest:.1f} s; "
                f"{used:.1f} s of CPU; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
