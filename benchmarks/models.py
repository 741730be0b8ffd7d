"""Published models, rewritten by `refactor apply`: equal, captured, and how fast, model by model.

    python benchmarks/models.py --truth shared/dev-truth.json [--compile shared/dev-compile.json]
    python benchmarks/models.py --names tv/resnet50 hf/bert --device emulated
    python benchmarks/models.py --builder my_models.py --names lib/Model

The source of each library is copied twice, `refactor apply` rewrites one copy, and every model is built from
both with the same weights. Equal means: results, inputs, state, public attributes and random state of
several calls, by the verifier's rules, eager and as captured. A model *runs under graphs* if its whole
forward captures now, or if the rewritten code replays graphs of its own. Times are medians of interleaved
synchronised calls on values drawn anew; a captured forward copies its inputs in and clones its outputs.
``--truth`` takes the models of such a file that did not capture; ``--compile`` sets the times of
``torch.compile(mode="reduce-overhead")`` beside.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_BESIDE = Path(sys.executable).with_name("refactor")
Row = dict[str, Any]


class Workers:
    """Where the processes of one side come from: one that has imported the libraries, and copies of it."""

    def __init__(self, tree: Path, packages: list[str], folder: Path, options: argparse.Namespace) -> None:
        self.tree, self.packages, self.folder, self.options = tree, packages, folder, options
        self.fresh = False  # set where a copy cannot use the device: then each has to start from nothing
        self.count = itertools.count()
        self.nursery = self._start(once=False)

    def _start(self, *, once: bool) -> tuple[subprocess.Popen[bytes], Path, Path]:
        number = next(self.count)
        place, log = (
            self.folder / f"{self.tree.name}{number}.sock",
            self.folder / f"{self.tree.name}{number}.log",
        )
        options = self.options
        command = [options.python, str(HERE / "model_worker.py"), "--tree", str(self.tree), "--builder",
                   str(options.builder), "--device", options.device, "--socket", str(place), "--packages",
                   *self.packages]  # fmt: skip
        command += ["--prelude", str(options.prelude)] if options.prelude else []
        command += ["--once"] if once else []
        environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", HF_HUB_OFFLINE="1")
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        environment.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking for a device must not start it
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       env=environment)  # fmt: skip
        return process, place, log

    def process(self) -> Process:
        """A process for one model."""
        if not self.fresh:
            made = Process(self.nursery, self.folder / f"{self.tree.name}-{next(self.count)}.log")
            if not made.unfit:
                return made
            made.close()
            self.fresh = True
        return Process(self._start(once=True), self.folder / f"{self.tree.name}-{next(self.count)}.log")

    def close(self) -> None:
        """End the process that the others are copies of."""
        self.nursery[0].kill()
        self.nursery[0].wait()


class Process:
    """One side of one model."""

    def __init__(self, origin: tuple[subprocess.Popen[bytes], Path, Path], log: Path) -> None:
        self.log, self.pid = log, 0
        self.socket = socket.socket(socket.AF_UNIX)
        end = time.time() + 180
        while True:
            try:
                self.socket.connect(str(origin[1]))
                break
            except OSError:
                if origin[0].poll() is not None or time.time() > end:
                    raise RuntimeError(f"no process: {_last_line(origin[2])}") from None
                time.sleep(0.05)
        self.stream = self.socket.makefile("rw")
        hello = self.ask("hello", log=str(log))
        self.pid, self.unfit = hello.get("pid", 0), "error" in hello

    def ask(self, op: str, limit: float = 180.0, **request: Any) -> Row:
        """The answer, or ``{"error": …}`` if there is none within ``limit`` seconds."""
        self.socket.settimeout(limit)
        try:
            self.stream.write(json.dumps({"op": op, **request}) + "\n")
            self.stream.flush()
            line = self.stream.readline()
        except OSError:
            line = ""
        if line:
            return dict(json.loads(line))
        return {"error": f"the process ended in `{op}`: {_last_line(self.log)}"}

    def close(self) -> None:
        """End it."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.stream.close()
        self.socket.close()


def _last_line(log: Path) -> str:
    words = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return words[-1] if words else "no output"


