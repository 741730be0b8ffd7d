"""`CONTRACT.md` says which test holds the runtime to which promise; those with no other place are here."""

from __future__ import annotations

import ast
import copy
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed

pytestmark = pytest.mark.usefixtures("device")


def test_every_clause_names_a_test_that_there_is() -> None:
    folder = Path(__file__).parent
    there = {
        node.name
        for file in folder.glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    rows = re.findall(
        r"^\| .* \| `(.*)` \|$", (folder / "CONTRACT.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) > 80
    assert set(rows) - there == set()


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def graphs(wrapper: Any) -> int:
    return int(wrapper.stats()["graphs"])


@torch.inference_mode()
def test_dtypes_select_graphs() -> None:
    wrapper = graphed(lambda x: x * 2)
    dtypes = (torch.float32, torch.float16, torch.int64, torch.complex64)
    for i in range(3):
        for dtype in dtypes:
            x = rnd(4, seed=i).to(dtype)
            assert wrapper(x).dtype == dtype
            assert torch.equal(wrapper(x), x * 2)
    assert graphs(wrapper) == len(dtypes)


def precision(value: str) -> Callable[[], None]:
    return lambda: torch.set_float32_matmul_precision(value)


SETTINGS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "the precision of products": (precision("high"), precision("highest")),
    "deterministic algorithms": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda: torch.use_deterministic_algorithms(False),
    ),
    "deterministic convolutions": (
        lambda: setattr(torch.backends.cudnn, "deterministic", True),
        lambda: setattr(torch.backends.cudnn, "deterministic", False),
    ),
    "the default dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    ),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
@torch.inference_mode()
def test_precision_and_determinism_select_graphs(setting: Any) -> None:
    change, back = setting
    wrapper = graphed(lambda x: x @ x + torch.tensor(0.5).to(x.dtype).item())
    x = rnd(4, 4)
    back()
    try:
        for _ in range(2):
            change()
            wrapper(x), wrapper(x)
            back()
            wrapper(x), wrapper(x)
    finally:
        back()
    assert graphs(wrapper) == 2


@torch.inference_mode()
def test_the_first_graph_is_warmed_up_eleven_times_and_later_ones_three() -> None:
    default = torch.cuda.current_stream()
    seen: list[tuple[bool, bool]] = []

    class Noting:
        """Takes note without being state that anyone watches."""

        __slots__ = ()

        def __call__(self) -> None:
            seen.append((torch.cuda.current_stream() == default, torch.cuda.is_current_stream_capturing()))

    note = Noting()

    def fn(x: torch.Tensor, note: Any = note) -> torch.Tensor:
        note()
        return x + 1

    wrapper = graphed(fn)
    for n, runs in ((2, 11), (3, 3)):
        seen.clear()
        wrapper(rnd(n))
        assert seen[0] == (True, False)  # the call itself
        assert seen[1:-1] == [(False, False)] * runs
        assert seen[-1] == (False, True)
        seen.clear()
        wrapper(rnd(n))
        assert not seen


@torch.inference_mode()
def test_garbage_is_not_collected_while_recording() -> None:
    enabled: list[bool] = []
    original = cuda_graphs._Recording._body

    def body(self: Any, inputs: Any) -> Any:
        enabled.append(gc.isenabled())
        return original(self, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs._Recording, "_body", body)
        graphed(lambda x: x + 1)(rnd(2))
    assert enabled
    assert not any(enabled)
    assert gc.isenabled()


@torch.inference_mode()
def test_a_capture_leaves_other_threads_alone(monkeypatch: Any) -> None:
    modes: list[Any] = []
    begin = torch.cuda.CUDAGraph.capture_begin

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        modes.append(kwargs.get("capture_error_mode"))
        return begin(self, *args, **kwargs)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", noted)
    wrapper = graphed(nn.Linear(4, 4).cuda())
    for i in range(2):
        wrapper(rnd(2, 4, seed=i))
    assert graphs(wrapper) == 1
    assert set(modes) == {"thread_local"}


@torch.no_grad()
def test_weights_written_under_autocast_are_read_at_the_next_call() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)).cuda()
    plain, wrapper = copy.deepcopy(model), graphed(model)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        for i in range(4):
            torch.testing.assert_close(wrapper(rnd(2, 4, seed=i)), plain(rnd(2, 4, seed=i)))
            for net in (model, plain):
                net[0].weight.mul_(1.5)
            torch.clear_autocast_cache()
    assert wrapper.stats()["replays"] == 3


@torch.inference_mode()
def test_all_inputs_are_copied_at_once(monkeypatch: Any) -> None:
    wrapper = graphed(lambda a, b, c: a + b * c)
    for i in range(2):
        wrapper(*(rnd(3, seed=i + k) for k in range(3)))
    copies: list[int] = []
    fused = torch._foreach_copy_

    def counted(into: Any, given: Any) -> Any:
        copies.append(len(into))
        return fused(into, given)

    monkeypatch.setattr(torch, "_foreach_copy_", counted)
    wrapper(*(rnd(3, seed=k) for k in range(3)))
    assert copies == [3]
