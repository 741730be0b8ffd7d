"""The code base as the analysis sees it: modules found by name, parsed on demand, and what they define."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from refactor.analysis.functions import FunctionInfo as FunctionInfo
from refactor.analysis.functions import last_name as last_name
from refactor.analysis.remarks import remarks
from refactor.analysis.trees import Lazy, parents, statements, walk
from refactor.source import Source, SourceError, load, parse
from refactor.tracing import Trace, resolve
from refactor.vendor import NAME as RUNTIME
from refactor.vendor import copy_in

_EVAL = re.compile(rb"\beval\b")
_MODULE_BASES = ("Module", "Model", "PreTrainedModel", "LightningModule", "MessagePassing", "ScriptModule")
_STARS = 24
"""A file with more star imports is an index of others: searching them all would parse the whole code base."""
_NOT_MODULES = (
    "torch.utils.data.Dataset",
    "pydantic.BaseModel",
    "django.db.models.Model",
    "types.ModuleType",
)


@dataclass(eq=False)
class ClassInfo:
    """A class of the code base."""

    node: ast.ClassDef
    module: ModuleInfo
    qualname: str
    given: Mapping[str, Any] | None = None  # of a stand-in: the attributes of its instances

    @property
    def name(self) -> str:
        """Its own name."""
        return self.node.name

    @cached_property
    def own(self) -> dict[str, Any]:
        """Methods (`FunctionInfo`), nested classes and assigned expressions of the class body."""
        table: dict[str, Any] = {}
        for stmt in _flat(self.node.body):
            if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef):
                names = {last_name(d) for d in stmt.decorator_list}
                if names & {"setter", "deleter", "overload"}:
                    continue
                table[stmt.name] = FunctionInfo(stmt, self.module, f"{self.qualname}.{stmt.name}", self)
            elif isinstance(stmt, ast.ClassDef):
                table[stmt.name] = ClassInfo(stmt, self.module, f"{self.qualname}.{stmt.name}")
            elif isinstance(stmt, ast.Assign):
                table.update(pair for target in stmt.targets for pair in _assigned(target, stmt.value))
            elif isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name) and stmt.value:
                table[stmt.target.id] = stmt.value
        return table

    @cached_property
    def annotations(self) -> dict[str, ast.expr]:
        """Annotated names of the class body."""
        return {
            stmt.target.id: stmt.annotation
            for stmt in self.node.body
            if isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name)
        }

    @cached_property
    def mro(self) -> tuple[ClassInfo | str, ...]:
        """The class and its bases, depth first; those outside the code base by dotted name."""
        return tuple(dict.fromkeys(self._linear(frozenset())))

    def _linear(self, seen: frozenset[ClassInfo]) -> Iterator[ClassInfo | str]:
        yield self
        for base in self.node.bases:
            found = self.module.resolve(base)
            if isinstance(found, ClassInfo):
                if found not in seen and found is not self and len(seen) < 30:
                    yield from found._linear(seen | {self})
            elif isinstance(found, str):
                yield found
            else:
                yield last_name(base)

    @cached_property
    def _definers(self) -> dict[str, ClassInfo | None]:
        """The first class along the bases that defines a name, as far as it was asked for."""
        return {}

    @cached_property
    def is_module(self) -> bool:
        """An ``nn.Module``, by its bases, or by their names where they are not in the code base."""
        external = [base for base in self.mro if isinstance(base, str)]
        if any(base in _NOT_MODULES for base in external):
            return False
        return any(
            base in ("torch.nn.Module", "torch.nn.modules.module.Module")
            or base.startswith("torch.nn.")
            or base.rsplit(".", 1)[-1].endswith(_MODULE_BASES)
            for base in external
        )

    @cached_property
    def reassigned(self) -> frozenset[str]:
        """Attributes that methods other than ``__init__`` assign, here or in its bases."""
        found: set[str] = set()
        for base in self.mro:
            if isinstance(base, ClassInfo):
                for item in base.own.values():
                    if isinstance(item, FunctionInfo) and not item.qualname.endswith("__init__"):
                        found |= item.assigned
        return frozenset(found)

    @cached_property
    def rewrites_itself(self) -> bool:
        """Whether a method assigns attributes by any name it is given: ``self.__dict__.update(cfg)``."""
        methods = [m for b in self.mro if isinstance(b, ClassInfo) for m in b.own.values()]
        return any(isinstance(m, FunctionInfo) and m.sets_any for m in methods)

    def find(self, name: str, after: ClassInfo | None = None) -> tuple[ClassInfo, Any] | None:
        """The first definition of a name along the bases, with its class; ``after``: as for ``super()``."""
        if after is not None and after in self.mro:
            rest = self.mro[self.mro.index(after) + 1 :]
            base = next((b for b in rest if isinstance(b, ClassInfo) and name in b.own), None)
        elif name in self._definers:
            base = self._definers[name]
        else:
            base = next((b for b in self.mro if isinstance(b, ClassInfo) and name in b.own), None)
            self._definers[name] = base
        return None if base is None else (base, base.replaced().get(name) or base.own[name])

    def replaced(self) -> Mapping[str, FunctionInfo]:
        """Methods that decorators of the class put in place of its own."""
        return self.module.project.decorated(self) if self.node.decorator_list else {}

    @cached_property
    def generated(self) -> bool:
        """Whether ``dataclass`` wrote its constructor, so that what its bases define does not run."""
        for base in self.mro:
            if isinstance(base, ClassInfo):
                if "__init__" in base.own:
                    return False
                made_by = [d.func if isinstance(d, ast.Call) else d for d in base.node.decorator_list]
                if any(last_name(name) == "dataclass" for name in made_by):
                    return True
        return False

    def written(self, name: str) -> FunctionInfo | None:
        """The first method of that name along the bases, before decorators replace it."""
        found = next((b.own[name] for b in self.mro if isinstance(b, ClassInfo) and name in b.own), None)
        return found if isinstance(found, FunctionInfo) else None

    def __repr__(self) -> str:
        return f"<class {self.qualname}>"


@dataclass(eq=False)
class ModuleInfo:
    """A parsed file; ``table`` maps its top-level names to what they are bound to."""

    project: Project
    name: str
    root: Path
    source: Source
    tree: ast.Module
    values: dict[str, Any] = field(default_factory=dict)  # evaluated top-level expressions
    found: dict[str, Any] = field(default_factory=dict)  # what `lookup` found
    promises: dict[ast.expr, Any] = field(default_factory=dict)  # what its annotations say

    @cached_property
    def folder(self) -> Path:
        """Where the file is, links followed."""
        return self.source.path.resolve().parent

    @cached_property
    def nodes(self) -> list[Any]:
        """All nodes of the file, breadth first."""
        return walk(self.tree)

    @cached_property
    def parents(self) -> Mapping[ast.AST, ast.AST]:
        """The node around each node, made when first looked into."""
        return Lazy(lambda: parents(self.tree))

    @cached_property
    def scopes(self) -> tuple[tuple[ast.FunctionDef | ast.AsyncFunctionDef | None, list[ast.stmt]], ...]:
        """The statements at the top level, then every function, nested ones too, with its body."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        own = [stmt for stmt in self.tree.body if not isinstance(stmt, (*kinds, ast.ClassDef))]
        every = (node for node in statements(self.tree.body) if isinstance(node, kinds))
        return ((None, own), *((node, node.body) for node in every))

    @cached_property
    def names_no_grad(self) -> bool:
        """Whether the file names what says that no gradients are recorded."""
        data = self.source.data
        named = b"no_grad" in data or b"inference_mode" in data
        return named or (b"eval" in data and _EVAL.search(data) is not None)

    @cached_property
    def names_step(self) -> bool:
        """Whether the file names what training steps do."""
        return b"backward" in self.source.data or b"step" in self.source.data

    @cached_property
    def remarks(self) -> Mapping[int, tuple[str, bool]]:
        """Comments that widen and narrow regions, by line."""
        return remarks(self.source)

    @cached_property
    def is_runtime(self) -> bool:
        """Whether it is a copy of our runtime, which is known by what it promises and never interpreted."""
        return copy_in(self.source.path, self.source.data) is not None

    @cached_property
    def is_package(self) -> bool:
        """Whether it is the ``__init__.py`` of a package."""
        return self.source.path.name == "__init__.py"

    @cached_property
    def table(self) -> dict[str, Any]:
        """Name to `FunctionInfo`, `ClassInfo`, expression, or ``("import", module[, name])``."""
        table: dict[str, Any] = {}
        for stmt in _flat(self.tree.body):
            for name, bound in self._bindings(stmt):
                known = table.get(name)
                if isinstance(known, tuple | ClassInfo) and _is_none(bound):
                    continue
                if isinstance(known, FunctionInfo | ClassInfo) and _wraps(bound, name):
                    continue
                table[name] = bound
        return table

    @cached_property
    def stars(self) -> tuple[str, ...]:
        """Absolute names of modules imported with ``*``."""
        return tuple(
            self.absolute(stmt)
            for stmt in _flat(self.tree.body)
            if isinstance(stmt, ast.ImportFrom) and stmt.names[0].name == "*"
        )

    def _bindings(self, stmt: ast.stmt) -> Iterator[tuple[str, Any]]:
        if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef):
            if "overload" not in {last_name(d) for d in stmt.decorator_list}:
                yield stmt.name, FunctionInfo(stmt, self, stmt.name)
        elif isinstance(stmt, ast.ClassDef):
            yield stmt.name, ClassInfo(stmt, self, stmt.name)
        elif isinstance(stmt, ast.Import | ast.ImportFrom):
            yield from import_bindings(self, stmt)
        elif isinstance(stmt, ast.Assign):
            for target in stmt.targets:
                yield from _assigned(target, stmt.value)
        elif isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name) and stmt.value:
            yield stmt.target.id, stmt.value

    def absolute(self, stmt: ast.ImportFrom) -> str:
        """The dotted name of the module that a ``from`` statement imports from."""
        if not stmt.level:
            return stmt.module or ""
        parts = self.name.split(".")
        keep = len(parts) - stmt.level + (1 if self.is_package else 0)
        return ".".join([*parts[: max(keep, 0)], *([stmt.module] if stmt.module else [])])

    def lookup(self, name: str, depth: int = 0) -> Any:
        """What a top-level name is: as in ``table`` with imports followed, `ModuleInfo`, or a dotted name.

        None: the module does not define it.
        """
        if depth:
            return self._lookup(name, depth)
        if name not in self.found:
            self.found[name] = self._lookup(name, 0)
        return self.found[name]

    def _lookup(self, name: str, depth: int) -> Any:
        bound = self.table.get(name)
        if bound is None:
            for star in self.stars if depth < 4 and len(self.stars) <= _STARS else ():
                module = self.project.module(star, self)
                found = module.lookup(name, depth + 1) if module is not None and module is not self else None
                if found is not None:
                    return found
            return None
        if isinstance(bound, tuple):
            return self.project.imported(bound, self, depth)
        return (self, bound) if isinstance(bound, ast.expr) else bound

    def resolve(self, node: ast.expr) -> Any:
        """What a dotted expression names, without interpreting anything: as `lookup`."""
        if isinstance(node, ast.Subscript):
            return self.resolve(node.value)
        if isinstance(node, ast.Name):
            found = self.lookup(node.id)
            if isinstance(found, tuple):  # an alias: Base = nn.Module
                scope, expr = found
                return scope.resolve(expr) if isinstance(expr, ast.Name | ast.Attribute) else None
            return found
        if isinstance(node, ast.Attribute):
            inner = self.resolve(node.value)
            if isinstance(inner, str):
                return f"{inner}.{node.attr}"
            if isinstance(inner, ModuleInfo):
                return inner.lookup(node.attr)
            if isinstance(inner, ClassInfo):
                return inner.own.get(node.attr)
        return None


