"""The two trees: import roots, files that differ, and an original rebuilt from git or saved bytes."""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .worker.isolation import OVERLAY

RUNTIME = "cuda_graphs.py"
MOST_SIZE = 1 << 16
MOST_SIZES = 64
CALLED = {"forward", "__call__"}
_CALLABLES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SKIP = {
    "__pycache__",
    ".git",
    ".hg",
    ".venv",
    "venv",
    "node_modules",
    ".refactor",
    ".tox",
    ".mypy_cache",
    "site-packages",
}


@dataclass(frozen=True)
class Trees:
    """The two trees of a verification, their import roots and the files that differ."""

    before: Path
    after: Path
    before_roots: tuple[str, ...]
    after_roots: tuple[str, ...]
    differing: frozenset[str]


def roots(root: Path, src: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Import roots of a tree in order: the configured ones, else ``src`` if present; then the root."""
    found = [root / s for s in src] if src else [root / "src"]
    return tuple(str(p) for p in (*(f for f in found if f.is_dir()), root))


def python_files(root: Path) -> Iterator[str]:
    """Python files below a root, relative with forward slashes, environments and caches left out."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(
        root, followlinks=True
    ):  # a rebuilt original links what is unchanged
        real = os.path.realpath(folder)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(
            f for f in folders if f not in SKIP and not (Path(folder) / f / "pyvenv.cfg").is_file()
        )
        for file in sorted(files):
            if file.endswith(".py"):
                yield (Path(folder) / file).relative_to(root).as_posix()


def pair(before: Path, after: Path, src: tuple[str, ...] = ()) -> Trees:
    """Two trees and which of their Python files differ."""
    before, after = before.resolve(), after.resolve()
    first, second = set(python_files(before)), set(python_files(after))
    same = {f for f in first & second if (before / f).read_bytes() == (after / f).read_bytes()}
    return Trees(before, after, roots(before, src), roots(after, src), frozenset((first | second) - same))


def sizes_in(trees: Trees) -> tuple[int, ...]:
    """Whole numbers in the files that differ, in either tree: bucket sizes and limits are among them.

    The file with our own runtime is left out, whose numbers are no sizes of the program's.
    """
    found: set[int] = set()
    for root in (trees.before, trees.after):
        for name in trees.differing:
            if name.rpartition("/")[2] == RUNTIME:
                continue
            with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError):
                tree = ast.parse((root / name).read_bytes())
                numbers = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
                found |= {n for n in numbers if type(n) is int and 1 < n <= MOST_SIZE}
    return tuple(sorted(found)[:MOST_SIZES])


def edited(trees: Trees) -> list[str]:
    """Callables of both trees that differ: ``module:qualname`` of functions, classes and methods."""

    def callables(name: str, old: list[ast.stmt], new: list[ast.stmt]) -> list[str]:
        module = module_of(trees.after / name, trees.after_roots)
        return [f"{module}:{qualname}" for qualname in _edited(old, new)]

    return _in_differing(trees, callables)


def edited_outside(trees: Trees) -> list[str]:
    """Where top-level code of a script was edited, ``file:line``: nothing that can be called alone."""

    def places(name: str, old: list[ast.stmt], new: list[ast.stmt]) -> list[str]:
        known = {ast.dump(node) for node in old}
        others = [n for n in new if not isinstance(n, (ast.Import, ast.ImportFrom, *_CALLABLES))]
        return [f"{name}:{node.lineno}" for node in others if ast.dump(node) not in known]

    return _in_differing(trees, places)


def _in_differing(
    trees: Trees, look: Callable[[str, list[ast.stmt], list[ast.stmt]], list[str]]
) -> list[str]:
    """What ``look`` finds in the name and both bodies of each file that differs and parses; not in ours."""
    found: list[str] = []
    for name in sorted(trees.differing):
        if name.rpartition("/")[2] == RUNTIME:
            continue
        with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError):
            old, new = (ast.parse((root / name).read_bytes()) for root in (trees.before, trees.after))
            found += look(name, old.body, new.body)
    return found


def module_of(file: Path, import_roots: tuple[str, ...]) -> str:
    """The name under which a file is imported: relative to the first import root above it."""
    for root in import_roots:
        if file.is_relative_to(root):
            parts = file.relative_to(root).with_suffix("").parts
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return file.stem


def file_of(module: str, import_roots: tuple[str, ...]) -> Path | None:
    """The file of a module below the import roots; None if none of them has it."""
    for root in import_roots:
        stem = Path(root).joinpath(*module.split("."))
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return Path(os.path.realpath(file))
    return None


def _edited(old: list[ast.stmt], new: list[ast.stmt]) -> Iterator[str]:
    known = {n.name: n for n in old if isinstance(n, _CALLABLES)}
    for node in new:
        if not isinstance(node, _CALLABLES) or node.name not in known:
            continue
        other = known[node.name]
        if ast.dump(node) == ast.dump(other):
            continue
        is_class = isinstance(node, ast.ClassDef) and isinstance(other, ast.ClassDef)
        if not is_class or {n.name for n in node.body if isinstance(n, _CALLABLES)} & CALLED:
            yield node.name
        else:
            inner = (name for name in _edited(other.body, node.body) if not name.startswith("__"))
            yield from (f"{node.name}.{name}" for name in inner)


def overlay(working: Path, originals: Mapping[str, bytes | None], into: Path) -> Path:
    """A tree like ``working`` with some files replaced (None: absent); the rest is linked, not copied."""
    working = working.resolve()
    into.mkdir(parents=True, exist_ok=True)
    (into / OVERLAY).write_bytes(b"")
    _link(working, into, "", set(originals))
    for file, content in originals.items():
        if content is not None:
            (into / file).parent.mkdir(parents=True, exist_ok=True)
            (into / file).write_bytes(content)
    return into


def _link(source: Path, into: Path, prefix: str, replaced: set[str]) -> None:
    for entry in os.scandir(source):
        relative = f"{prefix}{entry.name}"
        if relative in replaced or entry.name in (".git", ".refactor"):
            continue
        if entry.is_dir(follow_symlinks=False) and any(r.startswith(relative + "/") for r in replaced):
            (into / entry.name).mkdir()
            _link(Path(entry.path), into / entry.name, relative + "/", replaced)
        else:
            (into / entry.name).symlink_to(entry.path, target_is_directory=entry.is_dir())
