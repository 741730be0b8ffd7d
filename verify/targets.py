"""Targets: what to build and what to call it with. Read from TOML; messages name file and line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .spec import Blank, DictSpec, ListSpec, Spec, SpecError, TensorSpec, names, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_VARY = (
    "shapes", "values", "arguments", "aliasing", "kept outputs", "mutation", "train/eval", "rebinding",
    "reseeding", "instances", "exceptions",
)  # fmt: skip
OPT_IN_VARY = ("autocast", "grad", "strides", "deepcopy", "threads", "attributes")
RUNS = "runs"  # whole runs of a program and nothing else
MODES = ("inference", "eval", "train")
KEYS = ("name", "entry", "factory", "init", "inputs", "dims", "mode", "device", "grad", "vary", "harness")


class TargetError(Exception):
    """A targets file or target that cannot be used; the message starts with FILE:LINE."""


@dataclass(frozen=True)
class Target:
    """One callable to verify, as its specification says."""

    name: str
    entry: str
    inputs: tuple[tuple[str, Spec], ...]
    dims: tuple[tuple[str, tuple[int, int]], ...] = ()
    factory: bool = False
    init: tuple[tuple[str, Any], ...] = ()
    mode: str = "inference"
    device: str = "cuda"
    grad: tuple[str, ...] = ()
    vary: tuple[str, ...] = DEFAULT_VARY
    harness: str | None = None
    place: str = ""  # FILE:LINE of its table

    def wire(self) -> dict[str, Any]:
        """What the workers need to know."""
        return {"entry": self.entry, "init": dict(self.init), "factory": self.factory, "mode": self.mode}


@dataclass(frozen=True)
class Unfinished:
    """A target with blanks (``?``) that someone has to fill in."""

    name: str
    blanks: tuple[str, ...]
    place: str  # FILE:LINE of the first blank

    @property
    def message(self) -> str:
        """What is to be done, with its place."""
        return f"{self.place}: target {self.name!r}: {self.reason}"

    @property
    def reason(self) -> str:
        """What is to be done."""
        return f"fill in the blanks ('?') first: {', '.join(self.blanks)}"


def load(file: Path) -> list[Target]:
    """Every target of a file; raises TargetError for the first thing that is wrong, blanks included."""
    targets, unfinished = load_all(file)
    if unfinished:
        raise TargetError(unfinished[0].message)
    return targets


def load_all(file: Path) -> tuple[list[Target], list[Unfinished]]:
    """Complete and incomplete targets of a file; raises TargetError for the first thing that is wrong."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TargetError(f"{file}: cannot be read: {reason}") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise TargetError(f"{file}:{line[1] if line else 1}: not valid TOML: {error}") from error
    tables = (
        data.get("tool", {}).get("refactor", {}).get("target")
        if file.name == "pyproject.toml"
        else data.get("target")
    )
    if not isinstance(tables, list) or not all(isinstance(t, Mapping) for t in tables) or not tables:
        raise TargetError(f"{file}:1: no [[target]] in it")
    places = _Places(file, text)
    read = [_target(table, number, places) for number, table in enumerate(tables)]
    doubled = {t.name for t in read if sum(u.name == t.name for u in read) > 1}
    if doubled:
        raise TargetError(f"{file}:1: two targets are called {sorted(doubled)[0]!r}")
    return [t for t in read if isinstance(t, Target)], [t for t in read if isinstance(t, Unfinished)]


