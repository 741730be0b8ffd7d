"""Files that a program writes: what is new in them is seen, and everything is put back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import refactor.verify

PROGRAM = """
import importlib.util, json, os, sys
folder = sys.argv[1]
def load(name, folder):
    file = folder + "/__init__.py"
    s = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[folder])
    m = importlib.util.module_from_spec(s); sys.modules[name] = m; s.loader.exec_module(m)
load("_refactor_worker", sys.argv[2])
from pathlib import Path
import numpy, torch
from _refactor_worker.files import Files
from _refactor_worker.observe import Recorder
os.chdir(folder)
files = Files(Path(folder)); files.install()
seen = []
def look():
    recorder = Recorder()
    seen.append([[p, leaf[0], leaf[2] if leaf[0] == "value" else ""] for p, leaf in files.leaves(recorder)])
exec(sys.argv[3])
print(json.dumps(seen))
"""


def looked(folder: Path, code: str) -> list[list[list[str]]]:
    """What was seen at each ``look()`` of some code that runs in the folder."""
    worker = str(Path(refactor.verify.__file__).parent / "worker")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), worker, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    found: list[list[list[str]]] = json.loads(done.stdout)
    return found


def test_what_is_read_or_lies_elsewhere_is_nobodys_result_and_what_was_there_comes_back(
    tmp_path: Path,
) -> None:
    tree, other = tmp_path / "tree", tmp_path / "other"
    tree.mkdir()
    other.mkdir()
    (tree / "kept.txt").write_text("one\n")
    (tree / "shrunk.txt").write_text("long text\n")
    code = f"""
open("kept.txt").read(); open({str(other / "x")!r}, "w").write("far"); look()
os.makedirs(".cache", exist_ok=True); open(".cache/x", "w").write("hidden"); look()
with open("kept.txt", "a") as f: f.write("two 2.5\\n")
look(); look()
with open("kept.txt", "a") as f: f.write("three 3\\n")
os.makedirs("a/b"); torch.save(torch.ones(2), "a/b/t.pt"); numpy.save("n.npy", numpy.zeros(3))
open("shrunk.txt", "w").write("")
look()
open("x.tmp", "w").write("moved"); os.replace("x.tmp", "x.txt"); os.remove("n.npy"); look()
files.restore(); look()
"""
    far, hidden, first, nothing, more, moved, after = looked(tree, code)
    assert far == hidden == nothing == after == []
    assert first == [
        ["file kept.txt", "value", "'one\\ntwo #\\n'"],
        ["file kept.txt number 0", "number", ""],
    ]
    assert more == [
        ["file a/b/t.pt", "tensor", ""],
        ["file kept.txt", "value", "'three #\\n'"],
        ["file kept.txt number 0", "number", ""],
        ["file n.npy", "tensor", ""],
        ["file shrunk.txt", "value", "nothing"],
    ]
    assert moved == [["file n.npy", "removed", ""], ["file x.txt", "value", "'moved'"]]
    assert (tree / "kept.txt").read_text() == "one\n"
    assert (tree / "shrunk.txt").read_text() == "long text\n"
    assert sorted(os.listdir(tree)) == [".cache", "kept.txt", "shrunk.txt"]


def test_in_a_rebuilt_original_linked_files_and_folders_are_copied_before_they_are_written(
    tmp_path: Path,
) -> None:
    from refactor.verify.trees import overlay

    working = tmp_path / "working"
    (working / "logs").mkdir(parents=True)
    (working / "logs" / "a.txt").write_text("mine")
    (working / "b.txt").write_text("mine")
    before = overlay(working, {"program.py": b""}, tmp_path / "before")
    code = "open('logs/a.txt', 'a').write(' and his'); open('b.txt', 'w').write('his'); look()"
    (seen,) = looked(before, code)
    assert [path for path, *_ in seen] == ["file b.txt", "file logs/a.txt"]
    assert (working / "logs" / "a.txt").read_text() == (working / "b.txt").read_text() == "mine"
