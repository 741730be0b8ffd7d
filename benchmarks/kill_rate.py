"""Measure the verifier: how many wrong rewrites of the corpus it fails, how many right ones it rejects.

    python benchmarks/kill_rate.py [--device emulated|cuda] [--only SUBSTR] [--part K/N] [--jobs N]
                                   [--times FILE]

Needs the installed package and torch. Exits 1 if a control is rejected or a mutant survives. On the emulator,
pairs whose mistake needs real hardware to show are run and listed apart. A line of the table says what became
of a pair: ``killed*`` is a mutant killed by another check than the one it names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import PAIRS, Pair
from corpus.pair import FILE

SHOWN = (
    ("called", r"[^:]*\(\)\["),
    ("files", r"file "),
    ("kept", r"(result|\S+) of step \d+"),
    ("aliasing", r".*shares memory with"),
    ("exception", r"call: |message\b"),
    ("random", r"generators: "),
    ("state", r"state_dict"),
    ("gradients", r"grad\b|\w+\.grad\b"),
    ("flags", r"setting of |requires_grad of |parameter |hooks of |functions of torch"),
    ("attributes", r"self\.|program\.|class |function |unsaved buffer "),
    ("printed", r"(stdout|stderr|logged|warned) ?\d*"),
    ("result", r"result\b"),
)
# The verdict is measured, not the counterexample: time for making it shorter is saved.
VERIFY = """
from refactor.cli import main
from refactor.verify import explore
explore.SHRINK_S = 0.0
main()
"""


@dataclass(frozen=True)
class Row:
    """What the verifier said about one pair."""

    pair: Pair
    verdict: str
    killed_by: tuple[str, ...]  # scenario and observation
    reason: str
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the right one."""
        return self.verdict == self.pair.expect

    @property
    def named(self) -> bool:
        """Whether a mutant died of the check it names."""
        return bool(set(self.pair.check.split("|")) & set(self.killed_by))


def observation(reason: str) -> str:
    """The kind of observation that differed, from a reason such as ``shapes: result[0]: 2 of 4 differ``."""
    text = reason.partition(": ")[2]
    return next((name for name, pattern in SHOWN if re.match(pattern, text)), "inputs")


def run(pair: Pair, device: str, examples: int, timeout: float) -> Row:
    """Verify one pair in a process of its own."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        root = Path(folder)
        for side, source in (("before", pair.before), ("after", pair.after)):
            (root / side).mkdir()
            (root / side / FILE).write_text(source, encoding="utf-8")
        (root / "targets.toml").write_text(pair.toml, encoding="utf-8")
        command = [sys.executable, "-c", VERIFY, "verify", "--python", sys.executable]
        command += ["--before", str(root / "before"), "--after", str(root / "after")]
        command += ["--targets", str(root / "targets.toml"), "--device", device, "--json", "-"]
        command += ["--examples", str(examples)] if examples else []
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        try:
            done = subprocess.run(
                command,
                cwd=root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            (target,) = json.loads(done.stdout)["targets"]
        except subprocess.TimeoutExpired:
            return Row(pair, "timeout", (), f"no verdict in {timeout:.0f} s", timeout)
        except (ValueError, KeyError):
            last = (done.stderr.strip() or done.stdout.strip() or "nothing printed").splitlines()[-1]
            return Row(pair, "broken", (), last, time.monotonic() - started)
    return row(pair, target, time.monotonic() - started)


def row(pair: Pair, target: dict[str, Any], seconds: float) -> Row:
    """Read one target of the verifier's JSON."""
    reason = str(target.get("reason") or "")
    failing = [str(c["name"]) for c in target.get("checks", []) if c.get("status") == "fail"]
    killed_by = (*failing, observation(reason)) if target["verdict"] == "fail" else ()
    return Row(pair, str(target["verdict"]), killed_by, reason, seconds)


