"""What was found out about files in runs before, kept in ``.refactor/`` and used while nothing has changed.

An entry holds what examining one file gave. It counts as long as the bytes of that file and of all files
that its regions can lead to are the same, and every module is found, or not found, where it was. The file
name of a cache says for which tool (its code included), which Python and which settings it was written. A
cache that is damaged, locked, deleted or cannot be written costs time, never a result.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from refactor import __version__
from refactor.baseline import Known
from refactor.engine import Examined, Job, Raw, Task
from refactor.findings import Applicability, Finding, Severity
from refactor.journal import FOLDER, JournalError, memory, write_file
from refactor.source import digest
from refactor.suppress import Suppression
from refactor.tracing import resolve

_KEPT = 8
"""Caches of other settings that stay beside the one at hand."""
_TOOL = ("", "analysis", "rewrite", "transforms", "../transforms")
"""Folders of this package whose code decides what is found."""


def name_of(task: Task) -> str:
    """File name of the cache for a task."""
    state = blake2b(digest_size=12)
    settings = task.settings
    roots = [
        str(settings.root / entry) for entry in (*settings.src, "src") if (settings.root / entry).is_dir()
    ]
    given = (__version__, sys.version, str(task.cwd), settings.shown(), *roots)
    state.update("\0".join(given).encode("utf-8", "surrogateescape"))
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in _TOOL:
        try:
            entries = sorted(os.scandir(os.path.join(here, folder)), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.endswith(".py"):
                found = entry.stat()
                state.update(f"{entry.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return f"check-{state.hexdigest()}.json"


@dataclass
class Cache:
    """The cache of one task; `examined` gives what still counts, `learn` and `save` keep what is new."""

    file: Path
    root: Path
    files: dict[str, str] = field(default_factory=dict)
    """Digest of each file that was read."""
    edges: dict[str, set[str]] = field(default_factory=dict)
    """Files whose content a file's results depend on, directly."""
    packages: dict[str, bool] = field(default_factory=dict)
    modules: dict[tuple[str, str], str | None] = field(default_factory=dict)
    entries: dict[str, list[Any]] = field(default_factory=dict)

    def examined(self, jobs: Sequence[Job]) -> dict[Job, Examined]:
        """What examining the jobs gave, for those to which nothing happened since."""
        if not self.entries:
            return {}
        if not self._same_places():
            for table in (self.files, self.edges, self.packages, self.modules, self.entries):
                table.clear()
            return {}
        self._drop_changed()
        found: dict[Job, Examined] = {}
        for job in jobs:
            entry = self.entries.get(str(job.path)) if job.data is None else None
            if entry is not None:
                found[job] = _decoded(job, entry)
        return found

    def _same_places(self) -> bool:
        """Whether every module is found where it was."""
        listings: dict[str, frozenset[str]] = {}
        if any(os.path.isfile(os.path.join(f, "__init__.py")) != known for f, known in self.packages.items()):
            return False
        return all(resolve(root, name, listings) == path for (root, name), path in self.modules.items())

    def _drop_changed(self) -> None:
        """Forget files whose bytes changed, and what was found by way of them."""
        users: dict[str, list[str]] = {}
        for origin, targets in self.edges.items():
            for target in targets:
                users.setdefault(target, []).append(origin)
        changed = [path for path, known in self.files.items() if not known or digest_of(path) != known]
        stale = set(changed)
        todo = list(changed)
        while todo:
            for user in users.get(todo.pop(), ()):
                if user not in stale:
                    stale.add(user)
                    todo.append(user)
        for path in changed:
            self.files.pop(path, None)
            self.edges.pop(path, None)
        if stale:
            gone = [path for path in self.entries if self.entries[path][0] in stale]
            for path in gone:
                del self.entries[path]

    def learn(self, rows: Iterable[Examined]) -> None:
        """Take over what was just found out."""
        for row in rows:
            trace = row.trace
            for path, seen in trace.files:
                self.files[path] = seen if self.files.get(path, seen) == seen else ""
            for origin, target in trace.edges:
                self.edges.setdefault(origin, set()).add(target)
            self.packages.update(trace.packages)
            self.modules.update({(root, name): path for root, name, path in trace.modules})
            if row.job.data is None and row.failure is None and row.copy is None and row.real:
                self.entries[str(row.job.path)] = _encoded(row)

    def save(self) -> None:
        """Write the cache, if its folder can be written and no other run is at it."""
        paths = sorted({*self.files, *self.edges, *(t for targets in self.edges.values() for t in targets)})
        index = {path: number for number, path in enumerate(paths)}
        document = {
            "files": [[path, self.files.get(path, "")] for path in paths],
            "edges": [[index[o], sorted(index[t] for t in targets)] for o, targets in self.edges.items()],
            "packages": self.packages,
            "modules": [[root, name, path] for (root, name), path in self.modules.items()],
            "entries": self.entries,
        }
        try:
            text = json.dumps(document, separators=(",", ":"))
            with memory(self.root) as folder:
                self.file.parent.mkdir(exist_ok=True)
                write_file(self.file, text.encode("utf-8", "surrogateescape"))
                _prune(folder / "cache")
        except (OSError, JournalError, ValueError):
            return


