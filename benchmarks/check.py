"""Measure `refactor check` without anything kept from a run before: lines a second, for each tree.

    python benchmarks/check.py TREE... [--runs N] [--jobs N]

Seconds are processor time of all processes (user and system), the best of the runs, so that other work on the
machine counts little; the budget is 25,000 lines a second and core. Each tree is copied first: no
configuration around it counts and nothing is written into it. Where TorchFix, a linter for the same sources,
is installed beside this interpreter (``pip install torchfix``), its time stands in the table, and the
ratio says how many of our checks it takes.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PLACE = Path(sys.executable).parent


def copied(tree: Path, folder: Path) -> tuple[Path, int]:
    """A copy of the Python files of a tree, and the number of their lines."""
    lines = 0
    for path in sorted(tree.rglob("*.py")):
        target = folder / path.relative_to(tree.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        lines += target.read_bytes().count(b"\n")
    return folder / tree.name, lines


def measured(command: Sequence[str], folder: Path, runs: int) -> tuple[float, float]:
    """Processor and wall seconds of the run that took least processor time.

    Raises:
        SystemExit: the command failed otherwise than by having findings.
    """
    best = (float("inf"), float("inf"))
    for _ in range(runs):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 1):
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, (used, wall))
    return best


def torchfix() -> str | None:
    """The version of TorchFix beside this interpreter, if it is there."""
    try:
        return version("torchfix") if (PLACE / "torchfix").exists() else None
    except PackageNotFoundError:
        return None


def main() -> None:
    """Print one row for each tree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--jobs", type=int, help="worker processes of refactor (default: one for each CPU)")
    given = parser.parse_args()
    other = torchfix()
    head = f"{'tree':<20}{'lines':>10}{'cpu s':>9}{'wall s':>9}{'lines/cpu s':>13}{'lines/s':>10}"
    print(head + (f"{f'torchfix {other} cpu s':>24}{'ratio':>8}" if other else ""))
    for tree in given.trees:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch).resolve()
            copy, lines = copied(tree.resolve(), folder)
            if not lines:
                sys.exit(f"no Python files in {tree}")
            ours = [sys.executable, "-m", "refactor", "check", copy.name, "--output-format", "json"]
            ours += ["--jobs", str(given.jobs)] if given.jobs else []
            cpu, wall = measured(ours, folder, given.runs)
            row = f"{copy.name:<20}{lines:>10,}{cpu:>9.2f}{wall:>9.2f}"
            row += f"{lines / cpu:>13,.0f}{lines / wall:>10,.0f}"
            if other:
                theirs, _ = measured([str(PLACE / "torchfix"), copy.name], folder, given.runs)
                row += f"{theirs:>24.2f}{theirs / cpu:>8.2f}"
            print(row, flush=True)
    if not other:
        print("TorchFix is not installed: no comparison")


if __name__ == "__main__":
    main()
