"""What the runtime costs and gains on one GPU: workloads eager, graphed, and as a bare graph, side by side.

    python benchmarks/runtime.py [--compile] [--only NAME ...]

Times are milliseconds a call, the median over rounds in which the variants take turns, each round
synchronised. "hand" is a hand-written graph: inputs copied in, replayed, outputs cloned; "bare" is
`CUDAGraph.replay()` alone. On the ragged batches eager has run every shape before it is timed.
"cold" is the time from the first graphed call to the first replay, warmups and capture included.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed


class Decoder(nn.Module):
    """One decode step of a 124 M parameter language model over a static cache."""

    def __init__(
        self, layers: int = 12, dim: int = 768, heads: int = 12, vocabulary: int = 50257, room: int = 1024
    ):
        super().__init__()
        self.heads, self.room = heads, room
        self.embed, self.place = nn.Embedding(vocabulary, dim), nn.Embedding(room, dim)
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(dim, 4 * dim) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * dim, dim) for _ in range(layers))
        self.first = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.second = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.last = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        shape = (layers, 1, heads, room, dim // heads)
        self.register_buffer("keys", torch.zeros(shape), persistent=False)
        self.register_buffer("values", torch.zeros(shape), persistent=False)
        self.register_buffer("slots", torch.arange(room), persistent=False)

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        x = self.embed(token) + self.place(position)
        mask = (self.slots <= position).view(1, 1, 1, -1)
        for i in range(len(self.qkv)):
            q, k, v = (
                self.qkv[i](self.first[i](x)).view(1, 1, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            )
            self.keys[i].index_copy_(2, position, k)
            self.values[i].index_copy_(2, position, v)
            a = F.scaled_dot_product_attention(q, self.keys[i], self.values[i], attn_mask=mask)
            x = x + self.out[i](a.transpose(1, 2).reshape(1, 1, -1))
            x = x + self.down[i](F.gelu(self.up[i](self.second[i](x))))
        return self.head(self.last(x))


class Encoder(nn.Module):
    """A small transformer encoder over a batch of feature sequences."""

    def __init__(self, dim: int = 256, layers: int = 6) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, 8, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def timed(variants: dict[str, Callable[[], Any]], seconds: float = 1.5) -> dict[str, float]:
    """Median milliseconds a call of each variant; the variants take turns in random order."""
    order, draw = list(variants), random.Random(0)
    each: dict[str, list[float]] = {name: [] for name in order}
    for fn in variants.values():
        fn()
    torch.cuda.synchronize()
    count = {}
    for name, fn in variants.items():
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
            start = time.perf_counter()
            for _ in range(count[name]):
                variants[name]()
            torch.cuda.synchronize()
            each[name].append((time.perf_counter() - start) / count[name] * 1e3)
    return {name: statistics.median(values) for name, values in each.items()}


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
        for a, b in zip(static, args, strict=True):
            a.copy_(b)
        graph.replay()
        return out.detach().clone()

    return call, graph.replay


def cold(wrapper: Any, args: tuple[Tensor, ...]) -> float:
    """Seconds from the first call to the end of the first replay."""
    before = wrapper.stats()["replays"]
    torch.cuda.synchronize()
    start = time.perf_counter()
    wrapper(*args)
    wrapper(*args)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    assert wrapper.stats()["replays"] > before, wrapper.stats()
    return seconds


def compare(
    name: str, fn: Any, args: tuple[Tensor, ...], compiled: bool, wrapper: Any = None
) -> dict[str, Any]:
    """One workload with fixed shapes."""
    fn(*args)
    wrapper = wrapper or graphed(fn)
    seconds = cold(wrapper, args)
    hand, replay = hand_written(fn, args)
    variants = {"eager": lambda: fn(*args), "graphed": lambda: wrapper(*args), "hand": lambda: hand(*args)}
    variants["bare"] = replay
    row: dict[str, Any] = {"name": name, "cold": seconds}
    if compiled:
        torch._dynamo.reset()
        try:
            fast = torch.compile(fn, mode="reduce-overhead")
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(3):
                fast(*args)
            torch.cuda.synchronize()
            row["compile_cold"] = time.perf_counter() - start
            variants["compiled"] = lambda: (torch.compiler.cudagraph_mark_step_begin(), fast(*args))
            variants["compiled"]()
        except Exception as error:
            row["compile_error"] = str(error).splitlines()[0][:80]
            variants.pop("compiled", None)
    row |= timed(variants)
    return row


def decode(compiled: bool) -> Iterator[dict[str, Any]]:
    with torch.inference_mode():
        model = Decoder().cuda().half().eval()
        args = (torch.tensor([[17]], device="cuda"), torch.tensor([5], device="cuda"))
        yield compare("decode 124M fp16 batch 1", model, args, compiled)


def resnet(compiled: bool) -> Iterator[dict[str, Any]]:
    import torchvision

    with torch.inference_mode():
        model = torchvision.models.resnet50().cuda().eval()
        wrapper = graphed(model)
        for batch in (1, 8):
            args = (torch.randn(batch, 3, 224, 224, device="cuda"),)
            yield compare(f"ResNet-50 fp32 batch {batch}", model, args, compiled and batch == 1, wrapper)


def matmul(compiled: bool) -> Iterator[dict[str, Any]]:
    with torch.inference_mode():
        args = (torch.randn(4096, 4096, device="cuda"), torch.randn(4096, 4096, device="cuda"))
        yield compare("matmul 4096 fp32", _matmul, args, compiled)
        yield compare("one kernel, 16 numbers", _add, (torch.zeros(16, device="cuda"),), compiled)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def _add(a: Tensor) -> Tensor:
    return a + 1


def training(compiled: bool) -> Iterator[dict[str, Any]]:
    def make() -> Callable[[Tensor, Tensor], Tensor]:
        torch.manual_seed(0)
        layers = [layer for _ in range(12) for layer in (nn.Linear(512, 512), nn.LayerNorm(512), nn.GELU())]
        model = nn.Sequential(*layers).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, capturable=True)

        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    args = (torch.randn(64, 512, device="cuda"), torch.randn(64, 512, device="cuda"))
    eager, other = make(), make()
    wrapper = graphed(make())
    seconds = cold(wrapper, args)
    for _ in range(3):
        other(*args)
    hand, replay = hand_written(other, args)
    variants = {"eager": lambda: eager(*args), "graphed": lambda: wrapper(*args), "hand": lambda: hand(*args)}
    yield {"name": "training step AdamW", "cold": seconds, **timed({**variants, "bare": replay})}


def ragged(compiled: bool) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    sizes = [draw.randint(1, 64) for _ in range(400)]
    with torch.inference_mode():
        model = Encoder().cuda().eval()
        inputs = {n: torch.randn(n, 64, 256, device="cuda") for n in set(sizes)}
        for x in inputs.values():
            model(x)
        wrapper = graphed(model, pad="B ...")
        runs: dict[str, Any] = {"eager": model, "graphed": wrapper}
        if compiled:
            torch._dynamo.reset()
            runs["compiled"] = torch.compile(model, mode="reduce-overhead")
        row: dict[str, Any] = {"name": "ragged encoder, first 200 calls"}
        later: dict[str, Any] = {"name": "ragged encoder, next 200 calls"}
        for name, fn in runs.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for i, n in enumerate(sizes):
                if i == 200:
                    torch.cuda.synchronize()
                    middle = time.perf_counter()
                torch.compiler.cudagraph_mark_step_begin()
                fn(inputs[n])
            torch.cuda.synchronize()
            row[name] = (middle - start) / 200 * 1e3
            later[name] = (time.perf_counter() - middle) / 200 * 1e3
        later["stats"] = wrapper.stats()
        yield row
        yield later
        yield memory(model)


def memory(model: nn.Module) -> dict[str, Any]:
    """Memory of seven buckets against that of the largest alone."""
    used = {}
    for name, sizes in {"largest": [64], "seven": [64, 32, 16, 8, 4, 2, 1]}.items():
        graphed(model, pad="B ...").reset()
        torch.cuda.empty_cache()
        start = torch.cuda.memory_reserved()
        for n in sizes:
            x = torch.randn(n, 64, 256, device="cuda")
            graphed(model, pad="B ...")(x)
        torch.cuda.empty_cache()
        used[name] = torch.cuda.memory_reserved() - start
    return {"name": "memory of 7 buckets / largest", "MiB": [round(b / 2**20, 1) for b in used.values()],
            "ratio": round(used["seven"] / max(used["largest"], 1), 2)}  # fmt: skip


def overhead(compiled: bool) -> Iterator[dict[str, Any]]:
    """What one call costs on the host, piece by piece, in microseconds; no guarded tensor, one kernel."""
    x = torch.zeros(16, device="cuda")
    with torch.inference_mode():
        wrapper = graphed(lambda a: a + 1)
        for _ in range(200):
            wrapper(x)
        runner = wrapper._cg_runner
        graph = next(iter(runner.graphs.values()))
        call = runner._take_apart((x,), {})
        pieces: dict[str, Callable[[], Any]] = {
            "whole call": lambda: wrapper(x),
            "replay and the same copies": lambda: (
                torch._foreach_copy_(graph.targets, [x]),
                graph.graph.replay(),
                graph.outputs[0].clone(),
            ),
            "take apart": lambda: runner._take_apart((x,), {}),
            "find": lambda: runner._find(call),
            "check state": lambda: runner._state(call),
            "modes": cuda_graphs._modes,
            "copy in, replay, copy out": lambda: graph(call, True),
        }
        row: dict[str, Any] = {"name": "host time of a call, us"}
        for name, fn in pieces.items():
            best = math.inf
            for _ in range(20):
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(100):
                    fn()
                best = min(best, (time.perf_counter() - start) / 100 * 1e6)
            row[name] = round(best, 2)
    yield row


WORKLOADS = {
    "decode": decode,
    "resnet": resnet,
    "training": training,
    "ragged": ragged,
    "matmul": matmul,
    "overhead": overhead,
}


def show(row: dict[str, Any]) -> None:
    """One line: times, then ratios."""
    text = [f"{row['name']:32}"]
    times = ("eager", "graphed", "hand", "bare", "compiled")
    text += [f"{key} {row[key]:.4f}" for key in times if key in row]
    if "graphed" in row:
        text += [
            f"| x{row[k] / row['graphed']:.2f} against {k}" for k in ("eager", "hand", "compiled") if k in row
        ]
    if "bare" in row:
        extra = [f"{key} {(row[key] - row['bare']) * 1e3:.1f} us" for key in ("graphed", "hand")]
        text.append(f"| over bare: {', '.join(extra)}")
        text.append("| not worth it" if row["eager"] / row["graphed"] < 1.05 else "")
    rest = {k: v for k, v in row.items() if k not in ("name", *times)}
    print(
        " ".join(text), {k: round(v, 4) if isinstance(v, float) else v for k, v in rest.items()}, flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--compile", action="store_true", help="also time torch.compile(mode='reduce-overhead')"
    )
    parser.add_argument("--only", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    options = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__)
    assert math.isfinite(torch.cuda.mem_get_info()[0])
    warnings.simplefilter("default")
    for name in options.only:
        for row in WORKLOADS[name](options.compile):
            show(row)


if __name__ == "__main__":
    main()