def _prune(folder: Path) -> None:
    """Keep the caches written last."""
    files = sorted(folder.glob("check-*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in files[_KEPT:]:
        path.unlink()


def opened(task: Task) -> Cache:
    """The cache of a task; an empty one if there is none or it cannot be used."""
    root = task.settings.root
    file = root / FOLDER / "cache" / name_of(task)
    empty = Cache(file, root)
    try:
        document = json.loads(file.read_bytes().decode("utf-8", "surrogateescape"))
        paths = [str(path) for path, _ in document["files"]]
        return Cache(
            file,
            root,
            {path: str(seen) for path, seen in document["files"]},
            {paths[origin]: {paths[target] for target in targets} for origin, targets in document["edges"]},
            {str(folder): bool(known) for folder, known in document["packages"].items()},
            {(str(root), str(name)): path for root, name, path in document["modules"]},
            {str(path): entry for path, entry in document["entries"].items() if _is_entry(entry)},
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return empty


def digest_of(path: str) -> str | None:
    """The digest of a file's bytes; None if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return digest(file.read())
    except OSError:
        return None


def _encoded(row: Examined) -> list[Any]:
    comments = [astuple(comment) for comment in row.comments]
    return [row.real, row.module, _raws(row.raws), [[p, _raws(raws)] for p, raws in row.foreign], comments]


def _raws(raws: Sequence[Raw]) -> list[Any]:
    return [[list(vars(raw.finding).values()), raw.known.file, raw.known.text] for raw in raws]


def _decoded(job: Job, entry: Sequence[Any]) -> Examined:
    real, module, raws, foreign, comments = entry
    return Examined(
        job,
        module,
        tuple(map(_raw, raws)),
        tuple((path, tuple(map(_raw, rows))) for path, rows in foreign),
        tuple(_comment(row) for row in comments),
        real=real,
    )


def _raw(row: Sequence[Any]) -> Raw:
    values, file, text = row
    shown, line, column, end_line, end_column, code, name, severity, applicability, *rest = values
    message, region, chain, start, end = rest
    finding = Finding(
        shown, line, column, end_line, end_column, code, name, _SEVERITY[severity],
        _APPLICABILITY[applicability], message, region, tuple(chain), start, end,
    )  # fmt: skip
    return Raw(finding, Known(file, code, region, text))


_SEVERITY = {item.value: item for item in Severity}
_APPLICABILITY = {item.value: item for item in Applicability}


def _comment(values: Sequence[Any]) -> Suppression:
    line, column, start, end, text, row, codes, lines, spans_only = values
    covered = tuple(lines) if lines is not None else None
    return Suppression(line, column, start, end, text, row, tuple(codes), covered, spans_only)


def _is_entry(entry: object) -> bool:
    """Whether an entry can be read back, whatever is in the file."""
    try:
        _decoded(Job(Path(), ""), entry)  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError, AttributeError):
        return False
    return True


def merged(jobs: Sequence[Job], kept: Mapping[Job, Examined], fresh: Sequence[Examined]) -> list[Examined]:
    """One row for each job, in their order."""
    made = {row.job: row for row in fresh}
    return [kept[job] if job in kept else made[job] for job in jobs]
