"""Whole verifications: two trees in, one verdict out. Every test starts two workers, so there are few."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from refactor.verify.report import TargetReport
from refactor.verify.run import Options, verify
from refactor.verify.targets import load

HEAD = "import torch\nfrom torch import nn\n\n\n"
NET = """class Net(nn.Module):
    def __init__(self, dim=4):
        super().__init__()
        self.a = nn.Linear(dim, dim)

    def forward(self, x):
"""
TARGET = 'name = "net"\nentry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 6] }\n'


def run(
    folder: Path,
    before: str,
    after: str,
    target: str = TARGET,
    device: str = "cpu",
    files: dict[str, str] | None = None,
) -> TargetReport:
    """Verify two programs; ``files`` are in both trees."""
    for side, text in (("before", before), ("after", after)):
        (folder / side).mkdir()
        for name, content in {**(files or {}), "program.py": text}.items():
            (folder / side / name).write_text(content)
    (folder / "targets.toml").write_text(f'[[target]]\n{target}device = "{device}"\n')
    targets = tuple(load(folder / "targets.toml"))
    options = Options(
        targets, folder / "before", folder / "after", device="emulated", examples=14, budget=6.0, timeout=6.0
    )
    return verify(options).targets[0]


def body(text: str) -> str:
    return HEAD + NET + "".join(f"        {line}\n" for line in text.splitlines())


def test_a_right_rewrite_passes_whatever_the_program_does_to_its_process_and_calls_its_modules(
    tmp_path: Path,
) -> None:
    own = {
        f"{name}.py": f"NAME = {name!r}\n" for name in ("refactor", "transforms", "verify", "worker", "wire")
    }
    check = "import refactor, transforms, verify, worker, wire\nassert verify.NAME == 'verify'\n"
    check += "import atexit, os, time, threading\natexit.register(time.sleep, 600)\n"
    check += "threading.Thread(target=time.sleep, args=(600,)).start()\n"
    odd = "assert os.path.exists('program.py')\nos.chdir('/')\n"
    odd += "if os.fork() == 0: os._exit(0) if x.shape[0] % 2 else None\n"
    odd += "if x.shape[0] == 5: raise KeyboardInterrupt\n"
    report = run(
        tmp_path,
        check + body(f"{odd}return self.a(x) / 3"),
        check + body(f"{odd}return (x @ self.a.weight.t() + self.a.bias) * (1 / 3)"),
        files=own,
    )
    assert report.verdict == "pass", report.reason
    assert {c.status for c in report.checks} == {"pass"}


def test_a_wrong_rewrite_fails_with_a_program_that_shows_it(tmp_path: Path) -> None:
    report = run(tmp_path, body("return self.a(x).sum(0)"), body("return self.a(x)[:3].sum(0)"))
    assert report.verdict == "fail"
    assert report.counterexample is not None
    assert len(report.counterexample.calls) == 1
    program = tmp_path / "counterexample.py"
    program.write_text(report.counterexample.script)
    shown = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=True)
    assert "step 0 result: off by" in shown.stdout
    assert json.loads(json.dumps(report.json()))["counterexample"]["calls"] == list(
        report.counterexample.calls
    )


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("(x * x).sum() < 0", "program.py:11 is always False"),
        ("(x * x).sum().item() < 0", "program.py:11 ((x * x).sum().item() < 0) is always False"),
    ],
)
def test_a_branch_that_never_turns_is_inconclusive_by_name(tmp_path: Path, test: str, said: str) -> None:
    text = f"if {test}:\n    return x\nreturn self.a(x)"
    report = run(tmp_path, body(text), body(text + " + 0"))
    assert report.verdict == "inconclusive"
    assert said in report.reason


def test_results_that_do_not_depend_on_the_inputs_are_inconclusive(tmp_path: Path) -> None:
    report = run(tmp_path, body("return self.a.bias * 2"), body("return self.a.bias + self.a.bias"))
    assert report.verdict == "inconclusive"
    assert "do not depend on the inputs" in report.reason


def test_trees_without_a_difference_are_inconclusive(tmp_path: Path) -> None:
    report = run(tmp_path, body("return self.a(x)"), body("return self.a(x)"))
    assert report.verdict == "inconclusive"
    assert "nothing to compare" in report.reason


def test_an_original_that_refuses_everything_is_an_error(tmp_path: Path) -> None:
    report = run(tmp_path, body("return self.b(x)"), body("return self.c(x)"))
    assert report.verdict == "error"
    assert "AttributeError" in report.reason


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param("import os; print('gone'); os._exit(3)", "exit code 3 at step 0: gone", id="exits"),
        pytest.param("while True: print('on and on ' * 500)", "on and on", id="hangs and prints for ever"),
        pytest.param("import ctypes; ctypes.string_at(0)", "SIGSEGV", id="reads where nothing is"),
    ],
)
def test_only_the_rewrite_dying_is_a_failure(tmp_path: Path, line: str, said: str) -> None:
    report = run(tmp_path, body("return self.a(x)"), body(f"{line}\nreturn self.a(x)"))
    assert report.verdict == "fail"
    assert said in report.reason


def test_the_original_dying_is_an_error(tmp_path: Path) -> None:
    report = run(tmp_path, body("import os; os._exit(3)"), body("return self.a(x)"))
    assert report.verdict == "error"


def test_a_constructor_that_raises_is_an_error_with_its_line(tmp_path: Path) -> None:
    broken = body("return x").replace(
        "super().__init__()", "super().__init__()\n        raise ValueError('no weights')"
    )
    report = run(tmp_path, broken, broken + "\n")
    assert report.verdict == "error"
    assert "program.py:8: ValueError: no weights" in report.reason


def test_other_keys_in_the_state_are_a_failure(tmp_path: Path) -> None:
    report = run(
        tmp_path, body("return self.a(x)"), body("return self.b(x)").replace("self.a = nn", "self.b = nn")
    )
    assert report.verdict == "fail"
    assert "lacks a.weight" in report.reason


CONSTANT = "return self.a(x) * torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)"


def test_a_rewrite_without_a_graph_is_captured_by_the_verifier(tmp_path: Path) -> None:
    after = body("return self.a(x) * torch.arange(1.0, 5.0, device=x.device)")
    report = run(tmp_path, body(CONSTANT), after, device="cuda")
    assert report.verdict == "pass", report.reason
    assert report.capture.by == "verifier"
    assert report.capture.replays > 0


def test_what_blocks_a_capture_is_named_by_its_line(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        body("return self.a(x) / x.sum().item()"),
        body("n = x.sum().item()\nreturn self.a(x) / n"),
        device="cuda",
    )
    assert report.verdict == "pass", report.reason
    assert report.capture.replays == 0
    assert report.capture.blocked_by is not None
    assert report.capture.blocked_by.startswith("program.py:11: ")


def test_a_module_that_can_be_imported_once_only_is_imported_once(tmp_path: Path) -> None:
    once = "import sys\nassert not hasattr(sys, 'was_here')\nsys.was_here = True\n"
    report = run(tmp_path, once + body("return self.a(x) * 2"), once + body("return 2 * self.a(x)"))
    assert report.verdict == "pass", report.reason


SPEED = "speed = x.abs().max()\nif speed <= 10:\n    return self.a(x)\nreturn x * 2"


def test_a_comparison_that_differs_at_its_number_alone_fails(tmp_path: Path) -> None:
    report = run(tmp_path, body(SPEED), body(SPEED.replace("<= 10", "< 10")))
    assert report.verdict == "fail"
    assert report.counterexample is not None
    program = tmp_path / "counterexample.py"
    program.write_text(report.counterexample.script)
    shown = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=True)
    assert "result: off by" in shown.stdout


def scaled(read: str) -> str:
    text = body(f"return self.a(x) * {read}")
    return text.replace("dim)\n", "dim)\n        self.gain = 0.5\n        self._kept = 0.5\n")


@pytest.mark.parametrize(
    ("vary", "after", "verdict", "status"),
    [
        pytest.param('vary = ["attributes"]\n', "(self.gain + 0)", "pass", "pass", id="read anew"),
        pytest.param("", "self._kept", "pass", "skipped", id="kept, not listed: a note"),
        pytest.param('vary = ["attributes"]\n', "self._kept", "fail", "fail", id="kept, listed: a failure"),
    ],
)
def test_a_setting_changed_from_outside_must_be_seen_where_it_is_listed(
    tmp_path: Path, vary: str, after: str, verdict: str, status: str
) -> None:
    report = run(tmp_path, scaled("self.gain"), scaled(after), target=TARGET + vary)
    assert report.verdict == verdict, report.reason
    assert {c.name: c.status for c in report.checks}["attributes"] == status
    assert (status == "skipped") == any(n.startswith("attributes (fails where vary") for n in report.notes)


def test_a_target_that_takes_too_long_is_named_with_what_was_seen_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    asleep = "import time\n        if x.shape[0] == 5: print('asleep', flush=True); time.sleep(600)\n        "
    for side, slow, more in (("before", "", ""), ("after", asleep, " + 0")):
        (tmp_path / side).mkdir()
        text = HEAD + NET.replace("Net", "Slow") + f"        {slow}return self.a(x)\n"
        (tmp_path / side / "program.py").write_text(text + f"\n\n{NET}        return self.a(x){more}\n")
    tables = "".join(
        "[[target]]\n" + TARGET.replace("Net", entry).replace('"net"', f'"{entry}"') + 'device = "cpu"\n'
        for entry in ("Slow", "Net")
    )
    (tmp_path / "targets.toml").write_text(tables)
    options = Options(
        tuple(load(tmp_path / "targets.toml")), tmp_path / "before", tmp_path / "after", device="emulated",
        examples=4, timeout=60.0, target_limit=25.0, jobs=2,
    )  # fmt: skip
    slow, net = verify(options).targets
    assert net.verdict == "pass", net.reason
    assert slow.verdict == "inconclusive"
    assert "stopped after 25 s (--target-limit 25) in " in slow.reason
    assert "none differed; last words of the after worker: asleep" in slow.reason
    assert slow.checks[-1].json() == {"name": "time limit", "status": "inconclusive", "examples": 0}
    (late,) = verify(replace(options, targets=options.targets[1:], run_limit=0.0)).targets
    assert late.verdict == "error"
    assert "not started: the time of the whole run was over" in late.reason
