"""Runs inside the user's own program and notes how chosen callables were built and called.

The program is only watched: ``sys.settrace`` reports calls, arguments are read, nothing is replaced. Whatever
goes wrong here is swallowed, and a program that sets a trace function of its own simply ends the recording.
Standard library only; torch is looked up in ``sys.modules`` once the program has imported it.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import enum
import functools
import inspect
import json
import math
import os
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any

MOST_CALLS = 2000  # of one target that are looked at
MOST_SIGNATURES = 200  # of one target that are kept apart
MOST_BUILT = 2000  # objects whose construction is remembered
MOST_TEXT = 4000  # characters of an expression
DEPTH = 8
Json = dict[str, Any]


class NoExpression(Exception):
    """A value that no expression rebuilds; the message names its type."""


class Recorder:
    """Watches calls; ``targets`` are dicts with ``name``, ``file`` (real path) and ``qualname``."""

    def __init__(self, roots: list[str], targets: list[Json], folder: str) -> None:
        self.roots, self.folder = roots, folder  # real paths; the last is that of the whole tree
        self.root = roots[-1] + os.sep
        self.functions: dict[tuple[str, str], Json] = {}
        self.owners: dict[tuple[str, str], list[tuple[str, Json]]] = {}
        for target in targets:
            outer, _, last = target["qualname"].rpartition(".")
            self.functions[(target["file"], target["qualname"])] = target
            self.owners.setdefault((target["file"], target["qualname"]), []).append(("forward", target))
            self.owners.setdefault((target["file"], target["qualname"]), []).append(("__call__", target))
            if outer:
                self.owners.setdefault((target["file"], outer), []).append((last, target))
        self.names = {n for found in self.owners.values() for n, _ in found}
        self.names |= {qualname.rpartition(".")[2] for _, qualname in self.functions}
        self.kinds: dict[int, tuple[types.CodeType, str]] = {}
        self.types: dict[type, tuple[str, str]] = {}
        self.built: dict[int, tuple[type, Json]] = {}
        self.seen: dict[str, Json] = {t["name"]: {"calls": 0, "signatures": {}} for t in targets}
        self.lock = threading.Lock()

    def trace(self, frame: types.FrameType, event: str, arg: object) -> None:
        """What ``sys.settrace`` calls for every call of a Python function."""
        code = frame.f_code
        known = self.kinds.get(id(code))
        if known is None:
            known = self.kinds[id(code)] = (code, self._kind(code))
        if known[1] and event == "call":
            with contextlib.suppress(Exception):
                self._building(frame) if known[1] == "build" else self._calling(frame)

    def _kind(self, code: types.CodeType) -> str:
        if not code.co_flags & inspect.CO_OPTIMIZED:
            return ""  # the body of a class or module
        if code.co_name == "__init__":
            return "build" if self._is_ours(code.co_filename) else ""
        return "call" if code.co_name in self.names else ""

    def _is_ours(self, file: str) -> bool:
        """Whether a file of code belongs to the program, not to an environment inside its folder."""
        if file.startswith("<") or "site-packages" in file:
            return False
        return os.path.realpath(file).startswith(self.root)

    def place_of(self, kind: type) -> tuple[str, str]:
        """Real path of the file that defines a class, and its qualified name."""
        if kind not in self.types:
            module = sys.modules.get(kind.__module__)
            self.types[kind] = (os.path.realpath(getattr(module, "__file__", None) or ""), kind.__qualname__)
        return self.types[kind]

    # -- construction ---------------------------------------------------------------------------------------
    def _building(self, frame: types.FrameType) -> None:
        given = arguments(frame)
        owner = next(iter(given.values()))
        kind = type(owner)
        known = self.built.get(id(owner))
        if known is not None and known[0] is kind and _running(frame.f_back, owner):
            return  # the constructor of a base class
        if len(self.built) >= MOST_BUILT and self.place_of(kind) not in self.owners:
            return
        rest = dict(list(given.items())[1:])
        made: Json = {"arguments": {}, "problems": {}, "imports": []}
        for name, value in rest.items():
            if name in defaults(frame) and same(defaults(frame)[name], value):
                continue
            try:
                expression = Expression(self)
                made["arguments"][name] = {"code": expression.of(value), "toml": plain(value)}
                made["imports"] += expression.imports
            except NoExpression as error:
                made["problems"][name] = str(error)
        stars = [name for name in rest if name[0] == "_" and name[1:].isdigit()]
        if stars and len(stars) < len(rest):
            made["problems"][stars[0]] = "a further positional argument"
        self.built[id(owner)] = (kind, made)

    # -- calls ----------------------------------------------------------------------------------------------
    def _calling(self, frame: types.FrameType) -> None:
        name = frame.f_code.co_name
        given = arguments(frame)
        first = next(iter(given.values()), None) if given else None
        target: Json | None = None
        owner: Any = None
        for kind in type(first).__mro__ if first is not None else ():
            for method, wanted in self.owners.get(self.place_of(kind), ()):
                if method == name and not (name == "__call__" and hasattr(kind, "forward")):
                    target, owner = wanted, first
                    break
            if target is not None:
                break
        if target is not None:
            given = dict(list(given.items())[1:])
        else:
            file = os.path.realpath(frame.f_code.co_filename)
            target = self.functions.get((file, getattr(frame.f_code, "co_qualname", name)))
        if target is None or self.seen[target["name"]]["calls"] >= MOST_CALLS:
            return
        self._note(target, owner, given, defaults(frame))

    def _note(self, target: Json, owner: Any, given: dict[str, Any], usual: dict[str, Any]) -> None:
        seen = self.seen[target["name"]]
        made = self._made(owner)
        described, objects = {}, {}
        for name, value in given.items():
            if name in usual and same(usual[name], value):
                continue
            described[name] = describe(value, seen["calls"] < 200)
            if "object" in described[name]:
                with contextlib.suppress(NoExpression):
                    expression = Expression(self)
                    objects[name] = {"code": expression.of(value), "imports": expression.imports}
        row: Json = {"arguments": described, "built": made, "mode": mode_of(owner), "objects": objects}
        row["owner"] = self._owner(owner, target)
        key = json.dumps(bare(row), sort_keys=True)
        with self.lock:
            seen["calls"] += 1
            signatures = seen["signatures"]
            if key in signatures:
                signatures[key]["times"] += 1
                widen(signatures[key]["arguments"], described)
            elif len(signatures) < MOST_SIGNATURES:
                signatures[key] = {**row, "times": 1}
                self.write()

    def _made(self, owner: Any) -> Json | None:
        known = self.built.get(id(owner)) if owner is not None else None
        if owner is None or known is None or known[0] is not type(owner):
            return None
        file, qualname = self.place_of(type(owner))
        return {**known[1], "class": qualname, "file": file}

    def _owner(self, owner: Any, target: Json) -> list[str] | None:
        """Module and qualified name of an object's class; "" for the module of the target itself."""
        if owner is None:
            return None
        file, qualname = self.place_of(type(owner))
        return ["" if file == target["file"] else type(owner).__module__, qualname]

    def write(self) -> None:
        """Keep what is known by now: a program may end in any way."""
        rows = {
            name: {"calls": s["calls"], "signatures": list(s["signatures"].values())}
            for name, s in self.seen.items()
        }
        path = os.path.join(self.folder, f"{os.getpid()}.json")
        with contextlib.suppress(OSError):
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                json.dump(rows, file)
            os.replace(f"{path}.new", path)


