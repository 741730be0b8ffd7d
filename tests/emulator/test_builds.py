"""Programs that ask what build of torch this is, or name the GPU by its number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: torch.ones(2, device=0), id="a factory"),
        pytest.param(lambda: torch.ones(2).to(0), id="to"),
        pytest.param(lambda: torch.ones(2).cuda(0), id="cuda"),
        pytest.param(lambda: torch.ones(2, device="cuda").new_zeros(3, device=0), id="a method"),
        pytest.param(lambda: torch.zeros(2, device=torch.device(0)), id="a device made of it"),
        pytest.param(lambda: nn.Linear(2, 2, device=0).weight, id="a module"),
        pytest.param(lambda: torch.ones(2).type_as(torch.ones(1, device=0)), id="type_as"),
    ],
)
def test_a_number_names_the_gpu(made) -> None:  # type: ignore[no-untyped-def]
    assert made().device == CUDA


def test_devices_are_what_they_were() -> None:
    assert isinstance(torch.device("cpu"), torch.device)
    assert not isinstance("cpu", torch.device)
    assert torch.device("cuda") != torch.device("cuda:0")
    assert torch.device("cuda", 0) == torch.device(0)
    with torch.device("cuda"):
        assert torch.zeros(2).device == CUDA
    assert torch.zeros(2).device.type == "cpu"


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device=1)


def test_it_looks_like_a_build_with_cuda() -> None:
    assert torch.version.cuda is not None
    assert torch.backends.cuda.is_built()
    assert torch.backends.cudnn.is_available()
    assert torch.cuda.get_allocator_backend() == "native"


def test_attention_over_nan_is_nan_whatever_the_length() -> None:
    for length in (3, 11, 16, 40):
        x = torch.full((1, 1, length, 8), float("nan"), device="cuda")
        assert torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).isnan().all()


def test_a_legacy_type_moves_to_the_device() -> None:
    assert torch.ones(2).type(torch.cuda.HalfTensor).device == CUDA
