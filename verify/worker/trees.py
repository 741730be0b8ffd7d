"""Import one tree, build the target in it, and tell which of its modules were really loaded."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import random
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from .building import LARGE, Draws

RELOAD_LIMIT = 300_000  # bytes of source; a tree of which less is loaded is imported anew for every sequence


class LoadError(Exception):
    """The target cannot be built; the message is for the user, with the place in his code."""


@dataclass(frozen=True)
class Subject:
    """One built target: what is called, and the object whose state is observed (None for plain functions)."""

    call: Callable[..., Any]
    owner: Any
    module: ModuleType

    @property
    def network(self) -> nn.Module | None:
        """The owner, if it is a module."""
        return self.owner if isinstance(self.owner, nn.Module) else None


def place(error: BaseException, root: Path) -> str:
    """``FILE:LINE: Type: message`` with the innermost line of the user's tree, where there is one."""
    text = f"{type(error).__name__}: {error}".strip().splitlines() or [type(error).__name__]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_relative(error.filename, root)}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if under(f.filename, root)]
    return f"{_relative(frames[-1].filename, root)}:{frames[-1].lineno}: {text[0]}" if frames else text[0]


def _relative(file: str, root: Path) -> str:
    return str(Path(file).relative_to(root)) if under(file, root) else file


def under(file: str | None, root: Path) -> bool:
    """Whether a module file belongs to the tree: below its root, but not in an environment inside it."""
    if not file or not file.startswith(f"{root}{os.sep}".replace(os.sep * 2, os.sep)):
        return False
    inner = file[len(str(root)) :]
    return "site-packages" not in inner and "dist-packages" not in inner


class Tree:
    """One import of one tree. ``roots`` come first on sys.path, the harness is loaded by path."""

    def __init__(self, root: str, roots: list[str], harness: str | None) -> None:
        self.root = Path(root)
        self.harness = Path(harness) if harness else None
        self.roots = roots
        self._foreign: set[str] = set()  # modules of others, which need not be looked at again
        sys.path[:0] = roots
        self.reload = True

    def module(self, name: str) -> ModuleType:
        """Import the module a target names; raises LoadError with the place of the failure."""
        if self.harness is not None and name == self.harness.stem:
            return self._load_harness(self.harness)
        if self.harness is not None:
            self._load_harness(self.harness)
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                where = ", ".join(self.roots)
                raise LoadError(f"there is no module {name!r} in {where}") from error
            raise LoadError(place(error, self.root)) from error
        except (Exception, SystemExit) as error:
            raise LoadError(f"importing {name!r} failed: {place(error, self.root)}") from error

    def _load_harness(self, file: Path) -> ModuleType:
        if file.stem in sys.modules:
            return sys.modules[file.stem]
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise LoadError(f"the harness {file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[file.stem]
            raise LoadError(f"the harness {file.name} failed: {place(error, file.parent)}") from error
        return module

    def looking(self) -> Callable[[Any], Any] | None:
        """The harness's function ``observed``, which shows what a program keeps under private names."""
        module = sys.modules.get(self.harness.stem) if self.harness is not None else None
        return getattr(module, "observed", None)

    def forget(self) -> dict[str, ModuleType]:
        """Drop the tree's modules, so that the next import starts as in a fresh process; gives them back."""
        dropped = {}
        for name in [n for n in sys.modules if n not in self._foreign]:
            file = getattr(sys.modules[name], "__file__", None)
            if under(file, self.root) or (self.harness is not None and file == str(self.harness)):
                dropped[name] = sys.modules.pop(name)
            else:
                self._foreign.add(name)
        self._foreign.difference_update(dropped)
        return dropped

    def loaded(self) -> list[str]:
        """Files of this tree that were imported, relative to its root."""
        files = (getattr(m, "__file__", None) for m in list(sys.modules.values()))
        return sorted({str(Path(f).relative_to(self.root)) for f in files if under(f, self.root) and f})

    def strangers(self) -> list[str]:
        """Modules that exist in this tree and were loaded from elsewhere: ``name (file)``."""
        found = []
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if not file or under(file, self.root) or name == "__main__" or name.startswith("_refactor"):
                continue
            if self.harness is not None and file == str(self.harness):
                continue
            path = name.replace(".", "/")
            for top in self.roots:
                if (Path(top) / f"{path}.py").is_file() or (Path(top) / path / "__init__.py").is_file():
                    found.append(f"{name} ({file})")
                    break
        return sorted(found)


def _resolve(module: ModuleType, qualname: str, entry: str) -> tuple[Any, Any]:
    """The named object, and the class around it when the last part is a method."""
    outer: Any = None
    found: Any = module
    for part in qualname.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n in vars(module) if not n.startswith("_"))[:200]
            raise LoadError(
                f"{entry!r}: {Path(module.__file__ or module.__name__).name} has no {part!r} (it has {near})"
            )
        outer, found = found, getattr(found, part)
    return found, outer if inspect.isclass(outer) else None


