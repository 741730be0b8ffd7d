"""What is not emulated says so by name; what calls functions runs as they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

D = "cuda"


def grown(x: torch.Tensor) -> torch.Tensor:
    """One side of a branch."""
    return x + 1


def shrunk(x: torch.Tensor) -> torch.Tensor:
    """The other."""
    return x - 1


def branched(x: torch.Tensor) -> Any:
    """A branch that torch itself takes."""
    return torch.cond(x.sum() > 0, grown, shrunk, (x,))


def test_a_nested_tensor_in_host_memory_is_made_as_ever() -> None:
    made = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged)
    assert (made * 2).values().sum() == 18


def fake() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        torch.ones(3, device=D)


REFUSED: dict[str, Callable[[], Any]] = {
    "torch.nested.nested_tensor": lambda: torch.nested.nested_tensor([torch.ones(2)], device=D),
    "torch.nested.as_nested_tensor": lambda: torch.nested.as_nested_tensor([torch.ones(2, device=D)]),
    "torch.export.export": lambda: torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)),
    "FakeTensorMode": fake,
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"^{name} is not emulated on the device: .* --device cuda"):
        REFUSED[name]()


def test_a_branch_of_torch_takes_the_side_that_the_values_say() -> None:
    x = torch.ones(3, device=D)
    assert branched(x).tolist() == [2.0] * 3
    assert branched(-x).tolist() == [-2.0] * 3
    assert branched(x).is_cuda


def test_a_branch_of_torch_waits_for_the_device_and_breaks_a_capture() -> None:
    x = torch.ones(3, device=D)
    branched(x)
    with pytest.raises(RuntimeError, match="during capture"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        branched(x)
