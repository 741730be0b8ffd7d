"""What a result depended on: files read, modules looked up by name, folders that are packages or not."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Trace:
    """What was looked at for the first time in a process; paths are absolute, links followed."""

    files: tuple[tuple[str, str], ...] = ()
    """Each file with the digest of the bytes that were read."""
    edges: tuple[tuple[str, str], ...] = ()
    """A file, and one that it led to."""
    packages: tuple[tuple[str, bool], ...] = ()
    """Folders, and whether they have an ``__init__.py``."""
    modules: tuple[tuple[str, str, str | None], ...] = ()
    """An import root, the name of a module, and its file there; None: there is none."""


def resolve(root: str, dotted: str, listings: dict[str, frozenset[str]]) -> str | None:
    """The file of a module below an import root; None: there is none.

    Args:
        root: a folder.
        dotted: the module's name.
        listings: what folders hold, as far as known; what is found out is added.
    """
    *scopes, leaf = dotted.split(".")
    folder = root
    for scope in scopes:
        if scope not in _listing(folder, listings):
            return None
        folder = f"{folder}{os.sep}{scope}"
    names = _listing(folder, listings)
    package = f"{folder}{os.sep}{leaf}"
    if leaf in names and "__init__.py" in _listing(package, listings):
        return f"{package}{os.sep}__init__.py"
    return f"{package}.py" if f"{leaf}.py" in names and os.path.isfile(f"{package}.py") else None


def _listing(folder: str, listings: dict[str, frozenset[str]]) -> frozenset[str]:
    known = listings.get(folder)
    if known is None:
        try:
            known = frozenset(os.listdir(folder))
        except OSError:
            known = frozenset()
        listings[folder] = known
    return known
