"""The one module that writes files: atomically, and so that `refactor undo` can take an apply back.

``.refactor/`` at the project's root holds what the tool remembers. It ignores itself in git, is locked while
it is written, and may be deleted at any time. The journal in it is a stack of applies::

    .refactor/journal/0001/manifest.json     what was replaced, with hashes before and after
    .refactor/journal/0001/0, 1, …           the original bytes, on disk before any file is replaced
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = ".refactor"


class JournalError(Exception):
    """The journal cannot be used; nothing was written."""


@dataclass(frozen=True)
class Replacement:
    """One file to write: what it must hold now (None: it must not exist) and what it becomes."""

    path: Path
    before: bytes | None
    after: bytes
    needs: Path | None = None
    """Another file of the same apply that has to be there first: without it this one is left alone."""


@dataclass(frozen=True)
class Written:
    """What became of the files of one apply, with a reason for each that was left alone."""

    replaced: tuple[Path, ...] = ()
    failed: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Undone:
    """What `undo` did; ``left`` are files that are no longer as apply wrote them, with the reason."""

    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    kept: Path | None = None
    """Folder with the originals of the files that were left."""


def write_file(path: Path, data: bytes) -> None:
    """Replace or create a file atomically; its mode bits are kept.

    Raises:
        OSError: the file cannot be written; it is then as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    _sync(target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def memory(root: Path) -> Iterator[Path]:
    """The ``.refactor`` folder of a project, made if need be and locked until the block ends.

    Raises:
        JournalError: the folder cannot be made, or another run holds the lock.
    """
    folder = root / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            write_file(ignore, b"*\n")
        lock = open(folder / "lock", "ab")  # noqa: SIM115
    except OSError as error:
        raise JournalError(f"{folder} cannot be written: {error.strerror or error}") from None
    with lock:
        _lock(lock.fileno(), folder)
        yield folder


def _lock(handle: int, folder: Path) -> None:
    """Released when the file is closed."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise JournalError(f"another run of refactor is writing {folder}: wait for it to end") from None


def write(root: Path, replacements: Sequence[Replacement]) -> Written:
    """Replace files and push one entry on the journal; without replacements nothing is pushed.

    A file that is no longer as it was read, or that cannot be written, is left as it is; the others go on.

    Raises:
        JournalError: the journal cannot be written; then no file was.
    """
    ready, failed = _ready(replacements)
    if not ready:
        return Written(failed=tuple(failed))
    with memory(root) as folder:
        try:
            entry = _push(folder, root, ready)
        except OSError as error:
            raise JournalError(f"{folder} cannot be written: {error.strerror or error}") from None
        replaced: list[Path] = []
        for item in ready:
            if item.needs in {path for path, _ in failed}:
                failed.append((item.path, f"was left as it is, because {item.needs} is missing"))
                continue
            try:
                write_file(item.path, item.after)
                replaced.append(item.path)
            except OSError as error:
                failed.append((item.path, f"cannot be written: {error.strerror or error}"))
        if not replaced:
            shutil.rmtree(entry)
    return Written(tuple(replaced), tuple(failed))


def _ready(replacements: Sequence[Replacement]) -> tuple[list[Replacement], list[tuple[Path, str]]]:
    ready: list[Replacement] = []
    failed: list[tuple[Path, str]] = []
    for item in replacements:
        try:
            now = item.path.read_bytes() if os.path.lexists(item.path) else None
        except OSError as error:
            failed.append((item.path, f"cannot be read: {error.strerror or error}"))
            continue
        if now != item.before:
            failed.append((item.path, "changed while it was being rewritten, and was left as it is"))
        elif now != item.after:
            ready.append(item)
    return ready, failed


def _push(folder: Path, root: Path, ready: Sequence[Replacement]) -> Path:
    journal = folder / "journal"
    journal.mkdir(exist_ok=True)
    number = max((int(entry.name) for entry in _entries(root)), default=0) + 1
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=journal))
    rows = []
    for index, item in enumerate(ready):
        if item.before is not None:
            _write_synced(draft / str(index), item.before)
        rows.append(
            {
                "path": _relative(item.path, root),
                "original": None if item.before is None else str(index),
                "before": _hash(item.before),
                "after": _hash(item.after),
                "added": sorted(_lines(item.after) - _lines(item.before)) if item.before is not None else [],
            }
        )
    manifest = {"schema": 1, "passed": False, "files": rows}
    _write_synced(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
    _sync(draft)
    entry = journal / f"{number:04}"
    draft.rename(entry)
    _sync(journal)
    return entry


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _relative(path: Path, root: Path) -> str:
    return os.path.relpath(os.path.realpath(path), os.path.realpath(root)).replace(os.sep, "/")


def _hash(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _entries(root: Path) -> list[Path]:
    """The applies on the stack, the oldest first."""
    journal = root / FOLDER / "journal"
    if not journal.is_dir():
        return []
    found = [path for path in journal.iterdir() if path.name.isdigit() and (path / "manifest.json").is_file()]
    return sorted(found, key=lambda path: int(path.name))


def _manifest(entry: Path) -> dict[str, Any]:
    try:
        document = json.loads((entry / "manifest.json").read_text("utf-8"))
        if not isinstance(document["files"], list):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        message = f"{entry / 'manifest.json'}:1: is damaged; delete {entry} to go on without it"
        raise JournalError(message) from None
    return dict(document)


def undo(root: Path) -> Undone | None:
    """Pop the last apply; None if there is none.

    Raises:
        JournalError: the journal is locked or damaged; nothing was changed.
    """
    if not _entries(root):
        return None
    with memory(root) as folder:
        entry = _entries(root)[-1]
        restored: list[str] = []
        removed: list[str] = []
        left: list[tuple[str, str]] = []
        for row in _manifest(entry)["files"]:
            reason = _undo_one(root / row["path"], row, entry)
            if reason:
                left.append((row["path"], reason))
            else:
                (removed if row["original"] is None else restored).append(row["path"])
        kept = None
        if any(True for path, _ in left):
            (folder / "undone").mkdir(exist_ok=True)
            kept = folder / "undone" / entry.name
            shutil.rmtree(kept, ignore_errors=True)
            entry.rename(kept)
        else:
            shutil.rmtree(entry)
    return Undone(tuple(restored), tuple(removed), tuple(left), kept)


def _undo_one(path: Path, row: Mapping[str, Any], entry: Path) -> str:
    """Take one file back; the reason if it was left."""
    try:
        now = path.read_bytes() if os.path.lexists(path) else None
        if _hash(now) == row["before"]:
            return ""
        if now is None:
            return "was deleted since"
        if _hash(now) != row["after"]:
            return "was changed since"
        if row["original"] is None:
            path.unlink()
        else:
            write_file(path, (entry / row["original"]).read_bytes())
    except OSError as error:
        return f"cannot be restored: {error.strerror or error}"
    return ""


def originals(root: Path) -> dict[str, bytes | None]:
    """What the files rewritten since the last pass on a GPU were before: the tree to verify against.

    Returns:
        Path relative to the root (forward slashes) to the bytes of the oldest apply that has not passed on a
        GPU yet; None for a file that did not exist. Empty if there is no such apply. An apply that was taken
        back by other means (``git checkout``) counts no more: a later one found none of its lines.

    Raises:
        JournalError: an entry is damaged.
    """
    found: dict[str, bytes | None] = {}
    added: dict[str, set[str]] = {}
    for entry in _entries(root):
        manifest = _manifest(entry)
        if manifest.get("passed"):
            continue
        for row in manifest["files"]:
            path = row["path"]
            original = None if row["original"] is None else (entry / row["original"]).read_bytes()
            ours = added.setdefault(path, set())
            if path not in found or (original is not None and ours and ours.isdisjoint(_lines(original))):
                found[path] = original
                ours.clear()
            ours.update(row.get("added", ()))
    return found


def _lines(data: bytes | None) -> set[str]:
    """The lines of a file without what surrounds them."""
    return {line.strip() for line in (data or b"").decode("latin-1").splitlines()}


def mark_passed(root: Path) -> None:
    """Remember that everything on the journal passed on a GPU: later runs verify against what is there now.

    Raises:
        JournalError: the journal is locked or damaged.
    """
    if not _entries(root):
        return
    with memory(root):
        for entry in _entries(root):
            manifest = {**_manifest(entry), "passed": True}
            write_file(entry / "manifest.json", json.dumps(manifest, indent=1).encode())
