"""What cannot be replayed: the right result or the exception of the code, no hang, no stale value."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed, segment

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.filterwarnings("ignore::UserWarning")]


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


class Subclass(torch.Tensor):
    pass


class Box:
    def __init__(self, value: Any) -> None:
        self.value = value


def nested(i: int) -> torch.Tensor:
    return torch.nested.nested_tensor([rnd(2, seed=i).cpu(), rnd(3, seed=i).cpu()]).to("cuda")


ODD: dict[str, tuple[Callable[..., Any], Callable[[int], Any]]] = {
    "a sparse tensor": (lambda x: x.to_dense() * 2, lambda i: rnd(3, 4, seed=i).relu().cpu().to_sparse()),
    "a nested tensor": (
        lambda x: x.to_padded_tensor(0.0) * 2,
        lambda i: torch.nested.nested_tensor([rnd(2, seed=i).cpu(), rnd(3, seed=i).cpu()]),
    ),
    "a quantised tensor": (
        lambda x: x.dequantize() * 2,
        lambda i: torch.quantize_per_tensor(rnd(4, seed=i).cpu(), 0.1, 0, torch.qint8),
    ),
    "a sparse tensor on the device": (
        lambda x: x.to_dense() * 2,
        lambda i: rnd(3, 4, seed=i).relu().cpu().to_sparse().to("cuda"),
    ),
    "a nested tensor on the device": (lambda x: x.to_padded_tensor(0.0) * 2, nested),
    "nested tensors in a tree": (
        lambda x: x["a"].to_padded_tensor(0.0) + x["b"].to_padded_tensor(0.0),
        lambda i: {"a": nested(i), "b": nested(i + 1)},
    ),
    "a quantised tensor on the device": (
        lambda x: x.dequantize() * 2,
        lambda i: torch.quantize_per_tensor(rnd(4, seed=i).cpu(), 0.1, 0, torch.qint8).to("cuda"),
    ),
    "a CPU tensor": (lambda x: x * 2, lambda i: rnd(3, seed=i).cpu()),
    "a CPU tensor beside one on the device": (
        lambda x: x["a"] * x["b"],
        lambda i: {"a": rnd(3, seed=i), "b": torch.tensor(float(i))},
    ),
    "a subclass": (lambda x: x * 2, lambda i: rnd(3, seed=i).as_subclass(Subclass)),
    "a complex tensor": (lambda x: x * 2j, lambda i: torch.complex(rnd(3, seed=i), rnd(3, seed=i + 9))),
    "a conjugated view": (
        lambda x: x * 2,
        lambda i: torch.complex(rnd(3, seed=i), rnd(3, seed=i + 9)).conj(),
    ),
    "a tree with None": (
        lambda x: x["a"][0] * 2 if x["b"] is None else x["b"],
        lambda i: {"a": (rnd(3, seed=i), None), "b": None if i % 2 else rnd(2, seed=i)},
    ),
    "an iterator": (lambda x: sum(x), lambda i: iter([rnd(3, seed=i), rnd(3, seed=i + 1)])),
    "a generator": (lambda x: sum(x), lambda i: (rnd(3, seed=i + k) for k in range(2))),
    "a set": (lambda x: sum(x), lambda i: {rnd(3, seed=i)}),
    "a callback": (lambda x: x(rnd(3)), lambda i: lambda t: t * i),
    "an object that holds a tensor": (lambda x: x.value * 2, lambda i: Box(rnd(3, seed=i))),
    "an array": (lambda x: torch.as_tensor(x) * 2, lambda i: rnd(3, seed=i).cpu().numpy()),
    "a string and bytes": (lambda x: rnd(3) * len(x[0]) + x[1][0], lambda i: ("a" * i, bytes([i]))),
    "nothing on the device": (lambda x: x + 1, lambda i: i),
    "an empty tensor": (lambda x: x.sum(0), lambda i: rnd(0, 3)),
    "a scalar tensor": (lambda x: x * 2, lambda i: rnd(1, seed=i)[0]),
}


@pytest.mark.parametrize("name", ODD)
@torch.inference_mode()
def test_the_result_is_that_of_the_code_for(name: str) -> None:
    fn, make = ODD[name]
    for wrapper in (graphed(lambda x: fn(x)), graphed(lambda x: fn(x), pad="B ...")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i in (0, 1, 2, 1, 0):
                got, want = wrapper(make(i)), fn(make(i))
                assert type(got) is type(want)
                same(got, want)


@pytest.mark.filterwarnings("ignore:.*runs eagerly:RuntimeWarning")
@torch.inference_mode()
def test_a_nested_tensor_that_is_state_or_a_result_is_that_of_the_code() -> None:
    held = nested(1)
    for fn in (lambda x: held.to_padded_tensor(0.0) + x, lambda x: held * 2):
        wrapper = graphed(fn)
        for i in range(4):
            got, want = wrapper(rnd(1, seed=i)), fn(rnd(1, seed=i))
            same(
                got.to_padded_tensor(0.0) if got.is_nested else got,
                want.to_padded_tensor(0.0) if want.is_nested else want,
            )


@torch.inference_mode()
def test_tensors_on_two_devices_run_the_code() -> None:
    other = "cpu" if torch.cuda.device_count() < 2 else "cuda:1"
    wrapper = graphed(lambda x, y: x.to(y.device) + y)
    for i in range(3):
        same(wrapper(rnd(3, seed=i), rnd(3).to(other)), rnd(3, seed=i).to(other) + rnd(3).to(other))
    assert wrapper.stats()["graphs"] == 0


@torch.inference_mode()
def test_a_body_that_raises_on_the_third_call_raises_there_and_recovers() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.broken = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.broken:
                raise ArithmeticError("third")
            return x * 2

    module = Fragile()
    wrapper = graphed(module)
    for i in range(6):
        module.broken = i == 2
        if module.broken:
            with pytest.raises(ArithmeticError, match="third"):
                wrapper(rnd(3, seed=i))
        else:
            same(wrapper(rnd(3, seed=i)), rnd(3, seed=i) * 2)
    assert wrapper.stats()["replays"] == 4


@torch.inference_mode()
def test_an_exception_that_only_a_recording_meets_costs_no_result() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        return x * 2

    wrapper = graphed(fn)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        same(wrapper(rnd(3)), rnd(3) * 2)
    same(wrapper(rnd(3, seed=1)), rnd(3, seed=1) * 2)
    assert wrapper.stats()["graphs"] == 0
    again = graphed(lambda x: x + 1)
    for i in range(3):
        same(again(rnd(3, seed=i)), rnd(3, seed=i) + 1)
    assert again.stats()["replays"] == 2
    assert not cuda_graphs._broken


@torch.inference_mode()
def test_an_interrupt_while_recording_is_not_swallowed() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise KeyboardInterrupt
        return x * 2

    with pytest.raises(KeyboardInterrupt):
        graphed(fn)(rnd(3))
    other = graphed(lambda x: x + 1)
    for i in range(3):
        same(other(rnd(3, seed=i)), rnd(3, seed=i) + 1)


@torch.inference_mode()
def test_a_generator_function_is_called_as_it_is() -> None:
    def each(x: torch.Tensor) -> Iterator[torch.Tensor]:
        yield x * 2
        yield x * 3

    wrapper = graphed(each)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(3):
            same(list(wrapper(rnd(2, seed=i))), [rnd(2, seed=i) * 2, rnd(2, seed=i) * 3])


@torch.inference_mode()
def test_results_of_other_kinds_come_back_as_they_are() -> None:
    for fn in (
        lambda x: None,
        lambda x: (x * 2, None, "text", 3, x.shape, x.dtype),
        lambda x: {"n": x.shape[0], 3: [x + 1, ()]},
        lambda x: iter([x * 2]),
    ):
        wrapper = graphed(lambda x, fn=fn: fn(x))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i in range(3):
                got, want = wrapper(rnd(2, seed=i)), fn(rnd(2, seed=i))
                assert type(got) is type(want)
                if isinstance(want, Iterator):
                    got, want = list(got), list(want)
                if isinstance(want, tuple):
                    assert got[1:] == want[1:]
                    got, want = got[0], want[0]
                if want is not None:
                    same(got, want)


def test_a_recursive_segment_and_a_segment_in_a_thread_do_not_hang() -> None:
    class Nested(nn.Module):
        @segment
        def down(self, x: torch.Tensor, depth: int) -> torch.Tensor:
            return x if depth == 0 else self.down(x * 2, depth - 1)

    module = Nested()

    def work() -> None:
        with torch.inference_mode():
            for i in range(4):
                same(module.down(rnd(3, seed=i), 3), rnd(3, seed=i) * 8)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@torch.inference_mode()
def test_calls_inside_another_capture_are_inlined() -> None:
    model = nn.Linear(4, 4).cuda()
    wrapper = graphed(model)
    x, side = rnd(2, 4), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        wrapper(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = wrapper(x) + 1
    x.copy_(rnd(2, 4, seed=5))
    graph.replay()
    same(out, model(rnd(2, 4, seed=5)) + 1)


@pytest.mark.filterwarnings("ignore:.*runs eagerly:RuntimeWarning")
@pytest.mark.parametrize("kind", ["a list", "a dict", "a list that grows"])
def test_a_container_that_the_code_changes_is_changed_at_every_call(kind: str) -> None:
    def body(x: torch.Tensor, kept: Any) -> torch.Tensor:
        y = x * 2
        if kind == "a list that grows":
            kept.append(y)
        else:
            kept["k" if kind == "a dict" else 0] = y
        return y + 1

    fast = graphed(body)
    for i in range(4):
        kept: Any = {"k": rnd(3)} if kind == "a dict" else [rnd(3)]
        x = rnd(3, seed=i)
        same(fast(x, kept), x * 2 + 1)
        last = list(kept.values())[-1] if isinstance(kept, dict) else kept[-1]
        same(last, x * 2)


def test_a_collective_is_never_run_more_often_than_in_eager_code(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import distributed

    backend = "nccl" if distributed.is_nccl_available() else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{tmp_path}/processes", rank=0, world_size=1)
    ran, reduce = [], distributed.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        reduce(tensor)
        ran.append(1)

    monkeypatch.setattr(distributed, "all_reduce", counted)

    def code(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        distributed.all_reduce(total)
        return total + 1

    fast = graphed(code)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for i in range(4):
                same(fast(rnd(3, seed=i)), rnd(3, seed=i) * 2 + 1)
    finally:
        distributed.destroy_process_group()
    assert len(ran) == 4
    assert fast.stats()["graphs"] == 0
    assert any("exchanges data with other processes" in str(w.message) for w in caught)


def test_a_model_spread_over_devices_runs_eagerly() -> None:
    model = nn.DataParallel(nn.Linear(4, 4).to("cuda").requires_grad_(False), [0])
    fast = graphed(model)
    same(fast(rnd(2, 4)), model.module(rnd(2, 4)))
    same(fast(rnd(2, 4)), model.module(rnd(2, 4)))
    assert fast.stats()["graphs"] == 1
    model.device_ids, model.forward = [0, 1], model.module.forward  # as it would be on two
    spread = graphed(nn.Sequential(model))
    with pytest.warns(RuntimeWarning, match="spread over several devices"):
        same(spread(rnd(2, 4)), model.module(rnd(2, 4)))
    assert spread.stats()["graphs"] == 0


class Traced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    @segment
    def _half(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(self.a(x), 0.5, out=cuda_graphs.scratch(self, "half", x, 0.5)).sin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._half(x) + cuda_graphs.constant([1.0, 2.0, 3.0, 4.0], device=x.device)


def test_symbolic_tracing_sees_the_plain_code() -> None:
    model = Traced().to("cuda").requires_grad_(False)
    traced = torch.fx.symbolic_trace(model)
    same(traced(rnd(2, 4)), model(rnd(2, 4)))
    names = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert torch.mul in names


def of_inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(2, device="cuda")


ASKED: dict[str, tuple[Callable[[Any], bool], Callable[[], Any]]] = {
    "requires_grad": (lambda x: x.requires_grad, lambda: torch.ones(2, device="cuda").requires_grad_()),
    "requires_grad of a parameter": (
        lambda x: x.requires_grad, lambda: torch.nn.Parameter(torch.ones(2, device="cuda"))
    ),
    "is_leaf": (lambda x: not x.is_leaf, lambda: torch.ones(2, device="cuda").requires_grad_() * 1),
    "storage_offset": (lambda x: x.storage_offset() > 0, lambda: torch.ones(4, device="cuda")[2:]),
    "is_inference": (lambda x: x.is_inference(), of_inference),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "odd"), ASKED.values(), ids=ASKED.keys())
def test_no_copy_of_an_argument_answers_for_it_about(ask: Any, odd: Any) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if ask(x) else x * 3

    wrapper = graphed(fn)
    x, y = torch.ones(2, device="cuda"), odd()
    with torch.no_grad():
        for given in (y, x, x, y, x, y, x):
            assert torch.equal(wrapper(given), fn(given))
    assert wrapper.stats()["replays"] in (2, 3)
