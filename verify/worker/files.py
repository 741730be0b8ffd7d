"""Files that a program writes below its folder: what they say after a call, and what was there before.

Every sequence finds them as they were: what one sequence appends is not there for the next, and the user's
own files are put back. An audit hook hears which files are opened for writing, `torch.save` is asked for the
names that it hands to C++. Files in hidden folders and outside the tree are nobody's results.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .isolation import OVERLAY
from .observe import Leaves, Recorder
from .spoken import told

MOST = 1 << 24  # bytes of a file that are put back; a larger one is left as the program leaves it
SHOWN = 1 << 20  # bytes of a text that are compared, from its end
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_SAVED = (".pt", ".pth", ".ckpt", ".bin")
_CACHES = ("__pycache__", "site-packages", "node_modules")


class Files:
    """What one tree's program has written. One for each worker."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.linked = (root / OVERLAY).is_file()
        self.first: dict[str, bytes | None] = {}  # what was there before the program wrote; None: nothing
        self.folders: list[str] = []  # made by the program
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self._texts: dict[str, str] = {}
        self._busy = False

    def install(self) -> None:
        """Listen from now on, for as long as the process lives."""
        sys.addaudithook(self._heard)
        save, files = torch.save, self

        def saved(obj: object, f: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(f, (str, os.PathLike)):
                files.noted(f)
            save(obj, f, *args, **kwargs)

        torch.save = saved

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        """What Python is about to do; nothing that goes wrong here may reach the program."""
        if event not in _EVENTS or self._busy:
            return
        with contextlib.suppress(Exception):
            if event == "open":
                path, mode, flags = args
                writes = isinstance(mode, str) and any(c in mode for c in "wax+")
                if writes or (isinstance(flags, int) and flags & _WRITES):
                    self.noted(path)
            elif event == "os.rename":
                self.noted(args[0])
                self.noted(args[1])
            elif event == "os.mkdir":
                path = self._inside(args[0])
                if path is not None and not os.path.exists(path):
                    self.folders.append(path)
            else:
                self.noted(args[0])

    def _inside(self, path: Any) -> str | None:
        """The absolute path of what lies below the tree and is no cache; else None."""
        if isinstance(path, int):
            return None
        text = os.path.abspath(os.fsdecode(path))
        if not text.startswith(f"{self.root}{os.sep}"):
            return None
        parts = text[len(str(self.root)) + 1 :].split(os.sep)
        hidden = any(p.startswith(".") or p in _CACHES for p in parts)
        return None if hidden or text.endswith((".pyc", ".py")) else text

    def noted(self, path: Any) -> None:
        """A file is about to be written, moved or removed: keep what is there."""
        text = self._inside(path)
        if text is None or text in self.first:
            return
        self._busy = True
        try:
            if self.linked:
                _own(self.root, text)
            if not os.path.exists(text):
                self.first[text] = None
            elif os.path.isfile(text) and os.path.getsize(text) <= MOST:
                self.first[text] = Path(text).read_bytes()
            else:
                return
            self._stamps[text] = _stamp(text)
        finally:
            self._busy = False

    def restore(self) -> None:
        """Put everything back as it was before the program wrote."""
        self._busy = True
        try:
            for text, content in self.first.items():
                with contextlib.suppress(OSError):
                    if content is None:
                        os.unlink(text)
                    elif _stamp(text) != self._stamps.get(text) or Path(text).read_bytes() != content:
                        Path(text).write_bytes(content)
            for folder in reversed(self.folders):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        finally:
            self._busy = False
        self.first, self.folders, self._stamps, self._texts = {}, [], {}, {}

    def leaves(self, recorder: Recorder) -> Leaves:
        """What the files that changed since the last look say; of texts what is new."""
        found: Leaves = []
        if not self.first:
            return found
        self._busy = True
        try:
            for text in sorted(self.first):
                stamp = _stamp(text)
                if stamp != self._stamps.get(text):
                    self._stamps[text] = stamp
                    label = f"file {os.path.relpath(text, self.root)}"
                    found += self._content(text, label, recorder) if stamp else [[label, ["removed"]]]
        finally:
            self._busy = False
        return found

    def _content(self, text: str, label: str, recorder: Recorder) -> Leaves:
        with contextlib.suppress(Exception):  # half written, or another format under that name
            value = _loaded(text)
            if value is not None:
                return recorder.leaves(value[0], label)
        with open(text, "rb") as file:
            file.seek(max(0, os.path.getsize(text) - SHOWN))
            data = file.read()
        try:
            said = data.decode()
        except UnicodeDecodeError:
            said = "\0"
        if "\0" in said:
            digest = hashlib.sha1(data).hexdigest()[:12]
            return [[label, ["value", "file", f"{len(data)} bytes, SHA-1 {digest}"]]]
        before, self._texts[text] = self._texts.get(text, ""), said
        new = said[len(before) :] if before and said.startswith(before) else said
        if before and new is said:
            label += " (written anew)"
        return told(label, new) or [[label, ["value", "file", "nothing"]]]


_EVENTS = frozenset(("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "sqlite3.connect"))


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _loaded(path: str) -> tuple[Any] | None:
    """The value in a file of tensors, arrays or pickles, which this process has just written; else None."""
    if path.endswith(_SAVED):
        return (torch.load(path, weights_only=False),)  # where it was saved from is part of it
    numpy = sys.modules.get("numpy")
    if path.endswith((".npy", ".npz")) and numpy is not None:
        found = numpy.load(path, allow_pickle=False)
        return (found if path.endswith(".npy") else {k: found[k] for k in sorted(found.files)},)
    if path.endswith((".pkl", ".pickle")):
        with open(path, "rb") as file:
            return (pickle.load(file),)
    return None


def _own(root: Path, text: str) -> None:
    """Make a linked file, and every linked folder above it, a copy: the link leads into the working tree."""
    place = str(root)
    for part in _parts(root, text):
        place = os.path.join(place, part)
        if not os.path.islink(place):
            continue
        target = os.path.realpath(place)
        if os.path.isdir(target):
            os.unlink(place)
            os.mkdir(place)
            for entry in os.scandir(target):
                os.symlink(entry.path, os.path.join(place, entry.name), entry.is_dir())
        elif os.path.isfile(target) and os.path.getsize(target) <= MOST:
            data = Path(target).read_bytes()
            os.unlink(place)
            Path(place).write_bytes(data)


def _parts(root: Path, text: str) -> Iterator[str]:
    yield from text[len(str(root)) + 1 :].split(os.sep)
