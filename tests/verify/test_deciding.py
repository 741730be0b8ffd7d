"""Which further runs decide numbers that differ, and what is told of those that are not possible."""

from __future__ import annotations

from typing import Any

import torch
from refactor.verify.worker.deciding import Kind, decide, head
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


GRID = torch.tensor([[0.0625, 0.1875, 0.3, 1.0, -0.0625, 2.0, 3.0, 4.0]])


def on_grid(x: torch.Tensor) -> torch.Tensor:
    return torch.round(x * 8) / 8


def stepped(after: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether values on a grid of eighths pass, where runs that disturb the inputs fall elsewhere."""
    before = trace({"result": on_grid(GRID)})
    moved = trace({"result": on_grid(GRID * 1.0001)})
    double = trace({"result": on_grid(GRID.double())})
    runs: dict[str, Trace | str] = {f"perturbed{n}": moved for n in range(1, 9)}
    runs |= {"double": double, **{f"exact{n}": trace({"result": exact}) for n in range(1, 5)}}
    return bool(decided(before, trace({"result": after}), runs)["equal"])


def test_halves_that_the_original_comes_to_exactly_must_go_where_they_went() -> None:
    up = torch.floor(GRID * 8 + 0.5) / 8
    assert not stepped(up, on_grid(GRID))


def test_halves_that_the_original_comes_to_by_roundings_may_go_either_way() -> None:
    up = torch.floor(GRID * 8 + 0.5) / 8
    assert stepped(up, up)


def test_what_differs_everywhere_is_no_step_of_a_grid() -> None:
    assert stepped(on_grid(GRID * 1.0001) * (1 + 3e-7), on_grid(GRID))


def test_what_lies_exactly_at_a_number_is_decided_by_the_roundings_of_the_original_alone() -> None:
    """The comparison turns in every disturbed run, and in float64, whose 0.6 is another number."""
    before = trace({"result": torch.tensor([[0.3, 1.0]])})
    after = trace({"result": torch.tensor([[0.6, 1.0]])})
    turned = trace({"result": torch.tensor([[0.6, 1.0]])})
    runs: dict[str, Trace | str] = {f"perturbed{k}": turned for k in range(1, 9)}
    runs["double"] = trace({"result": torch.tensor([[0.6, 1.0]], dtype=torch.float64)})

    def again(kind: Kind) -> Trace | str:
        return runs.get(kind.name, before)

    compared = compare(before, after, False)
    assert decide(again, before, compared)["equal"]
    assert not decide(again, before, compared, placed=frozenset((0,)))["equal"]
    runs["exact3"] = turned  # a rounding of the original's own turns it: no evidence
    assert decide(again, before, compared, placed=frozenset((0,)))["equal"]


def test_only_a_difference_in_the_first_half_of_a_sequence_is_looked_at_alone() -> None:
    ones, near, far = torch.ones(2), torch.ones(2) * (1 + 1e-7), torch.full((2,), 2.0)
    before = trace(*({"result": ones} for _ in range(6)))
    for place, steps in ((0, 1), (2, 3), (3, None), (5, None)):
        after = trace(*({"result": far if k == place else near} for k in range(6)))
        early = head(compare(before, after, False), 6)
        assert (early[0] if early is not None else None) == steps
        assert early is None or [s.step for s in early[1].suspects] == list(range(steps or 0))
    assert head(compare(before, trace(*({"result": near} for _ in range(6))), False), 6) is None
