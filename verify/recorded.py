"""From what a program did with its callables to targets: how they were built, and signatures made general."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .process import HERE

Json = dict[str, Any]
START = """\
import importlib.machinery, importlib.util, os, sys
_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != _here]
try:
    _spec = importlib.util.spec_from_file_location("_refactor_recording", {recording!r})
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["_refactor_recording"] = _module
    _spec.loader.exec_module(_module)
    _module.start({settings!r})
except Exception:
    pass  # the program runs as it would without the recording
_next = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
if _next is not None and _next.loader is not None:  # the program's own
    _own = importlib.util.module_from_spec(_next)
    sys.modules["sitecustomize"] = _own
    _next.loader.exec_module(_own)
"""
AXES = ("B", "S", "T", "U", "V", "W")


@dataclass(frozen=True)
class Watched:
    """A callable to be recorded: ``module:qualname``, and the file that defines it."""

    name: str
    entry: str
    file: Path

    def wire(self) -> Json:
        """What the recording needs to know."""
        return {"name": self.name, "file": str(self.file), "qualname": self.entry.partition(":")[2]}


@dataclass(frozen=True)
class Ran:
    """What a run of the user's program gave: its exit code, and rows by the name of the target."""

    code: int
    rows: Mapping[str, Json]


@dataclass
class Made:
    """A target made from a recording: TOML values by key, text of a harness, and what could not be said."""

    values: Json = field(default_factory=dict)
    harness: str = ""
    problems: list[str] = field(default_factory=list)
    calls: int = 0


