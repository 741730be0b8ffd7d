"""Settings of one run: ``[tool.refactor]`` of the nearest ``pyproject.toml``, with the command line on top.

The project's root is the folder of that file, else the one with ``.git``, else the working directory; the
journal, drafts and paths of the configuration are relative to it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(Exception):
    """The configuration cannot be used; ``line`` is 1 where the place is unknown."""

    def __init__(self, file: Path | None, line: int, message: str) -> None:
        super().__init__(message)
        self.file, self.line, self.message = file, line, message

    def __str__(self) -> str:
        """``file:line: message``, as every other message of the tool."""
        return f"{self.file}:{self.line}: {self.message}" if self.file else self.message


@dataclass(frozen=True)
class Settings:
    """What `check` and `apply` go by. Frozen, so that it can be sent to worker processes."""

    root: Path
    file: Path | None = None
    """The ``pyproject.toml`` the values come from."""
    select: tuple[str, ...] = ()
    """Codes, prefixes of codes or names of rules; empty: all."""
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """``(pattern as in .gitignore relative to the root, codes)``."""
    exclude: tuple[str, ...] = ()
    """Patterns as in ``.gitignore``, relative to the root, on top of `discovery.EXCLUDED`."""
    src: tuple[str, ...] = ()
    """Import roots relative to the root; the default is ``src`` where it exists, and ``.``."""
    regions: tuple[str, ...] = ()
    """``module:qualname`` patterns (``*``, ``?``) of functions that are regions besides those found; with a
    leading ``!`` of regions that are none: what is found in them is left out."""
    baseline: str | None = None
    runtime: str | None = None
    """Dotted name of the vendored runtime module; None: chosen for each edited file."""
    target: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Tables of ``[[tool.refactor.target]]``, as the verifier reads them."""

    def shown(self) -> str:
        """The settings as TOML, for ``--show-settings``."""
        rows = [f"# root: {self.root}", f"# configuration: {self.file or 'none'}", "[tool.refactor]"]
        for key, name in _KEYS.items():
            value = getattr(self, name)
            if key == "per-file-ignores":
                pairs = ", ".join(f"{_toml(pattern)} = {_toml(codes)}" for pattern, codes in value)
                rows.append(f"{key} = {{ {pairs} }}" if pairs else f"{key} = {{}}")
            elif key == "target":
                rows.append(f"# {key}: {len(value)} in this file")
            elif value is None:
                rows.append(f"# {key} is not set")
            else:
                rows.append(f"{key} = {_toml(value)}")
        return "\n".join(rows) + "\n"


_KEYS = {
    "select": "select",
    "extend-select": "extend_select",
    "ignore": "ignore",
    "per-file-ignores": "per_file_ignores",
    "exclude": "exclude",
    "src": "src",
    "regions": "regions",
    "baseline": "baseline",
    "runtime": "runtime",
    "target": "target",
}