def arguments(frame: types.FrameType) -> dict[str, Any]:
    """The arguments of the call a frame was made for, bound to their names; ``_0`` … for ``*args``."""
    code, held = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount
    given = {name: held[name] for name in code.co_varnames[:count] if name in held}
    rest = iter(code.co_varnames[count:])
    if code.co_flags & inspect.CO_VARARGS:
        given |= {f"_{i}": v for i, v in enumerate(held.get(next(rest), ()))}
    if code.co_flags & inspect.CO_VARKEYWORDS:
        given |= held.get(next(rest), {})
    return given


def defaults(frame: types.FrameType) -> dict[str, Any]:
    """Default values of the function a frame runs, found through what refers to its code."""
    import gc

    code = frame.f_code
    if code not in _DEFAULTS:
        found: dict[str, Any] = {}
        for function in gc.get_referrers(code):
            if isinstance(function, types.FunctionType):
                names = code.co_varnames[: code.co_argcount]
                values = function.__defaults__ or ()
                found = dict(zip(names[len(names) - len(values) :], values, strict=False))
                found |= function.__kwdefaults__ or {}
        _DEFAULTS[code] = found
    return _DEFAULTS[code]


_DEFAULTS: dict[types.CodeType, dict[str, Any]] = {}


def _running(frame: types.FrameType | None, owner: object) -> bool:
    """Whether a constructor of the same object is at work further up."""
    for _ in range(8):
        if frame is None:
            return False
        code = frame.f_code
        is_constructor = code.co_name == "__init__" and code.co_argcount
        if is_constructor and frame.f_locals.get(code.co_varnames[0]) is owner:
            return True
        frame = frame.f_back
    return False


