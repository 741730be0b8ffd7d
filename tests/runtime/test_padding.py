"""Ragged sizes in padded graphs: the result is that of the real size, or the padding is given up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime.cuda_graphs import graphed

pytestmark = pytest.mark.usefixtures("device")


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def rows() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)).cuda().eval()


@torch.inference_mode()
def test_batches_from_1_to_32_need_six_graphs_and_repeat_without_new_ones() -> None:
    model = rows()
    wrapper = graphed(model, pad="B ...")
    for n in [*range(1, 33), *range(32, 0, -1)]:
        same(wrapper(rnd(n, 8, seed=n)), model(rnd(n, 8, seed=n)))
    stats = wrapper.stats()
    assert stats["graphs"] == 6
    assert stats["replays"] > 50
    assert 0 < stats["padding"] < 0.5


@torch.inference_mode()
def test_prepare_records_all_buckets_so_that_no_later_call_runs_eagerly() -> None:
    model = rows()
    wrapper = graphed(model, pad="B ...")
    wrapper.prepare(rnd(32, 8))
    before = wrapper.stats()
    for n in range(1, 33):
        same(wrapper(rnd(n, 8, seed=n)), model(rnd(n, 8, seed=n)))
    after = wrapper.stats()
    assert before["graphs"] == after["graphs"] == 6
    assert before["eager"] == after["eager"]
    assert after["replays"] - before["replays"] == 32


@torch.inference_mode()
def test_nan_in_a_bigger_batch_never_reaches_a_smaller_one() -> None:
    model = rows()
    wrapper = graphed(model, pad="B ...")
    for n in (5, 6):
        wrapper(rnd(n, 8))
    want = wrapper(rnd(5, 8))
    for poison in (float("nan"), float("inf"), 1e30):
        wrapper(torch.full((8, 8), poison, device="cuda"))
        assert torch.equal(wrapper(rnd(5, 8)), want)


@torch.inference_mode()
def test_sizes_outside_the_buckets_and_empty_batches_run_eagerly() -> None:
    model = rows()
    wrapper = graphed(model, pad="B ...", buckets=[4, 16])
    for n in (0, 1, 3, 4, 5, 16, 17, 2, 0, 40):
        same(wrapper(rnd(n, 8, seed=n)), model(rnd(n, 8, seed=n)))
    stats = wrapper.stats()
    assert stats["graphs"] == 2
    assert any("size 0" in r for r in stats["eager"])
    assert any("above the largest bucket 16" in r for r in stats["eager"])


LEAKS = {
    "a mean over the batch": lambda x: x @ x.new_ones(8, 4) - x.mean(0)[:4],
    "a sum over the batch": lambda x: (x + 1).sum(0),
    "a maximum over the batch": lambda x: x.amax(0),
    "a sum that zeros do not change": lambda x: x.sum(0),
    "batch statistics": lambda x: (x - x.mean(0)) / (x.std(0) + 1),
    "a softmax over the batch": lambda x: x.softmax(0),
    "a reversed cumulative sum": lambda x: (x + 1).flip(0).cumsum(0).flip(0),
    "a sort": lambda x: x.sort(0).values,
    "a flip": lambda x: x.flip(0),
    "the size as a number": lambda x: (x * x.shape[0], x.shape[0]),
    "rows appended": lambda x: torch.cat([x, x[:1]]),
    "the batch twice": lambda x: torch.cat([x, x]),
    "random numbers": lambda x: x + 0 * torch.rand(x.shape, device=x.device),
}


@pytest.mark.parametrize("fn", LEAKS.values(), ids=LEAKS.keys())
@torch.inference_mode()
def test_padding_is_given_up_for(fn: Any) -> None:
    def own(x: torch.Tensor) -> Any:
        return fn(x)

    wrapper = graphed(own, pad="B ...")
    with pytest.warns(RuntimeWarning, match="every exact shape"):  # noqa: PT031
        for n in (4, 3, 5, 3, 7, 4, 5, 8, 7, 3):
            same(wrapper(rnd(n, 8, seed=n).abs()), fn(rnd(n, 8, seed=n).abs()))
    assert wrapper.stats()["replays"] > 0


HOLDS = {
    "a forward cumulative sum": lambda x: x.cumsum(0),
    "pairs of rows": lambda x: x.repeat_interleave(2, 0),
    "a flattened batch": lambda x: (x.flatten() * 2, x.sum(1)),
    "a transposed result": lambda x: x.t() @ torch.ones(x.shape[1] * 0 + x.shape[0], 0, device=x.device),
}


@pytest.mark.parametrize("name", ["a forward cumulative sum", "pairs of rows", "a flattened batch"])
@torch.inference_mode()
def test_padding_holds_for(name: str) -> None:
    fn = HOLDS[name]
    wrapper = graphed(lambda x: fn(x), pad="B ...")
    for n in (4, 3, 5, 3, 7, 4, 5, 8, 7, 3):
        same(wrapper(rnd(n, 8, seed=n)), fn(rnd(n, 8, seed=n)))
    assert wrapper.stats()["graphs"] == 2


class Encoder(nn.Module):
    """Attention over tokens with a mask, pooled over the real ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = attention_mask == 0
        bias = torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, -1e9)
        hidden = self.layer(self.embed(input_ids), src_key_padding_mask=bias)
        keep = attention_mask.unsqueeze(-1)
        return {"hidden": hidden, "pooled": (hidden * keep).sum(1) / keep.sum(1).clamp(min=1)}


