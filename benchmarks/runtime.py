"""What the runtime costs and gains on one GPU, and whether that is enough.

    python benchmarks/runtime.py [--no-compile] [--only NAME ...]

The decode, ResNet, training and ragged workloads are the eager programs in `examples/*/before`, at the sizes
of their `bench.toml`. Times are milliseconds a call, the median over rounds in which the variants take turns,
each round synchronised. "hand" is a hand-written graph: inputs copied in, replayed, outputs cloned; "bare" is
`CUDAGraph.replay()` alone: the floor for whatever launches the same kernels. "compiled" is
`torch.compile(mode="reduce-overhead")`; "over compiled kernels" is `graphed(torch.compile(model))`, whose
graph holds the compiler's fused kernels, where "graphed" and "bare" hold those of eager torch. "cold" is the
time from the first graphed call to the end of the first replay, warmups and capture included; for the
compiler the first three calls.

Each workload prints its times, then one line for every target: the ratio, what it must reach, and whether it
does. A target no graph of the same kernels can reach is marked with the floor that shows it. Under Nsight
Systems every variant is an NVTX range.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import importlib
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed

ROOT = Path(__file__).parents[1]
Variants = dict[str, Callable[[], Any]]
Times = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One line of the table: a measured ratio or time against its target."""

    work: str
    measure: str
    value: float
    target: float
    at_most: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "met" if self.met else "NOT MET"
        value, target = (f"{n:.3g}{self.unit}" for n in (self.value, self.target))
        return (
            f"{self.work:26} {self.measure:46} {value:>9} {sign} {target:8} {verdict:8} {self.note}".rstrip()
        )


def example(name: str, module: str) -> tuple[Any, dict[str, Any]]:
    """The eager program of an example, and the sizes of its first benchmark target."""
    folder = ROOT / "examples" / name
    sys.path.insert(0, str(folder / "before"))
    sizes = tomllib.loads((folder / "bench.toml").read_text())["target"][0]["init"]
    return importlib.import_module(module), sizes


def timed(variants: Variants, seconds: float = 1.0) -> Times:
    """Median milliseconds a call of each variant; the variants take turns in random order."""
    order, draw = list(variants), random.Random(0)
    each: dict[str, list[float]] = {name: [] for name in order}
    count = {}
    for name, fn in variants.items():
        fn()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(3):
            fn()
        torch.cuda.synchronize()
        count[name] = max(1, int(0.02 / ((time.perf_counter() - start) / 3)))
    stop = time.perf_counter() + seconds * len(order)
    while time.perf_counter() < stop or len(each[order[0]]) < 7:
        draw.shuffle(order)
        for name in order:
            torch.cuda.synchronize()
            with torch.cuda.nvtx.range(name):
                start = time.perf_counter()
                for _ in range(count[name]):
                    variants[name]()
                torch.cuda.synchronize()
            each[name].append((time.perf_counter() - start) / count[name] * 1e3)
    return {name: statistics.median(values) for name, values in each.items()}


def kernel_time(fn: Callable[[], Any], calls: int = 5) -> float:
    """Milliseconds of kernels a call, summed: no launching of them can be faster on one stream."""
    fn()
    torch.cuda.synchronize()
    with warnings.catch_warnings(), torch.profiler.profile() as profile:
        warnings.simplefilter("ignore")
        for _ in range(calls):
            fn()
        torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA
    spans = [
        e.time_range.elapsed_us()
        for e in profile.events()
        if e.device_type == device and not e.is_user_annotation
    ]
    return sum(spans) / calls / 1e3


