"""Errors below the resolution of half precision, seen over many elements; and what only looks like one."""

from __future__ import annotations

import pytest
import torch
from refactor.verify.worker.finer import Finer, is_coarse
from refactor.verify.worker.judge import Trace, compare
from refactor.verify.worker.observe import Recorder
from torch import Tensor

CALLS = 6


def trace(results: list[Tensor]) -> Trace:
    """Calls with one result each."""
    recorder = Recorder()
    observed = [
        {"step": k, "outside": False, "groups": {"result": recorder.leaves(t, "result")}}
        for k, t in enumerate(results)
    ]
    return Trace(observed, recorder.tensors)


def shown(
    dtype: torch.dtype, factor: float, in_half: float, rows: int = 8, noise: float = 1e-3
) -> str | None:
    """What is said of a rewrite that is off by ``factor`` in float64, and by ``in_half`` where it counts."""
    generator = torch.Generator().manual_seed(7)
    exact = [torch.randn(rows, 24, generator=generator, dtype=torch.float64) for _ in range(CALLS)]
    other = [t * (1 + noise * torch.randn(t.shape, generator=generator, dtype=torch.float64)) for t in exact]
    narrow = trace([t.to(dtype) for t in exact]), trace([(t * in_half).to(dtype) for t in other])
    found = Finer().add(narrow, (trace(exact), trace([t * factor for t in exact])))
    return found.text if found else None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_roundings_alone_are_no_error(dtype: torch.dtype) -> None:
    assert shown(dtype, 1.0, 1.0) is None
    assert shown(dtype, 1 + 1e-15, 1.0) is None


def test_a_constant_that_only_the_float64_run_does_not_round_is_no_error() -> None:
    assert shown(torch.bfloat16, 1.002, 1.0) is None


def test_a_factor_below_the_last_place_is_an_error() -> None:
    text = shown(torch.bfloat16, 1.002, 1.002)
    assert text is not None
    assert "slope" in text


def test_a_handful_of_elements_tells_nothing() -> None:
    assert shown(torch.bfloat16, 1.002, 1.002, rows=0) is None


def test_float64_runs_of_another_structure_tell_nothing() -> None:
    one, two = trace([torch.ones(64).bfloat16()]), trace([torch.ones(64).bfloat16() * 1.01])
    other = trace([torch.ones(65, dtype=torch.float64)])
    assert Finer().add((one, two), (trace([torch.ones(64, dtype=torch.float64)]), other)) is None


def test_roundings_of_single_precision_are_no_error_and_a_constant_of_six_digits_is_one() -> None:
    digits = 1.41421 / 2**0.5
    assert shown(torch.float32, 1.0, 1.0, noise=1e-7) is None
    assert shown(torch.float32, digits, 1.0, noise=1e-7) is None
    text = shown(torch.float32, digits, digits, noise=1e-7)
    assert text is not None
    assert "single precision" in text


def test_a_constant_of_eight_digits_is_let_pass_in_single_precision() -> None:
    digits = 0.3333333 * 3
    assert shown(torch.float32, digits, digits, noise=1e-7) is None


def test_single_precision_is_looked_at_where_half_precision_is_inside_or_much_is_off() -> None:
    x = torch.linspace(1, 2, 64)
    rounded = compare(trace([x]), trace([x * (1 + 1e-7)]), False)
    halved = compare(trace([x]), trace([(x * 1.003).bfloat16().float()]), False)
    off = compare(trace([x]), trace([x * (1 + 1e-6)]), False)
    assert not is_coarse(rounded)
    assert is_coarse(off)
    assert is_coarse(halved)
