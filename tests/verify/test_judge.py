"""The decision rule: right rewrites with other roundings pass, small local errors do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from refactor.verify.worker.judge import Suspect, Trace, compare, read, write
from refactor.verify.worker.measure import Reference, measure
from refactor.verify.worker.observe import Recorder
from refactor.verify.worker.spoken import told
from torch import Tensor

Json = dict[str, Any]


def trace(value: Any, **groups: Any) -> Trace:
    recorder = Recorder()
    observed: list[Json] = [
        {"step": 0, "outside": False, "groups": {"result": recorder.leaves(value, "result")}}
    ]
    observed[0]["groups"] |= groups
    return Trace(observed, recorder.tensors)


def decided(before: Tensor, after: Tensor, double: Tensor | None, *reruns: Tensor) -> bool:
    """Whether the rule lets ``after`` pass."""
    traces = {"double": None if double is None else trace(double)}
    traces |= {f"perturbed{i + 1}": trace(t) for i, t in enumerate(reruns)}
    suspect = Suspect(0, "result", "result", before, after, 0, before.dtype)
    return measure(suspect, Reference(traces.get), ("double", "perturbed1", "perturbed2")).bad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_a_product_summed_in_another_order_passes(dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(9, 512, generator=generator).to(dtype)
    w = torch.randn(512, 24, generator=generator).to(dtype)
    order = torch.randperm(512, generator=generator)
    assert decided(x @ w, x[:, order] @ w[order], x.double() @ w.double())


@pytest.mark.parametrize("seed", range(8))
def test_a_product_of_padded_rows_passes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(5, 300, generator=generator), torch.randn(300, 17, generator=generator)
    padded = torch.cat([x, torch.zeros(11, 300)])
    assert decided(x @ w, (padded @ w)[:5], x.double() @ w.double())


def product() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, w = torch.randn(6, 64, generator=generator), torch.randn(64, 32, generator=generator)
    return x @ w, x.double() @ w.double()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda t: t * 1.001, id="a thousandth too large"),
        pytest.param(lambda t: t.index_fill(0, torch.tensor([2]), 0.0), id="one row zeroed"),
        pytest.param(
            lambda t: t + torch.nn.functional.pad(torch.tensor([[0.01]]), (0, 31, 0, 5)), id="one element off"
        ),
        pytest.param(lambda t: t[[1, 0, 2, 3, 4, 5]], id="two rows exchanged"),
        pytest.param(lambda t: t.half().float(), id="rounded to half"),
        pytest.param(
            lambda t: t.clone().index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(float("nan"))),
            id="a NaN",
        ),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_a_small_local_error_fails_at_every_scale(wrong: Any, scale: float) -> None:
    right, double = product()
    right, double = right * scale, double * scale
    assert not decided(right, wrong(right / scale) * scale, double)


def test_an_error_in_a_small_row_is_not_hidden_by_a_large_one() -> None:
    right, double = product()
    factor = torch.tensor([1e6, 1.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    wrong = right.clone()
    wrong[3, 7] += 0.01
    assert not decided(right * factor, wrong * factor, double * factor)


def test_an_element_the_original_cannot_compute_is_no_evidence() -> None:
    right = torch.tensor([1.0, 2.0, 1e-8])  # the last one is the rest of a cancellation
    assert decided(
        right, torch.tensor([1.0, 2.0, 3e-8]), torch.tensor([1.0, 2.0, -2e-8], dtype=torch.float64)
    )


def test_an_index_that_flips_when_inputs_move_in_the_last_place_is_no_evidence() -> None:
    before, after = torch.tensor([3, 5]), torch.tensor([3, 6])
    assert decided(before, after, None, torch.tensor([3, 6]))
    assert not decided(before, after, None, torch.tensor([3, 5]))


def test_overflow_of_the_original_is_no_evidence() -> None:
    big = torch.tensor([float("inf"), 1.0])
    assert decided(big, torch.tensor([3.0e38, 1.0]), torch.tensor([3.5e38, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (torch.zeros(3), torch.zeros(3, 1), "shape"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64), "dtype"),
        ((torch.zeros(3),), [torch.zeros(3)], "tuple"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "'a', \"'b'\""),
        (1, torch.tensor(1), "int"),
        (1, True, "bool"),
        ("a", "b", "'b'"),
        (None, 0, "NoneType"),
    ],
)
def test_structure_type_shape_and_dtype_are_compared_exactly(before: Any, after: Any, said: str) -> None:
    found = compare(trace(before), trace(after), False)
    assert len(found.certain) == 1
    assert said.split(",")[0].strip("'\"") in found.certain[0].text


def test_equal_bits_need_no_reference_and_a_nan_equals_itself() -> None:
    value = torch.tensor([1.0, float("nan"), float("-inf")])
    found = compare(trace(value), trace(value.clone()), False)
    assert not found.certain
    assert not found.suspects


def test_a_rewrite_may_have_attributes_of_its_own_but_lose_none() -> None:
    recorder = Recorder()
    one, two = recorder.leaves(1, "self.a"), recorder.leaves(2, "self.b")
    mine = trace(0, attributes=one)
    assert not compare(mine, trace(0, attributes=one + two), False).certain
    assert compare(trace(0, attributes=one + two), mine, False).certain


def test_complex_numbers_are_compared_as_pairs_and_nan_equals_itself() -> None:
    first = torch.complex(torch.tensor([float("nan"), 1.0]), torch.tensor([2.0, 3.0]))
    assert not compare(trace(first), trace(first.clone()), False).suspects
    other = torch.complex(first.real, first.imag + torch.tensor([0.0, 1e-3]))
    (suspect,) = compare(trace(first), trace(other), False).suspects
    assert (
        measure(suspect, Reference({"double": trace(first.to(torch.complex128))}.get), ("double",)).bad
        is not None
    )


def raising(message: str | None, **entry: Any) -> Trace:
    """A call that raised a ValueError; ``message`` if the program raised it itself."""
    groups: dict[str, Any] = {"exception": {"type": "ValueError", "message": message or ""}}
    if message is not None:
        groups["message"] = told("message", message)
    return Trace([{"step": 0, "outside": False, "groups": groups, **entry}], [])


def test_the_words_of_the_programs_own_refusal_are_compared_and_those_of_torch_are_not() -> None:
    assert not compare(raising("k is 3"), raising("k is 3"), False).certain
    assert compare(raising("k is 3"), raising("n is 3"), False).certain
    assert compare(raising("k is 3"), raising("k is 4"), False).suspects
    assert not compare(raising("k is 3"), raising(None), False).certain


def test_outside_the_declared_domain_only_a_refusal_of_the_programs_own_must_be_kept() -> None:
    returned = Trace([{"step": 0, "outside": True, "groups": {"result": []}}], [])
    assert compare(raising("k is 3", outside=True), returned, False).certain
    of_torch = compare(raising(None, outside=True), returned, False)
    assert not of_torch.certain
    assert of_torch.notes


def test_an_undeclared_integer_that_the_original_refuses_is_no_evidence() -> None:
    returned = Trace([{"step": 0, "outside": False, "groups": {"result": []}}], [])
    assert not compare(raising("bad id", wide=True), returned, False).certain


def trained(state: Tensor, gradient: Tensor) -> Trace:
    """One step whose inputs were finite."""
    recorder = Recorder()
    groups = {
        "inputs": recorder.leaves(torch.ones(2), "x"),
        "state": recorder.leaves({"norm.running_var": state}, "state_dict"),
        "gradients": recorder.leaves({"bias": gradient}, "grad"),
    }
    return Trace([{"step": 0, "outside": False, "groups": groups}], recorder.tensors)


def test_the_gradient_of_an_untaken_side_is_no_evidence_once_the_state_has_overflowed() -> None:
    nan = float("nan")
    overflowed = [trained(torch.tensor([float("inf"), 1.0]), torch.tensor(g)) for g in (0.5, nan)]
    (suspect,) = compare(*overflowed, False).suspects
    assert suspect.undefined
    healthy = [trained(torch.tensor([2.0, 1.0]), torch.tensor(g)) for g in (0.5, nan)]
    (suspect,) = compare(*healthy, False).suspects
    assert not suspect.undefined


def test_a_trace_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    held = [
        torch.tensor(1.5), torch.empty(0, 3), torch.arange(7, dtype=torch.int8), torch.tensor([True, False]),
        torch.randn(2, 3, dtype=torch.complex64), torch.randn(3).bfloat16(), torch.randn(2, 2).double().t(),
        torch.tensor(float("nan")),
    ]  # fmt: skip
    write(Trace([{"step": 0, "groups": {}}], held), str(tmp_path / "trace"))
    found = read(str(tmp_path / "trace"))
    assert found.observed == [{"step": 0, "groups": {}}]
    assert [t.dtype for t in found.tensors] == [t.dtype for t in held]
    for mine, theirs in zip(found.tensors, held, strict=True):
        torch.testing.assert_close(mine, theirs.contiguous(), rtol=0, atol=0, equal_nan=True)


def test_a_call_outside_the_domain_that_ends_the_originals_device_is_no_evidence() -> None:
    def entry(step: int, outside: bool, groups: dict) -> dict:
        return {"step": step, "outside": outside, "groups": groups}

    lost = {"exception": {"type": "AcceleratorError", "message": "CUDA error: device-side assert triggered"}}
    fine = {"result": []}
    before = Trace([entry(0, False, fine), entry(1, True, lost)], [])
    after = Trace([entry(0, False, fine), entry(1, True, fine), entry(2, False, fine)], [])
    assert not compare(before, after, False).certain
    assert compare(Trace(before.observed[:1], []), after, False).certain