def same(a: Any, b: Any) -> bool:
    """Whether a value is a default: the object itself, or an equal number or text."""
    return a is b or (type(a) is type(b) and isinstance(a, (int, float, str, tuple)) and a == b)


def mode_of(owner: Any) -> str:
    """The mode a target has to be verified in: train, eval or inference."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "inference"
    training = bool(getattr(owner, "training", False))
    if torch.is_grad_enabled() and training:
        return "train"
    return "eval" if torch.is_grad_enabled() and owner is not None else "inference"


def describe(value: Any, look: bool, depth: int = 0) -> Json:
    """A value as a signature: dtype and shape of a tensor with the range of its integers, or a number."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        found: Json = {"t": str(value.dtype).removeprefix("torch."), "shape": [int(n) for n in value.shape]}
        found["device"] = value.device.type
        integer = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
        if (
            integer
            and look
            and value.numel()
            and not (value.is_cuda and torch.cuda.is_current_stream_capturing())
        ):
            with contextlib.suppress(Exception), torch.no_grad():
                low, high = torch.aminmax(value.detach())
                found |= {"lo": int(low), "hi": int(high)}
        return found
    if value is None or type(value) in PLAIN:
        return {
            "v": value if not isinstance(value, float) or math.isfinite(value) else 0.0,
            "k": _kind(value),
        }
    if depth < DEPTH and isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {"dict": {k: describe(v, look, depth + 1) for k, v in value.items()}}
    if depth < DEPTH and type(value) in (list, tuple) and len(value) <= 64:
        return {"list": [describe(v, look, depth + 1) for v in value]}
    return {"object": f"{type(value).__module__}.{type(value).__qualname__}"}


PLAIN = (bool, int, float, str)


def _kind(value: Any) -> str:
    return "none" if value is None else type(value).__name__


def bare(row: Json) -> Json:
    """A signature without the values and ranges: what tells two of them apart."""

    def inside(found: Any) -> Any:
        if isinstance(found, dict):
            if "t" in found or "v" in found:
                return {k: v for k, v in found.items() if k in ("t", "shape", "k")}
            return {k: inside(v) for k, v in found.items()}
        return [inside(v) for v in found] if isinstance(found, list) else found

    return {**row, "arguments": inside(row["arguments"])}


def widen(known: Any, other: Any) -> None:
    """Take the ranges of another call of the same signature into a known one."""
    if isinstance(known, list):
        for a, b in zip(known, other, strict=False):
            widen(a, b)
    elif isinstance(known, dict) and ("t" in known or "v" in known):
        for key, choose in (("lo", min), ("hi", max)):
            values = [d[key] for d in (known, other) if key in d]
            if values:
                known[key] = choose(values)
        if "v" in known and other.get("v") != known["v"]:
            every = known.setdefault("every", [known["v"]])
            if other["v"] not in every and len(every) < 64:
                every.append(other["v"])
    elif isinstance(known, dict):
        for key, value in known.items():
            widen(value, other[key])


def plain(value: Any) -> Any:
    """The value as TOML can hold it, in a list of one; None if it cannot."""
    if isinstance(value, (bool, int, str)) and type(value) in PLAIN:
        return [value]
    if type(value) is float and math.isfinite(value):
        return [value]
    if type(value) is list:
        items = [plain(v) for v in value]
        return None if None in items else [[i[0] for i in items]]
    if type(value) is dict and all(type(k) is str for k in value):
        table = {k: plain(v) for k, v in value.items()}
        return None if None in table.values() else [{k: v[0] for k, v in table.items()}]
    return None


