"""Measure `refactor check`: lines a second cold (`--no-cache`) and warm (nothing changed), for each tree.

    python benchmarks/check.py TREE... [--runs N] [--jobs N] [--torchfix PYTHON]

Seconds are processor time of all processes (user and system), the best of the runs, so that other work
on the machine counts little; wall seconds stand beside them. The budget is 25,000 lines a second and core,
cold. Each tree is copied first: no configuration around it counts, and the cache is written into the copy. A
warm run is one after a run that wrote the cache. ``--torchfix`` names an interpreter that has TorchFix, a
linter for the same sources, and times it on the same copy in the same minutes: the ratios say how many of our
checks it takes.
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
from pathlib import Path

TORCHFIX = """\
No comparison with TorchFix. To get one (it needs no torch):
    python -m venv /tmp/torchfix && /tmp/torchfix/bin/pip install torchfix==0.7.0
    python benchmarks/check.py TREE... --torchfix /tmp/torchfix/bin/python"""


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


def torchfix(python: str) -> tuple[str, str]:
    """The path of an interpreter, and the version of TorchFix that it has.

    Raises:
        SystemExit: it has none, or there is no such interpreter.
    """
    found = shutil.which(python)
    if not found:
        sys.exit(f"--torchfix {python}: no such interpreter\n{TORCHFIX}")
    found = os.path.abspath(found)  # runs start elsewhere; a link into a venv stays a link
    code = "import torchfix; from importlib.metadata import version; print(version('torchfix'))"
    done = subprocess.run([found, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"--torchfix {python}: {done.stderr.strip().splitlines()[-1]}\n{TORCHFIX}")
    return found, done.stdout.strip()


def row(tree: Path, runs: int, jobs: int | None, other: str | None) -> str:
    """Measure one tree.

    Raises:
        SystemExit: the tree has no Python files, or the first run kept no cache.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        copy, lines = copied(tree.resolve(), folder)
        if not lines:
            sys.exit(f"no Python files in {tree}")
        # the root, and with it the cache, is here whatever lies above the scratch folder
        (folder / "pyproject.toml").write_text("[tool.refactor]\n", encoding="utf-8")
        ours = [sys.executable, "-m", "refactor", "check", copy.name, "--output-format", "json"]
        ours += ["--jobs", str(jobs)] if jobs else []
        cold, cold_wall = measured([*ours, "--no-cache"], folder, runs)
        measured(ours, folder, 1)
        if not any((folder / ".refactor").rglob("check-*.json")):
            sys.exit(f"{tree}: the first run kept no cache, so there is no warm run to measure")
        warm, warm_wall = measured(ours, folder, runs)
        cells = f"{copy.name:<16}{lines:>9,}"
        for cpu, wall in ((cold, cold_wall), (warm, warm_wall)):
            cells += f"{cpu:>8.2f}{wall:>8.2f}{lines / cpu:>12,.0f}"
        cells += f"{cold / warm:>8.1f}"
        if other:
            theirs, wall = measured([other, "-m", "torchfix", copy.name], folder, runs)
            cells += f"{theirs:>9.2f}{wall:>8.2f}{lines / theirs:>12,.0f}"
            cells += f"{theirs / cold:>8.2f}{theirs / warm:>8.1f}"
    return cells


def main() -> None:
    """Print one row for each tree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--jobs", type=int, help="worker processes of refactor (default: one for each CPU)")
    parser.add_argument("--torchfix", metavar="PYTHON", help="an interpreter that has TorchFix")
    given = parser.parse_args()
    other, release = torchfix(given.torchfix) if given.torchfix else (None, "")
    above = f"{'':<25}{'cold (--no-cache)':>28}{'warm':>28}{'cold':>8}"
    head = f"{'tree':<16}{'lines':>9}" + f"{'cpu s':>8}{'wall s':>8}{'lines/cpu s':>12}" * 2 + f"{'/warm':>8}"
    if other:
        above += f"{f'TorchFix {release}':>29}{'/cold':>8}{'/warm':>8}"
        head += f"{'cpu s':>9}{'wall s':>8}{'lines/cpu s':>12}" + f"{'cpu':>8}" * 2
    print(f"{above}\n{head}", flush=True)
    for tree in given.trees:
        print(row(tree, given.runs, given.jobs, other), flush=True)
    if not other:
        print(TORCHFIX)


if __name__ == "__main__":
    main()
