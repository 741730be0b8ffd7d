"""What only a GPU can show: compilers, libraries that launch kernels of their own, streams and memory."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime.cuda_graphs import graphed, segment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)

    @segment
    def core(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(x).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.core(x) + 1


@torch.no_grad()
def test_torch_compile_sees_the_plain_code() -> None:
    model = Routed().cuda()
    want = model.lin(rnd(3, 8)).relu() + 1
    for fn in (
        torch.compile(model),
        torch.compile(graphed(model)),
        torch.compile(lambda x: graphed(model)(x)),
    ):
        compiled = torch.compile(fn, backend="eager")
        torch.testing.assert_close(compiled(rnd(3, 8)), want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_function_transforms_and_tracing_see_the_plain_code() -> None:
    model = Routed().cuda().requires_grad_(False)
    wrapper = graphed(model)
    for _ in range(2):
        wrapper(rnd(3, 8))
    batch = rnd(4, 3, 8)
    want = model.lin(batch).relu() + 1
    torch.testing.assert_close(torch.func.vmap(wrapper)(batch), want)
    torch.testing.assert_close(torch.jit.trace(lambda x: wrapper(x), (batch,))(batch), want)


@torch.inference_mode()
def test_a_hugging_face_decode_step_over_a_static_cache() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).cuda().eval()

    def run(step: Any) -> list[int]:
        cache = transformers.StaticCache(config=config, max_cache_len=32)
        prompt = torch.tensor([[5, 6, 7, 8]], device="cuda")
        out = model(
            prompt, past_key_values=cache, cache_position=torch.arange(4, device="cuda"), use_cache=True
        )
        token, tokens = out.logits[:, -1:].argmax(-1), []
        position = torch.tensor([4], device="cuda")
        for _ in range(12):
            tokens.append(int(token))
            out = step(
                input_ids=token,
                position_ids=position.unsqueeze(0),
                cache_position=position,
                past_key_values=cache,
            )
            token = out.logits[:, -1:].argmax(-1)
            position = position + 1
        return tokens

    wrapper = graphed(model)
    want = run(model)
    assert run(wrapper) == want
    assert run(wrapper) == want
    print("hugging face:", wrapper.stats())


@torch.inference_mode()
def test_replays_on_several_streams_and_threads_do_not_race() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(512, 512) for _ in range(30)]).cuda()
    wrapper = graphed(model, pad="B ...")
    inputs = [rnd(1 + i % 60, 512, seed=i) for i in range(64)]
    want = [model(x) for x in inputs]
    got: list[Any] = [None] * 64
    torch.cuda.synchronize()

    def work(part: int) -> None:
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
            for i in range(part, 64, 4):
                got[i] = wrapper(inputs[i])
            torch.cuda.current_stream().synchronize()

    for _ in range(5):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_out_of_memory_while_recording_leaves_the_result_right() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        free = torch.cuda.mem_get_info()[0] if not torch.cuda.is_current_stream_capturing() else 1 << 50
        return x + torch.empty(min(free // 8, 1 << 50), dtype=torch.uint8, device="cuda")[:1].float() * 0

    wrapper = graphed(fn)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        wrapper(rnd(3))
    torch.testing.assert_close(wrapper(rnd(3)), rnd(3))
    model = Routed().cuda()
    for i in range(3):
        torch.testing.assert_close(model(rnd(3, 8, seed=i)), model.lin(rnd(3, 8, seed=i)).relu() + 1)


@torch.inference_mode()
def test_graphs_that_are_dropped_give_their_memory_back() -> None:
    model = nn.Linear(1024, 1024).cuda()

    def reserved_after(rows: int) -> int:
        wrapper = graphed(lambda x: model(x).relu() + 1)
        for _ in range(2):
            wrapper(rnd(rows, 1024))
        wrapper.reset()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    # the first round also allocates what stays: a workspace of cuBLAS for each stream, 32 MiB on an H100
    first = reserved_after(4096)
    assert max(reserved_after(4097 + n) for n in range(4)) - first <= 16 << 20  # one tensor of a graph


@torch.inference_mode()
def test_a_limit_on_memory_drops_the_pool_and_results_stay_right() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).cuda()
    wrapper = graphed(model, max_bytes=8 << 20)
    for i in range(30):
        x = rnd(1000 + i % 5, 512, seed=i)
        torch.testing.assert_close(wrapper(x), model(x), rtol=1e-3, atol=1e-4)
    assert wrapper.stats()["bytes"] <= 48 << 20
    assert wrapper.stats()["replays"] > 0


@torch.inference_mode()
def test_failed_captures_leave_the_allocator_and_generators_as_they_were() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        y = torch.rand(1 << 20, device="cuda") + x[0]
        return y * float(x.sum())

    before = None
    for n in range(4):
        wrapper = graphed(lambda x, n=n: fails(x) + n)
        with pytest.warns(RuntimeWarning, match="runs eagerly"):
            wrapper(rnd(3))
        torch.rand(3, device="cuda")
        del wrapper
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        after = torch.cuda.memory_reserved()
        assert before is None or after <= before + (8 << 20)
        before = before or after


@pytest.mark.parametrize("tuned", [False, True])
@torch.inference_mode()
def test_convolutions_and_recurrent_layers_match_plain_calls(tuned: bool) -> None:
    torch.backends.cudnn.benchmark = tuned
    conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).cuda().eval()
    lstm = nn.LSTM(8, 16, batch_first=True).cuda()
    for model, shape in ((conv, (3, 16, 16)), (lstm, (7, 8))):
        wrapper = graphed(model, pad="B ...")
        for n in (3, 4, 2, 3, 3, 1, 4):
            want, got = model(rnd(n, *shape, seed=n)), wrapper(rnd(n, *shape, seed=n))
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
        assert wrapper.stats()["replays"] > 0
    torch.backends.cudnn.benchmark = False