class Expression:
    """Python source that rebuilds a value, with the imports it needs: ``[module, name]``."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.imports: list[list[str]] = []

    def of(self, value: Any, depth: int = 0) -> str:
        """The source. Raises NoExpression."""
        text = self._of(value, depth)
        if len(text) > MOST_TEXT:
            raise NoExpression(f"{_name(type(value))} is too large to be written down")
        return text

    def _of(self, value: Any, depth: int) -> str:
        torch = sys.modules.get("torch")
        if depth > DEPTH:
            raise NoExpression(f"{_name(type(value))} is nested too deeply")
        kind = type(value)
        if value is None or value is Ellipsis or kind in (bool, int, str, bytes):
            return repr(value)
        if kind is float:
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        if kind in (list, tuple, set, frozenset, dict):
            return self._container(value, kind, depth)
        if isinstance(value, enum.Enum):
            return f"{self._import(kind)}[{value.name!r}]"
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return self._import(value)
        if torch is not None and isinstance(value, (torch.dtype, torch.Size, torch.device, torch.Tensor)):
            return self._torch(value, torch)
        if isinstance(value, functools.partial):
            parts = [self.of(a, depth + 1) for a in value.args]
            parts += [f"{k}={self.of(v, depth + 1)}" for k, v in value.keywords.items()]
            self.imports.append(["functools", "partial"])
            return f"partial({', '.join([self.of(value.func, depth + 1), *parts])})"
        return self._object(value, kind, depth)

    def _container(self, value: Any, kind: type, depth: int) -> str:
        if kind is dict:
            pairs = (f"{self.of(k, depth + 1)}: {self.of(v, depth + 1)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        items = [self.of(v, depth + 1) for v in value]
        if kind is tuple:
            return f"({', '.join(items)}{',' * (len(items) == 1)})"
        return f"[{', '.join(items)}]" if kind is list else f"{kind.__name__}([{', '.join(items)}])"

    def _torch(self, value: Any, torch: Any) -> str:
        self.imports.append(["torch", ""])
        if isinstance(value, torch.dtype):
            return str(value)
        if isinstance(value, torch.device):
            return f"torch.device({str(value)!r})"
        if isinstance(value, torch.Size):
            return f"torch.Size({list(value)})"
        if type(value) is not torch.Tensor or value.numel() > 64 or value.is_complex():
            raise NoExpression(f"a {type(value).__name__} of {value.numel()} elements")
        where = f", device={value.device.type!r}" if value.device.type != "cpu" else ""
        items = self.of(value.detach().cpu().tolist(), 1)
        return f"torch.tensor({items}, dtype={value.dtype}{where})"

    def _object(self, value: Any, kind: type, depth: int) -> str:
        known = self.recorder.built.get(id(value))
        if known is not None and known[0] is kind and not known[1]["problems"]:
            self.imports += known[1]["imports"]
            given = ", ".join(f"{k}={v['code']}" for k, v in known[1]["arguments"].items() if k[0] != "_")
            return f"{self._import(kind)}({given})"
        fields: dict[str, Any] | None = None
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            fields = value._asdict()
        elif isinstance(value, types.SimpleNamespace) or kind.__module__ == "argparse":
            fields = vars(value)
        if fields is not None:
            given = ", ".join(f"{k}={self.of(v, depth + 1)}" for k, v in fields.items())
            return f"{self._import(kind)}({given})"
        if callable(getattr(value, "to_dict", None)) and callable(getattr(kind, "from_dict", None)):
            return f"{self._import(kind)}.from_dict({self.of(value.to_dict(), depth + 1)})"
        if rebuildable(kind) and type(getattr(value, "__dict__", None)) is dict:
            self.imports.append(["", "rebuilt"])
            return f"rebuilt({self._import(kind)}, {self.of(dict(vars(value)), depth + 1)})"
        raise NoExpression(_name(kind))

    def _import(self, value: Any) -> str:
        """The name of a class or function after an import of it."""
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if module == "builtins":
            return str(qualname)
        if not module or "<" in qualname:
            raise NoExpression(f"{qualname or type(value).__name__} has no name to import it by")
        if module == "__main__":
            module = self._main(qualname)
        self.imports.append([module, qualname.partition(".")[0]])
        return str(qualname)

    def _main(self, qualname: str) -> str:
        """The name under which the script itself can be imported. Raises NoExpression."""
        file = os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "")
        for root in self.recorder.roots:
            if file.startswith(root + os.sep):
                with open(file, encoding="utf-8") as source:
                    if "__main__" in source.read():
                        return file[len(root) + 1 : -3].replace(os.sep, ".")
                raise NoExpression(f"{qualname}, whose script runs when it is imported (no __main__ guard)")
        raise NoExpression(f"{qualname}, whose script is outside the project")


def rebuildable(kind: type) -> bool:
    """Whether objects of a class are their attributes and nothing else; modules keep tensors in them."""
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(kind, torch.nn.Module):
        return False
    same_as: Any = object
    is_plain = kind.__new__ is same_as.__new__ and kind.__reduce_ex__ is same_as.__reduce_ex__
    return is_plain and not any("__slots__" in vars(k) for k in kind.__mro__)


def _name(kind: type) -> str:
    return f"a {kind.__module__}.{kind.__qualname__}"


def start(settings: Json) -> None:
    """Watch this process and its threads from now on."""
    recorder = Recorder(settings["roots"], settings["targets"], settings["folder"])
    atexit.register(recorder.write)
    threading.settrace(recorder.trace)  # no local trace function is wanted
    sys.settrace(recorder.trace)
