"""``refactor verify``: one clear message and exit code 2 for what cannot be used. No worker is started."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from refactor.verify.evidence import Surroundings
from refactor.verify.report import Report, TargetReport
from refactor.verify.spec import ScalarSpec, TensorSpec
from refactor.verify.targets import Target, load

from refactor.cli import main
from refactor.cli.evidence import keep_evidence, settle_passed
from refactor.journal import Replacement, originals, write

GOOD = '[[target]]\nname = "m"\nentry = "m:M"\ninputs = {}\n'


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["verify", *arguments])
    return done.exit_code, done.output


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.refactor]\n")
    return tmp_path


def test_without_targets_it_says_where_they_come_from() -> None:
    code, text = run()
    assert code == 2
    assert "no targets; name a file with --targets" in text


def test_a_targets_file_that_does_not_parse_is_named_with_its_line(project: Path) -> None:
    (project / "t.toml").write_text(GOOD + "x = \n")
    code, text = run("--targets", "t.toml")
    assert code == 2
    assert "t.toml:5: not valid TOML" in text
    assert "Traceback" not in text


def test_blanks_of_a_drafted_target_are_named(project: Path) -> None:
    drafted = project / ".refactor" / "targets.toml"
    drafted.parent.mkdir()
    drafted.write_text(GOOD.replace("{}", '{ x = "?" }'))
    code, text = run()
    assert code == 2
    assert "fill in the blanks ('?') first: inputs.x" in text


def test_a_name_that_is_no_target_is_refused(project: Path) -> None:
    (project / "targets.toml").write_text(GOOD)
    code, text = run("other", "--before", ".")
    assert code == 2
    assert "no target is called 'other'" in text


def test_a_tree_that_is_not_there_is_refused(project: Path) -> None:
    (project / "targets.toml").write_text(GOOD)
    assert run("--after", "none") == (2, "--after none: no such directory\n")
    code, text = run("--before", "none")
    assert code == 2
    assert "--before none" in text


BLANK = '[[target]]\nname = "drafted"\nentry = "m:N"\ninputs = { x = "?" }\ndims = { B = "?" }\n'


def test_complete_targets_are_verified_and_the_others_listed_with_their_blanks(project: Path) -> None:
    (project / "targets.toml").write_text(BLANK + GOOD + 'device = "cpu"\n')
    for side, text in (("before", "class M: pass\n"), ("after", "1 / 0\n")):
        (project / side).mkdir()
        (project / side / "m.py").write_text(text)
    trees = ("--before", "before", "--after", "after", "--targets", "targets.toml")
    code, text = run(*trees, "--json", "-")
    verdicts = {t["name"]: (t["verdict"], t["reason"]) for t in json.loads(text)["targets"]}
    assert verdicts["m"][0] == "error"  # an instance of M cannot be called
    assert verdicts["drafted"] == (
        "error",
        "targets.toml:5: fill in the blanks ('?') first: dims, inputs.x",
    )
    assert code == 2


def test_only_the_targets_that_were_named_matter(project: Path) -> None:
    (project / "targets.toml").write_text(BLANK + GOOD)
    code, text = run("drafted", "--before", ".")
    assert code == 2
    assert "target 'drafted': fill in the blanks ('?') first: dims, inputs.x" in text
    code, text = run("other", "--before", ".")
    assert "no target is called 'other'" in text


def test_what_failed_is_replayed_first_and_forgotten_when_it_passes(project: Path) -> None:
    (project / "targets.toml").write_text(
        '[[target]]\nname = "double"\nentry = "m:double"\ndevice = "cpu"\ninputs = { x = "float32[4]" }\n'
    )
    (project / "before").mkdir()
    (project / "before" / "m.py").write_text("def double(x):\n    return x * 2\n")

    def checks(after: str) -> list[tuple[str, str]]:
        (project / "m.py").write_text(f"def double(x):\n    return {after}\n")
        _, text = run("--before", "before", "--examples", "4", "--json", "-")
        (target,) = json.loads(text)["targets"]
        return [(c["name"], c["status"]) for c in target["checks"]]

    first = checks("x + 2 if x.shape[0] == 4 and x.is_contiguous() else x * 2")
    assert first[-1][1] == "fail"
    memory = project / ".refactor" / "failing.json"
    assert "double" in json.loads(memory.read_text())
    assert checks("x * 3") == [first[-1]]
    assert {status for _, status in checks("x + x")} == {"pass"}
    assert json.loads(memory.read_text()) == {}


def test_evidence_is_kept_listed_and_stale_once_the_source_changes(project: Path) -> None:
    two = "".join(
        f'[[target]]\nname = "{n}"\nentry = "m:{n}"\ndevice = "cpu"\ninputs = {{ x = "float32[4]" }}\n'
        for n in ("double", "half")
    )
    (project / "targets.toml").write_text(two)
    original = "def double(x):\n    return x * 2\n\n\ndef half(x):\n    return x / 2\n"
    (project / "before").mkdir()
    (project / "before" / "m.py").write_text(original)
    (project / "m.py").write_text(original.replace("x * 2", "x + x"))
    code, text = run("double", "--before", "before", "--examples", "1", "--junit", "out.xml")
    assert code == 0
    assert "evidence for 2 targets: 1 passed, unverified on GPU, 1 not verified yet" in text
    case = ElementTree.parse(project / "out.xml").find("testsuite/testcase")
    assert case is not None
    assert case.get("name") == "double"
    record = json.loads((project / ".refactor" / "evidence.json").read_text())["targets"]["double"]
    assert set(record["after"]) == {"m.py"}
    assert record["before"]["m.py"] != record["after"]["m.py"]
    (project / "m.py").write_text(original.replace("x / 2", "x * 0.5"))
    text = CliRunner().invoke(main, ["apply", "m.py"]).output
    assert "evidence for 2 targets: 1 stale, 1 not verified yet" in text
    assert "double: stale: pass before m.py changed" in text


def test_applies_count_as_passed_once_every_target_passed_on_a_gpu_against_what_they_replaced(
    project: Path,
) -> None:
    (project / "m.py").write_bytes(b"old")
    write(project, [Replacement(project / "m.py", b"old", b"new")])
    targets = [Target(n, f"m:{n}", ()) for n in ("a", "b")]
    around = Surroundings("0.1.0", "2.11.0", "580.1")

    def passed(name: str, device: str, before: bytes) -> dict[str, bytes | None]:
        hashes = {side: ((("m.py"), hashlib.sha256(data).hexdigest()),)
                  for side, data in (("before", before), ("after", b"new"))}  # fmt: skip
        result = TargetReport(name, "pass", "", **hashes)
        keep_evidence(project, Report(device, "2.11.0", (result,)), targets, around, 100, 0)
        settle_passed(project, targets, [], around)
        return originals(project)

    assert passed("a", "NVIDIA H100", b"old") == {"m.py": b"old"}  # b has not passed
    assert passed("b", "emulated", b"old") == {"m.py": b"old"}
    assert passed("b", "NVIDIA H100", b"other") == {"m.py": b"old"}
    assert passed("b", "NVIDIA H100", b"old") == {}


PROGRAM = """import sys, torch, m
with torch.inference_mode():
    for n in (1, 2, 5):
        m.Net(width=4).eval()(torch.ones(n, 4), kind=sys.argv[1])