def hand_written(fn: Callable[..., Any], args: tuple[Tensor, ...]) -> tuple[Callable[..., Any], Any]:
    """The usual recipe: warm up on a side stream, capture, copy in, replay, clone out."""
    static = [a.clone() for a in args]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            fn(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fn(*static)

    def call(*args: Tensor) -> Tensor:
        torch._foreach_copy_(static, args)
        graph.replay()
        return out.detach().clone()

    return call, graph.replay


def cold(wrapper: Any, args: tuple[Tensor, ...]) -> float:
    """Seconds from the first call to the end of the first replay."""
    before = wrapper.stats()["replays"]
    torch.cuda.synchronize()
    start = time.perf_counter()
    while wrapper.stats()["replays"] == before:
        wrapper(*args)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def compiled(fn: Any, args: tuple[Tensor, ...]) -> tuple[Callable[[], Any] | None, float]:
    """The compiled callable and the seconds its first three calls take; None if it does not run."""
    torch._dynamo.reset()
    try:
        fast = torch.compile(fn, mode="reduce-overhead")
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(3):
            torch.compiler.cudagraph_mark_step_begin()
            fast(*args)
        torch.cuda.synchronize()
    except Exception as error:
        print("   torch.compile:", str(error).splitlines()[0][:100])
        return None, 0.0
    seconds = time.perf_counter() - start
    return lambda: (torch.compiler.cudagraph_mark_step_begin(), fast(*args)), seconds


def over_compiled(fn: Any, args: tuple[Any, ...]) -> Callable[[], Any] | None:
    """A graph of ours over what `torch.compile` makes in its default mode; None if that does not run."""
    try:
        wrapper = graphed(torch.compile(fn))
        for _ in range(3):
            wrapper(*args)
    except Exception as error:
        print("   graphed(torch.compile):", str(error).splitlines()[0][:100])
        return None
    if not wrapper.stats()["replays"]:
        print("   graphed(torch.compile):", wrapper.stats()["eager"])
        return None
    return lambda: wrapper(*args)


def compare(
    work: str,
    fn: Any,
    args: tuple[Any, ...],
    inputs: int | None = None,
    wrapper: Any = None,
    with_compile: bool = True,
) -> Times:
    """One workload with fixed shapes; the hand-written graph copies the first `inputs` arguments in."""
    wrapper = wrapper or graphed(fn)
    fn(*args)
    # the compiler first: recording, it frees the workspaces of cuBLAS, which hand-written graphs go on using
    fast, compile_seconds = compiled(fn, args) if with_compile else (None, 0.0)
    fused = over_compiled(fn, args) if with_compile else None
    seconds = cold(wrapper, args)
    inputs = len(args) if inputs is None else inputs
    hand, replay = hand_written(lambda *some: fn(*some, *args[inputs:]), args[:inputs])
    variants: Variants = {"eager": lambda: fn(*args), "graphed": lambda: wrapper(*args)}
    variants |= {"hand": lambda: hand(*args[:inputs]), "bare": replay}
    variants |= {"compiled": fast} if fast else {}
    variants |= {"over compiled kernels": fused} if fused else {}
    times = timed(variants)
    times["kernels"] = kernel_time(replay)
    if "compiled" in variants:
        times["compiled kernels"] = kernel_time(variants["compiled"])
    print(
        f"{work}:",
        ", ".join(f"{name} {ms:.4f}" for name, ms in times.items()),
        "ms;",
        f"cold {seconds:.3f} s",
        end="",
    )
    print(f", compiler {compile_seconds:.1f} s" if compile_seconds else "", flush=True)
    return times | {"cold": seconds, "compile cold": compile_seconds}


def floor(times: Times) -> str:
    """What even a bare replay reaches against the compiler, and why."""
    ratio, ours, theirs = times["compiled"] / times["bare"], times["kernels"], times["compiled kernels"]
    return (
        f"a bare replay reaches {ratio:.2f}x; its kernels take {ours:.3f} ms, the compiler's {theirs:.3f} ms"
    )


def decode(with_compile: bool) -> Iterator[Row]:
    row = functools.partial(Row, "decode 124M b1")
    program, sizes = example("decode", "decode")
    sizes = {k: v for k, v in sizes.items() if k != "half"}
    with torch.inference_mode():
        model = program.Decoder(**sizes).cuda().half().eval()
        cache = model.new_cache(1)
        args = (torch.tensor([[17]], device="cuda"), torch.tensor([5], device="cuda"), cache)
        t = compare("decode 124M fp16 b1", model, args, inputs=2, with_compile=with_compile)
        yield row("speedup over eager", t["eager"] / t["graphed"], 5)
        yield row("time over a hand-written graph", t["graphed"] / t["hand"], 1.1, at_most=True)
        over = (t["graphed"] - t["hand"]) / t["hand"]
        yield row("overhead over replay and the same copies", 100 * over, 5, True, "%")
        if "compiled" in t:
            yield row("speedup over reduce-overhead", t["compiled"] / t["graphed"], 3, note=floor(t))
            yield row("cold start shorter than the compiler's", t["compile cold"] / t["cold"], 50)
            # the compiler makes no graph if an argument is written, but one if a buffer is
            t = compare("the cache as a buffer", Held(model, cache), args[:2])
            value, what = t["compiled"] / t["graphed"], "speedup over reduce-overhead, cache in a buffer"
            yield row(what, value, 3, note=floor(t))
            if "over compiled kernels" in t:
                value, what = (
                    t["compiled"] / t["over compiled kernels"],
                    "the same, graph of compiled kernels",
                )
                yield row(what, value, 1)


class Held(nn.Module):
    """A decode step over a cache of its own."""

    def __init__(self, model: nn.Module, cache: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("cache", cache)

    def forward(self, token: Tensor, place: Tensor) -> Tensor:
        return self.model(token, place, self.cache)


def resnet(with_compile: bool) -> Iterator[Row]:
    program, sizes = example("resnet", "resnet")
    sizes = {k: v for k, v in sizes.items() if k != "batch_size"}
    with torch.inference_mode():
        model = program.ResNet(**sizes).cuda().eval()
        wrapper = graphed(model)
        for batch in (1, 8):
            row = functools.partial(Row, f"ResNet-50 b{batch}")
            with torch.inference_mode(False):  # as a graph's inputs are, so that nothing is compiled twice
                args = (torch.randn(batch, 3, 224, 224, device="cuda"),)
            t = compare(f"ResNet-50 fp32 b{batch}", model, args, wrapper=wrapper, with_compile=with_compile)
            yield row("speedup over eager", t["eager"] / t["graphed"], 1.5)
            if "compiled" in t:
                yield row("speedup over reduce-overhead", t["compiled"] / t["graphed"], 1, note=floor(t))
            if "over compiled kernels" in t and "compiled" in t:
                value, note = t["compiled"] / t["over compiled kernels"], "graphed(torch.compile(model))"
                yield row("the same, graph of compiled kernels", value, 1, note=note)
            settings(model, args)


def settings(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    """What two settings of cuDNN do for a graph of eager kernels."""
    variants: Variants = {"as it is": functools.partial(graphed(model), *args)}
    like = {"memory_format": torch.channels_last}
    last, image = copy.deepcopy(model).to(**like), args[0].contiguous(**like)
    variants["channels_last"] = functools.partial(graphed(last), image)
    torch.backends.cudnn.benchmark = True
    for name, net, x in (("tuned", copy.deepcopy(model), args[0]), ("both", copy.deepcopy(last), image)):
        variants[name] = functools.partial(graphed(net), x)
        for _ in range(2):
            variants[name]()
    torch.backends.cudnn.benchmark = False
    times = timed(variants, seconds=0.4)
    print("   graphed, by settings of cuDNN:", {name: round(ms, 4) for name, ms in times.items()}, "ms")


def training(with_compile: bool) -> Iterator[Row]:
    program, sizes = example("training", "training")
    torch.manual_seed(0)
    steps = [program.Trainer(program.Tower(**sizes).cuda()).step for _ in range(3)]
    args = (torch.randn(64, sizes["dim"], device="cuda"), torch.randn(64, device="cuda"))
    wrapper = graphed(steps[0])
    seconds = cold(wrapper, args)
    steps[2](*args)
    hand, replay = hand_written(steps[2], args)
    t = timed(
        {
            "eager": lambda: steps[1](*args),
            "graphed": lambda: wrapper(*args),
            "hand": lambda: hand(*args),
            "bare": replay,
        }
    )
    print(
        "training step AdamW:",
        ", ".join(f"{name} {ms:.4f}" for name, ms in t.items()),
        f"ms; cold {seconds:.3f} s",
    )
    yield Row("training step", "speedup over eager", t["eager"] / t["graphed"], 1.6)


def ragged(with_compile: bool) -> Iterator[Row]:
    row = functools.partial(Row, "ragged batches 1..64")
    program, sizes = example("ragged_encoder", "encoder")
    sizes = {k: v for k, v in sizes.items() if k != "token_budget"}
    draw = random.Random(0)
    drawn = [draw.randint(1, 64) for _ in range(400)]
    with torch.inference_mode():
        model = program.Encoder(**sizes).cuda().eval()
        inputs = {n: (torch.randint(1, sizes["vocabulary"], (n, 64), device="cuda"),
                      torch.ones(n, 64, dtype=torch.long, device="cuda")) for n in set(drawn)}  # fmt: skip
        for pair in inputs.values():
            model(*pair)
        wrapper = graphed(model, pad="B ...")
        runs: dict[str, Any] = {"eager": model, "graphed": wrapper}
        if with_compile:
            torch._dynamo.reset()
            runs["compiled"] = torch.compile(model, mode="reduce-overhead")
        first, later, worst = {}, {}, {}
        for name, fn in runs.items():
            collected = Collected()
            torch.cuda.synchronize()
            middle = start = time.perf_counter()
            calls = []
            for i, n in enumerate(drawn):
                if i == 200:
                    torch.cuda.synchronize()
                    middle = time.perf_counter()
                torch.compiler.cudagraph_mark_step_begin()
                before = time.perf_counter()
                fn(*inputs[n])
                calls.append(round((time.perf_counter() - before) * 1e3, 1))
            torch.cuda.synchronize()
            first[name], later[name] = (middle - start) * 5, (time.perf_counter() - middle) * 5
            worst[name] = f"{sorted(calls)[-8:]}, garbage collection {collected.end():.3f} s"
        print("ragged 1..64, ms a call, first 200:", first, "next 200:", later, "longest calls:", worst)
        print("   ", wrapper.stats(), flush=True)
        note = (
            f"reduce-overhead, its recaptures included: {first['compiled']:.1f} ms a call"
            if with_compile
            else ""
        )
        yield row("speedup over eager, first 200 calls", first["eager"] / first["graphed"], 1, note=note)
        yield row("speedup over eager, next 200 calls", later["eager"] / later["graphed"], 1)
        yield memory(model, inputs, sizes)


class Collected:
    """Seconds of garbage collection, which falls into whatever call is under way."""

    def __init__(self) -> None:
        self.seconds, self.began = 0.0, 0.0
        gc.callbacks.append(self.note)

    def note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self.began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self.began

    def end(self) -> float:
        gc.callbacks.remove(self.note)
        return self.seconds


def memory(model: nn.Module, inputs: Any, sizes: Any) -> Row:
    """Memory of the graphs of seven buckets against that of the largest alone, in pools of their own."""
    used = {}
    for name, batches in {"largest": [64], "seven": [64, 32, 16, 8, 4, 2, 1]}.items():
        for pool in list(cuda_graphs._pools.values()):
            pool.drop(list(pool.graphs))
        graphed(model, pad="B ...").reset()
        torch.cuda.empty_cache()
        for n in batches:
            ids = torch.randint(1, sizes["vocabulary"], (n, 64), device="cuda")
            graphed(model, pad="B ...")(ids, torch.ones_like(ids))
        stats = graphed(model, pad="B ...").stats()
        assert stats["graphs"] == len(batches), stats
        used[name] = stats["bytes"]
    print("   bytes of graphs:", used)
    return Row(
        "memory of 7 buckets",
        "over that of the largest alone",
        used["seven"] / max(used["largest"], 1),
        1.3,
        at_most=True,
    )


def matmul(with_compile: bool) -> Iterator[Row]:
    with torch.inference_mode():
        args = (torch.randn(4096, 4096, device="cuda"), torch.randn(4096, 4096, device="cuda"))
        t = compare("matmul 4096 fp32", lambda a, b: a @ b, args, with_compile=with_compile)
        gain = t["eager"] / t["graphed"]
        text = "reported as not worth it" if gain < 1.05 else "worth it?"
        yield Row(
            "4096 matmul",
            "speedup over eager: below 1.05 is not worth it",
            gain,
            1.05,
            at_most=True,
            note=text,
        )


class Guarded(nn.Module):
    """One small kernel more or less, and many parameters that the graph reads."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.held = nn.ParameterList(torch.zeros(4) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack(list(self.held)).sum() if len(self.held) else x + 1


def host_time(fn: Callable[[], Any], calls: int = 50) -> float:
    """Microseconds that the host spends on a call: the best of many short runs on an idle device."""
    best = float("inf")
    for _ in range(40):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            fn()
        best = min(best, (time.perf_counter() - start) / calls * 1e6)
    return best


def overhead(with_compile: bool) -> Iterator[Row]:
    """What a call of a one-kernel graph costs on the host, piece by piece, and what a guarded tensor adds."""
    row = functools.partial(Row, "one-kernel graph")
    x = torch.zeros(16, device="cuda")
    with torch.inference_mode():
        wrapper = graphed(lambda a: a + 1)
        for _ in range(200):
            wrapper(x)
        runner = wrapper._cg_runner
        graph = next(iter(runner.graphs.values()))
        call = runner._take_apart((x,), {})
        floor_of = {
            "replay": graph.graph.replay,
            "copy in": lambda: graph.inputs[0].copy_(x),
            "copy out": lambda: graph.outputs[0].clone(),
        }
        same = host_time(lambda: [piece() for piece in floor_of.values()])
        whole = host_time(lambda: wrapper(x))
        pieces = {
            **floor_of,
            "take arguments apart": lambda: runner._take_apart((x,), {}),
            "modes": cuda_graphs._modes,
            "state": lambda: runner._state(call),
            "find the graph (modes, state included)": lambda: runner._find(call),
            "is a capture under way": torch.cuda.is_current_stream_capturing,
            "copies and replay in the runtime": lambda: graph.play(call),
        }
        print(
            "one kernel, microseconds of the host:", {k: round(host_time(fn), 2) for k, fn in pieces.items()}
        )
        print(f"   whole call {whole:.2f}, replay and the same copies {same:.2f}")
        with torch.autograd.profiler.emit_nvtx(record_shapes=False):
            print(f"   whole call with NVTX ranges on {host_time(lambda: wrapper(x)):.2f}")
        profiled(wrapper, x)
        yield row("over replay and the same copies", whole - same, 10, True, " us")
        cost = {}
        for count in (50, 400):
            model = Guarded(count).cuda()
            guarded = graphed(model)
            for _ in range(20):
                guarded(x)
            cost[count] = host_time(lambda guarded=guarded: guarded(x), calls=10)
        yield row("for each guarded tensor", (cost[400] - cost[50]) / 350, 0.15, True, " us")


def profiled(wrapper: Any, x: Tensor) -> None:
    """The profiler's view of the same calls: where the driver and torch spend the time."""
    with warnings.catch_warnings(), torch.profiler.profile() as profile:
        warnings.simplefilter("ignore")
        for _ in range(200):
            wrapper(x)
        torch.cuda.synchronize()
    found = {e.key: round(e.self_cpu_time_total / 200, 2) for e in profile.key_averages() if e.count >= 200}
    top = dict(sorted(found.items(), key=lambda item: -item[1])[:8])
    print("   under torch.profiler, microseconds a call by itself:", top, flush=True)


WORKLOADS = {fn.__name__: fn for fn in (decode, resnet, training, ragged, matmul, overhead)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes minutes"
    )
    parser.add_argument("--only", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    options = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    warnings.simplefilter("default")
    rows: list[Row] = []
    for name in options.only:
        found = list(WORKLOADS[name](not options.no_compile))
        print(*found, sep="\n", flush=True)  # the whole takes minutes, and may be cut off
        rows += found
    print()
    for row in rows:
        print(row)
    print(f"{sum(row.met for row in rows)} of {len(rows)} targets met")


if __name__ == "__main__":
    main()
