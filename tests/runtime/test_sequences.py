"""Many calls in any order: segments that share memory, decode loops, caches that come and go, statistics."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed, segment

pytestmark = pytest.mark.usefixtures("device")


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


class Pipeline(nn.Module):
    """Three segments with temporaries of their own; every one reads what another one made."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

    def first(self, x: torch.Tensor) -> Any:
        h = self.a(x).relu()
        return h, (h * 2).sum(1)

    def second(self, h: torch.Tensor) -> torch.Tensor:
        return self.b(h * 2).tanh() + h

    def third(self, h: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return self.c(h + g).softmax(-1)


class Segmented(Pipeline):
    first = segment(Pipeline.first)
    second = segment(Pipeline.second)
    third = segment(Pipeline.third)


@pytest.mark.parametrize("seed", range(4))
@torch.inference_mode()
def test_segments_are_right_in_any_order_with_kept_results_and_dropped_graphs(seed: int) -> None:
    """A graph replayed out of order overwrites what it freed (pytorch#166975, #193402, #133327)."""
    plain, ours = Pipeline().cuda(), Segmented().cuda()
    draw = random.Random(seed)
    kept = [(rnd(2, 8), rnd(2, 8))]
    made = 0
    for step in range(60):
        name = draw.choice(["first", "second", "third", "second", "drop"])
        if name == "drop":
            runners = list(vars(ours)["_cuda_graphs"].made.values()) if made else []
            for runner in runners:
                runner._drop(draw.sample(sorted(runner.graphs, key=repr), len(runner.graphs) // 2))
            continue
        made += 1
        rows = draw.choice([1, 2, 3])
        if name == "first":
            x = rnd(rows, 8, seed=step)
            kept.append((ours.first(x)[0], plain.first(x)[0]))
        else:
            got, want = draw.choice(kept)
            arguments = [(got, want)] if name == "second" else [(got, want), draw.choice(kept)]
            if len({g.shape for g, _ in arguments}) == 1:
                result = getattr(ours, name)(*[g for g, _ in arguments])
                kept.append((result, getattr(plain, name)(*[w for _, w in arguments])))
    for got, want in kept:
        same(got, want)


@pytest.mark.parametrize("seed", range(4))
@torch.inference_mode()
def test_results_kept_from_a_chain_of_segments_are_never_overwritten(seed: int) -> None:
    """Also by another graph that has its temporaries where this one has its results."""
    plain, ours = Pipeline().cuda(), Segmented().cuda()
    draw = random.Random(seed)
    kept: list[Any] = []
    for step in range(100):
        x = rnd(draw.choice([1, 2]), 8, seed=step)
        h, g = ours.first(x)
        same(ours.third(ours.second(h), h), plain.third(plain.second(plain.first(x)[0]), plain.first(x)[0]))
        if draw.random() < 0.2:
            kept.append(((h, g)[draw.randrange(2)][:1], x))
        if draw.random() < 0.1:
            runner = draw.choice(list(vars(ours)["_cuda_graphs"].made.values()))
            runner._drop(draw.sample(sorted(runner.graphs, key=repr), len(runner.graphs) // 2))
    for got, x in kept:
        same(got, plain.first(x)[0 if got.dim() == 2 else 1][:1])


@torch.inference_mode()
def test_a_graph_that_comes_back_after_its_memory_was_given_up_is_recorded_anew() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).cuda()
    one, other = graphed(model), graphed(lambda x: model(x) * 2)
    for i in range(4):
        same(one(rnd(2, 8, seed=i)), model(rnd(2, 8, seed=i)))
        same(other(rnd(2, 8, seed=i)), model(rnd(2, 8, seed=i)) * 2)
    for pool in cuda_graphs._pools.values():
        pool.drop(list(pool.graphs))
    for i in range(4):
        same(one(rnd(2, 8, seed=i)), model(rnd(2, 8, seed=i)))
        same(other(rnd(2, 8, seed=i)), model(rnd(2, 8, seed=i)) * 2)
    assert one.stats()["replays"] == other.stats()["replays"] == 6


@torch.inference_mode()
def test_recording_stops_when_graphs_are_hardly_used() -> None:
    model = nn.Linear(4, 4).cuda()
    wrapper = graphed(model, max_graphs=3)
    for n in range(1, 40):
        same(wrapper(rnd(n, 4, seed=n)), model(rnd(n, 4, seed=n)))
    assert wrapper.stats()["eager"]["recording"] == 3
    for n in range(200):
        same(wrapper(rnd(5, 4, seed=n)), model(rnd(5, 4, seed=n)))
    assert wrapper.stats()["replays"] > 100  # what is called often gets a graph in the end


# ------------------------------------------------------------------------------------------------- decode


class Cache:
    """Keys and values of one request, as `transformers.StaticCache` keeps them: an object, not a tensor."""

    def __init__(self, room: int = 16) -> None:
        self.layers = [[torch.zeros(1, room, 8, device="cuda") for _ in "kv"] for _ in range(2)]

    def update(self, layer: int, k: torch.Tensor, v: torch.Tensor, place: torch.Tensor) -> Any:
        for held, new in zip(self.layers[layer], (k, v), strict=True):
            held.index_copy_(1, place, new)
        return self.layers[layer]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 8)
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))

    def forward(self, token: torch.Tensor, place: torch.Tensor, cache: Cache) -> Any:
        h = self.embed(token)
        for i, layer in enumerate(self.qkv):
            q, k, v = layer(h).chunk(3, -1)
            keys, values = cache.update(i, k, v, place)
            keep = torch.arange(keys.shape[1], device=keys.device) <= place[:, None]
            h = h + F.scaled_dot_product_attention(q, keys, values, attn_mask=keep)
        return {"logits": h @ self.embed.weight.t(), "cache": cache}


def generate(step: Any, cache: Cache, read_every: int, steps: int = 12) -> list[int]:
    """Greedy decoding with the position on the device; the host looks at the tokens every few steps."""
    token, place = torch.tensor([[3]], device="cuda"), torch.tensor([0], device="cuda")
    tokens: list[int] = []
    waiting: list[torch.Tensor] = []
    for _ in range(steps):
        out = step(token, place, cache)
        assert out["cache"] is cache
        token = out["logits"].argmax(-1)
        place = place + 1
        waiting.append(token)
        if len(waiting) == read_every:
            tokens += torch.cat(waiting, 1)[0].tolist()
            waiting = []
    return tokens


@pytest.mark.parametrize("read_every", [1, 4])
@torch.inference_mode()
def test_decoding_over_a_static_cache_gives_the_same_tokens(read_every: int) -> None:
    model = Decoder().cuda()
    wrapper = graphed(model)
    want = generate(model, Cache(), read_every)
    assert generate(wrapper, Cache(), read_every) == want
    assert wrapper.stats()["replays"] == 11


@torch.inference_mode()
def test_a_cache_for_each_request_is_let_go_when_the_request_is_done() -> None:
    model = Decoder().cuda()
    wrapper = graphed(model)
    want = generate(model, Cache(), 1)
    gone = []
    for _ in range(12):
        cache = Cache()
        gone.append(weakref.ref(cache))
        assert generate(wrapper, cache, 1) == want
        del cache
    gc.collect()
    assert not any(ref() for ref in gone)
    assert wrapper.stats()["graphs"] == 1
    assert wrapper.stats()["replays"] == 12 * 11


@torch.inference_mode()
def test_decoding_up_to_the_last_place_never_leaves_the_cache() -> None:
    """Warmups that went on counting would write behind its end."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("place", torch.zeros(1, dtype=torch.long))
            self.register_buffer("held", torch.zeros(4, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.held.index_copy_(0, self.place, x)
            self.place += 1
            return self.held.sum(0)

    plain, module = Counting().cuda(), Counting().cuda()
    wrapper = graphed(module)
    for i in range(4):
        same(wrapper(rnd(1, 3, seed=i)), plain(rnd(1, 3, seed=i)))
    assert wrapper.stats()["replays"] == 3
    same(module.held, plain.held)


# ------------------------------------------------------------------------------------------ introspection


@torch.inference_mode()
def test_stats_name_the_graphs_and_the_reasons() -> None:
    model = nn.Linear(4, 4).cuda()
    wrapper = graphed(model, pad="B _", buckets=[2, 8])
    for n in (1, 2, 5, 8, 1, 9, 0):
        wrapper(rnd(n, 4))
    stats = wrapper.stats()
    assert stats["graphs"] == 2
    assert stats["buckets"] == {"B=2": 2, "B=8": 1}
    assert stats["replays"] == 3
    assert stats["eager"] == {
        "recording": 2,
        "dimension B has size 9, above the largest bucket 8": 1,
        "dimension B has size 0": 1,
    }
    assert stats["padding"] == pytest.approx(1 - (2 + 8 + 1) / (2 + 8 + 2))
    exact = graphed(lambda x: x + 1)
    for n in (2, 2, 3, 3, 3):
        exact(rnd(n, 4))
    assert exact.stats()["buckets"] == {"[2, 4]": 1, "[3, 4]": 2}


@torch.inference_mode()
def test_prepare_starts_with_the_largest_bucket() -> None:
    wrapper = graphed(nn.Linear(4, 4).cuda(), pad="B _")
    seen: list[int] = []
    wrapper.prepare(rnd(8, 4))
    runner = wrapper._cg_runner
    seen = [int(name.removeprefix("B=")) for name in wrapper.stats()["buckets"]]
    assert seen == [8, 4, 2, 1]
    assert len({g.inputs[0].untyped_storage().data_ptr() for g in runner.graphs.values()}) == 1


def prepared(wrapper: Any) -> list[int]:
    """Buckets in the order in which they were recorded."""
    return [int(name.removeprefix("B=")) for name in wrapper.stats()["buckets"]]


SHAPES: dict[str, Any] = {
    "a tuple of sizes": lambda: (8, 4),
    "a size": lambda: torch.Size([8, 4]),
    "a tensor on the meta device": lambda: torch.empty(8, 4, device="meta"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@torch.inference_mode()
def test_prepare_takes_shapes_instead_of_tensors(shape: Any) -> None:
    model = nn.Linear(4, 4).cuda().half()
    wrapper = graphed(model, pad="B _")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    wrapper.prepare(shape().half() if isinstance(shape(), torch.Tensor) else shape())
    assert torch.equal(torch.get_rng_state(), before)
    assert prepared(wrapper) == [8, 4, 2, 1]
    for n in range(1, 9):
        x = rnd(n, 4, seed=n).half()
        torch.testing.assert_close(wrapper(x), model(x), rtol=1e-2, atol=1e-2)
    assert wrapper.stats()["replays"] == 8


def tokens(ids: torch.Tensor, mask: torch.Tensor, *, shift: float = 0.0) -> torch.Tensor:
    return (ids * mask).cumsum(1) + shift


AHEAD: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "dtypes where all sizes have names": ((torch.long,), {"mask": torch.float32}),
    "tensors of other sizes": (
        (torch.ones(1, 2, dtype=torch.long, device="meta"),),
        {"mask": torch.ones(1, 2, device="meta")},
    ),
    "some of both": ((torch.long,), {"mask": torch.ones(3, 1, device="meta"), "shift": 2.0}),
}


@pytest.mark.parametrize(("args", "kwargs"), AHEAD.values(), ids=AHEAD.keys())
@torch.inference_mode()
def test_prepare_takes_sizes_by_name_before_any_call_with(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    wrapper = graphed(tokens, pad={"ids": "B S", "mask": "B S"})
    wrapper.reset()
    wrapper.prepare({"B": 4, "S": [3]}, *args, **kwargs)
    before = wrapper.stats()
    assert before["graphs"] == 3
    extra = {"shift": 2.0} if "shift" in kwargs else {}
    for n in (1, 2, 3, 4):
        ids, mask = torch.arange(3 * n).view(n, 3).to("cuda"), rnd(n, 3, seed=n)
        same(wrapper(ids, mask=mask, **extra), tokens(ids, mask=mask, **extra))
    after = wrapper.stats()
    assert after["replays"] == before["replays"] + 4
    assert after["eager"] == before["eager"]


@torch.inference_mode()
def test_prepare_takes_sizes_and_a_shape_before_any_call() -> None:
    model = nn.Linear(4, 4).cuda().half()
    wrapper = graphed(model, pad="B _")
    wrapper.prepare({"B": [2, 8]}, (1, 4))
    assert prepared(wrapper) == [8, 2]
    with pytest.raises(ValueError, match="leaves sizes of 'B _' open"):
        wrapper.prepare({"B": 2}, torch.float16)


@torch.inference_mode()
def test_prepare_takes_sizes_by_name_after_a_call() -> None:
    embedding = nn.Embedding(5, 4).cuda()

    def fn(ids: torch.Tensor, scale: torch.Tensor, *, shift: float) -> torch.Tensor:
        return embedding(ids) * scale + shift

    def call(n: int) -> torch.Tensor:
        ids = torch.ones(n, 3, dtype=torch.long).to("cuda")
        return wrapper(ids, torch.ones(4, device="cuda"), shift=2.0)

    pad = {"ids": "B _"}
    wrapper = graphed(fn, pad=pad)
    with pytest.raises(ValueError, match="Before one, add what calls pass"):
        wrapper.prepare({"B": 8})
    call(3)
    wrapper.prepare({"B": 16})
    assert prepared(wrapper) == [4, 16, 8, 2, 1]
    wrapper.prepare({"B": [64, 32]})
    assert prepared(wrapper) == [4, 16, 8, 2, 1, 64, 32]
    wrapper = graphed(fn, pad=pad, buckets=[2, 6, 40])
    call(5)
    wrapper.prepare()
    assert prepared(wrapper) == [6, 40, 2]
    eager = wrapper.stats()["eager"]
    for n in (1, 2, 3, 6, 7, 40):
        same(
            call(n),
            fn(torch.ones(n, 3, dtype=torch.long).to("cuda"), torch.ones(4, device="cuda"), shift=2.0),
        )
    assert wrapper.stats()["eager"] == eager


@torch.inference_mode()
def test_a_leak_of_padding_is_found_with_shapes_alone() -> None:
    wrapper = graphed(lambda x: x.sum(0), pad="B _")
    with pytest.warns(RuntimeWarning, match="every exact shape"):
        wrapper.prepare((8, 4))
    for n in (3, 5, 3, 5):
        same(wrapper(rnd(n, 4, seed=n)), rnd(n, 4, seed=n).sum(0))


@torch.inference_mode()
def test_replays_show_in_a_profile_and_as_nvtx_ranges(monkeypatch: Any) -> None:
    model = nn.Linear(4, 4).cuda()
    wrapper = graphed(model)
    for _ in range(2):
        wrapper(rnd(2, 4))
    with torch.autograd.profiler.profile() as profile:
        wrapper(rnd(2, 4))
    assert any(event.name == "cuda_graph:Linear" for event in profile.function_events)
    pushed: list[str] = []
    monkeypatch.setattr(cuda_graphs, "_nsight", True)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", pushed.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: None)
    wrapper(rnd(2, 4))
    assert pushed == ["cuda_graph:Linear [[2, 4]]"] or pushed == ["cuda_graph:Linear [2, 4]"]


@torch.inference_mode()
def test_two_sizes_in_every_combination_share_few_graphs() -> None:
    layer = nn.Linear(4, 4).cuda()
    wrapper = graphed(lambda x: layer(x).relu(), pad="B S _")
    for b, s in itertools.product(range(1, 9), repeat=2):
        same(wrapper(rnd(b, s, 4, seed=b + s)), layer(rnd(b, s, 4, seed=b + s)).relu())
    assert wrapper.stats()["graphs"] <= 16
    assert wrapper.stats()["replays"] >= 40


class _Anchors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.calls = [torch.zeros(2)], 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cells = [cell.to(x.device) for cell in self.cells]
        self.calls += 1
        return x + self.cells[0].sum()


class _Beside(nn.Module):
    """Holds a module of its parent without being asked for it by name there."""

    def __init__(self, other: _Anchors) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.__dict__["other"] = other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.other.calls


class _Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.anchors = nn.Sequential(nn.Linear(2, 2)), _Anchors()
        self.first, *_ = self.stem.children()
        self.beside = _Beside(self.anchors)

    @segment
    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem(x) * 2

    @segment
    def _beside(self, x: torch.Tensor) -> torch.Tensor:
        return self.beside(x)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.anchors(self._stem(x)), self._beside(x)


@pytest.mark.filterwarnings("ignore:.*runs eagerly:RuntimeWarning")
def test_a_segment_is_kept_when_a_submodule_changes_that_it_does_not_name() -> None:
    model = _Detector().to("cuda").eval()
    with torch.no_grad():
        for i in range(6):
            x = torch.full((1, 2), float(i)).to("cuda")
            first, second = model(x)
            torch.testing.assert_close(first, model.stem(x) * 2)
            torch.testing.assert_close(second, model.beside.linear(x) + i + 1)
    runners = {runner.name: runner.stats() for runner in model.__dict__["_cuda_graphs"].made.values()}
    assert runners["_Detector._stem"]["replays"] == 5


@pytest.mark.filterwarnings("ignore:.*runs eagerly:RuntimeWarning")
def test_code_whose_tensors_are_replaced_at_every_call_is_not_recorded_for_ever() -> None:
    model = _Detector().to("cuda").eval()
    with torch.no_grad():
        for i in range(40):
            model.first.weight = nn.Parameter(torch.full((2, 2), float(i)).to("cuda"))
            x = torch.full((1, 2), 2.0).to("cuda")
            torch.testing.assert_close(model(x)[0], model.stem(x) * 2)
        for _ in range(40):
            torch.testing.assert_close(model(x)[0], model.stem(x) * 2)
    runner = next(r for r in model.__dict__["_cuda_graphs"].made.values() if r.name == "_Detector._stem")
    assert runner.recorded <= 16
    assert runner.stats()["replays"] > 0, "it settled, which is noticed in the end"
