"""The runtime in the user's tree: where a copy goes, how it is imported, and when it is left alone.

A copy starts with one line that names the version and the hash of what follows, so that an older copy of ours
can be told from one the user edited and from a foreign file of the same name. It holds what the code uses
(`refactor.parts`); unless that is the whole runtime, the line says so, and later rewrites add to it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from refactor import __version__
from refactor.config import Settings
from refactor.parts import NAME as NAME
from refactor.parts import closed, part, public

_MARK = b"# Vendored by cudagraph-refactor "
_HEADER = re.compile(
    re.escape(_MARK)
    + rb"(?P<version>[0-9][\w.+-]*) \(sha256 (?P<hash>[0-9a-f]{64})\)"
    + rb"(?: with (?P<parts>[\w, ]+) only)?[^\n]*\n"
)
_KEY = '`[tool.refactor] runtime = "package.module"` in pyproject.toml'


@dataclass(frozen=True)
class Copy:
    """A vendored runtime as it is on disk."""

    path: Path
    version: str
    is_edited: bool
    is_current: bool
    parts: frozenset[str]
    """The public names that it offers, of those that this version knows."""

    @property
    def is_outdated(self) -> bool:
        """Whether `apply` replaces it: ours, not edited, not from a newer version of the tool."""
        return not (self.is_edited or self.is_current or self.is_newer)

    @property
    def is_newer(self) -> bool:
        """Whether a newer version of the tool wrote it."""
        return _numbers(self.version) > _numbers(__version__)


@dataclass(frozen=True)
class Site:
    """Where the runtime of an edited file lives and how the file imports it."""

    path: Path
    module: str
    """As in ``from {module} import graphed``: ``cuda_graphs``, ``package.cuda_graphs``, ``..cuda_graphs``."""


@dataclass(frozen=True)
class Refused:
    """Why a file cannot get the runtime: one sentence that names what to do."""

    reason: str


@cache
def runtime(names: frozenset[str] | None = None) -> bytes:
    """The bytes of a fresh copy that offers these public names; all of them by default."""
    wanted = public() if names is None else closed(names)
    body = part(wanted)
    held = "" if wanted >= public() else f" with {', '.join(sorted(wanted))} only"
    advice = "Remove this line to keep changes of your own; `refactor apply` updates the file otherwise."
    return _MARK + f"{__version__} (sha256 {_digest(body)}){held}. {advice}\n".encode() + body


def _digest(body: bytes) -> str:
    """Of the text with line feeds as line ends: version control may have changed them."""
    return hashlib.sha256(body.replace(b"\r\n", b"\n")).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def copy_in(path: Path, data: bytes) -> Copy | None:
    """What a file says about itself if it is a vendored runtime, edited or not."""
    if not data.startswith(_MARK):
        return None
    match = _HEADER.match(data.replace(b"\r\n", b"\n"))
    if match is None:
        return Copy(path, "0", is_edited=True, is_current=False, parts=public())
    body = data.replace(b"\r\n", b"\n")[match.end() :]
    is_edited = _digest(body) != match["hash"].decode()
    parts = closed(match["parts"].decode().split(", ")) if match["parts"] else public()
    is_current = data.replace(b"\r\n", b"\n") == runtime(parts).replace(b"\r\n", b"\n")
    return Copy(path, match["version"].decode(), is_edited, is_current, parts)


def site_for(file: Path, tree: ast.Module, settings: Settings) -> Site | Refused:
    """Where the runtime goes for an edited file, unless something of the user's stands there."""
    site = _configured(settings.runtime, settings) if settings.runtime else _nearest(file, tree)
    if isinstance(site, Refused):
        return site
    try:
        data = site.path.read_bytes()
    except FileNotFoundError:
        return site
    except OSError as error:
        return Refused(f"{site.path} cannot be read ({error.strerror}); name another module with {_KEY}")
    copy = copy_in(site.path, data)
    if copy is None:
        return Refused(f"{site.path} is not the runtime of this tool; name another module for it with {_KEY}")
    if copy.is_edited:
        return Refused(
            f"{site.path} is a runtime that was edited; move your changes elsewhere and delete it, "
            f"or name another module with {_KEY}"
        )
    if copy.is_newer and copy.parts < public():
        return Refused(
            f"{site.path} is a part of the runtime of version {copy.version}, to which this version cannot "
            f"add; update the tool, or name another module with {_KEY}"
        )
    return site


def fresh(path: Path, names: frozenset[str]) -> bytes | None:
    """What to write to a site for its runtime to offer these names, too; None if it does already."""
    try:
        copy = copy_in(path, path.read_bytes())
    except OSError:
        copy = None
    if copy is None:
        return runtime(names)
    missing = not copy.is_newer and not names <= copy.parts
    return runtime(copy.parts | names) if copy.is_outdated or missing else None


def _configured(name: str, settings: Settings) -> Site | Refused:
    *packages, module = name.split(".")
    for root in import_roots(settings):
        folder = root.joinpath(*packages)
        if folder.is_dir():
            return Site(folder / f"{module}.py", name)
    where = " or ".join(str(root) for root in import_roots(settings))
    return Refused(f"[tool.refactor] runtime = {name!r}: there is no folder {'/'.join(packages)} in {where}")


def import_roots(settings: Settings) -> tuple[Path, ...]:
    """Folders that come first on ``sys.path`` when the project is run, as absolute paths."""
    names = settings.src or (("src", ".") if (settings.root / "src").is_dir() else (".",))
    return tuple((settings.root / name).resolve() for name in names)


def _nearest(file: Path, tree: ast.Module) -> Site:
    """The outermost folder of the file's ``__init__.py`` chain, else the file's own folder."""
    packages = list(_packages(file.parent))
    folder = packages[-1] if packages else file.parent
    if _imports_relatively(tree) and not _is_script(tree):
        dots = "." * max(1, len(packages))
        return Site(folder / f"{NAME}.py", f"{dots}{NAME}")
    prefix = f"{folder.name}." if packages else ""
    return Site(folder / f"{NAME}.py", f"{prefix}{NAME}")


def _packages(folder: Path) -> Iterator[Path]:
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        yield folder
        folder = folder.parent


def _imports_relatively(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _is_script(tree: ast.Module) -> bool:
    """Whether the file has an ``if __name__ == "__main__":`` guard."""
    return any(
        isinstance(node, ast.If)
        and any(isinstance(name, ast.Name) and name.id == "__name__" for name in ast.walk(node.test))
        for node in tree.body
    )
