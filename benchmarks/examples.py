"""The examples on a GPU: verdict and speedup from `refactor verify`, with a bare replay beside them.

``python benchmarks/examples.py`` needs a GPU, torch, and the `refactor` command beside the interpreter. It
prints one table. Before and after are milliseconds a call, input copies and output clones included. *Bare* is
the time of replaying the graphs that one call of the rewritten program replays, back to back and with nothing
else (no copies in or out, no decision between them): what no rewrite can beat. A program that replays none
itself is captured whole, where that works.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_BESIDE = Path(sys.executable).with_name("refactor")
REFACTOR = _BESIDE if _BESIDE.exists() else Path(shutil.which("refactor") or _BESIDE)
CALLS = 50

Inputs = dict[str, Any]
Found = dict[str, Any]  # one target, as JSON


def inputs_of(name: str) -> Inputs:
    """Inputs of the size that bench.toml declares, on the GPU."""
    import torch

    def whole(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high + 1, shape, device="cuda")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda")

    makers: dict[str, Callable[[], Inputs]] = {
        "ragged_encoder": lambda: {"ids": whole(1, 7999, 64, 128), "lengths": whole(1, 128, 64)},
        "router": lambda: {"frames": normal(32, 256)},
        "features": lambda: {"columns": normal(64, 6)},
        "service": lambda: {
            "ids": whole(1, 7999, 64, 64),
            "lengths": whole(1, 64, 64),
            "columns": normal(64, 4),
        },
        "decode": lambda: {"prompt": whole(0, 50256, 1, 32), "steps": 64},
        "resnet50_batch1": lambda: {"images": normal(1, 3, 224, 224)},
        "resnet50_batch8": lambda: {"images": normal(8, 3, 224, 224)},
        "training": lambda: {"x": normal(64, 512), "y": normal(64)},
    }
    return makers[name]()


def median_ms(call: Callable[[], object], calls: int = CALLS) -> float:
    """Median of `calls` synchronised calls, milliseconds."""
    import torch

    times = []
    for _ in range(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def replayed_graphs(call: Callable[[], object]) -> list[Any]:
    """The graphs that one call replays, in order."""
    import torch

    order = []
    original = torch.cuda.CUDAGraph.replay

    def replay(graph: Any) -> None:
        order.append(graph)
        original(graph)

    torch.cuda.CUDAGraph.replay = replay  # type: ignore[method-assign]
    try:
        call()
    finally:
        torch.cuda.CUDAGraph.replay = original  # type: ignore[method-assign]
    return order


def bare_ms(call: Callable[[], object]) -> tuple[float | None, str]:
    """Milliseconds of the bare replays behind one call, and whose graphs they are."""
    import torch

    graphs = replayed_graphs(call)
    if graphs:
        return median_ms(lambda: [graph.replay() for graph in graphs]), f"{len(graphs)} replays"
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            kept = call()  # noqa: F841 - the graph writes it
    except RuntimeError as error:
        return None, str(error).splitlines()[0]
    return median_ms(graph.replay), "captured whole"


def measure(example: str, side: str) -> list[dict[str, Any]]:
    """Run in a process of its own: the timings of one tree of one example."""
    import torch

    folder = EXAMPLES / example
    tree, _, wants_bare = side.partition("-")
    sys.path[:0] = [str(folder / tree), str(folder)]
    rows = []
    for target in tomllib.loads((folder / "bench.toml").read_text())["target"]:
        torch.manual_seed(0)
        module, _, qualname = target["entry"].partition(":")
        model = getattr(importlib.import_module(module), qualname)(**target.get("init", {})).cuda()
        training = target["mode"] == "train"
        model.train(training)
        given = inputs_of(target["name"])
        with torch.inference_mode(not training):
            for _ in range(15):
                model(**given)
            ms = median_ms(lambda: model(**given))  # noqa: B023 - called here
            bare, how = bare_ms(lambda: model(**given)) if tree == "after" or wants_bare else (None, "")  # noqa: B023
        rows.append({"name": target["name"], "ms": ms, "bare": bare, "how": how})
    return rows


def in_process(example: str, side: str) -> dict[str, dict[str, Any]]:
    """`measure` in a fresh interpreter; by target."""
    command = [sys.executable, __file__, "--measure", example, side]
    done = _run(command, 120)
    if done.returncode:
        sys.stderr.write(f"{example} {side}: {done.stderr[-2000:]}\n")
        return {}
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


def verdicts(example: str, targets: str, examples: int) -> dict[str, dict[str, Any]]:
    """Targets of `refactor verify` on the GPU; by name."""
    folder = EXAMPLES / example
    command = [
        *(REFACTOR, "verify", "--before", folder / "before", "--after", folder / "after"),
        *("--targets", folder / targets, "--device", "cuda", "--python", sys.executable),
        *("--examples", examples, "--json", "-"),
    ]
    done = _run(list(map(str, command)), 240)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["targets"]
    except json.JSONDecodeError:
        sys.stderr.write(f"{example} {targets}: exit {done.returncode} {done.stderr[-2000:]}\n")
        return {}
    for target in found:
        if target["verdict"] != "pass":
            counterexample = target.get("counterexample") or {}
            sys.stderr.write(f"{example} {targets}: {target['reason']} {counterexample.get('calls')}\n")
    return {target["name"]: target for target in found}


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {seconds:.0f} s")


def cell(value: float | None) -> str:
    """Milliseconds, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def line(
    name: str, verdict: str, timed: dict[str, Any], before: dict[str, Any], after: dict[str, Any]
) -> str:
    """One row of the table, in Markdown."""
    timing, capture = timed.get("timing") or {}, timed.get("capture") or {}
    speedup = "–"
    if timing.get("speedup"):
        low, high = timing["interval"]
        speedup = f"{timing['speedup']:.2f} ({low:.2f}–{high:.2f})"
    cells = (
        name,
        verdict,
        str(capture.get("replays", "–")),
        cell(timing.get("before_ms")),
        cell(timing.get("after_ms")),
        speedup,
        cell(timing.get("kernel_ms")),
        cell(before.get("ms")),
        cell(after.get("ms")),
        cell(after.get("bare")),
        after.get("how", ""),
    )
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Print the table; 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="examples (default: all)")
    parser.add_argument("--examples", type=int, default=20, help="recipes a target in `refactor verify`")
    parser.add_argument(
        "--quick", action="store_true", help="time the fixed inputs only, not by `refactor verify`"
    )
    parser.add_argument("--measure", nargs=2, metavar=("EXAMPLE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return 0
    import torch

    if not torch.cuda.is_available():
        print("no GPU: a time measured without one says nothing about CUDA graphs")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, milliseconds a call\n")
    print("| target | verdict | replays | before | after | speedup (interval) | kernels |", end="")
    print(" before, fixed input | after, fixed input | bare | bare is |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    chosen = options.names or sorted(path.parent.name for path in EXAMPLES.glob("*/bench.toml"))
    rewritten = [name for name in chosen if (EXAMPLES / name / "after").exists()]
    # verdicts are no measurements: all at once
    with ThreadPoolExecutor(len(rewritten) or 1) as pool:
        proofs = list(pool.map(lambda name: verdicts(name, "targets.toml", options.examples), rewritten))
    proven = {name: worst(targets) for name, targets in zip(rewritten, proofs, strict=True)}
    for example in chosen:
        is_rewritten = example in proven
        timed = verdicts(example, "bench.toml", 4) if is_rewritten and not options.quick else {}
        before = in_process(example, "before")
        after = in_process(example, "after") if is_rewritten else in_process(example, "before-bare")
        for name in before:
            verdict = proven.get(example, "not rewritten")
            print(line(name, verdict, timed.get(name, {}), before[name], after.get(name, {})), flush=True)
    return 0


def worst(targets: dict[str, dict[str, Any]]) -> str:
    """The verdict about an example: that of its worst target."""
    found = [target["verdict"] for target in targets.values()]
    return next((v for v in ("fail", "error", "inconclusive", "pass") if v in found), "not run")


if __name__ == "__main__":
    sys.exit(main())