class Target:
    """How to build the callable of one target in a tree."""

    def __init__(self, tree: Tree, spec: Mapping[str, Any], device: str) -> None:
        self.tree, self.device = tree, device
        self.entry = str(spec["entry"])
        self.init: dict[str, Any] = dict(spec.get("init") or {})
        self.factory = bool(spec.get("factory"))
        self.mode = str(spec.get("mode", "inference"))
        self.module_name, _, self.qualname = self.entry.partition(":")
        self.draws: Draws | None = None  # once the target is known to be large

    def first_import(self) -> None:
        """Import the entry's module. The size of its files decides whether sequences import it anew."""
        self.tree.module(self.module_name)
        if sum((self.tree.root / file).stat().st_size for file in self.tree.loaded()) > RELOAD_LIMIT:
            self.tree.reload = False
            return
        dropped = self.tree.forget()
        try:
            self.tree.module(self.module_name)
        except LoadError:  # it registers something for the whole process, and cannot do so twice
            sys.modules.update(dropped)
            self.tree.reload = False

    def fresh(self) -> None:
        """Start a sequence: module-level state goes back to what an import leaves."""
        if self.tree.reload:
            self.tree.forget()

    def build(self, instance: int) -> Subject:
        """Build instance number ``instance``, seeded by it; raises LoadError."""
        seed_everything(7919 * (instance + 1))
        module = self.tree.module(self.module_name)
        found, outer = _resolve(module, self.qualname, self.entry)
        try:
            if outer is not None and not inspect.isclass(found):
                owner = self._settle(self._construct(outer))
                return Subject(getattr(owner, self.qualname.rpartition(".")[2]), owner, module)
            made = self.factory or inspect.isclass(found)
            owner = self._settle(self._construct(found)) if made else found
        except LoadError:
            raise
        except (Exception, SystemExit) as error:
            given = ", ".join(f"{k}={v!r}" for k, v in self.init.items())
            raise LoadError(f"{self.entry}({given}) raised: {place(error, self.tree.root)}") from error
        if not callable(owner):
            raise LoadError(f"{self.entry!r} gives a {type(owner).__name__}, which cannot be called")
        return Subject(owner, None if inspect.isfunction(owner) else owner, module)

    def _construct(self, make: Callable[..., Any]) -> Any:
        with self.draws or contextlib.nullcontext():
            made = make(**self.init)
        if self.draws is None and isinstance(made, nn.Module):
            self.draws = Draws() if sum(p.numel() for p in made.parameters()) >= LARGE else None
        return made

    def _settle(self, built: Any) -> Any:
        if isinstance(built, nn.Module):
            built.to(self.device)
            built.train(self.mode == "train")
        return built


def parameters_of(subject: Subject) -> list[list[Any]]:
    """Arguments a call takes by position, in order: ``[name]``, or ``[name, default]`` if that is plain."""
    call = subject.network.forward if subject.network is subject.call else subject.call
    try:
        found = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return []
    taken = [p for p in found if p.kind is p.POSITIONAL_OR_KEYWORD]
    plain = (bool, int, float, str, type(None))
    return [[p.name, p.default] if isinstance(p.default, plain) else [p.name] for p in taken]


def seed_everything(seed: int) -> None:
    """Seed torch on every device, ``random``, and NumPy where the program has imported it."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
