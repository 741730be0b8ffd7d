"""``refactor check``: what it prints where, and the exit codes of DESIGN section 3."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def test_a_file_without_hazards_is_silent_on_stdout_and_exits_with_0(command):
    command.write("a.py", "x = 1\n")
    result = command("check")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no hazards found in 1 file\n"


def test_check_never_writes(command):
    command.write("a.py", "hazard(1)\n")
    before = command.tree()
    assert command("check").exit_code == 1
    assert command.tree() == before
    assert not (command.root / ".refactor" / "journal").exists()


def test_a_finding_is_one_line_on_stdout_and_exit_code_1(command):
    command.write("pkg/a.py", "x = 1\ny = [hazard(x)]\n")
    result = command("check")
    assert result.exit_code == 1
    assert result.stdout == "pkg/a.py:2:6: CG101 plain-call [breaks] `hazard` is called here\n"
    assert result.stderr.startswith("1 finding in 1 file of 1")


def test_findings_are_ordered_by_file_and_place(command):
    for name in ("b.py", "a/z.py", "a.py"):
        command.write(name, "hazard(1); hazard(2)\nhazard_safe(3)\n")
    places = [line.rsplit(": CG", 1)[0] for line in command("check").stdout.splitlines()]
    assert places == [
        f"{name}:{place}" for name in ("a/z.py", "a.py", "b.py") for place in ("1:1", "1:12", "2:1")
    ]


def test_json_has_the_documented_keys_with_columns_in_code_points(command):
    command.write("a.py", "s = 'héé'; hazard(\n  1)\n")
    document = json.loads(command("check", "--output-format", "json").stdout)
    assert document["schema"] == 1
    assert document["errors"] == []
    (finding,) = document["findings"]
    expected = {
        "code": "CG101",
        "name": "plain-call",
        "severity": "breaks",
        "file": "a.py",
        "line": 1,
        "column": 12,
        "end_line": 2,
        "end_column": 5,
        "message": "`hazard` is called here",
        "applicability": "verify",
        "region": "a:<module>",
    }
    assert {key: finding[key] for key in expected} == expected


def test_files_are_named_relative_to_the_working_directory(command, monkeypatch):
    command.write("src/a.py", "hazard(1)\n")
    command.write("work/b.py", "hazard(1)\n")
    monkeypatch.chdir(command.root / "work")
    document = json.loads(command("check", "../src", ".", "--output-format", "json").stdout)
    assert [finding["file"] for finding in document["findings"]] == ["../src/a.py", "b.py"]


def test_full_shows_the_source_the_finding_points_at(command):
    command.write("a.py", "def f():\n\treturn hazard(1)\n")
    lines = command("check", "--output-format", "full").stdout.splitlines()
    assert lines[1] == "  2 | \treturn hazard(1)"
    assert lines[2] == "    | \t       ^^^^^^^^^"
    assert "in region a:f" in lines[3]


def test_github_prints_one_annotation_each(command):
    command.write("a,b.py", "hazard(1)\n")
    result = command("check", "--output-format", "github")
    assert result.stdout == (
        "::error file=a%2Cb.py,line=1,endLine=1,col=1,endColumn=10,title=CG101 plain-call"
        "::`hazard` is called here\n"
    )


def test_sarif_holds_findings_and_files_that_cannot_be_read(command):
    command.write("a.py", "hazard(1)\n")
    command.write("bad.py", "def\n")
    document = json.loads(command("check", "--output-format", "sarif").stdout)
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "CG101"
    region = result["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 10}
    assert run["invocations"][0]["executionSuccessful"] is False
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert note["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "bad.py"}


@pytest.mark.parametrize(
    ("args", "codes"),
    [
        pytest.param((), ["CG101", "CG104"], id="without options all rules are on"),
        pytest.param(("--select", "CG104"), ["CG104"], id="select keeps only what it names"),
        pytest.param(("--select", "CG10"), ["CG101", "CG104"], id="a prefix names a family"),
        pytest.param(("--select", "safe-call"), ["CG104"], id="a rule can be named by its name"),
        pytest.param(("--ignore", "CG101,CG102"), ["CG104"], id="ignore takes several codes"),
        pytest.param(
            ("--ignore", "CG1", "--extend-select", "CG104"), ["CG104"], id="the more specific selector wins"
        ),
    ],
)
def test_selection(command, args, codes):
    command.write("a.py", "hazard(1)\nhazard_safe(1)\n")
    document = json.loads(command("check", "--output-format", "json", *args).stdout)
    assert [finding["code"] for finding in document["findings"]] == codes


def test_exit_zero_hides_findings_but_not_errors_from_the_exit_code(command):
    command.write("a.py", "hazard(1)\n")
    assert command("check", "--exit-zero").exit_code == 0
    command.write("b.py", "def\n")
    assert command("check", "--exit-zero").exit_code == 2


def test_standard_input_is_checked_under_its_name(command):
    result = command("check", "-", "--stdin-filename", "pkg/new.py", input="hazard(1)\n")
    assert result.stdout.startswith("pkg/new.py:1:1: CG101")
    assert result.exit_code == 1


def test_standard_input_is_shown_in_full_format(command):
    result = command(
        "check", "-", "--stdin-filename", "new.py", "--output-format", "full", input="hazard(1)\n"
    )
    assert "1 | hazard(1)" in result.stdout


class TestBadInput:
    """One clear message with its place, exit code 2, and the other files go on."""

    def other_files_go_on(self, command, message, *paths):
        command.write("good.py", "hazard(1)\n")
        result = command("check", *(paths or (".",)))
        assert result.exit_code == 2
        assert "good.py:1:1: CG101" in result.stdout
        assert message in result.stderr.splitlines()
        document = json.loads(command("check", "--output-format", "json", *(paths or (".",))).stdout)
        (error,) = document["errors"]
        assert f"{error['file']}:{error['line']}: {error['message']}" == message

    def test_a_path_that_does_not_exist(self, command):
        self.other_files_go_on(command, "missing.py:1: does not exist", "good.py", "missing.py")

    def test_a_syntax_error(self, command):
        command.write("bad.py", "hazard\n\ndef f(:\n")
        self.other_files_go_on(command, "bad.py:3: cannot be parsed: invalid syntax")

    def test_latin_1_without_a_declaration(self, command):
        command.write("bad.py", b"hazard\n# caf\xe9\n")
        message = "bad.py:2: is not utf-8: byte 0xe9; declare the encoding in line 1 or 2 (PEP 263)"
        self.other_files_go_on(command, message)

    def test_a_null_byte(self, command):
        command.write("bad.py", b"hazard = '\0'\n")
        command.write("good.py", "hazard(1)\n")
        result = command("check")
        assert result.exit_code == 2
        assert "bad.py:1: cannot be parsed" in result.stderr
        assert "good.py:1:1" in result.stdout

    def test_a_loop_of_links(self, command):
        os.symlink("loop.py", command.root / "loop.py")
        self.other_files_go_on(command, "loop.py:1: cannot be read: Too many levels of symbolic links")

    def test_a_folder_linked_into_itself_is_walked_once(self, command):
        command.write("pkg/a.py", "hazard(1)\n")
        os.symlink(command.root / "pkg", command.root / "pkg" / "again")
        assert len(command("check").stdout.splitlines()) == 1

    def test_a_file_that_may_not_be_read(self, command, monkeypatch):
        command.write("bad.py", "hazard(1)\n")
        read = Path.read_bytes

        def refuse(path):
            if path.name == "bad.py":
                raise PermissionError(13, "Permission denied")
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
        self.other_files_go_on(command, "bad.py:1: cannot be read: Permission denied")

    def test_a_name_that_is_not_utf_8(self, command):
        name = os.fsdecode(b"caf\xe9.py")
        (command.root / name).write_text("hazard(1)\n")
        result = command("check")
        assert result.exit_code == 1
        assert r"caf\udce9.py:1:1: CG101" in result.stdout
        assert json.loads(command("check", "--output-format", "json").stdout)["findings"][0]["file"] == name

    def test_expressions_nested_deeper_than_the_parser_takes(self, command):
        command.write("bad.py", "hazard\nx = " + "(" * 300 + "1" + ")" * 300 + "\n")
        command.write("good.py", "hazard(1)\n")
        result = command("check")
        assert result.exit_code == 2
        assert "bad.py:2: cannot be parsed" in result.stderr

    def test_an_error_of_the_tool_itself_is_reported_with_its_place(self, command):
        command.write("bad.py", "hazard  # crash the tool\n")
        command.write("good.py", "hazard(1)\n")
        result = command("check")
        assert result.exit_code == 2
        assert "bad.py:1: internal error: KeyError: 'an error of the tool' (at " in result.stderr
        assert "Traceback" not in result.stderr
        assert "Traceback" in command("check", "--debug").stderr
        assert "good.py:1:1" in result.stdout


def test_a_folder_without_python_is_a_warning_and_exit_code_0(command):
    command.write("data/readme.txt", "hazard(1)\n")
    result = command("check", "data")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "warning: no Python files in data" in result.stderr


def test_an_unknown_rule_is_a_usage_error(command):
    result = command("check", "--select", "CG999")
    assert result.exit_code == 2
    assert "no rule is called 'CG999'" in result.stderr


def test_a_baseline_hides_what_it_knows_from_check_and_apply_and_nothing_new(command):
    command.write("a.py", "hazard(1)\n")
    written = command("check", "--write-baseline")
    assert written.exit_code == 0
    assert "name it as `baseline` in [tool.refactor]" in written.stderr
    command.write("pyproject.toml", '[tool.refactor]\nbaseline = "refactor-baseline.json"\n')
    again = command("check")
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "no hazards found in 1 file besides the 1 in the baseline\n"
    assert command("apply", "--diff").exit_code == 0
    command.write("a.py", "x = 1\nhazard(1)\nhazard(2)\n")
    assert [line.split(": ")[0] for line in command("check").stdout.splitlines()] == ["a.py:3:1"]


@pytest.mark.parametrize("given", ["a.py", "pkg", "notes.json"])
def test_a_baseline_is_never_written_over_something_else(command, given):
    command.write("a.py", "hazard(1)\n")
    command.write("pkg/b.py", "hazard(1)\n")
    command.write("notes.json", '{"mine": 1}\n')
    before = command.tree()
    result = command("check", "--write-baseline", given)
    assert result.exit_code == 2
    assert given in result.stderr
    assert command.tree() == before