def import_bindings(module: ModuleInfo, stmt: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Any]]:
    """Names that an import statement binds, as entries of `ModuleInfo.table`."""
    if isinstance(stmt, ast.Import):
        for alias in stmt.names:
            yield (
                (alias.asname, ("import", alias.name))
                if alias.asname
                else (alias.name.split(".")[0], ("import", alias.name.split(".")[0]))
            )
    else:
        origin = module.absolute(stmt)
        for alias in stmt.names:
            if alias.name != "*":
                yield alias.asname or alias.name, ("import", origin, alias.name)


class Project:
    """Finds, parses and remembers the modules of a code base."""

    def __init__(self, root: Path, src: tuple[str, ...] = ()) -> None:
        self.root = root.resolve()
        places = [self.root / entry for entry in src] if src else [self.root / "src", self.root]
        self.roots = tuple(dict.fromkeys([*(p.resolve() for p in places if p.is_dir()), self.root]))
        self.interpreter: Any = None  # set by the analysis: what it knows serves all files
        self.decorated: Callable[[ClassInfo], Mapping[str, FunctionInfo]] = lambda cls: {}  # likewise
        self._by_path: dict[Path, ModuleInfo | None] = {}
        self._resolved: dict[Path, Path] = {}
        self._found: dict[tuple[Path, str], Path | None] = {}
        self._seen: dict[tuple[Path, Path, str], Path | None] = {}
        self._packages: dict[Path, bool] = {}
        self._listings: dict[str, frozenset[str]] = {}
        self._edges: set[tuple[str, str]] = set()
        self._files: list[tuple[str, str]] = []
        self._led: list[tuple[str, str]] = []
        self._judged: list[tuple[str, bool]] = []
        self._looked_up: list[tuple[str, str, str | None]] = []

    def traced(self) -> Trace:
        """What was looked at since the last call."""
        found = Trace(tuple(self._files), tuple(self._led), tuple(self._judged), tuple(self._looked_up))
        for new in (self._files, self._led, self._judged, self._looked_up):
            new.clear()
        return found

    def place(self, path: Path) -> tuple[Path, str]:
        """The import root of a file and its dotted module name there."""
        path = self._real(path)
        folder = path.parent
        while self._is_package(folder) and folder.parent != folder:
            folder = folder.parent
        nearest = [root for root in self.roots if root in (folder, *folder.parents)]
        if folder == path.parent and nearest and folder != nearest[0]:
            # A script or a namespace package: named from its import root where that makes a dotted name.
            parts = folder.relative_to(nearest[0]).parts
            if all(part.isidentifier() for part in parts):
                folder = nearest[0]
        parts = path.relative_to(folder).with_suffix("").parts
        return folder, ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)

    def _real(self, path: Path) -> Path:
        if path not in self._resolved:
            self._resolved[path] = path.resolve()
        return self._resolved[path]

    def _is_package(self, folder: Path) -> bool:
        if folder not in self._packages:
            self._packages[folder] = (folder / "__init__.py").is_file()
            self._judged.append((str(folder), self._packages[folder]))
        return self._packages[folder]

    def known(self, source: Source) -> ModuleInfo | None:
        """The module of a file that was parsed already with these bytes."""
        found = self._by_path.get(self._real(source.path))
        return found if found is not None and found.source.data == source.data else None

    def add(self, source: Source, tree: ast.Module) -> ModuleInfo:
        """Register a file that is parsed and not `known`."""
        path = self._real(source.path)
        if self._by_path.get(path) is not None:
            for other in self._by_path.values():  # they may have found names in the file as it was
                if other is not None:
                    other.found.clear()
                    other.promises.clear()
        root, name = self.place(source.path)
        info = ModuleInfo(self, name, root, source, tree)
        self._by_path[path] = info
        self._files.append((str(path), source.digest))
        return info

    def at(self, path: Path) -> ModuleInfo | None:
        """The module of a file; None if it cannot be read or parsed."""
        path = self._real(path)
        if path not in self._by_path:
            self._by_path[path] = None
            try:
                source = load(path)
                self._files.append((str(path), source.digest))
                self.add(source, parse(source))
            except SourceError:
                pass
        return self._by_path[path]

    def module(self, dotted: str, origin: ModuleInfo) -> ModuleInfo | None:
        """The module of that absolute name as seen from another one, if it is in the code base."""
        if not dotted:
            return None
        key = (origin.root, origin.folder, dotted)
        if key not in self._seen:
            self._seen[key] = self._file_of(dotted, (origin.root, *self.roots, origin.folder))
        path = self._seen[key]
        if path is None:
            return None
        found = self.at(path)
        edge = (str(self._real(origin.source.path)), str(self._real(path)))
        if edge not in self._edges:
            self._edges.add(edge)
            self._led.append(edge)
        return found

    def _file_of(self, dotted: str, roots: tuple[Path, ...]) -> Path | None:
        """The file of the module of that name below the first root that has one."""
        for root in dict.fromkeys(roots):
            key = (root, dotted)
            if key not in self._found:
                found = resolve(str(root), dotted, self._listings)
                self._looked_up.append((str(root), dotted, found))
                self._found[key] = Path(found) if found is not None else None
            path = self._found[key]
            if path is not None:
                return path
        return None

    def imported(self, bound: tuple[str, ...], origin: ModuleInfo, depth: int = 0) -> Any:
        """What an import binds: see `ModuleInfo.lookup`; a dotted name where it is outside the code base."""
        if len(bound) == 2:
            found = self.module(bound[1], origin)
            return RUNTIME if found is not None and found.is_runtime else found or bound[1]
        _, scope, name = bound
        module = self.module(scope, origin)
        if module is not None and module.is_runtime:
            return f"{RUNTIME}.{name}"
        if module is not None and depth < 12:
            found = module.lookup(name, depth + 1) if module is not origin or depth == 0 else None
            if found is not None:
                return found
        inner = self.module(f"{scope}.{name}", origin)
        return RUNTIME if inner is not None and inner.is_runtime else inner or f"{scope}.{name}"


def _is_none(bound: Any) -> bool:
    return isinstance(bound, ast.Constant)


def _wraps(bound: Any, name: str) -> bool:
    """``f = script(f)``: a decorator in other words, which the analysis looks through."""
    first = bound.args[0] if isinstance(bound, ast.Call) and bound.args else None
    return isinstance(first, ast.Name) and first.id == name


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The names of an assignment with their values, as far as both are written out."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        starred = any(isinstance(item, ast.Starred) for item in (*target.elts, *value.elts))
        if len(target.elts) == len(value.elts) and not starred:
            for inner, item in zip(target.elts, value.elts, strict=True):
                yield from _assigned(inner, item)


def _flat(stmts: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body, those under ``if``, ``try`` and ``with`` included."""
    for stmt in stmts:
        yield stmt
        if isinstance(stmt, ast.If | ast.With) or stmt.__class__.__name__ in ("Try", "TryStar"):
            for handler in getattr(stmt, "handlers", ()):
                yield from _flat(handler.body)
            yield from _flat(getattr(stmt, "orelse", []))
            yield from _flat(stmt.body)  # type: ignore[attr-defined]
            yield from _flat(getattr(stmt, "finalbody", []))
