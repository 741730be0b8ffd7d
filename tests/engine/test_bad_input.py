"""Files that cannot be dealt with are reported one by one; every other file gets its findings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from refactor.config import Settings
from refactor.discovery import display, find_files
from refactor.engine import Examined, Job, Task
from refactor.pool import Crew

HEAD = b"import torch\nfrom torch import nn\n\n\nclass Model(nn.Module):\n    def forward(self, x):\n"
GOOD = HEAD + b"        return x.sum().item()\n"
REPORTED = {
    "broken_encoding.py": (GOOD + b"# caf\xe9\n", "is not utf-8"),
    "unknown_encoding.py": (b"# -*- coding: nonsense -*-\n" + GOOD, "cannot be decoded"),
    "null_byte.py": (GOOD + b"\0\n", "cannot be parsed"),
    "syntax.py": (GOOD + b"def f(:\n", "cannot be parsed"),
    "brackets.py": (HEAD + b"        return " + b"(" * 900 + b"x" + b")" * 900 + b"\n", "cannot be parsed"),
}
FOUND = {
    "good.py": GOOD,
    "chain.py": HEAD + b"        return x" + b".relu()" * 1000 + b".item()\n",
    "sum.py": HEAD + b"        y = " + b" + ".join([b"x"] * 2000) + b"\n        return y.item()\n",
    "nested_calls.py": HEAD + b"        return " + b"torch.relu(" * 90 + b"x" + b")" * 90 + b".item()\n",
    "long.py": GOOD + (b"\n\ndef helper(x):\n" + b"    x = x + 1\n" * 7) * 5000,
    "star_one.py": b"from star_two import *\n" + GOOD,
    "star_two.py": b"from star_one import *\n" + GOOD,
}
NEWER = {
    (3, 11): ("groups.py", b"try:\n    pass\nexcept* ValueError:\n    pass\n"),
    (3, 12): ("aliases.py", b"type Pair[T] = tuple[T, T]\n"),
    (3, 14): ("templates.py", b'name = t"{1}"\n'),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad").resolve()
    for name, data in FOUND.items():
        (root / name).write_bytes(data)
    for name, (data, _) in REPORTED.items():
        (root / name).write_bytes(data)
    for name, data in NEWER.values():
        (root / name).write_bytes(data + GOOD)
    (root / "loop.py").symlink_to(root / "loop.py")
    (root / "gone.py").symlink_to(root / "nowhere.py")
    (root / "folder").symlink_to(root)
    return root


@pytest.fixture(scope="module")
def rows(project: Path) -> dict[str, Examined]:
    with Crew(Task(Settings(project), project), 1) as crew:
        return {row.job.file: row for row in crew.examine(jobs_of(project))}


def jobs_of(root: Path) -> list[Job]:
    files = find_files((), Settings(root), root).files
    return [Job(path, display(path, root)) for path in files]


@pytest.mark.parametrize("name", FOUND)
def test_a_file_with_findings_gets_them_however_long_or_deep_it_is(rows, name):
    row = rows[name]
    assert row.failure is None
    assert "CG101" in {raw.finding.code for raw in row.raws}


@pytest.mark.parametrize("name", REPORTED)
def test_a_file_that_cannot_be_read_is_reported_with_the_reason(rows, name):
    failure = rows[name].failure
    assert failure is not None
    assert failure.crash == ""
    assert REPORTED[name][1] in failure.error.message


@pytest.mark.parametrize("version", NEWER)
def test_syntax_of_a_newer_python_is_read_by_that_python_and_reported_by_others(rows, version):
    row = rows[NEWER[version][0]]
    if sys.version_info >= version:
        assert row.failure is None
        assert row.raws
    else:
        assert row.failure is not None
        assert "cannot be parsed" in row.failure.error.message


@pytest.mark.parametrize("name", ["loop.py", "gone.py"])
def test_a_link_that_leads_nowhere_is_reported(rows, name):
    failure = rows[name].failure
    assert failure is not None
    assert "cannot be read" in failure.error.message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_reported(tmp_path):
    path = tmp_path / "secret.py"
    path.write_bytes(GOOD)
    path.chmod(0)
    with Crew(Task(Settings(tmp_path), tmp_path), 1) as crew:
        (row,) = crew.examine([Job(path, "secret.py")])
    assert row.failure is not None
    assert "cannot be read" in row.failure.error.message


def test_links_to_folders_are_not_followed(rows):
    assert not [file for file in rows if file.startswith("folder/")]


def test_two_processes_report_the_same_in_the_same_order(project, rows):
    with Crew(Task(Settings(project), project), 2) as crew:
        assert crew.examine(jobs_of(project)) == list(rows.values())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_reported_and_never_read(tmp_path):
    (tmp_path / "good.py").write_bytes(GOOD)
    os.mkfifo(tmp_path / "pipe.py")
    os.symlink("pipe.py", tmp_path / "link.py")
    found = find_files((), Settings(tmp_path), tmp_path)
    assert [path.name for path in found.files] == ["good.py"]
    assert [(e.file, e.message) for e in found.errors] == [
        ("link.py", "is not a file"),
        ("pipe.py", "is not a file"),
    ]