"""
NET = """from torch import nn


class Net(nn.Module):
    def __init__(self, width, more=None):
        super().__init__()
        self.a = nn.Linear(width, width)

    def forward(self, x, kind):
        return self.a(x) * 2
"""


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(
            '# m:Net\n[[target]]\nname = "m_Net"\nentry = "m:Net"\ninit = { width = "?" }\ndevice = "cpu"\n'
            'vary = ["values"]\ninputs = { x = "float32[B, ?]", kind = "?" }\ndims = { B = [1, 32] }\n',
            id="the blanks of drafts are filled in",
        ),
        pytest.param("", id="without targets one is made of what was edited"),
    ],
)
def test_a_program_completes_the_targets_that_are_then_verified(project: Path, targets: str) -> None:
    (project / "before").mkdir()
    (project / "before" / "m.py").write_text(NET)
    (project / "m.py").write_text(NET.replace("self.a(x) * 2", "2 * self.a(x)"))
    (project / "run.py").write_text(PROGRAM)
    if targets:
        (project / "targets.toml").write_text(targets)
    command = [sys.executable, "-m", "refactor", "verify", "--before", "before", "--device", "emulated"]
    command += ["--examples", "1", "--json", "-", "--", sys.executable, "run.py", "sum"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [t["name"] for t in json.loads(done.stdout)["targets"]] == ["m_Net"]
    assert "m_Net: completed from 3 calls" in done.stderr
    (made,) = load(project / ".refactor" / "recorded.toml")
    assert dict(made.init) == {"width": 4}
    assert made.inputs == (
        ("x", TensorSpec("float32", ("B", 4))),
        ("kind", ScalarSpec("str", choices=("sum",))),
    )
    assert made.dims == (("B", (1, 5)),)
    assert made.mode == "inference"
    assert made.device == ("cpu" if targets else "cuda")


def test_edits_at_the_top_level_of_a_script_are_named_since_nothing_can_call_them(project: Path) -> None:
    (project / "before").mkdir()
    (project / "before" / "m.py").write_text("import torch\n\nfor i in range(3):\n    print(i)\n")
    (project / "m.py").write_text("import torch\n\nfor i in range(3):\n    print(1 * i)\n")
    code, text = run("--before", "before", "--", sys.executable, "m.py")
    assert code == 2
    assert "m.py:3: what was edited stands outside any function" in text
    assert "move it into a function" in text


def test_a_program_has_to_follow_the_dashes_and_to_start(project: Path) -> None:
    assert "a program is to follow --" in run("--")[1]
    (project / "targets.toml").write_text(BLANK)
    (project / "m.py").write_text("")
    code, text = run("--", "no-such-program")
    assert code == 2
    assert "no-such-program: cannot be started" in text
