"""Which files a run reads: the paths it was given, folders walked in order, ``.gitignore`` respected.

A file named on the command line is always read. In folders, names in `EXCLUDED`, virtual environments, what
``.gitignore`` files leave out and the ``exclude`` patterns are skipped. Links to folders are not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from refactor.config import Settings
from refactor.findings import FileError

EXCLUDED = frozenset(
    {
        ".bzr", ".eggs", ".git", ".hg", ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pytest_cache",
        ".refactor", ".ruff_cache", ".svn", ".tox", ".venv", "__pycache__", "__pypackages__", "node_modules",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Files to read, in order, and what could not be looked at."""

    files: tuple[Path, ...]
    errors: tuple[FileError, ...] = ()
    empty: tuple[str, ...] = ()
    """Given folders that hold no Python file."""


def display(path: Path | str, cwd: Path) -> str:
    """A path relative to the working directory, with forward slashes."""
    try:
        return os.path.relpath(path, cwd).replace(os.sep, "/")
    except ValueError:  # another drive
        return str(path).replace(os.sep, "/")


def find_files(paths: Sequence[str], settings: Settings, cwd: Path) -> Found:
    """The Python files under ``paths`` (the working directory if there are none), each once."""
    walk = _Walk(settings, cwd)
    for given in paths or (".",):
        walk.add(given)
    return Found(tuple(sorted(walk.files.values(), key=lambda path: display(path, cwd).split("/"))),
                 tuple(walk.errors), tuple(walk.empty))  # fmt: skip


@dataclass(frozen=True)
class _Ignore:
    """The patterns of one ``.gitignore``, relative to its folder."""

    folder: str
    spec: GitIgnoreSpec

    def covers(self, path: str, is_folder: bool) -> bool | None:
        """True: left out; False: taken back by a ``!`` pattern; None: not mentioned."""
        relative = os.path.relpath(path, self.folder).replace(os.sep, "/")
        return self.spec.check_file(relative + "/" if is_folder else relative).include


@dataclass
class _Walk:
    settings: Settings
    cwd: Path
    files: dict[str, Path] = field(default_factory=dict)
    errors: list[FileError] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def add(self, given: str) -> None:
        path = os.path.join(self.cwd, given)
        if os.path.isdir(path):
            top = os.path.normpath(path)
            before = len(self.files), len(self.errors)
            self._folder(top, self._outer(top))
            if before == (len(self.files), len(self.errors)) and not any(self._inside(top)):
                self.empty.append(display(top, self.cwd))
        elif os.path.lexists(path):
            self._file(os.path.normpath(path))
        else:
            self.errors.append(FileError(display(path, self.cwd), 1, "does not exist"))

    def _inside(self, top: str) -> Iterator[str]:
        prefix = os.path.realpath(top) + os.sep
        return (real for real in self.files if real.startswith(prefix))

    def _file(self, path: str) -> None:
        self.files.setdefault(os.path.realpath(path), Path(path))

    def _outer(self, top: str) -> tuple[_Ignore, ...]:
        """Patterns from above a given folder, less those that leave out the folder: it was asked for."""
        root = str(self.settings.root)
        excluded = GitIgnoreSpec.from_lines(self.settings.exclude)
        found = [_Ignore(root, excluded)] if self.settings.exclude else []
        folder, above = os.path.dirname(top), []
        while folder.startswith(root):
            above.append(folder)
            if folder in (root, os.path.dirname(folder)):
                break
            folder = os.path.dirname(folder)
        for folder in reversed(above):
            found += self._ignore_file(folder)
        return tuple(ignore for ignore in found if ignore.covers(top, True) is not True)

    def _ignore_file(self, folder: str) -> list[_Ignore]:
        try:
            with open(os.path.join(folder, ".gitignore"), encoding="utf-8", errors="surrogateescape") as file:
                return [_Ignore(folder, GitIgnoreSpec.from_lines(file.read().splitlines()))]
        except (OSError, ValueError):
            return []

    def _folder(self, folder: str, ignores: tuple[_Ignore, ...]) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = f"cannot be listed: {error.strerror or error}"
            self.errors.append(FileError(display(folder, self.cwd), 1, reason))
            return
        ignores += tuple(self._ignore_file(folder))
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if not is_folder and not entry.name.endswith(".py"):
                continue
            if (is_folder and self._is_skipped(entry)) or _is_ignored(entry.path, is_folder, ignores):
                continue
            if is_folder:
                self._folder(entry.path, ignores)
            elif _is_special(entry.path):
                self.errors.append(FileError(display(entry.path, self.cwd), 1, "is not a file"))
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                self._file(entry.path)

    @staticmethod
    def _is_skipped(entry: os.DirEntry[str]) -> bool:
        return entry.name in EXCLUDED or os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))


def _is_special(path: str) -> bool:
    """Whether it is a pipe, socket or device: reading one may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # reported when it is read
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_ignored(path: str, is_folder: bool, ignores: tuple[_Ignore, ...]) -> bool:
    """The innermost file that mentions a path decides."""
    for ignore in reversed(ignores):
        verdict = ignore.covers(path, is_folder)
        if verdict is not None:
            return verdict
    return False
