"""`scratch` and `constant`: the same values as a plain allocation, and memory that is not made again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime import cuda_graphs as runtime
from refactor.runtime.cuda_graphs import constant, graphed, scratch

pytestmark = pytest.mark.usefixtures("device")


class Owner:
    pass


def rnd(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


OPERANDS = {
    "a tensor and a number": lambda: (rnd(3, 4), 2),
    "half and float": lambda: (rnd(3, 4, dtype=torch.float16), rnd(3, 4)),
    "half and a Python float": lambda: (rnd(3, 4, dtype=torch.float16), 2.5),
    "half and a float scalar tensor": lambda: (rnd(3, 4, dtype=torch.float16), rnd()),
    "broadcasting": lambda: (rnd(3, 1), rnd(4)),
    "a transposed tensor": lambda: (rnd(3, 4).t(), 1.5),
    "channels last": lambda: (rnd(2, 3, 4, 4).to(memory_format=torch.channels_last), 3),
    "a number first": lambda: (2, rnd(3, 4)),
    "an empty tensor": lambda: (rnd(0, 4), 2),
    "a scalar tensor": lambda: (rnd(), rnd(seed=1)),
}


@pytest.mark.parametrize("make", OPERANDS.values(), ids=OPERANDS.keys())
@torch.no_grad()
def test_a_buffer_changes_nothing_about_the_result_for(make: Any) -> None:
    owner = Owner()
    addresses = set()
    for _ in range(3):
        operands = make()
        want = torch.mul(*operands)
        out = scratch(owner, "t", *operands)
        assert out is not None
        got = torch.mul(*operands, out=out)
        assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride())
        assert torch.equal(got, want)
        addresses.add(got.data_ptr())
    assert len(addresses) == 1


@torch.no_grad()
def test_there_is_no_buffer_where_it_would_change_something() -> None:
    owner, x = Owner(), rnd(3, 4)
    assert scratch(owner, "t", torch.zeros(3), 2) is None
    assert scratch(owner, "t", torch.ones(3, device="cuda", dtype=torch.long), 2) is None
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert scratch(owner, "t", x, 2) is None
    with torch.enable_grad():
        assert scratch(owner, "t", x.clone().requires_grad_(), 2) is None
        assert scratch(owner, "t", x, 2) is None
    buffer = scratch(owner, "t", x, 2)
    assert scratch(owner, "t", buffer, 2) is None  # it would be read and written at once
    assert scratch(owner, "u", x, 2).data_ptr() != buffer.data_ptr()
    assert scratch(Owner(), "t", x, 2).data_ptr() != buffer.data_ptr()
    assert scratch(3, "t", x, 2) is None


def test_what_a_backward_has_saved_is_not_overwritten_by_the_next_call() -> None:
    owner, x, weight = Owner(), rnd(3, 4), rnd(3, 4).requires_grad_()

    def loss(scale: float) -> Any:
        doubled = torch.mul(x, scale, out=scratch(owner, "doubled", x, scale))
        return (doubled * weight).sum()

    first, second = loss(2.0), loss(3.0)
    second.backward()
    first.backward()
    assert torch.equal(weight.grad, x * 2 + x * 3)


@torch.no_grad()
def test_threads_and_modes_do_not_share_or_spoil_buffers() -> None:
    owner, x = Owner(), rnd(3, 4)
    with torch.inference_mode():
        first = scratch(owner, "t", x, 2)
    assert not first.is_inference()
    torch.mul(x, 2, out=scratch(owner, "t", x, 2))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(scratch(owner, "t", x.clone(), 2)))
    thread.start()
    thread.join()
    assert found[0] is None or found[0].data_ptr() != first.data_ptr()


CONSTANTS: dict[str, Any] = {
    "an integer": 3,
    "a float": 0.5,
    "a bool": True,
    "a list": [1, 2, 3],
    "a nested list": [[1.0, 2.0], [3.0, 4.0]],
    "a tuple": (0.1, 0.2),
    "an empty list": [],
}


@pytest.mark.parametrize("data", CONSTANTS.values(), ids=CONSTANTS.keys())
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.long])
def test_a_constant_is_what_torch_tensor_gives_and_is_made_once(data: Any, dtype: Any) -> None:
    want = torch.tensor(data, dtype=dtype, device="cuda")
    first, second = (constant(data, dtype=dtype, device="cuda") for _ in range(2))
    assert first is second
    assert (first.dtype, first.shape, first.device) == (want.dtype, want.shape, want.device)
    assert torch.equal(first, want)


def test_constants_of_equal_value_but_other_type_differ() -> None:
    made = [constant(v, device="cuda") for v in (1, 1.0, True, 0.0, -0.0)]
    assert [t.dtype for t in made] == [torch.int64, torch.float32, torch.bool, torch.float32, torch.float32]
    assert torch.signbit(made[4]).item()
    assert not torch.signbit(made[3]).item()
    torch.set_default_dtype(torch.float64)
    try:
        assert constant(1.0, device="cuda").dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_arrays_and_tensors_are_followed_when_they_change() -> None:
    numpy = pytest.importorskip("numpy")
    array, tensor = numpy.array([1.0, 2.0]), torch.tensor([1.0, 2.0])
    for data in (array, tensor):
        assert constant(data, device="cuda") is constant(data, device="cuda")
        assert constant(data, device="cuda").tolist() == [1, 2]
        data[0] = 7
        assert constant(data, device="cuda").tolist() == [7, 2]
    assert constant(array, dtype=torch.float16, device="cuda").dtype == torch.float16


def test_a_constant_without_a_device_is_a_plain_tensor() -> None:
    assert constant(3.0).device.type == "cpu"
    assert constant([1, 2], dtype=torch.float16).dtype == torch.float16
    with pytest.raises(ValueError, match="too many dimensions"):
        constant(["a"], device="cuda")


def test_a_constant_made_under_inference_mode_serves_autograd_too() -> None:
    with torch.inference_mode():
        made = constant(2.125, device="cuda")
    x = rnd(3).requires_grad_()
    (x * made).sum().backward()
    assert constant(2.125, device="cuda") is made
    assert x.grad.tolist() == [2.125] * 3


@torch.no_grad()
def test_both_work_inside_a_graph() -> None:
    class Block(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.mul(x, 2, out=scratch(self, "h", x, 2))
            h = torch.add(h, constant([1.0, 2.0], device=x.device), out=scratch(self, "g", h, x))
            return h + 1

    block = Block()
    wrapper = graphed(block)
    for i in range(4):
        for n in (2, 3):
            assert torch.allclose(
                wrapper(rnd(n, 2, seed=i)), rnd(n, 2, seed=i) * 2 + torch.tensor([2.0, 3.0]).cuda()
            )
    assert wrapper.stats()["replays"] == 6


def test_a_tensor_is_known_by_its_content_whoever_made_it() -> None:
    small, large = torch.arange(6).view(2, 3), torch.arange(5000.0)
    for data in (small, large):
        assert constant(data, device="cuda") is constant(data.clone(), device="cuda")
        assert constant(data, device="cuda") is not constant(data + 1, device="cuda")
    assert constant(small, device="cuda") is not constant(small.float(), device="cuda")
    assert constant(small.t(), device="cuda").stride() == small.t().stride()
    with torch.inference_mode():
        inside = constant(torch.full((3,), 2.5), device="cuda")
    assert not inside.is_inference()
    assert inside.tolist() == [2.5] * 3


def test_a_constant_that_a_graph_holds_outlives_its_place_in_the_cache(monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime, "_constants", OrderedDict())
    held = constant(torch.tensor([1.0, 2.0, 3.0]), device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        result = constant(torch.tensor([1.0, 2.0, 3.0]), device="cuda") * 2
    for i in range(1100):
        constant(float(i), device="cuda")
    assert constant(torch.tensor([1.0, 2.0, 3.0]), device="cuda") is not held
    assert id(held) in runtime._captured
    graph.replay()
    assert result.tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_graph_holds_a_constant_of_part_of_a_table_and_notices_its_change(mode: Any) -> None:
    table = torch.arange(12.0).view(4, 3)

    def shifted(x: torch.Tensor) -> torch.Tensor:
        return x + constant(table[: x.shape[0]], device=x.device) * 2

    fast = graphed(shifted)
    with mode():
        for _ in range(3):
            assert fast(rnd(2, 3)).equal(shifted(rnd(2, 3)))
    assert fast.stats()["graphs"]
    table.neg_()
    with mode():
        assert fast(rnd(2, 3)).equal(shifted(rnd(2, 3)))
