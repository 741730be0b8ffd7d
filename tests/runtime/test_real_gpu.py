"""What only a GPU can show: compilers, libraries that launch kernels of their own, streams and memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime import cuda_graphs
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
    for _ in range(3):  # a cache for each request
        assert run(wrapper) == want
    assert wrapper.stats()["replays"] >= 24, wrapper.stats()
    assert wrapper.stats()["graphs"] == 1


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

    # the first rounds also allocate what stays: workspaces of cuBLAS, 32 MiB a stream on an H100
    reserved = [reserved_after(4096 + n) for n in range(6)]
    assert max(reserved[2:]) - reserved[1] <= 4 << 20


@torch.inference_mode()
def test_a_limit_on_memory_drops_the_pool_and_results_stay_right() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).cuda()
    wrapper = graphed(model, max_bytes=8 << 20)
    for i in range(30):
        x = rnd(1000 + i % 5, 512, seed=i)
        torch.testing.assert_close(wrapper(x), model(x), rtol=1e-3, atol=1e-4)
    assert wrapper.stats()["bytes"] <= 48 << 20  # one recording more than the limit
    assert wrapper.stats()["replays"] > 0, wrapper.stats()


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


@torch.inference_mode()
def test_convolutions_are_tuned_before_the_capture_and_the_setting_stays() -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).cuda()
    torch.backends.cudnn.benchmark = True
    try:
        wrapper = graphed(conv)
        for i in range(4):
            y = rnd(4, 16, 32, 32, seed=i)
            assert torch.equal(wrapper(y), conv(y))  # the same algorithms, so the same bits
        assert torch.backends.cudnn.benchmark
        assert wrapper.stats()["replays"] == 3
    finally:
        torch.backends.cudnn.benchmark = False


def test_a_scaled_step_with_the_scaler_and_a_fused_optimizer_inside_is_that_of_plain_steps() -> None:
    def make() -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).cuda()
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, growth_interval=3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True, capturable=True)

        def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", dtype=torch.float16):
                loss = torch.nn.functional.mse_loss(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss.detach()

        return model, step

    (plain, step), (model, inner) = make(), make()
    wrapper = graphed(inner)
    for i in range(12):
        x = rnd(4, 8, seed=i) * (float("inf") if i == 6 else 1.0)
        want, got = step(x, rnd(4, 1, seed=i)), wrapper(x.clone(), rnd(4, 1, seed=i))
        torch.testing.assert_close(want, got, rtol=0, atol=0, equal_nan=True)
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            assert torch.equal(p, q)
    print("scaler inside:", wrapper.stats())


def test_a_device_side_assert_is_the_error_of_the_code_and_nothing_hangs() -> None:
    runtime = Path(cuda_graphs.__file__)
    program = f"""
import importlib.util, torch, warnings
spec = importlib.util.spec_from_file_location("cuda_graphs", {str(runtime)!r})
cuda_graphs = importlib.util.module_from_spec(spec); spec.loader.exec_module(cuda_graphs)
table = torch.zeros(4, 4, device="cuda")
wrapper = cuda_graphs.graphed(lambda i: table[i] + 1)
with torch.inference_mode():
    for value in (0, 1, 2, 9):
        wrapper(torch.tensor([value], device="cuda"))
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        assert "device-side assert" in str(error), error
        print("raised")
    for _ in range(2):
        try:
            wrapper(torch.tensor([0]).cuda())
        except RuntimeError as error:
            assert "device-side assert" in str(error), error
            print("again")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["raised", "again", "again"], done.stdout + done.stderr


@pytest.mark.parametrize("others", ["", "wrapper.reset()"], ids=["", "after all graphs were dropped"])
def test_graphs_survive_that_the_workspaces_of_cublas_are_cleared(others: str) -> None:
    """As `torch.compile(mode="reduce-overhead")` does; in a process of its own, an illegal access ends it.

    The workspace belongs to whichever graph's capture made it: it must outlive the memory of that graph.
    """
    program = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("cuda_graphs", {cuda_graphs.__file__!r})
cuda_graphs = importlib.util.module_from_spec(spec); spec.loader.exec_module(cuda_graphs)
torch.manual_seed(0)
model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(6)]).cuda().half()
wrapper = cuda_graphs.graphed(model)
x = torch.randn(1, 512, device="cuda").half()
with torch.inference_mode():
    want = model(x)
    for _ in range(3):
        wrapper(x)
    {others}
    before = wrapper.stats()["replays"]
    for _ in range(3):
        wrapper(x)
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    held = [torch.full((1 << 20,), 7.0, device="cuda") for _ in range(64)]
    for _ in range(3):
        torch.testing.assert_close(wrapper(x), want, rtol=1e-2, atol=1e-2)
    torch.cuda.synchronize()
    assert all(bool((t == 7).all()) for t in held)
print("right", wrapper.stats()["replays"] - before >= 5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["right", "True"], done.stdout + done.stderr


@torch.inference_mode()
def test_a_sparse_tensor_on_the_device_runs_the_code() -> None:
    wrapper = graphed(lambda x: x.to_dense() * 2)
    for kind in ("to_sparse", "to_sparse_csr"):
        for i in range(2):
            x = getattr(rnd(3, 4, seed=i).relu(), kind)()
            torch.testing.assert_close(wrapper(x), x.to_dense() * 2)
    assert wrapper.stats()["graphs"] == 0
