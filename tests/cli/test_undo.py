"""``refactor undo`` and the journal below it: a stack, on disk before any file is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from refactor import journal
from refactor.journal import Replacement


def test_there_is_nothing_to_undo_at_first(command):
    result = command("undo")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing to undo\n")
    assert command.tree() == {}


def test_an_apply_without_edits_pushes_nothing(command):
    command.write("a.py", "hazard(1)\n")
    command("apply")
    command("apply")
    command.write("b.py", "x = 1\n")
    command("apply")
    command("undo")
    assert command.tree() == {"a.py": b"hazard(1)\n", "b.py": b"x = 1\n"}
    assert command("undo").stderr == "nothing to undo\n"


def test_undo_restores_bytes_and_mode_and_removes_the_runtime(command):
    before = b"\xef\xbb\xbfhazard_runtime(1)  \r\n"
    path = command.write("a.py", before)
    path.chmod(0o640)
    command("apply")
    assert set(command.tree()) == {"a.py", "cuda_graphs.py"}
    result = command("undo")
    assert result.stdout == "restored a.py\nremoved cuda_graphs.py\n"
    assert command.tree() == {"a.py": before}
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_journal_is_a_stack(command):
    path = command.write("a.py", "hazard(1)\n")
    command("apply")
    path.write_text("safe(1)\nhazard(2)\n")
    command("apply")
    assert path.read_text() == "safe(1)\nsafe(2)\n"
    command("undo")
    assert path.read_text() == "safe(1)\nhazard(2)\n"
    result = command("undo")
    assert result.exit_code == 1
    assert "a.py:1: was changed since, and was left as it is" in result.stderr


def test_a_file_that_was_changed_is_named_and_left_and_the_others_are_restored(command):
    a, b = command.write("a.py", "hazard(1)\n"), command.write("b.py", "hazard(1)\n")
    command("apply")
    a.write_text("safe(1)  # mine\n")
    result = command("undo")
    assert result.exit_code == 1
    assert a.read_text() == "safe(1)  # mine\n"
    assert b.read_text() == "hazard(1)\n"
    assert result.stderr.splitlines() == [
        "a.py:1: was changed since, and was left as it is",
        "originals of 1 file are in .refactor/undone/0001",
    ]
    assert (command.root / ".refactor/undone/0001/0").read_bytes() == b"hazard(1)\n"


def test_a_file_that_was_deleted_is_named(command):
    path = command.write("a.py", "hazard(1)\n")
    command("apply")
    path.unlink()
    result = command("undo")
    assert result.exit_code == 1
    assert "a.py:1: was deleted since" in result.stderr
    assert not path.exists()


def test_the_folder_ignores_itself_in_git(command):
    subprocess.run(["git", "init", "-q"], check=True)
    command.write("a.py", "hazard(1)\n")
    command("apply")
    said = subprocess.run(["git", "status", "--short"], check=True, capture_output=True, text=True).stdout
    assert said == "?? a.py\n"


def test_it_lives_at_the_root_of_the_project(command, monkeypatch):
    command.write("pyproject.toml", "[tool.refactor]\n")
    path = command.write("deep/er/a.py", "hazard(1)\n")
    monkeypatch.chdir(path.parent)
    command("apply")
    assert (command.root / ".refactor" / "journal" / "0001").is_dir()
    assert command("undo").stdout == "restored a.py\n"


def test_deleting_the_folder_is_safe(command):
    import shutil

    path = command.write("a.py", "hazard(1)\n")
    command("apply")
    shutil.rmtree(command.root / ".refactor")
    assert command("undo").exit_code == 0
    path.write_text("hazard(2)\n")
    command("apply")
    assert path.read_text() == "safe(2)\n"


def test_a_damaged_journal_is_named_and_nothing_is_changed(command):
    path = command.write("a.py", "hazard(1)\n")
    command("apply")
    (command.root / ".refactor/journal/0001/manifest.json").write_text("{")
    result = command("undo")
    assert result.exit_code == 2
    assert "manifest.json:1: is damaged" in result.stderr
    assert path.read_text() == "safe(1)\n"


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_while_another_run_holds_the_lock_nothing_is_written(command):
    import fcntl

    path = command.write("a.py", "hazard(1)\n")
    command.write(".refactor/lock", "")
    with open(command.root / ".refactor" / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = command("apply")
    assert result.exit_code == 2
    assert "another run of refactor is writing" in result.stderr
    assert path.read_text() == "hazard(1)\n"


class TestJournal:
    def test_originals_are_on_disk_before_the_first_file_is_replaced(self, tmp_path, monkeypatch):
        path = tmp_path / "a.py"
        path.write_bytes(b"old")
        seen = []
        replace = os.replace

        def look(source, target):
            if str(target).endswith("a.py"):
                manifest = json.loads((tmp_path / ".refactor/journal/0001/manifest.json").read_text())
                original = manifest["files"][0]["original"]
                seen.append((tmp_path / ".refactor/journal/0001" / original).read_bytes())
            replace(source, target)

        monkeypatch.setattr(os, "replace", look)
        journal.write(tmp_path, [Replacement(path, b"old", b"new")])
        assert seen == [b"old"]
        assert path.read_bytes() == b"new"

    def test_a_run_killed_between_two_files_can_be_undone(self, tmp_path, monkeypatch):
        files = [tmp_path / "a.py", tmp_path / "b.py"]
        for path in files:
            path.write_bytes(b"old")
        write_file = journal.write_file

        def die(path, data):
            if path.name == "b.py":
                raise KeyboardInterrupt
            write_file(path, data)

        monkeypatch.setattr(journal, "write_file", die)
        with pytest.raises(KeyboardInterrupt):
            journal.write(tmp_path, [Replacement(path, b"old", b"new") for path in files])
        assert [path.read_bytes() for path in files] == [b"new", b"old"]
        monkeypatch.setattr(journal, "write_file", write_file)
        done = journal.undo(tmp_path)
        assert done is not None
        assert done.left == ()
        assert [path.read_bytes() for path in files] == [b"old", b"old"]

    def test_a_file_that_changed_since_it_was_read_is_left(self, tmp_path):
        path = tmp_path / "a.py"
        path.write_bytes(b"newer")
        written = journal.write(tmp_path, [Replacement(path, b"old", b"new")])
        assert path.read_bytes() == b"newer"
        assert written.failed == ((path, "changed while it was being rewritten, and was left as it is"),)

    def test_a_file_is_left_if_the_one_it_needs_cannot_be_written(self, tmp_path, monkeypatch):
        runtime, path = tmp_path / "runtime.py", tmp_path / "a.py"
        path.write_bytes(b"old")
        write_file = journal.write_file

        def fail(target, data):
            if target == runtime:
                raise OSError(28, "No space left on device")
            write_file(target, data)

        monkeypatch.setattr(journal, "write_file", fail)
        written = journal.write(
            tmp_path, [Replacement(runtime, None, b"r"), Replacement(path, b"old", b"new", runtime)]
        )
        assert path.read_bytes() == b"old"
        assert [failed for failed, _ in written.failed] == [runtime, path]
        assert journal.undo(tmp_path) is None

    def test_no_temporary_file_is_left_behind(self, tmp_path, monkeypatch):
        path = tmp_path / "a.py"
        path.write_bytes(b"old")
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(OSError, match="I/O error"):
            journal.write_file(path, b"new")
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.py"]
        assert path.read_bytes() == b"old"


class TestOriginals:
    """What `verify` compares with by default."""

    def apply(self, root, **files):
        rows = []
        for name, after in files.items():
            path = root / f"{name}.py"
            before = path.read_bytes() if path.exists() else None
            rows.append(Replacement(path, before, after))
        journal.write(root, rows)

    def test_without_an_apply_there_are_none(self, tmp_path):
        assert journal.originals(tmp_path) == {}
        journal.mark_passed(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_the_oldest_bytes_of_every_file_count_and_created_files_are_none(self, tmp_path):
        (tmp_path / "a.py").write_bytes(b"1")
        self.apply(tmp_path, a=b"2", new=b"n")
        self.apply(tmp_path, a=b"3", new=b"m")
        assert journal.originals(tmp_path) == {"a.py": b"1", "new.py": None}

    def test_edits_on_top_of_a_rewrite_do_not_hide_what_was_there_before_it(self, tmp_path):
        (tmp_path / "a.py").write_bytes(b"x = 1\n")
        self.apply(tmp_path, a=b"x = ours\n")
        (tmp_path / "a.py").write_bytes(b"x = ours\ny = 2\n")
        self.apply(tmp_path, a=b"x = ours\ny = ours\n")
        assert journal.originals(tmp_path) == {"a.py": b"x = 1\n"}

    def test_an_apply_that_git_took_back_counts_no_more(self, tmp_path):
        (tmp_path / "a.py").write_bytes(b"x = 1\n")
        self.apply(tmp_path, a=b"x = ours\n")
        (tmp_path / "a.py").write_bytes(b"x = 1\ny = 2\n")
        self.apply(tmp_path, a=b"x = ours\ny = 2\n")
        assert journal.originals(tmp_path) == {"a.py": b"x = 1\ny = 2\n"}

    def test_after_a_pass_only_later_applies_count(self, tmp_path):
        (tmp_path / "a.py").write_bytes(b"1")
        self.apply(tmp_path, a=b"2")
        journal.mark_passed(tmp_path)
        assert journal.originals(tmp_path) == {}
        self.apply(tmp_path, a=b"3")
        assert journal.originals(tmp_path) == {"a.py": b"2"}

    def test_a_pass_does_not_take_undo_away(self, tmp_path):
        (tmp_path / "a.py").write_bytes(b"1")
        self.apply(tmp_path, a=b"2")
        journal.mark_passed(tmp_path)
        journal.undo(tmp_path)
        assert (tmp_path / "a.py").read_bytes() == b"1"
