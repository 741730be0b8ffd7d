"""What is seen of results that are objects, of exceptions, and of settings that a call leaves changed."""

from __future__ import annotations

import enum
import gc
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from refactor.verify.worker import graphs, leaving, observe  # noqa: E402
from refactor.verify.worker.judge import Trace, compare  # noqa: E402
from refactor.verify.worker.trees import Subject  # noqa: E402
from torch import nn  # noqa: E402


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Slotted:
    __slots__ = ("_hidden", "scores")

    def __init__(self, scores: Any) -> None:
        self.scores, self._hidden = scores, 1


class Shown:
    def __init__(self, scores: Any) -> None:
        self._scores = scores

    @property
    def scores(self) -> Any:
        return self._scores

    @property
    def broken(self) -> Any:
        raise RuntimeError


class Outer:
    def __init__(self, scores: Any) -> None:
        self.inner = Slotted(scores)


@dataclass
class Kept:
    scores: Any


OBJECTS = [Slotted, Shown, Outer, Kept]


def trace(value: Any, inference: bool = False, **groups: Any) -> Trace:
    recorder = observe.Recorder(inference)
    groups = {"result": recorder.leaves(value, "result"), **groups}
    return Trace([{"step": 0, "outside": False, "groups": groups}], recorder.tensors)


def differs(mine: Any, theirs: Any) -> bool:
    compared = compare(trace(mine), trace(theirs), False)
    return bool(compared.certain or compared.suspects)


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda k: k.__name__)
def test_tensors_in_objects_are_seen(kind: Any) -> None:
    assert not differs(kind(torch.ones(2)), kind(torch.ones(2)))
    assert differs(kind(torch.ones(2)), kind(torch.zeros(2)))
    assert [tuple(t.shape) for _, t in observe.tensors_of(kind(torch.ones(2)))] == [(2,)]


def test_a_private_attribute_is_nobodys_business() -> None:
    mine, theirs = Slotted(1.0), Slotted(1.0)
    theirs._hidden = 2
    assert not differs(mine, theirs)


def test_members_of_an_enumeration_are_told_apart() -> None:
    assert not differs(Level.LOW, Level.LOW)
    assert differs(Level.LOW, Level.HIGH)


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda k: k.__name__)
def test_an_object_is_handed_out_over_tensors_of_its_own(kind: Any) -> None:
    value = kind(torch.ones(2))
    ((_, held),) = observe.tensors_of(value)
    ((_, copied),) = observe.tensors_of(graphs.cloned(value))
    assert torch.equal(held, copied)
    assert held.data_ptr() != copied.data_ptr()


def test_an_inference_tensor_where_a_plain_one_was_is_a_difference() -> None:
    with torch.inference_mode():
        theirs = torch.ones(2)
    assert differs(torch.ones(2), theirs)
    assert not differs(theirs, torch.ones(2))
    assert not compare(trace(torch.ones(2), True), trace(theirs, True), False).certain


def test_a_setting_that_is_left_changed_is_seen_and_one_that_is_put_back_is_not() -> None:
    network = nn.Linear(2, 2)
    subject = Subject(network, network, gc)
    before = leaving.settings()
    plain = leaving.flags(subject, before, before, {})
    gc.disable()
    try:
        changed = leaving.flags(subject, before, leaving.settings(), {})
    finally:
        gc.enable()
    assert leaving.flags(subject, before, leaving.settings(), {}) == plain
    assert [path for (path, a), (_, b) in zip(plain, changed, strict=True) if a != b] == [
        "setting of the process: collection of garbage"
    ]


def test_a_parameter_that_stays_frozen_is_seen() -> None:
    network = nn.Linear(2, 2)
    subject = Subject(network, network, gc)
    before = leaving.flags(subject, {}, {}, {})
    network.bias.requires_grad_(False)
    changed = [a[0] for a, b in zip(before, leaving.flags(subject, {}, {}, {}), strict=True) if a != b]
    assert changed == ["requires_grad of bias"]


def test_a_parameter_that_became_another_object_is_seen() -> None:
    network = nn.Linear(2, 2)
    subject = Subject(network, network, gc)
    held = observe.state_tensors(subject)
    before = leaving.flags(subject, {}, {}, held)
    network.weight = nn.Parameter(network.weight.detach().clone())
    changed = [a[0] for a, b in zip(before, leaving.flags(subject, {}, {}, held), strict=True) if a != b]
    assert changed == ["parameter weight"]


def test_a_result_that_leads_nowhere_is_told_from_one_that_leads_back() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert differs(weight * 2, (weight * 2).detach().requires_grad_())
    assert not differs(weight * 2, weight * 2)