class Model:
    """One model on its way through the stages; ``row`` is what becomes of it."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.folder = folder / name.replace("/", "-")
        self.folder.mkdir()
        self.row: Row = {"name": name, "verdict": "error", "how": "-", "reason": ""}
        self.sides: dict[str, Process] = {}

    def prove(self, workers: dict[str, Workers]) -> Model:
        """Build both sides, compare them eagerly, then captured."""
        start = time.time()
        try:
            self.sides = {side: origin.process() for side, origin in workers.items()}
            self.row["reason"] = self._prove()
        except Exception as error:  # one model must not end the run
            self.row["reason"] = f"{type(error).__name__}: {error}"
        self.row["seconds"] = round(time.time() - start, 1)
        if self.row["verdict"] != "equal" or self.row["how"] == "-":
            self.close()
        print(f"# {self.name}: {self.row['verdict']}, {self.row['how']} {self.row['reason']}", flush=True)
        return self

    def _prove(self) -> str:
        before, after = self.sides["before"], self.sides["after"]
        inputs = str(self.folder / "inputs.pt")
        built = before.ask("build", name=self.name, inputs=inputs)
        if "error" in built:
            return f"before: {built['error']}"
        self.row["parameters"] = built["parameters"]
        again = after.ask("build", name=self.name, inputs=inputs, recipe=built["recipe"])
        if "error" in again:
            return self._fail(f"after: {again['error']}")
        if again["strangers"]:
            return f"not from the tree: {again['strangers'][0]}"
        if built["state"] != again["state"]:
            return self._fail("state_dict differs as built")
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
        self.row |= {"replays": ours["replays"], "cold_s": round(ours["cold_s"], 2)}
        if ours["replays"]:
            self.row["how"] = f"segments ({ours['captures']} graphs)"
        whole = after.ask("run", write=traces["whole"], captured=True, label="whole")
        if "error" in whole:
            return self._fail(f"captured: {whole['error']}")
        if "blocked" in whole:
            if ours["replays"]:
                after.ask("run", write=traces["after"], label="after")  # times are of the program itself
            return f"not whole: {whole['blocked']}"
        how, self.row["how"] = self.row["how"], "whole"
        said = self._judged(before, traces["whole"])
        if said.startswith("generators"):
            # The rewrite is right; it is this capture that does not draw again at a replay.
            self.row |= {"verdict": "equal", "how": how}
            after.ask("run", write=traces["after"], label="after")
            return "not whole: it draws from a generator on the host, which a replay would not"
        self.row["cold_s"] = round(whole["cold_s"], 2)
        return said

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

    def time(self, rounds: int = 4, seconds: float = 0.1) -> None:
        """Medians of interleaved rounds, milliseconds."""
        found: dict[str, list[list[float]]] = {"before": [], "after": []}
        for turn in range(rounds + 1):
            for side in ("before", "after") if turn % 2 else ("after", "before"):
                answer = self.sides[side].ask("time", seconds=seconds)
                if "error" in answer:
                    self.row["reason"] = f"timing {side}: {answer['error']}"
                    return
                if turn:
                    found[side].append(answer["times"])
        medians = {
            side: statistics.median(t for batch in batches for t in batch) for side, batches in found.items()
        }
        ratios = [
            statistics.median(b) / statistics.median(a)
            for b, a in zip(found["before"], found["after"], strict=True)
        ]
        self.row |= {"before_ms": round(medians["before"], 3), "after_ms": round(medians["after"], 3),
                     "speedup": round(medians["before"] / medians["after"], 2),
                     "range": [round(min(ratios), 2), round(max(ratios), 2)]}  # fmt: skip

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


def explained(row: Row, findings: list[Row]) -> str:
    """The reason a model is not captured whole, with what `apply` said about the line that blocks it."""
    reason = str(row["reason"])
    for finding in findings:
        at = f"{finding['file'].removeprefix('./')}:{finding['line']}"
        if finding["status"] != "applied" and at in reason:
            return f"{reason} [{finding['code']}: {finding['reason']}]"
    return reason


def table(rows: list[Row], compiled: dict[str, Row]) -> str:
    """The rows as Markdown, the summary below."""
    lines = [
        "| model | verdict | runs as | before ms | after ms | speedup (range) | cold s "
        "| compile: speedup | cold s | reason |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        beside = compiled.get(row["name"], {})
        ratio = f"{beside['eager_ms'] / beside['ms']:.2f}" if beside.get("ms") else "fails" if beside else ""
        span = f"{row['speedup']} ({row['range'][0]}–{row['range'][1]})" if "speedup" in row else ""
        lines.append(
            f"| {row['name']} | {row['verdict']}{', bitwise' if row.get('bitwise') else ''} | {row['how']} "
            f"| {row.get('before_ms', '')} | {row.get('after_ms', '')} | {span} | {row.get('cold_s', '')} "
            f"| {ratio} | {beside.get('cold_s') or ''} | {row['reason']} |"
        )
    return "\n".join([*lines, "", summary(rows, compiled)])


def summary(rows: list[Row], compiled: dict[str, Row]) -> str:
    """How many are equal, captured and faster, and how that compares with torch.compile."""
    graphed = [r for r in rows if r["how"] != "-" and r["verdict"] == "equal"]
    timed = [r for r in graphed if "speedup" in r]
    text = (f"{len(rows)} models: {sum(r['verdict'] == 'equal' for r in rows)} equal, "
            f"{sum(r['verdict'] == 'DIFFERS' for r in rows)} differ, {len(graphed)} run under graphs "
            f"({sum(r['how'] == 'whole' for r in graphed)} whole), "
            f"{sum(r['range'][1] < 1 for r in timed)} slower than eager")  # fmt: skip
    if timed:
        text += f"; geometric mean of the speedups {mean([r['speedup'] for r in timed]):.2f}"
    both = [(r, compiled[r["name"]]) for r in timed if compiled.get(r["name"], {}).get("ms")]
    if both:
        ours = mean([r["speedup"] for r, _ in both])
        theirs = mean([c["eager_ms"] / c["ms"] for _, c in both])
        start = mean([c["cold_s"] / max(r["cold_s"], 0.01) for r, c in both])
        handled = sum(bool(c.get("ms")) for c in compiled.values())
        text += (
            f"\ntorch.compile handles {handled}; where both do ({len(both)}), the speedups over eager are "
        )
        text += (
            f"{ours:.2f} and {theirs:.2f} in the geometric mean, and the start is {start:.0f} times sooner"
        )
    return text


def mean(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


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
    """Copy, rewrite, prove in parallel, time alone, tell."""
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
        workers = {side: Workers(tree, packages, Path(scratch), options) for side, tree in trees.items()}
        rows: list[Row] = []
        size = options.jobs * 2
        for first in range(0, len(names), size):
            batch = [Model(name, Path(scratch), options) for name in names[first : first + size]]
            if time.time() - began > options.seconds:
                rows += [model.row | {"reason": "no time left"} for model in batch]
                continue
            with ThreadPoolExecutor(options.jobs) as pool:
                list(pool.map(lambda model: model.prove(workers), batch))
            for model in batch:
                rows.append(finish(model, findings, options))
                _keep(rows, options)
            for row in [row for row in rows[-len(batch) :] if _starved(row)]:
                alone = Model(row["name"], Path(scratch), options).prove(workers)
                rows[rows.index(row)] = finish(alone, findings, options)
                _keep(rows, options)
        for origin in workers.values():
            origin.close()
        print(table(rows, compiled))
    print(f"{time.time() - began:.0f} s")


_STARVED = ("OutOfMemoryError", "CUDNN_STATUS_INTERNAL_ERROR", "CUBLAS_STATUS_ALLOC_FAILED")


def _starved(row: Row) -> bool:
    """Whether a model had too little memory beside the others of its batch, and is tried again alone."""
    return any(word in row["reason"] for word in _STARVED)


def _keep(rows: list[Row], options: argparse.Namespace) -> None:
    """Write what there is: a run that is cut short still counts."""
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def finish(model: Model, findings: list[Row], options: argparse.Namespace) -> Row:
    """Time a model that runs under graphs, alone; its row."""
    if model.row["verdict"] == "equal" and model.row["how"] != "-" and options.device == "cuda":
        model.time()
    model.close()
    model.row["reason"] = explained(model.row, findings)
    print(json.dumps(model.row), flush=True)
    return model.row


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
