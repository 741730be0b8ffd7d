"""``[tool.refactor]``: which file counts, what its keys mean, and what is said about mistakes in it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from refactor.cli import main
from refactor.config import load_settings


def codes(command, *args: str) -> list[str]:
    document = json.loads(command("check", "--output-format", "json", *args).stdout)
    return [f"{row['file']}:{row['code']}" for row in document["findings"]]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param(
            "[tool.refactor]\nselct = []\n",
            2,
            "[tool.refactor] has no key 'selct'; it has select, ",
            id="an unknown key",
        ),
        pytest.param(
            "[tool.other]\nselect = 1\n[tool.refactor]\nselect = 1\n",
            4,
            "select must be an array of strings",
            id="a wrong type, not the key of another table",
        ),
        pytest.param(
            "[tool.refactor]\nsrc = ['a']\nignore = [1]\n",
            3,
            "ignore must be an array of strings",
            id="a wrong item",
        ),
        pytest.param(
            "[tool.refactor]\nruntime = 'a-b'\n",
            2,
            "runtime must be the dotted name of a module",
            id="a module that has no name",
        ),
        pytest.param(
            "[tool.refactor.per-file-ignores]\n'a.py' = 'CG1'\n",
            1,
            "per-file-ignores must be a table from file patterns",
            id="a table of its own",
        ),
        pytest.param(
            "[tool.refactor]\nregions = ['a.b']\n",
            2,
            "regions must be an array of patterns",
            id="a pattern of regions that names no function",
        ),
        pytest.param(
            "[tool.refactor]\n[tool.refactor.target]\nname = 1\n",
            2,
            "target must be an array of tables",
            id="one target instead of several",
        ),
        pytest.param("[tool.refactor\n", 1, "is not TOML", id="no TOML"),
        pytest.param(
            "[tool.refactor]\nselect = ['CG101']\nignore = ['CG9']\n",
            3,
            "ignore: no rule is called 'CG9'",
            id="an unknown rule",
        ),
    ],
)
def test_mistakes_are_named_with_file_and_line(command, text, line, message):
    file = command.write("pyproject.toml", text)
    command.write("a.py", "hazard(1)\n")
    result = command("check")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"{file}:{line}: " in result.stderr
    assert message in result.stderr


def test_the_nearest_file_that_has_the_table_counts_and_is_the_root(command, monkeypatch):
    command.write("pyproject.toml", "[tool.refactor]\nselect = ['CG101']\n")
    command.write("inner/pyproject.toml", "[project]\nname = 'inner'\n")
    (command.root / "inner" / "deep").mkdir()
    settings = load_settings(command.root / "inner" / "deep")
    assert settings.root == command.root
    assert settings.select == ("CG101",)


def test_without_a_table_the_root_is_the_folder_of_the_repository_or_the_working_directory(tmp_path):
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "deep").mkdir()
    assert load_settings(tmp_path / "repo" / "deep").root == tmp_path / "repo"
    (tmp_path / "plain").mkdir()
    assert load_settings(tmp_path / "plain").root == tmp_path / "plain"


class TestKeys:
    def test_the_command_line_replaces_select_and_adds_to_ignore(self, command):
        command.write("pyproject.toml", "[tool.refactor]\nselect = ['CG104']\nignore = ['CG102']\n")
        command.write("a.py", "hazard(1)\nhazard_runtime(1)\nhazard_safe(1)\n")
        assert codes(command) == ["a.py:CG104"]
        assert codes(command, "--select", "CG1") == ["a.py:CG101", "a.py:CG104"]
        assert codes(command, "--extend-select", "CG101") == ["a.py:CG101", "a.py:CG104"]

    def test_per_file_ignores_are_patterns_from_the_root(self, command, monkeypatch):
        command.write(
            "pyproject.toml",
            "[tool.refactor.per-file-ignores]\n'tests/**' = ['CG101']\n'*_old.py' = ['CG1']\n",
        )
        for name in ("a.py", "tests/deep/a.py", "pkg/x_old.py"):
            command.write(name, "hazard(1)\nhazard_safe(1)\n")
        assert codes(command) == ["a.py:CG101", "a.py:CG104", "tests/deep/a.py:CG104"]
        monkeypatch.chdir(command.root / "tests")
        assert codes(command) == ["deep/a.py:CG104"]

    def test_exclude_leaves_folders_out_unless_they_are_named(self, command):
        command.write("pyproject.toml", "[tool.refactor]\nexclude = ['generated/', '*_pb.py']\n")
        for name in ("a.py", "generated/a.py", "pkg/generated/a.py", "x_pb.py"):
            command.write(name, "hazard(1)\n")
        assert codes(command) == ["a.py:CG101"]
        assert codes(command, "generated", "x_pb.py") == ["generated/a.py:CG101", "x_pb.py:CG101"]

    def test_regions_leave_out_what_is_found_in_them(self, command):
        command.write("pyproject.toml", "[tool.refactor]\nregions = ['!a:Slow.*']\n")
        command.write(
            "a.py", "class Slow:\n    def forward(self):\n        hazard(1)\ndef f():\n    hazard(1)\n"
        )
        document = json.loads(command("check", "--output-format", "json").stdout)
        assert [row["region"] for row in document["findings"]] == ["a:f"]

    def test_regions_add_functions_that_nothing_else_marks(self, tmp_path, monkeypatch):
        code = (
            "import torch\ndef step(x):\n    if torch.relu(x).sum() > 0:\n        x = x + 1\n    return x\n"
        )
        (tmp_path / "m.py").write_text(code)
        monkeypatch.chdir(tmp_path)
        assert CliRunner().invoke(main, ["check"]).exit_code == 0
        (tmp_path / "pyproject.toml").write_text("[tool.refactor]\nregions = ['m:step']\n")
        result = CliRunner().invoke(main, ["check"])
        assert result.stdout.startswith("m.py:3:5: CG301")

    def test_they_hold_for_apply_too(self, command):
        command.write("pyproject.toml", "[tool.refactor]\nignore = ['CG101']\n")
        path = command.write("a.py", "hazard(1)\nhazard_safe(1)\n")
        command("apply")
        assert path.read_text() == "hazard(1)\nsafe(1)\n"


class TestGitIgnore:
    def test_nested_files_and_taken_back_patterns_are_respected(self, command):
        command.write(".gitignore", "build/\n*.gen.py\n")
        command.write("pkg/.gitignore", "/local.py\n!keep.gen.py\n")
        for name in (
            "build/a.py",
            "a.py",
            "x.gen.py",
            "pkg/local.py",
            "pkg/keep.gen.py",
            "pkg/deep/local.py",
        ):
            command.write(name, "hazard(1)\n")
        assert codes(command) == ["a.py:CG101", "pkg/deep/local.py:CG101", "pkg/keep.gen.py:CG101"]

    def test_a_folder_that_is_named_is_read_although_it_is_ignored(self, command):
        command.write(".gitignore", "build/\n")
        command.write("build/a.py", "hazard(1)\n")
        assert codes(command, "build") == ["build/a.py:CG101"]

    def test_patterns_above_the_named_folder_count(self, command):
        command.write(".git/HEAD", "")
        command.write(".gitignore", "*.gen.py\n")
        command.write("pkg/a.gen.py", "hazard(1)\n")
        command.write("pkg/a.py", "hazard(1)\n")
        assert codes(command, "pkg") == ["pkg/a.py:CG101"]

    def test_environments_and_caches_are_skipped(self, command):
        command.write("env/pyvenv.cfg", "")
        for name in ("env/a.py", ".venv/a.py", "node_modules/a.py", "__pycache__/a.py", ".refactor/a.py"):
            command.write(name, "hazard(1)\n")
        assert codes(command) == []


def test_show_settings_prints_what_holds_and_the_files(command):
    file = command.write(
        "pyproject.toml", "[tool.refactor]\nselect = ['CG1']\nper-file-ignores = { 'a.py' = ['CG101'] }\n"
    )
    command.write("a.py", "")
    result = command("check", "--show-settings", "--ignore", "CG104")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert f"# root: {command.root}" in lines
    assert f"# configuration: {file}" in lines
    assert 'select = ["CG1"]' in lines
    assert 'ignore = ["CG104"]' in lines
    assert 'per-file-ignores = { "a.py" = ["CG101"] }' in lines
    assert "# file: a.py" in lines


class TestSuppressions:
    @pytest.mark.parametrize(
        "code",
        [
            pytest.param("hazard(1)  # refactor: ignore[CG101]\n", id="a code at the end of the line"),
            pytest.param(
                "hazard(1)  # why # refactor:ignore[ CG104 , CG101 ]  # more\n# \nhazard_safe(1)\n",
                id="among other comments",
            ),
            pytest.param("hazard(1)  # refactor: ignore\n", id="without codes"),
            pytest.param("hazard(1)  # refactor: ignore[CG1]\n", id="a family"),
            pytest.param("hazard(1)  # refactor: ignore[plain-call]\n", id="a name"),
            pytest.param(
                "# refactor: ignore[CG101]\nhazard(1)\n", id="on a line of its own, for the next statement"
            ),
            pytest.param(
                "x = [\n    1,\n    hazard(1),\n]  # refactor: ignore[CG101]\n",
                id="on the last line of a statement",
            ),
            pytest.param(
                "x = [  # refactor: ignore[CG101]\n    hazard(1),\n]\n", id="on the first line of a statement"
            ),
            pytest.param(
                "x = [\n    hazard(1),  # refactor: ignore[CG101]\n]\n",
                id="on the very line inside a statement",
            ),
            pytest.param("hazard(1)\nhazard(2)\n# refactor: ignore-file\n", id="for the whole file"),
            pytest.param("# refactor: ignore-file[CG101]\nhazard(1)\n", id="for the whole file by code"),
        ],
    )
    def test_a_comment_suppresses(self, command, code):
        command.write("a.py", code)
        assert "CG101" not in command("check").stdout

    @pytest.mark.parametrize(
        "code",
        [
            pytest.param("hazard(1)  # refactor: ignore[CG104]\n", id="another code"),
            pytest.param("x = '# refactor: ignore[CG101]'; hazard(1)\n", id="in a string"),
            pytest.param(
                "x = [\n    hazard(1),\n    2,  # refactor: ignore[CG101]\n]\n",
                id="on another line inside the statement",
            ),
            pytest.param("x = 1  # refactor: ignore[CG101]\nhazard(1)\n", id="at the end of the line before"),
            pytest.param("hazard(1)  # refactor: ignored\n", id="another word"),
        ],
    )
    def test_a_comment_does_not_suppress(self, command, code):
        command.write("a.py", code)
        assert "CG101" in command("check").stdout

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            pytest.param(
                "x = 1  # refactor: ignore[CG101]\n",
                "1:8: UNUSED nothing here is suppressed by CG101: remove the comment",
                id="a code nothing needs",
            ),
            pytest.param(
                "hazard(1)  # refactor: ignore[CG101, CG104]\n",
                "1:12: UNUSED nothing here is suppressed by CG104: remove CG104 from the comment",
                id="one of two codes",
            ),
            pytest.param(
                "x = 1  # refactor: ignore\n",
                "1:8: UNUSED nothing here is suppressed: remove the comment",
                id="a comment without codes",
            ),
            pytest.param(
                "é = 1; x = 'é'  # refactor: ignore[CG999]\n",
                "1:17: UNUSED no rule is called CG999; `refactor rule` lists them",
                id="a code that does not exist",
            ),
            pytest.param(
                "# refactor: ignore-file\nx = 1\n",
                "1:1: UNUSED nothing here is suppressed: remove the comment",
                id="for the file",
            ),
        ],
    )
    def test_one_that_nothing_needs_is_a_finding(self, command, code, message):
        command.write("a.py", code)
        message = message.replace("UNUSED", "CG001 unused-suppression [cost]")
        assert command("check").stdout == f"a.py:{message}\n"

    def test_codes_that_are_switched_off_are_not_judged(self, command):
        command.write("a.py", "hazard(1)  # refactor: ignore[CG101]\nhazard(2)  # refactor: ignore\n")
        assert command("check", "--ignore", "CG101").stdout == ""
        assert command("check", "--select", "CG104,CG001").stdout == ""


class TestBaseline:
    def test_what_it_knows_is_left_out_wherever_the_line_has_moved(self, command):
        path = command.write("pkg/a.py", "hazard(1)\nhazard(2)\n")
        assert command("check", "--write-baseline", "known.json").exit_code == 0
        path.write_text("x = 1\nhazard(2)\n\nhazard(3)\nhazard(1)\n")
        result = command("check", "--baseline", "known.json")
        assert [line.split(": ")[0] for line in result.stdout.splitlines()] == ["pkg/a.py:4:1"]

    def test_equal_findings_are_counted(self, command):
        path = command.write("a.py", "hazard(1)\n")
        command("check", "--write-baseline", "known.json")
        path.write_text("hazard(1)\nhazard(1)\n")
        assert len(command("check", "--baseline", "known.json").stdout.splitlines()) == 1

    def test_apply_honours_it(self, command):
        command.write("pyproject.toml", "[tool.refactor]\nbaseline = 'known.json'\n")
        path = command.write("a.py", "hazard(1)\n")
        command("check", "--write-baseline")
        path.write_text("hazard(1)\nhazard(2)\n")
        rows = json.loads(command("apply", "--output-format", "json").stdout)["findings"]
        assert [(row["status"], row["reason"]) for row in rows] == [
            ("suppressed", "in the baseline"),
            ("applied", "calls `safe` instead"),
        ]
        assert path.read_text() == "hazard(1)\nsafe(2)\n"

    def test_it_is_the_same_from_a_subfolder(self, command, monkeypatch):
        command.write("pyproject.toml", "[tool.refactor]\nbaseline = 'known.json'\n")
        command.write("pkg/a.py", "hazard(1)\n")
        command("check", "--write-baseline")
        monkeypatch.chdir(command.root / "pkg")
        assert command("check").exit_code == 0

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param(None, ":1: cannot be read: No such file or directory", id="it is not there"),
            pytest.param("{\n oops", ":2: is no baseline", id="it is not JSON"),
            pytest.param("[]", ":1: is no baseline", id="it is something else"),
        ],
    )
    def test_one_that_cannot_be_used_is_named(self, command, text, message):
        command.write("a.py", "hazard(1)\n")
        if text is not None:
            command.write("known.json", text)
        result = command("check", "--baseline", "known.json")
        assert result.exit_code == 2
        assert f"known.json{message}" in result.stderr
