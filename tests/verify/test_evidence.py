"""Evidence holds for what it was reached with, and for nothing else; JUnit XML for continuous integration."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from refactor.verify.evidence import Surroundings, bound, digest, proves, read, remember, standing
from refactor.verify.junit import xml
from refactor.verify.report import Check, Counterexample, Report, TargetReport
from refactor.verify.spec import parse
from refactor.verify.targets import Target

AROUND = Surroundings("0.1.0", "2.11.0", "580.1")
TARGET = Target("net", "program:Net", (("x", parse("float32[B, 4]", "x")),), dims=(("B", (1, 6)),))
BEFORE = {"program.py": hashlib.sha256(b"old").hexdigest()}


def evidence(root: Path, verdict: str = "pass", device: str = "NVIDIA H100", target: Target = TARGET) -> str:
    (root / "program.py").write_bytes(b"new")
    result = TargetReport(
        "net", verdict, "why", before=tuple(BEFORE.items()), after=tuple(bound(root, ["program.py"]).items())
    )
    return remember("", Report(device, "2.11.0+cu130", (result,)), [target], AROUND, 100, 0)


def test_a_pass_on_a_gpu_is_a_pass_while_nothing_changes(tmp_path: Path) -> None:
    found = standing(evidence(tmp_path), TARGET, tmp_path, AROUND)
    assert (found.kind, found.text) == ("passed", "passed on NVIDIA H100, torch 2.11.0+cu130, driver 580.1")


@pytest.mark.parametrize("device", ["emulated", "cpu"])
def test_a_pass_elsewhere_stays_unverified_on_gpu(tmp_path: Path, device: str) -> None:
    found = standing(evidence(tmp_path, device=device), TARGET, tmp_path, AROUND)
    assert found.kind == "emulated"
    assert "unverified on GPU" in found.text


def test_a_target_of_the_cpu_is_not_verified_by_a_run_on_a_gpu(tmp_path: Path) -> None:
    on_cpu = replace(TARGET, device="cpu")
    assert standing(evidence(tmp_path, target=on_cpu), on_cpu, tmp_path, AROUND).kind == "emulated"


@pytest.mark.parametrize(
    ("around", "target", "source", "said"),
    [
        pytest.param(AROUND, TARGET, b"newer", "program.py changed", id="the rewrite changed"),
        pytest.param(AROUND, TARGET, None, "program.py changed", id="the rewrite is gone"),
        pytest.param(
            AROUND, replace(TARGET, dims=(("B", (1, 7)),)), b"new", "declared otherwise", id="other inputs"
        ),
        pytest.param(
            replace(AROUND, torch="2.12.0"), TARGET, b"new", "torch changed from 2.11.0", id="other torch"
        ),
        pytest.param(
            replace(AROUND, driver=""), TARGET, b"new", "driver changed from 580.1 to none", id="no driver"
        ),
        pytest.param(replace(AROUND, tool="0.2.0"), TARGET, b"new", "refactor changed", id="other release"),
    ],
)
def test_evidence_of_anything_else_is_stale(
    tmp_path: Path, around: Surroundings, target: Target, source: bytes | None, said: str
) -> None:
    text = evidence(tmp_path)
    (tmp_path / "program.py").unlink()
    if source is not None:
        (tmp_path / "program.py").write_bytes(source)
    found = standing(text, target, tmp_path, around)
    assert found.kind == "stale"
    assert said in found.text


def test_a_pass_proves_only_the_originals_it_was_compared_with(tmp_path: Path) -> None:
    text = evidence(tmp_path)
    assert proves(text, TARGET, tmp_path, AROUND, {"program.py": b"old"})
    assert not proves(text, TARGET, tmp_path, AROUND, {"program.py": b"older"})
    emulated = evidence(tmp_path, device="emulated")
    assert not proves(emulated, TARGET, tmp_path, AROUND, {"program.py": b"old"})


def test_other_targets_keep_their_evidence_and_damaged_text_is_none(tmp_path: Path) -> None:
    text = evidence(tmp_path)
    other = TargetReport("other", "fail", "wrong")
    more = remember(text, Report("emulated", "2.13", (other,)), [replace(TARGET, name="other")], AROUND, 1, 0)
    assert set(read(more)) == {"net", "other"}
    assert read("{") == read('{"schema": 9}') == read("[]") == {}
    assert standing("{", TARGET, tmp_path, AROUND).kind == "none"


def test_the_text_of_the_harness_is_part_of_what_a_target_declares(tmp_path: Path) -> None:
    harness = tmp_path / "harness.py"
    harness.write_text("a = 1\n")
    target = replace(TARGET, harness=str(harness), place="targets.toml:3")
    first = digest(target)
    assert digest(replace(target, place="targets.toml:9")) == first
    harness.write_text("a = 2\n")
    assert digest(target) != first


def test_junit_xml_has_a_case_for_each_target_with_its_verdict_and_what_shows_it() -> None:
    shown = Counterexample(({"op": "call"},), "print('<&>')\x00")
    report = Report(
        "emulated",
        "2.13.0",
        (
            TargetReport("good", "pass", "100 sequences", (Check("values", "pass", 12),), seconds=1.5),
            TargetReport("bad <1>", "fail", "values: 3 of 4 \x1b differ", (), shown, group="result"),
            TargetReport("odd", "inconclusive", "a branch was seen on one side only"),
            TargetReport("sick", "error", "the original's worker hung"),
        ),
    )
    suite = ElementTree.fromstring(xml(report)).find("testsuite")
    assert suite is not None
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "4",
        "failures": "1",
        "errors": "2",
        "skipped": "0",
        "time": "1.500",
    }
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == ["good", "bad <1>", "odd", "sick"]
    assert "values: pass, 12 sequences" in (cases["good"].findtext("system-out") or "")
    failure = cases["bad <1>"].find("failure")
    assert failure is not None
    assert failure.get("type") == "result"
    assert failure.text == "print('<&>')\ufffd"
    assert [e.get("type") for n in ("odd", "sick") for e in cases[n].findall("error")] == [
        "inconclusive",
        "error",
    ]
    assert {p.get("name"): p.get("value") for p in suite.iter("property")} == {
        "device": "emulated",
        "torch": "2.13.0",
    }