@torch.inference_mode()
def test_two_dimensions_grow_together_by_name_and_a_mask_makes_it_right() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    model = Encoder().cuda().train()
    wrapper = graphed(model, pad={"input_ids": "B S", "attention_mask": "B S"})
    for i, (b, s) in enumerate(
        [(3, 5), (4, 8), (3, 3), (2, 7), (4, 4), (1, 6), (3, 6), (3, 3), (3, 7), (4, 5)]
    ):
        ids = torch.randint(1, 50, (b, s), generator=torch.Generator().manual_seed(i)).to("cuda")
        mask = torch.ones(b, s, dtype=torch.long, device="cuda")
        mask[0, s // 2 :] = 0
        got = wrapper(ids, attention_mask=mask)
        same(got, model(ids, mask))
        assert got["hidden"].shape == (b, s, 16)
    assert wrapper.stats()["replays"] >= 2
    torch.backends.mha.set_fastpath_enabled(True)


@torch.inference_mode()
def test_without_a_mask_a_padded_sequence_is_given_up() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).cuda()
    wrapper = graphed(lambda x: attention(x, x, x)[0], pad="_ S _")
    with pytest.warns(RuntimeWarning, match="every exact shape"):  # noqa: PT031
        for s in (3, 5, 7, 3, 5, 7):
            same(wrapper(rnd(2, s, 8, seed=s)), attention(*[rnd(2, s, 8, seed=s)] * 3)[0])


@torch.inference_mode()
def test_nested_keys_positions_and_fills_are_found() -> None:
    def fn(batch: Any, scale: torch.Tensor) -> Any:
        return {"y": batch["x"] * scale, "worst": batch["x"].amax(0)}

    wrapper = graphed(fn, pad={"batch": {"x": "B _"}}, fill={"x": float("-inf")})
    for n in (3, 5, 6, 3, 7):
        x = rnd(n, 8, seed=n)
        same(wrapper({"x": x}, scale=rnd(8)), fn({"x": x}, rnd(8)))
    assert wrapper.stats()["graphs"] == 2
    assert wrapper.stats()["replays"] == 3
    by_position = graphed(lambda a, b: a + b, pad={0: "B _", 1: "B _"})
    for n in (3, 4, 3):
        same(by_position(rnd(n, 8), rnd(n, 8, seed=1)), rnd(n, 8) + rnd(n, 8, seed=1))
    assert by_position.stats()["graphs"] == 1


@torch.inference_mode()
def test_arguments_that_disagree_about_a_size_run_eagerly() -> None:
    wrapper = graphed(lambda a, b: a + b, pad="B _")
    same(wrapper(rnd(4, 8), rnd(1, 8)), rnd(4, 8) + rnd(1, 8))
    assert "two arguments differ in dimension B: 4 and 1" in wrapper.stats()["eager"]


@torch.inference_mode()
def test_state_written_in_padded_graphs_is_that_of_the_real_rows() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("rows", torch.zeros(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.rows += x.new_ones(x.shape[0]).sum()
            return x * 2

    module = Counting().cuda()
    wrapper = graphed(module, pad="B _")
    with pytest.warns(RuntimeWarning, match="state"):  # noqa: PT031
        for n in (3, 4, 3, 2, 3):
            wrapper(rnd(n, 8))
    assert (float(module.calls), float(module.rows)) == (5, 15)


@torch.inference_mode()
def test_views_of_a_padded_argument_come_back_as_views_of_the_callers() -> None:
    def fn(x: torch.Tensor) -> Any:
        return x[:, 2:4], x, x * 2

    wrapper = graphed(fn, pad="B _")
    for n in (3, 4, 3, 3, 4):
        x = rnd(n, 8, seed=n)
        part, whole, double = wrapper(x)
        same((part, whole, double), fn(x))
        assert whole is x
        part.zero_()
        assert not x[:, 2:4].any()
    assert wrapper.stats()["replays"] == 4


@torch.inference_mode()
def test_channels_last_images_keep_their_layout() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1).cuda().to(memory_format=torch.channels_last)
    wrapper = graphed(conv, pad="B ...")
    for n in (3, 4, 3, 3):
        x = rnd(n, 3, 8, 8, seed=n).to(memory_format=torch.channels_last)
        got = wrapper(x)
        same(got, conv(x))
        assert got.stride() == conv(x).stride()


@torch.inference_mode()
def test_a_padded_argument_written_in_place_is_written_for_the_caller() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2

    wrapper = graphed(fn, pad="B _")
    for n in (3, 4, 3, 3):
        ours, theirs = rnd(n, 8), rnd(n, 8)
        same(wrapper(ours), fn(theirs))
        same(ours, theirs)
    assert wrapper.stats()["replays"] == 3
