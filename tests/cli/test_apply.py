"""``refactor apply``: what it leaves alone, what it writes, and what it says about it."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest


def runtime_copy() -> bytes:
    from refactor.vendor import runtime

    return runtime(frozenset({"graphed"}))


class TestWhatMustNotChange:
    def test_a_file_without_findings(self, command):
        command.write("a.py", b"x = 1  \r\ny = 2\n")
        before = command.tree()
        assert command("apply").exit_code == 0
        assert command.tree() == before
        assert not (command.root / ".refactor" / "journal").exists()

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param(
                b"# x  \r\nhazard(1)  \r\n\r\nlast = 1",
                b"# x  \r\nsafe(1)  \r\n\r\nlast = 1",
                id="CRLF and trailing blanks",
            ),
            pytest.param(b"\xef\xbb\xbfhazard( 1 )\n", b"\xef\xbb\xbfsafe( 1 )\n", id="the byte order mark"),
            pytest.param(
                b"# -*- coding: latin-1 -*-\ns = '\xe9'; hazard('\xe8')\n",
                b"# -*- coding: latin-1 -*-\ns = '\xe9'; safe('\xe8')\n",
                id="the declared encoding",
            ),
            pytest.param(
                b"if 1:\n\thazard(1)\t# why\n\x0c\nx  =  1\n",
                b"if 1:\n\tsafe(1)\t# why\n\x0c\nx  =  1\n",
                id="tabs, form feeds and odd spacing",
            ),
        ],
    )
    def test_bytes_outside_the_rewrite(self, command, before, after):
        path = command.write("a.py", before)
        assert command("apply").exit_code == 0
        assert path.read_bytes() == after

    def test_mode_bits(self, command):
        path = command.write("a.py", "hazard(1)\n")
        path.chmod(0o751)
        command("apply")
        assert path.read_text() == "safe(1)\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o751

    def test_a_link_stays_a_link(self, command):
        target = command.write("real/a.py", "hazard(1)\n")
        os.symlink(target, command.root / "a.py")
        command("apply", "a.py")
        assert (command.root / "a.py").is_symlink()
        assert target.read_text() == "safe(1)\n"

    def test_anything_when_it_is_run_again(self, command):
        command.write("a.py", "hazard(1)\nhazard_runtime(1)\nhazard(k=1)\n")
        command("apply")
        once = command.tree()
        result = command("apply")
        assert command.tree() == once
        assert result.stderr.startswith("nothing to rewrite")

    def test_a_file_that_does_not_parse(self, command):
        command.write("bad.py", b"hazard(1)\ndef f(:\n")
        command.write("good.py", "hazard(1)\n")
        result = command("apply")
        assert result.exit_code == 2
        assert command.tree() == {"bad.py": b"hazard(1)\ndef f(:\n", "good.py": b"safe(1)\n"}
        assert "bad.py:2: cannot be parsed" in result.stderr

    def test_a_suppressed_finding(self, command):
        path = command.write("a.py", "hazard(1)  # refactor: ignore[CG101]\n")
        result = command("apply", "--output-format", "json")
        (row,) = json.loads(result.stdout)["findings"]
        assert (row["status"], row["reason"]) == ("suppressed", "suppressed by the comment in line 1")
        assert path.read_text().startswith("hazard")

    def test_a_file_when_the_working_directory_may_not_be_written(self, command, monkeypatch):
        path = command.write("a.py", "hazard(1)\n")
        make = type(path).mkdir

        def refuse(self, *args, **kwargs):
            if self.name == ".refactor":
                raise PermissionError(13, "Permission denied")
            return make(self, *args, **kwargs)

        monkeypatch.setattr(type(path), "mkdir", refuse)
        result = command("apply")
        assert result.exit_code == 2
        assert ".refactor cannot be written: Permission denied" in result.stderr
        assert path.read_text() == "hazard(1)\n"


def test_a_write_that_fails_leaves_the_file_whole_and_the_others_go_on(command, monkeypatch):
    command.write("a.py", "hazard(1)\n")
    command.write("b.py", "hazard(1)\n")
    replace = os.replace

    def fail(source, target):
        if str(target).endswith("a.py"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    result = command("apply", "--output-format", "json")
    assert result.exit_code == 2
    assert command.tree() == {"a.py": b"hazard(1)\n", "b.py": b"safe(1)\n"}
    assert "a.py:1: cannot be written: No space left on device" in result.stderr
    rows = json.loads(result.stdout)["findings"]
    assert [(row["file"], row["status"]) for row in rows] == [("a.py", "refused"), ("b.py", "applied")]


def test_json_gives_every_finding_its_status_and_reason(command):
    command.write("a.py", "hazard(1)\nhazard(k=1)\nhazard_manual(1)\nhazard(2)  # refactor: ignore\n")
    document = json.loads(command("apply", "--output-format", "json").stdout)
    assert [(row["line"], row["status"]) for row in document["findings"]] == [
        (1, "applied"),
        (2, "refused"),
        (3, "refused"),
        (4, "suppressed"),
    ]
    assert document["findings"][1]["reason"] == "keywords are not understood: pass the value by position"
    assert all(row["reason"] for row in document["findings"])


def test_the_summary_counts_rewrites_by_rule_and_names_reasons_and_the_next_command(command):
    command.write("a.py", "def f():\n    hazard(1)\n    hazard(2)\n    hazard(k=1)\n")
    lines = command("apply").stderr.splitlines()
    assert lines == [
        "drafted 1 target in .refactor/targets.toml",
        "rewrote 1 region of 1 file: 2 findings",
        "  CG101 plain-call: 2",
        "left alone: 1 finding",
        "  1 × keywords are not understood: pass the value by position (CG101 a.py:4)",
        "next: `refactor verify` proves that the results are the same; `refactor undo` takes this back",
    ]


def test_a_second_apply_says_nothing_about_targets_that_are_there(command):
    path = command.write("a.py", "def f():\n    hazard(1)\n")
    command("apply")
    path.write_text("def f():\n    hazard(2)\n")
    assert "drafted" not in command("apply").stderr


def test_safe_only_leaves_what_has_to_be_verified(command):
    path = command.write("a.py", "hazard(1)\nhazard_safe(1)\n")
    result = command("apply", "--safe-only")
    assert path.read_text() == "hazard(1)\nsafe(1)\n"
    assert "the rewrite has to be verified; leave out --safe-only to apply it" in result.stdout


def test_ignored_rules_are_not_applied(command):
    path = command.write("a.py", "hazard(1)\nhazard_safe(1)\n")
    command("apply", "--ignore", "CG101")
    assert path.read_text() == "hazard(1)\nsafe(1)\n"


class TestDiff:
    def git_apply(self, folder, patch):
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=folder, input=patch, check=True)

    def test_without_rewrites_it_is_empty_and_exits_with_0(self, command):
        command.write("a.py", "hazard(k=1)\n")
        result = command("apply", "--diff")
        assert (result.exit_code, result.stdout) == (0, "")

    def test_it_writes_nothing_and_exits_with_1(self, command):
        command.write("a.py", "hazard(1)\nhazard_runtime(1)\n")
        before = command.tree()
        result = command("apply", "--diff")
        assert result.exit_code == 1
        assert command.tree() == before
        assert not (command.root / ".refactor").exists()

    def test_an_unreadable_file_wins_over_the_patch_in_the_exit_code(self, command):
        command.write("a.py", "hazard(1)\n")
        command.write("b.py", "def\n")
        result = command("apply", "--diff")
        assert result.exit_code == 2
        assert result.stdout.startswith(
            "--- a/a.py\n+++ b/a.py\n"
            "@@ -1 +1 @@ CG101 plain-call: `hazard` is called here; calls `safe` instead\n"
            "-hazard(1)\n+safe(1)\n"
        )

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            pytest.param(
                "a.py",
                b"x = 1\n" * 30 + b"hazard(1)\n" + b"y = 2\n" * 30 + b"hazard(2)",
                id="no newline at the end",
            ),
            pytest.param("a.py", b"hazard(1)\r\nx = 1\r\n", id="CRLF"),
            pytest.param(
                "a.py", b"# -*- coding: latin-1 -*-\n# \xe9\nhazard(1)\n", id="bytes that are not UTF-8"
            ),
            pytest.param("a.py", b"x = 1\x0c\ny = 1\rhazard(1)\n", id="form feeds and lone carriage returns"),
            pytest.param("pkg/a b.py", b"hazard(1)\n", id="a blank in the name"),
            pytest.param('pkg/caf\u00e9 "x".py', b"hazard(1)\n", id="a name that git quotes"),
        ],
    )
    def test_git_applies_it_to_the_bytes_that_apply_writes(self, command, name, data):
        path = command.write(name, data)
        patch = command("apply", "--diff").stdout_bytes
        command("apply")
        written = path.read_bytes()
        path.write_bytes(data)
        self.git_apply(command.root, patch)
        assert path.read_bytes() == written != data

    def test_it_creates_the_runtime_too(self, command):
        command.write("pkg/__init__.py", "")
        command.write("pkg/a.py", "hazard_runtime(1)\n")
        self.git_apply(command.root, command("apply", "--diff").stdout_bytes)
        assert (command.root / "pkg" / "cuda_graphs.py").read_bytes() == runtime_copy()

    def test_it_applies_in_the_subfolder_where_it_was_made(self, command, monkeypatch):
        path = command.write("sub/a.py", "hazard(1)\n")
        subprocess.run(["git", "init", "-q"], cwd=command.root, check=True)
        monkeypatch.chdir(command.root / "sub")
        patch = command("apply", "--diff").stdout_bytes
        subprocess.run(["git", "apply", "-"], cwd=command.root / "sub", input=patch, check=True)
        assert path.read_text() == "safe(1)\n"


def test_after_edits_outside_any_function_it_says_that_the_script_is_run_whole(command):
    command.write("a.py", "hazard(1)\n")
    next_step = command("apply").stderr.splitlines()[-1]
    assert next_step.startswith("next: `refactor verify` runs the script whole")
    assert 'vary = ["runs"]' in (command.root / ".refactor" / "targets.toml").read_text()