def run_program(command: Sequence[str], roots: Sequence[str], watched: Iterable[Watched], cwd: Path) -> Ran:
    """Run the user's program with the recording in it. Its output goes to standard error.

    Raises:
        OSError: the program cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="refactor-record-") as name:
        folder = Path(name).resolve()
        start, out = folder / "start", folder / "out"
        for made in (start, out):
            made.mkdir()
        settings = {
            "roots": [os.path.realpath(r) for r in roots],
            "targets": [w.wire() for w in watched],
            "folder": str(out),
        }
        text = START.format(recording=str(HERE / "worker" / "recording.py"), settings=settings)
        (start / "sitecustomize.py").write_text(text, "utf-8")
        path = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": f"{start}{os.pathsep}{path}" if path else str(start)}
        done = subprocess.run(
            list(command), env=environment, cwd=cwd, stdout=sys.stderr.fileno(), check=False
        )
        return Ran(done.returncode, _merged(out))


def _merged(folder: Path) -> dict[str, Json]:
    """The rows of all processes of the program."""
    found: dict[str, Json] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            rows = json.loads(file.read_text("utf-8"))
        except ValueError:
            continue
        for name, row in rows.items():
            kept = found.setdefault(name, {"calls": 0, "signatures": []})
            kept["calls"] += row["calls"]
            kept["signatures"] += row["signatures"]
    return found


def interpreter_of(command: Sequence[str]) -> str | None:
    """The Python a command runs, where its first word is one."""
    if not command or not re.match(r"python[\d.]*(\.exe)?$", Path(command[0]).name):
        return None
    return shutil.which(command[0])


def made_from(row: Json | None, entry: str, label: str) -> Made:
    """A target from what was recorded of one callable.

    Args:
        row: what the run gave, None for nothing.
        entry: ``module:qualname``.
        label: of the target; its harness, if it needs one, is ``harness_LABEL.py``.
    """
    made = Made(calls=row["calls"] if row else 0)
    if not row or not row["signatures"]:
        made.problems.append("the program never called it")
        return made
    groups: dict[str, list[Json]] = {}
    for signature in row["signatures"]:
        groups.setdefault(_structure(signature), []).append(signature)
    chosen = max(groups.values(), key=lambda rows: sum(r["times"] for r in rows))
    if len(groups) > 1:
        others = sum(r["times"] for rows in groups.values() for r in rows if rows is not chosen)
        made.problems.append(f"note: {others} of its calls had another form, and are not covered")
    _inputs(made, chosen)
    _construction(made, chosen[0], entry, label)
    made.values["mode"] = Counter({r["mode"]: r["times"] for r in chosen}).most_common(1)[0][0]
    return made


def _structure(signature: Json) -> str:
    """What must be alike for two calls to be one target: how it was built, names, dtypes and ranks."""

    def inside(found: Any) -> Any:
        if isinstance(found, dict):
            if "t" in found:
                return [found["t"], len(found["shape"])]
            return found["k"] if "v" in found else {k: inside(v) for k, v in found.items()}
        return [inside(v) for v in found] if isinstance(found, list) else found

    built = signature["built"] and {k: v["code"] for k, v in signature["built"]["arguments"].items()}
    return json.dumps([inside(signature["arguments"]), built, signature["mode"]], sort_keys=True)


# -- inputs --------------------------------------------------------------------------------------------
def _inputs(made: Made, signatures: list[Json]) -> None:
    axes = _Axes(len(signatures))
    inputs: Json = {}
    for name in signatures[0]["arguments"]:
        held = [s["arguments"][name] for s in signatures]
        if "object" in held[0] and name in signatures[0]["objects"]:
            continue  # the harness makes it
        try:
            inputs[name] = _spec(held, name, axes)
        except _Unsaid as error:
            made.problems.append(f"its argument {name!r} {error}")
    made.values["inputs"] = inputs
    if axes.dims:
        made.values["dims"] = axes.dims


class _Unsaid(Exception):
    """A value that no specification describes."""


class _Axes:
    """Names for sizes that varied: those that always varied alike share one."""

    def __init__(self, count: int) -> None:
        self.dims: dict[str, list[int]] = {}
        self._known: dict[tuple[int, ...], str] = {}

    def name(self, sizes: tuple[int, ...]) -> str:
        """The number, or the name of a dimension."""
        if len(set(sizes)) == 1:
            return str(sizes[0])
        if sizes not in self._known:
            used = len(self._known)
            self._known[sizes] = AXES[used] if used < len(AXES) else f"D{used}"
            self.dims[self._known[sizes]] = [min(sizes), max(sizes)]
        return self._known[sizes]


def _spec(held: list[Json], path: str, axes: _Axes) -> Any:
    first = held[0]
    if "t" in first:
        dims = [axes.name(tuple(h["shape"][k] for h in held)) for k in range(len(first["shape"]))]
        low = [h["lo"] for h in held if "lo" in h]
        high = [h["hi"] for h in held if "hi" in h]
        bounds = f" in {min(low)}..{max(high)}" if low and high else ""
        return f"{first['t']}[{', '.join(dims)}]{bounds}"
    if "v" in first:
        return _scalar([v for h in held for v in h.get("every", [h["v"]])], first["k"])
    if "dict" in first:
        return {k: _spec([h["dict"][k] for h in held], f"{path}.{k}", axes) for k in first["dict"]}
    if "list" in first:
        return [_spec([h["list"][k] for h in held], f"{path}[{k}]", axes) for k in range(len(first["list"]))]
    raise _Unsaid(
        f"is a {first['object']}; a target takes tensors, numbers, text, lists and dicts: write a harness "
        "that makes it from those"
    )


def _scalar(values: list[Any], kind: str) -> str:
    if kind in ("bool", "none"):
        return kind
    if kind == "str":
        every = sorted(set(values))
        if any(re.search(r"[|?]|^\s|\s$", v) or not v for v in every):
            raise _Unsaid("is text that a target cannot list: write a harness")
        return f"str in {'|'.join(every)}"
    low, high = min(values), max(values)
    return f"{kind} in {low!r}..{high!r}"


# -- construction --------------------------------------------------------------------------------------
def _construction(made: Made, signature: Json, entry: str, label: str) -> None:
    """How the callable is built: a table where TOML can hold it, else a harness."""
    module, _, qualname = entry.partition(":")
    built, objects = signature["built"], signature["objects"]
    owner = signature["owner"]
    is_function = owner is None
    outer, _, last = qualname.rpartition(".")
    # an object of a subclass, or of a class defined elsewhere, is built by the harness
    is_other = owner is not None and (owner[0] != "" or owner[1] not in (qualname, outer))
    if not is_function:
        if built is None:
            made.problems.append("how its object was built was not seen: write a harness")
            return
        for name, reason in built["problems"].items():
            made.problems.append(f"its constructor got {name} = {reason}, which cannot be written down")
        if built["problems"]:
            return
    given = built["arguments"] if built else {}
    if not objects and not is_other and all(v["toml"] is not None and k[0] != "_" for k, v in given.items()):
        if given:
            made.values["init"] = {k: v["toml"][0] for k, v in given.items()}
        return
    imports = [*(built["imports"] if built else []), *(i for o in objects.values() for i in o["imports"])]
    code = ", ".join(v["code"] if k[0] == "_" else f"{k}={v['code']}" for k, v in given.items())
    if is_function:
        imports.append([module, qualname.partition(".")[0]])
        build, called = "", qualname
    else:
        imports.append([owner[0] or module, owner[1].partition(".")[0]])
        build = f"{owner[1]}({code})"
        called = "self.recorded" if owner[0] == "" and owner[1] == qualname else f"self.recorded.{last}"
        called = "self.recorded" if last[:1].isupper() else called
    made.harness = _harness(build, called, objects, imports)
    made.values["harness"] = f"harness_{label}.py"
    made.values["entry"] = f"harness_{label}:Recorded"


def _harness(build: str, called: str, objects: Json, imports: list[list[str]]) -> str:
    """A module whose class ``Recorded`` is built and called as the program did it."""
    lines = sorted({_import(m, n) for m, n in imports if m} - {"import torch"})
    text = [
        '"""Written by `refactor verify -- PROGRAM`: builds and calls a target as the program did."""',
        "",
    ]
    text += ["import torch", *lines, "", ""]
    if any(m == "" for m, _ in imports):
        text += ["def rebuilt(kind, attributes):", "    made = object.__new__(kind)"]
        text += ["    made.__dict__.update(attributes)", "    return made", "", ""]
    text += ["class Recorded(torch.nn.Module):", "    def __init__(self):", "        super().__init__()"]
    text += [f"        self.{name} = {o['code']}" for name, o in objects.items()]
    text += [f"        self.recorded = {build}"] if build else []
    fixed = "".join(f", {name}=self.{name}" for name in objects)
    call = f"return {called}(*args{fixed}, **kwargs)"
    return "\n".join([*text, "", "    def forward(self, *args, **kwargs):", f"        {call}", ""])


def _import(module: str, name: str) -> str:
    return f"from {module} import {name}" if name else f"import {module}"


# -- TOML ----------------------------------------------------------------------------------------------
def table(values: Mapping[str, Any]) -> str:
    """A ``[[target]]`` table."""
    return "[[target]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in values.items())


def toml(value: Any) -> str:
    """One inline value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(k)} = {toml(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
