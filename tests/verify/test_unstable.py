"""Where the last places of the inputs decide, the rewrite is judged as one more run of the original."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refactor.verify.worker.deciding import Kind, decide
from refactor.verify.worker.judge import Trace, compare
from refactor.verify.worker.observe import Recorder
from torch import Tensor

STEPS = 0.001  # of a training step, which a gradient of roundings may take either way


def trace(t: Tensor) -> Trace:
    """One observed step with this state."""
    recorder = Recorder()
    leaves = recorder.leaves(t, "state")
    return Trace([{"step": 0, "outside": False, "groups": {"state": leaves}}], recorder.tensors)


def turned(start: Tensor, seed: int, share: float = 0.05) -> Tensor:
    """The state with a few elements a step away, others each time."""
    generator = torch.Generator().manual_seed(seed)
    return start + STEPS * (torch.rand(start.shape, generator=generator) < share)


def decided(after: Tensor, stepped: bool = False, **runs: Tensor) -> dict[str, Any]:
    """The decision about a state, where the original runs again as ``runs`` says, else as it did."""
    before = trace(START)

    def again(kind: Kind) -> Trace | str:
        found = runs.get(kind.name.replace(" ", "_"))
        wide = kind.name in ("double", "free1", "free2")
        return trace(found if found is not None else START.double() if wide else START)

    return decide(again, before, compare(before, trace(after), False), stepped)


START = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) * 0.05
DISTURBED = {f"perturbed{n}": turned(START, n) for n in range(1, 9)}


def test_a_steady_original_excuses_nothing() -> None:
    assert not decided(turned(START, 99))["equal"]


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_many_more_elements_than_in_any_run_are_a_mistake(share: float) -> None:
    assert not decided(turned(START, 99, share), **DISTURBED)["equal"]


def test_larger_differences_than_in_any_run_are_a_mistake() -> None:
    assert not decided(START + 10 * (turned(START, 99) - START), **DISTURBED)["equal"]


def test_one_run_more_of_an_unstable_original_is_right_and_named() -> None:
    found = decided(turned(START, 99), **DISTURBED)
    assert found["equal"]
    assert any("ill-conditioned" in note for note in found["notes"])


def test_what_agrees_with_the_capturable_form_is_right() -> None:
    moved = START * (1 + 3e-5)
    assert decided(moved, stepped=True, capturable=moved)["equal"]
    assert decided(moved, stepped=True, capturable_rate=moved)["equal"]


def test_what_differs_from_the_capturable_form_as_well_is_a_mistake() -> None:
    assert not decided(START * 1.01, stepped=True, capturable=START * (1 + 3e-5))["equal"]
