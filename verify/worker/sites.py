"""Branches of the original: places in the user's files where the truth of a tensor decides."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .trees import under

_BOOL = torch.Tensor.__bool__
_ITEM = torch.Tensor.item
_TORCH = str(Path(torch.__file__).parent) + os.sep


class Sites:
    """Outcomes seen at every branch on a tensor; ``only`` are the files that differ. Install it once."""

    def __init__(self, root: Path, only: set[str]) -> None:
        self.root, self.only = root, only
        self.seen: dict[str, set[bool]] = {}
        self._exits: dict[str, dict[int, bool]] = {}
        self.paused = False

    def install(self) -> None:
        """Watch ``bool(tensor)`` and ``tensor.item()`` of a bool tensor; the values are not changed."""

        def watched_bool(tensor: Tensor) -> bool:
            value = bool(_BOOL(tensor))
            self._note(value)
            return value

        def watched_item(tensor: Tensor) -> Any:
            value = _ITEM(tensor)
            if isinstance(value, bool):
                self._note(value)
            return value

        torch.Tensor.__bool__ = watched_bool  # type: ignore[method-assign,assignment]
        torch.Tensor.item = watched_item  # type: ignore[method-assign,assignment]

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Nothing inside the block counts as a branch of the program."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def _note(self, value: bool) -> None:
        if self.paused:
            return
        frame = sys._getframe(2)
        if _of_torch(frame.f_code.co_filename):
            return  # a check of the library's own, as in the constructor of an optimizer
        for _ in range(40):
            file = frame.f_code.co_filename
            if under(file, self.root):
                relative = str(Path(file).relative_to(self.root))
                if relative in self.only:
                    self.seen.setdefault(f"{relative}:{frame.f_lineno}", set()).add(value)
                return
            if frame.f_back is None:
                return
            frame = frame.f_back

    def one_sided(self) -> dict[str, bool]:
        """Sites where only one outcome was seen although the other would not end in an exception."""
        found = {}
        for site, outcomes in sorted(self.seen.items()):
            if len(outcomes) == 2:
                continue
            file, _, line = site.partition(" (")[0].rpartition(":")
            (only,) = outcomes
            if self._ends(file).get(int(line)) == (not only):
                continue
            found[site] = only
        return found

    def _ends(self, file: str) -> dict[int, bool]:
        """Lines of tests, with the outcome that raises: ``assert`` and ``if …: raise``."""
        if file not in self._exits:
            try:
                tree = ast.parse((self.root / file).read_bytes())
            except (OSError, SyntaxError, ValueError):
                tree = ast.Module([], [])
            self._exits[file] = dict(_raising(tree))
        return self._exits[file]


def _of_torch(file: str) -> bool:
    """Whether torch asks for itself; Tensor's own methods, as for ``in``, ask for their caller."""
    return file.startswith(_TORCH) and not file.endswith("_tensor.py")


def _raising(tree: ast.AST) -> Iterator[tuple[int, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                yield line, False
        elif isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
            for line in range(node.test.lineno, (node.test.end_lineno or node.test.lineno) + 1):
                yield line, True
