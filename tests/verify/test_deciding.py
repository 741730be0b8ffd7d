"""Which further runs decide numbers that differ, and what is told of those that are not possible."""

from __future__ import annotations

from typing import Any

import torch
from refactor.verify.worker.deciding import Kind, decide
from refactor.verify.worker.judge import Trace, compare
from refactor.verify.worker.observe import Recorder

Json = dict[str, Any]


def trace(*steps: dict[str, torch.Tensor]) -> Trace:
    """Observed steps, each with tensors by group."""
    recorder = Recorder()
    observed = [
        {"step": k, "outside": False, "groups": {g: recorder.leaves(t, g) for g, t in groups.items()}}
        for k, groups in enumerate(steps)
    ]
    return Trace(observed, recorder.tensors)


def decided(before: Trace, after: Trace, runs: dict[str, Trace | str]) -> Json:
    """The decision where the original runs again as ``runs`` says, else as it did."""

    def again(kind: Kind) -> Trace | str:
        return runs.get(kind.name, before)

    return decide(again, before, compare(before, after, False))


def test_a_run_that_is_not_possible_says_why() -> None:
    before, after = trace({"result": torch.tensor([1.0, 2.0])}), trace({"result": torch.tensor([1.0, 2.1])})
    found = decided(before, after, {"double": "program.py:7: RuntimeError: no kernel for Double"})
    assert not found["equal"]
    assert any("program.py:7" in note for note in found["notes"])


def test_what_is_unmeasured_names_the_reason() -> None:
    before = trace({"result": torch.tensor([1.0, 2.0])})
    after = trace({"result": torch.tensor([1.0, 2.0 + 3e-5])})
    moved = trace({"result": torch.tensor([1.0, 2.0 + 3e-5])})
    runs: dict[str, Trace | str] = {"double": "program.py:7: no kernel"} | {
        f"perturbed{k}": moved for k in (1, 2)
    }
    found = decided(before, after, runs)
    assert found["equal"]
    assert "program.py:7: no kernel" in found["unmeasured"]


def test_after_an_overflow_that_was_excused_nothing_is_evidence() -> None:
    inf = float("inf")
    before = trace({"state": torch.tensor([inf, 1.0])}, {"state": torch.tensor([inf, 5.0])})
    after = trace({"state": torch.tensor([1e38, 1.0])}, {"state": torch.tensor([1e38, 7.0])})
    double = trace(
        {"state": torch.tensor([3.5e38, 1.0], dtype=torch.float64)},
        {"state": torch.tensor([3.5e38, 5.0], dtype=torch.float64)},
    )
    found = decided(before, after, {"double": double})
    assert found["equal"]
    assert any("overflows" in note for note in found["notes"])