def _toml(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def load_settings(start: Path) -> Settings:
    """Settings for a run in folder ``start``.

    Raises:
        ConfigError: a ``pyproject.toml`` on the way up does not parse, or ``[tool.refactor]`` has an unknown
            key or a value of the wrong type.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        try:
            data = file.read_bytes()
        except OSError:
            continue
        table = _table(file, data)
        if table is not None:
            return _settings(file, data.decode("utf-8"), table)
    marked = next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), start)
    return Settings(root=marked)


def _table(file: Path, data: bytes) -> Mapping[str, Any] | None:
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(file, data[: error.start].count(b"\n") + 1, "is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+)", str(error))
        raise ConfigError(file, int(place.group(1)) if place else 1, f"is not TOML: {error}") from None
    tool = document.get("tool")
    table = tool.get("refactor") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(file, 1, "tool.refactor must be a table")
    return table


def _settings(file: Path, text: str, table: Mapping[str, Any]) -> Settings:
    values: dict[str, Any] = {}
    for key, value in table.items():
        name, reader = _KEYS.get(key), _READERS.get(key, _strings)
        if name is None:
            known = ", ".join(_KEYS)
            raise ConfigError(file, _line(text, key), f"[tool.refactor] has no key {key!r}; it has {known}")
        try:
            values[name] = reader(value)
        except TypeError as error:
            raise ConfigError(file, _line(text, key), f"[tool.refactor] {key} must be {error}") from None
    return Settings(root=file.parent, file=file, **values)


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("an array of strings")
    return tuple(value)


def _regions(value: object) -> tuple[str, ...]:
    patterns = _strings(value)
    if not all(re.fullmatch(r"!?[^:!]+:[^:]+", pattern) for pattern in patterns):
        raise TypeError('an array of patterns "module:qualname", or "!module:qualname" to leave regions out')
    return patterns


def _string(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a string")
    return value


def _module(value: object) -> str:
    name = _string(value)
    if not all(part.isidentifier() for part in name.split(".")):
        raise TypeError('the dotted name of a module, such as "package.cuda_graphs"')
    return name


def _tables(value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TypeError("an array of tables: [[tool.refactor.target]]")
    return tuple(value)


def _ignores(value: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    message = "a table from file patterns to arrays of codes"
    if not isinstance(value, dict):
        raise TypeError(message)
    try:
        return tuple((pattern, _strings(codes)) for pattern, codes in value.items())
    except TypeError:
        raise TypeError(message) from None


_READERS: dict[str, Callable[[object], Any]] = {
    "per-file-ignores": _ignores,
    "regions": _regions,
    "baseline": _string,
    "runtime": _module,
    "target": _tables,
}


def _line(text: str, key: str) -> int:
    """Line of a key of ``[tool.refactor]``: the parser of the standard library keeps no positions."""
    header = re.compile(r"\s*\[+\s*tool\s*\.\s*refactor\b(.*)")
    entry = re.compile(rf"""\s*(?:tool\s*\.\s*refactor\s*\.\s*)?["']?{re.escape(key)}["']?\s*[.=]""")
    inside, first = False, 1
    for number, row in enumerate(text.splitlines(), 1):
        found = header.match(row)
        if found:
            inside, first = True, number if first == 1 else first
            if re.match(rf"""\s*\.\s*["']?{re.escape(key)}["']?\s*[\].]""", found.group(1)):
                return number
        elif row.lstrip().startswith("["):
            inside = False
        elif (inside or "refactor" in row) and entry.match(row):
            return number
    return first


def overridden(
    settings: Settings,
    *,
    select: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Settings:
    """Settings with the options of the command line: ``--select`` replaces, the others add."""
    return replace(
        settings,
        select=tuple(select) or settings.select,
        extend_select=(*settings.extend_select, *extend_select),
        ignore=(*settings.ignore, *ignore),
    )


def check_codes(settings: Settings, known: Iterable[tuple[str, str]]) -> None:
    """Every selector must match a rule.

    Args:
        settings: what to look at.
        known: ``(code, name)`` of every rule.

    Raises:
        ConfigError: a selector that matches no rule.
    """
    pairs = tuple(known)
    selectors = {
        "select": settings.select,
        "extend-select": settings.extend_select,
        "ignore": settings.ignore,
        "per-file-ignores": tuple(code for _, codes in settings.per_file_ignores for code in codes),
    }
    for key, codes in selectors.items():
        for selector in codes:
            if not any(match_length(selector, code, name) for code, name in pairs):
                file = settings.file
                line = _line(file.read_text("utf-8"), key) if file else 1
                message = f"{key}: no rule is called {selector!r}; `refactor rule` lists them"
                raise ConfigError(
                    file if file and selector in file.read_text("utf-8") else None, line, message
                )


def match_length(selector: str, code: str, name: str) -> int:
    """How specifically a selector names a rule: 0 not at all, more for longer prefixes and full names."""
    if selector.upper() == "ALL":
        return 1
    if selector in (name, code):
        return 100
    prefix = selector.upper()
    return 1 + len(prefix) if re.fullmatch(r"CG\d*", prefix) and code.startswith(prefix) else 0


def is_selected(settings: Settings, code: str, name: str) -> bool:
    """Whether a rule is on: of the selectors that name it the most specific decides, ``ignore`` in a tie."""
    chosen = (*(settings.select or ("ALL",)), *settings.extend_select)
    on = max((match_length(selector, code, name) for selector in chosen), default=0)
    off = max((match_length(selector, code, name) for selector in settings.ignore), default=0)
    return on > off
