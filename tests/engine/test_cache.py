"""The cache saves time and changes no result, whatever happened to the files or to the cache itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refactor import cache
from refactor.cli import session
from refactor.config import Settings
from refactor.discovery import find_files
from refactor.engine import Task

HELPER = "def limit(x):\n    if x.max() > 3:\n        return x / 3\n    return x\n"
CALM = "def limit(x):\n    return x.clamp(max=3)\n"
MODEL = (
    "import torch\nfrom torch import nn\n\nfrom helper import limit\n\n\nclass Model(nn.Module):\n"
    "    def forward(self, x):\n        return limit(x) * x.sum().item()  # refactor: ignore[CG101]\n"
)
APART = (
    "import torch\n\n\nclass Other(torch.nn.Module):\n"
    "    def forward(self, x):\n        return x.sum().item()\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {"helper.py": HELPER, "model.py": MODEL, "apart.py": APART}.items():
        (tmp_path / name).write_text(text)
    return tmp_path.resolve()


class Run:
    """One check: what it reports, and which files it had to examine."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *, caching: bool = True) -> None:
        self.examined: list[str] = []

        def noted(crew, jobs, *rest):
            self.examined += [job.file for job in jobs]
            return real(crew, jobs, *rest)

        real = session.Crew.examine
        settings = Settings(root)
        with monkeypatch.context() as patched:
            patched.setattr(session.Crew, "examine", noted)
            done = session.run(
                Task(settings, root),
                find_files((), settings, root),
                baseline=None,
                jobs=1,
                caching=caching,
            )
        self.results = [(r.job, r.findings, r.suppressed, r.entries, r.failures) for r in done.results]
        self.places = [(f.file, f.line, f.code) for f in done.findings]


def kept(root: Path) -> list[Path]:
    return sorted((root / ".refactor" / "cache").glob("*.json"))


def test_nothing_is_examined_again_when_nothing_changed(project, monkeypatch):
    first, second = Run(project, monkeypatch), Run(project, monkeypatch)
    assert first.examined == ["apart.py", "helper.py", "model.py"]
    assert second.examined == []
    assert second.results == first.results
    assert ("helper.py", 2, "CG301") in first.places


def test_a_changed_file_is_examined_again_with_those_it_is_used_by_and_no_others(project, monkeypatch):
    Run(project, monkeypatch)
    (project / "helper.py").write_text(CALM)
    again = Run(project, monkeypatch)
    assert again.examined == ["helper.py", "model.py"]
    assert again.results == Run(project, monkeypatch, caching=False).results
    assert not [place for place in again.places if place[0] == "helper.py"]


def test_a_file_written_again_with_the_same_bytes_is_not_examined(project, monkeypatch):
    Run(project, monkeypatch)
    (project / "helper.py").write_text(HELPER)
    assert Run(project, monkeypatch).examined == []


def test_a_module_that_was_missing_and_now_exists_is_noticed(project, monkeypatch):
    (project / "helper.py").unlink()
    assert ("helper.py", 2, "CG301") not in Run(project, monkeypatch).places
    (project / "helper.py").write_text(HELPER)
    assert ("helper.py", 2, "CG301") in Run(project, monkeypatch).places


def test_a_module_found_somewhere_else_than_before_is_noticed(project, monkeypatch):
    Run(project, monkeypatch)
    (project / "helper").mkdir()
    (project / "helper" / "__init__.py").write_text(CALM)
    again = Run(project, monkeypatch)
    assert "model.py" in again.examined
    assert again.results == Run(project, monkeypatch, caching=False).results


def test_a_file_that_is_gone_is_noticed(project, monkeypatch):
    Run(project, monkeypatch)
    (project / "helper.py").unlink()
    again = Run(project, monkeypatch)
    assert again.results == Run(project, monkeypatch, caching=False).results


def test_a_file_that_does_not_parse_is_reported_every_time(project, monkeypatch):
    (project / "broken.py").write_text("def f(:\n")
    first, second = Run(project, monkeypatch), Run(project, monkeypatch)
    assert second.examined == ["broken.py"]
    assert second.results == first.results


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"files": [], "edges": [[7, [1]]], "packages": {}, "modules": [], "entries": {}}',
        b'{"files": 3, "edges": [], "packages": {}, "modules": [], "entries": {}}',
    ],
)
def test_a_damaged_cache_is_left_out_and_replaced(project, monkeypatch, damage):
    first = Run(project, monkeypatch)
    (file,) = kept(project)
    file.write_bytes(damage)
    assert Run(project, monkeypatch).results == first.results
    assert Run(project, monkeypatch).examined == []


def test_an_entry_that_cannot_be_read_back_is_examined_again(project, monkeypatch):
    first = Run(project, monkeypatch)
    (file,) = kept(project)
    document = json.loads(file.read_text())
    document["entries"][str(project / "model.py")] = ["nonsense"]
    file.write_text(json.dumps(document))
    again = Run(project, monkeypatch)
    assert again.examined == ["model.py"]
    assert again.results == first.results


def test_a_folder_that_cannot_be_written_costs_time_only(project, monkeypatch):
    (project / ".refactor").write_text("a file where the folder should be")
    first, second = Run(project, monkeypatch), Run(project, monkeypatch)
    assert second.examined == first.examined
    assert second.results == first.results


def test_while_another_run_holds_the_lock_nothing_is_written(project, monkeypatch):
    from refactor.journal import memory

    with memory(project):
        Run(project, monkeypatch)
    assert kept(project) == []


def test_without_a_cache_nothing_is_written(project, monkeypatch):
    Run(project, monkeypatch, caching=False)
    assert not (project / ".refactor").exists()


def test_other_settings_have_a_cache_of_their_own(project):
    names = {
        cache.name_of(Task(Settings(project, ignore=codes), project)) for codes in ((), ("CG1",), ("CG3",))
    }
    assert len(names) == 3


def test_only_the_newest_caches_stay(project, monkeypatch):
    folder = project / ".refactor" / "cache"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"check-{number}.json").write_text("{}")
    Run(project, monkeypatch)
    assert len(kept(project)) == 8
    assert Run(project, monkeypatch).examined == []