class _Places:
    """Line numbers of tables and keys: the TOML reader keeps none."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.starts = [
            i for i, line in enumerate(self.lines) if re.match(r"\s*\[\[(tool\.refactor\.)?target\]\]", line)
        ]

    def of(self, number: int, *keys: str) -> str:
        start = self.starts[number] if number < len(self.starts) else 0
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.lines)
        line = start
        for key in keys:
            pattern = re.compile(rf"(^|[\s{{,\[.\"'])[\"']?{re.escape(key)}[\"']?\s*(=|\])")
            line = next((i for i in range(line, end) if pattern.search(self.lines[i])), line)
        return f"{self.file}:{line + 1}"


def _target(table: Mapping[str, Any], number: int, places: _Places) -> Target | Unfinished:
    label = str(table.get("name") or f"target {number + 1}")

    def wrong(text: str, *keys: str) -> TargetError:
        return TargetError(f"{places.of(number, *keys)}: target {label!r}: {text}")

    for key in table:
        if key not in KEYS:
            raise wrong(f"unknown key {key!r}; the keys are {', '.join(KEYS)}", key)
    blanks = [k for k, v in table.items() if _blank(v) and k not in ("inputs",)]
    blanks += [f"inputs.{k}" for k, v in (table.get("inputs") or {}).items() if _blank(v)]
    if blanks:
        return Unfinished(label, tuple(blanks), places.of(number, *blanks[0].split(".")))
    entry = table.get("entry")
    if not isinstance(entry, str) or not re.match(r"^[\w.]+:[\w.]+$", entry):
        raise wrong(
            'entry is missing or not "module:qualname"'
            if entry is None
            else f'entry {entry!r} is not "module:qualname"',
            "entry",
        )
    mode = table.get("mode", "inference")
    if mode not in MODES:
        raise wrong(f"mode is one of {', '.join(MODES)}, not {mode!r}", "mode")
    device = table.get("device", "cuda")
    if device not in ("cuda", "cpu"):
        raise wrong(f'device is "cuda" or "cpu", not {device!r}', "device")
    dims = _dims(table.get("dims", {}), wrong)
    inputs = _inputs(table.get("inputs", {}), dims, wrong)
    for key, kind in (("init", Mapping), ("factory", bool), ("grad", list), ("harness", str)):
        if key in table and not isinstance(table[key], kind):
            raise wrong(f"{key} has the wrong type: {table[key]!r}", key)
    harness = table.get("harness")
    if harness is not None and not (places.file.parent / harness).is_file():
        raise wrong(f"the harness {harness!r} is not beside {places.file.name}", "harness")
    for name in table.get("grad", []):
        if name not in dict(inputs):
            raise wrong(f"grad names {name!r}, which is no input", "grad")
    return Target(
        name=label,
        entry=entry,
        inputs=inputs,
        dims=tuple(dims.items()),
        factory=bool(table.get("factory", False)),
        init=tuple(table.get("init", {}).items()),
        mode=mode,
        device=device,
        grad=tuple(table.get("grad", [])),
        vary=_vary(table.get("vary"), wrong),
        harness=str((places.file.parent / harness).resolve()) if harness else None,
        place=places.of(number),
    )


def _blank(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_blank(v) for v in value.values())
    if isinstance(value, list):
        return any(_blank(v) for v in value)
    return isinstance(value, str) and "?" in value


def _dims(table: Any, wrong: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(table, Mapping):
        raise wrong(f"dims is a table of names, not {table!r}", "dims")
    dims: dict[str, tuple[int, int]] = {}
    for name, value in table.items():
        pair = [value, value] if isinstance(value, int) else value
        ok = (
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(v, int) and not isinstance(v, bool) for v in pair)
        )
        if not ok or not 0 <= pair[0] <= pair[1]:
            raise wrong(f"dims.{name} is a number or [LOW, HIGH], not {value!r}", "dims", name)
        dims[name] = (pair[0], pair[1])
    return dims


def _inputs(table: Any, dims: Mapping[str, Any], wrong: Any) -> tuple[tuple[str, Spec], ...]:
    if not isinstance(table, Mapping):
        raise wrong(f"inputs is a table of names, not {table!r}", "inputs")
    inputs = []
    for name, value in table.items():
        try:
            spec = parse(value, f"inputs.{name}")
        except Blank as error:
            raise wrong(f"fill in the blanks ('?') first: {error}", "inputs", name) from error
        except SpecError as error:
            raise wrong(str(error), "inputs", name) from error
        for used in names(spec):
            if used not in dims:
                raise wrong(
                    f"inputs.{name} uses the dimension {used!r}, which dims does not give", "inputs", name
                )
        inputs.append((name, spec))
    return tuple(inputs)


def _vary(value: Any, wrong: Any) -> tuple[str, ...]:
    """Operations a sequence may use: the list given; a list of opt-in ones alone is added to the default.

    ``["runs"]``: each call is a whole run of a program, and one or two of them are a sequence.
    """
    if value is None:
        return DEFAULT_VARY
    if value == [RUNS]:
        return (RUNS,)
    if not isinstance(value, list):
        raise wrong(f"vary is a list, not {value!r}", "vary")
    plain = {re.sub(r"[^a-z]", "", known): known for known in (*DEFAULT_VARY, *OPT_IN_VARY)}
    plain |= {
        "outputs": "kept outputs",
        "kept": "kept outputs",
        "keptoutput": "kept outputs",
        "modes": "train/eval",
    }
    plain |= {
        "rebind": "rebinding",
        "reseed": "reseeding",
        "aliases": "aliasing",
        "thread": "threads",
        "mode": "train/eval",
        "attribute": "attributes",
    }
    chosen = []
    for item in value:
        key = re.sub(r"[^a-z]", "", str(item).lower())
        if key not in plain:
            raise wrong(
                f"vary does not know {item!r}; it knows {', '.join((*DEFAULT_VARY, *OPT_IN_VARY))}", "vary"
            )
        chosen.append(plain[key])
    if chosen and all(c in OPT_IN_VARY for c in chosen):
        return (*DEFAULT_VARY, *chosen)
    return tuple(dict.fromkeys(chosen))


def tensor_names(specs: Sequence[tuple[str, Spec]]) -> list[tuple[str, TensorSpec]]:
    """Top-level tensor arguments."""
    return [(name, spec) for name, spec in specs if isinstance(spec, TensorSpec)]


def every_tensor(spec: Spec) -> list[TensorSpec]:
    """All tensors in a specification, nested ones included."""
    if isinstance(spec, TensorSpec):
        return [spec]
    if isinstance(spec, DictSpec):
        return [t for _, inner in spec.items for t in every_tensor(inner)]
    if isinstance(spec, ListSpec):
        return [t for inner in spec.items for t in every_tensor(inner)]
    return []
