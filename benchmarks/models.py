"""Published models, rewritten by `refactor apply`: equal, captured, and how fast, model by model.

    python benchmarks/models.py --truth shared/dev-truth.json [--compile shared/dev-compile.json]
    python benchmarks/models.py --names tv/resnet50 hf/bert --device emulated
    python benchmarks/models.py --builder my_models.py --names lib/Model

The source of each library is copied twice, `refactor apply` rewrites one copy, and every model is built from
both with the same weights. Equal means: results, inputs, state, public attributes and random state of
several calls, by the verifier's rules, eager and as captured. A model *runs under graphs* if its whole
forward captures now, or if the rewritten code replays graphs of its own. Times are medians of interleaved
synchronised calls on values drawn anew; a captured forward copies its inputs in and clones its outputs. While
a model is timed all other processes stand still. As many models are compared at once as the device has
memory for; one that ran out of it is tried again alone, and one that was slower than eager is measured again
alone, in new processes: both numbers are told.
``--truth`` takes the models of such a file that did not capture; ``--compile`` sets the times of
``torch.compile(mode="reduce-overhead")`` beside.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from model_processes import Process, Row, Turns, Workers
from model_table import explained, table

HERE = Path(__file__).resolve().parent
ROUNDS = 4
_BESIDE = Path(sys.executable).with_name("refactor")


class Model:
    """One model on its way through the stages; ``row`` is what becomes of it."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.folder = folder / name.replace("/", "-")
        self.folder.mkdir()
        self.row = self.blank(name)
        self.sides: dict[str, Process] = {}
        self.workers: dict[str, Workers] = {}
        self.recipe = 0

    @staticmethod
    def blank(name: str) -> Row:
        """A model of which nothing is known yet."""
        return {"name": name, "verdict": "error", "how": "-", "reason": ""}

    def run(self, workers: dict[str, Workers], turns: Turns) -> Row:
        """Build both sides, compare them eagerly, then captured; time what runs under graphs."""
        start, self.workers = time.time(), workers
        try:
            with turns.place(Turns.START):
                self.sides = {side: origin.process() for side, origin in workers.items()}
                self.row["reason"] = self._build() or self._compared(turns)
        except Exception as error:  # one model must not end the run
            self.row["reason"] = f"{type(error).__name__}: {error}"
        finally:
            self.close()
        self.row["seconds"] = round(time.time() - start, 1)
        return self.row

    def _compared(self, turns: Turns) -> str:
        with turns.place(Turns.FOLD * self.row["peak"], work=True):
            reason = self._prove()
            if self.row["verdict"] == "equal" and self.row["how"] != "-" and self.options.device == "cuda":
                for process in self.sides.values():
                    process.ask("rest")
                with turns.stillness(*self.sides.values()):
                    reason = self.time() or reason
        return reason

    def _build(self) -> str:
        before, after = self.sides["before"], self.sides["after"]
        inputs = str(self.folder / "inputs.pt")
        after.tell("begin", name=self.name)
        built = before.ask("build", name=self.name, inputs=inputs)
        begun = after.hear("begin")
        if "error" in built:
            return f"before: {built['error']}"
        self.recipe = built["recipe"]
        self.row |= {"parameters": built["parameters"], "peak": round(built["peak"] / 2**30, 2)}
        again = after.ask("follow", inputs=inputs, recipe=self.recipe) if "error" not in begun else begun
        if "error" in again:
            return self._fail(f"after: {again['error']}")
        if again["strangers"]:
            return f"not from the tree: {again['strangers'][0]}"
        if built["state"] != again["state"]:
            return self._fail("state_dict differs as built")
        return ""

    def _prove(self) -> str:
        before, after = self.sides["before"], self.sides["after"]
        traces = {kind: str(self.folder / f"{kind}.pt") for kind in ("before", "after", "whole")}
        ran = before.ask("run", write=traces["before"], label="before")
        if ran.get("raised") or "error" in ran:
            return f"before: {ran.get('error') or ran['raised'][0]}"
        ours = after.ask("run", write=traces["after"], label="after")
        if "error" in ours:
            return self._fail(f"after: {ours['error']}")
        said = self._judged(before, traces["after"])
        if said:
            return said
        self.row |= {name: ours[name] for name in ("replays", "captures", "last", "eager")}
        self.row["cold_s"] = round(ours["cold_s"], 2)
        if ours["replays"]:
            self.row["how"] = f"segments ({ours['captures']} graphs, {ours['last'][1]} replays a call)"
        whole = after.ask("run", write=traces["whole"], captured=True, label="whole")
        if "error" in whole:
            return self._fail(f"captured: {whole['error']}")
        if "blocked" in whole:
            return f"not whole: {whole['blocked']}" if not ours["replays"] else self._anew(whole["blocked"])
        how, self.row["how"] = self.row["how"], "whole"
        said = self._judged(before, traces["whole"])
        if said.startswith("generators"):
            # The rewrite is right; it is this capture that does not draw again at a replay.
            self.row |= {"verdict": "equal", "how": how}
            line = after.ask("draws").get("line") or "it"
            why = f"{line} draws from a generator on the host, which a replay would not"
            return f"not whole: {why}" if not ours["replays"] else self._anew(why)
        self.row["cold_s"] = round(whole["cold_s"], 2)
        return said

    def _anew(self, why: str) -> str:
        """Why it is not whole; the program's own segments are timed in a new process.

        In one where a capture has failed, torch's allocator asks at every call whether one is going on.
        """
        if self.options.device == "cuda":
            self.sides.pop("after").close()
            after = self.sides["after"] = self.workers["after"].process()
            inputs = str(self.folder / "inputs.pt")
            after.ask("begin", name=self.name)
            answers = [after.ask("follow", inputs=inputs, recipe=self.recipe)]
            answers.append(after.ask("run", write=str(self.folder / "again.pt"), label="after"))
            if said := next((a["error"] for a in answers if "error" in a), ""):
                return self._fail(f"after, once more: {said}")
        return f"not whole: {why}"

    def _judged(self, before: Process, other: str) -> str:
        """Why the two sides differ; empty if they are equal."""
        judged = before.ask("judge", mine="before", other=other)
        if "error" in judged:
            self.row["verdict"] = "error"
            return str(judged["error"])
        if not judged["equal"]:
            return self._fail(judged["why"])
        self.row |= {"verdict": "equal", "bitwise": self.row.get("bitwise", True) and judged["bitwise"]}
        return ""

    def _fail(self, why: str) -> str:
        self.row |= {"verdict": "DIFFERS", "how": "-"}
        return why

    def time(self, seconds: float = 0.06) -> str:
        """Medians of interleaved rounds, milliseconds; more rounds where both take about the same time."""
        found: dict[str, list[list[float]]] = {"before": [], "after": []}
        for turn in itertools.count():
            for side in ("before", "after") if turn % 2 else ("after", "before"):
                answer = self.sides[side].ask("time", seconds=seconds)
                if "error" in answer:
                    return f"timing {side}: {answer['error']}"
                if turn:  # the first warms up
                    found[side].append(answer["times"])
            ratios = [
                statistics.median(b) / statistics.median(a)
                for b, a in zip(found["before"], found["after"], strict=True)
            ]
            if turn >= ROUNDS and (turn == 3 * ROUNDS or not min(ratios) < 1.15 or max(ratios) < 0.87):
                break
        medians = {
            side: statistics.median(t for batch in batches for t in batch) for side, batches in found.items()
        }
        self.row |= {"before_ms": round(medians["before"], 3), "after_ms": round(medians["after"], 3),
                     "speedup": round(medians["before"] / medians["after"], 2),
                     "range": [round(min(ratios), 2), round(max(ratios), 2)]}  # fmt: skip
        return ""

    def close(self) -> None:
        """End both processes and drop what they wrote."""
        for side in self.sides.values():
            side.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def copies(packages: list[str], folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Two copies of each package's Python source and data, without what compiled it."""
    trees = {side: folder / side for side in ("before", "after")}
    for tree in trees.values():
        tree.mkdir(parents=True)
        (tree / "pyproject.toml").write_text("[tool.refactor]\n")
        for package in packages:
            spec = importlib.util.find_spec(package)
            source = options.sources / package if options.sources else Path(str(spec and spec.origin)).parent
            if not source.is_dir():
                raise SystemExit(
                    f"{package}: no source at {source}; install it or name its folder with --sources"
                )
            shutil.copytree(source, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    return trees


def rewrite(tree: Path, paths: list[str], options: argparse.Namespace) -> list[Row]:
    """`refactor apply` on the copy; what was done about each finding."""
    start = time.time()
    command = [str(options.refactor), "apply", "--output-format", "json", *paths]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        raise SystemExit(f"refactor apply ended with {done.returncode}: {done.stderr[-1000:]}")
    findings: list[Row] = json.loads(done.stdout)["findings"]
    applied = sum(f["status"] == "applied" for f in findings)
    print(f"refactor apply: {applied} findings rewritten, {len(findings) - applied} left alone; "
          f"{time.time() - start:.0f} s", flush=True)  # fmt: skip
    return findings


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", nargs="*", default=[], help="models, as the builder names them")
    parser.add_argument(
        "--truth", type=Path, help="take the models that did not capture, and the files they ran"
    )
    parser.add_argument("--compile", type=Path, help="times of torch.compile to set beside")
    parser.add_argument("--builder", type=Path, default=HERE / "model_zoo.py")
    parser.add_argument("--sources", type=Path, help="folder with the packages, if not those installed")
    parser.add_argument("--device", choices=["cuda", "emulated", "cpu"], default="cuda")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the libraries")
    parser.add_argument(
        "--refactor", type=Path, default=_BESIDE if _BESIDE.exists() else shutil.which("refactor")
    )
    parser.add_argument("--prelude", type=Path, help="a file each worker runs first")
    parser.add_argument(
        "--all-files", action="store_true", help="rewrite whole packages, not only files that ran"
    )
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no model after this")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--work", type=Path, help="keep the trees here")
    return parser.parse_args()


def main() -> None:
    """Copy, rewrite, compare and time, tell."""
    options, began = arguments(), time.time()
    truth = json.loads(options.truth.read_text()) if options.truth else []
    wanted = [
        x["name"] for x in truth if not x["captures"] and (not options.names or x["name"] in options.names)
    ]
    names = options.names or wanted
    compiled = {x["name"]: x for x in json.loads(options.compile.read_text())} if options.compile else {}
    builder = builder_of(options.builder)
    packages = sorted({p for name in names for p in builder.packages(name)})
    ran = {f for x in truth if x["name"] in names for f in x["ran"] if f.partition("/")[0] in packages}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        trees = copies(packages, folder, options)
        findings = rewrite(trees["after"], packages if options.all_files or not ran else sorted(ran), options)
        turns = Turns(room(options))
        workers = {side: Workers(tree, packages, Path(scratch), turns, options)
                   for side, tree in trees.items()}  # fmt: skip
        rows: dict[str, Row] = {}

        def run(name: str) -> None:
            if time.time() - began > options.seconds:
                rows.setdefault(name, Model.blank(name) | {"reason": "no time left"})
                return
            row = Model(name, Path(scratch), options).run(workers, turns)
            row["reason"] = explained(row, findings)
            rows[name] = row
            print(f"# {json.dumps(row)}", flush=True)
            if options.json:  # a run that is cut short still counts
                options.json.write_text(json.dumps(list(rows.values()), indent=1))

        # The longest first: nothing waits for one that began late.
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(run, sorted(names, key=lambda n: -(compiled.get(n, {}).get("eager_ms") or 0))))
        for name in [name for name, row in rows.items() if _starved(row) or row.get("speedup", 1) < 1]:
            first = rows[name].get("speedup")  # that of one pair of processes, with others around them
            run(name)
            rows[name]["first"] = first
        for origin in workers.values():
            origin.close()
        print(table([rows[name] for name in names], compiled))
    print(f"{time.time() - began:.0f} s")


_STARVED = ("OutOfMemoryError", "CUDNN_STATUS_INTERNAL_ERROR", "CUBLAS_STATUS_ALLOC_FAILED")


def _starved(row: Row) -> bool:
    """Whether a model had too little memory beside the others, and is tried again alone."""
    return any(word in row["reason"] for word in _STARVED)


def room(options: argparse.Namespace) -> float | None:
    """GiB that are free on the device; None without one."""
    if options.device != "cuda":
        return None
    ask = "import torch; print(torch.cuda.mem_get_info()[0] / 2**30)"
    done = subprocess.run([options.python, "-c", ask], capture_output=True, text=True, check=True)
    return float(done.stdout) - 2


def builder_of(path: Path) -> Any:
    """The module that builds models."""
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location("builder", path)
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return builder


if __name__ == "__main__":
    main()