def line(found: Row) -> str:
    """One line of the table."""
    if found.pair.expect == "fail":
        good = "killed" if found.as_expected else "SURVIVED"
        good = "killed*" if found.as_expected and not found.named else good
    else:
        good = "right" if found.as_expected else "WRONG"
    by = "/".join(found.killed_by) or found.verdict
    where = " (needs a GPU)" if found.pair.cuda_only else ""
    reason = "" if found.as_expected and found.named else f"  {found.reason[:220]}"
    return f"{good:9}{found.pair.family:12}{found.pair.name:44}{by:32}{found.seconds:6.1f} s{where}{reason}"


def summary(rows: list[Row], device: str) -> tuple[list[str], bool]:
    """The counts, and whether everything is as it must be."""
    decided = [r for r in rows if device == "cuda" or not r.pair.cuda_only]
    total = Counter(r.pair.expect for r in decided)
    good = Counter(r.pair.expect for r in decided if r.as_expected)
    other = [r.pair.name for r in decided if r.pair.expect == "fail" and r.as_expected and not r.named]
    lines = [
        f"{device}: mutants killed {good['fail']}/{total['fail']}, "
        f"controls rejected {total['pass'] - good['pass']}/{total['pass']}, "
        f"undecidable pairs named {good['inconclusive']}/{total['inconclusive']}"
    ]
    if other:
        lines.append(f"* killed by another check than the one they name: {', '.join(other)}")
    apart = [r for r in rows if r not in decided]
    if apart:
        shown = sum(r.as_expected for r in apart)
        lines.append(f"need a GPU to be decided: {len(apart)}, of which {shown} came out right here too")
    return lines, good == total


def choose(only: list[str], part: str, known: dict[str, float] | None = None) -> list[Pair]:
    """The pairs of a selection; every N-th from the K-th on for ``K/N``, the slowest first.

    ``known`` has seconds of an earlier run by name; where there are none, controls are taken for slow.
    """
    seconds = known or {}

    def asked(pair: Pair, text: str) -> bool:
        if text.startswith("="):
            return text[1:] == pair.name
        return text in pair.name or text in (pair.family, pair.control)

    found = [p for p in PAIRS if not only or any(asked(p, s) for s in only)]
    first, _, step = part.partition("/")
    found.sort(key=lambda p: (-seconds.get(p.name, 0.0 if p.expect == "fail" else 600.0), p.expect == "fail"))
    return found[int(first) - 1 :: int(step or 1)]


def table(rows: list[Row], device: str) -> str:
    """The table as JSON."""
    pairs = [
        {
            "name": r.pair.name,
            "family": r.pair.family,
            "expect": r.pair.expect,
            "verdict": r.verdict,
            "killed_by": list(r.killed_by),
            "named": r.named,
            "reason": r.reason,
            "seconds": round(r.seconds, 1),
        }
        for r in rows
    ]
    return json.dumps({"device": device, "pairs": pairs}, indent=1) + "\n"


def main() -> int:
    """Run the chosen pairs and print the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", choices=("emulated", "cuda"), default="emulated")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SUBSTR", help="part of a name, a family, or =NAME"
    )
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th pair from the K-th on")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--examples", type=int, default=0, help="sequences for each pair")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each pair")
    parser.add_argument("--json", metavar="FILE", help="write the table there as well")
    parser.add_argument(
        "--times", metavar="FILE", help="a table of an earlier run: the slowest pairs start first"
    )
    options = parser.parse_args()
    earlier = json.loads(Path(options.times).read_text(encoding="utf-8"))["pairs"] if options.times else []
    known = {pair["name"]: float(pair["seconds"]) for pair in earlier}
    rows: list[Row] = []
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        started = [
            pool.submit(run, pair, options.device, options.examples, options.timeout)
            for pair in choose(options.only, options.part, known)
        ]
        for done in as_completed(started):
            rows.append(done.result())
            print(line(rows[-1]), flush=True)
    lines, good = summary(rows, options.device)
    print("\n".join(lines))
    if options.json:
        Path(options.json).write_text(table(rows, options.device), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
