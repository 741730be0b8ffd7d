"""What failed the last time is tried first the next time, unless the target has changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from refactor.verify.replay import Failing, recall, remember
from refactor.verify.report import Check, Counterexample, Report, TargetReport
from refactor.verify.spec import parse
from refactor.verify.targets import Target

TARGET = Target("net", "m:Net", (("x", parse("float32[4]", "x")),))
STEPS = ({"op": "call", "i": 0, "a": {}},)


def report(verdict: str, name: str = "net") -> Report:
    example = Counterexample(STEPS, "") if verdict == "fail" else None
    checks = (Check("values", "pass", 9), Check("padding", verdict, 3))
    return Report("cpu", "2", (TargetReport(name, verdict, "", checks, example),))


def test_a_failing_sequence_is_kept_with_its_check() -> None:
    text = remember("", report("fail"), [TARGET])
    assert recall(text, [TARGET]) == {"net": Failing("padding", STEPS)}
    assert recall(text, []) == {}


def test_it_is_forgotten_once_the_target_passes_and_kept_while_others_run() -> None:
    text = remember("", report("fail"), [TARGET])
    other = replace(TARGET, name="other")
    assert recall(remember(text, report("pass", "other"), [other]), [TARGET])
    assert recall(remember(text, report("pass"), [TARGET]), [TARGET]) == {}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(TARGET, mode="train"), id="mode"),
        pytest.param(replace(TARGET, inputs=(("x", parse("float32[5]", "x")),)), id="inputs"),
        pytest.param(replace(TARGET, vary=("values",)), id="vary"),
    ],
)
def test_a_target_that_declares_something_else_is_drawn_anew(changed: Target) -> None:
    assert recall(remember("", report("fail"), [TARGET]), [changed]) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"net": 3}', '{"net": {"target": "x", "steps": 4}}'])
def test_a_damaged_memory_is_none(text: str) -> None:
    assert recall(text, [TARGET]) == {}
