"""Targets for `refactor verify`, drafted in ``.refactor/targets.toml``: one for each region looked at.

A draft is added once and never changed again, so that what a user completes is kept.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refactor.drafting.classes import Classes, Function, Parameter, classes_of, parameters
from refactor.drafting.flow import input_shapes
from refactor.drafting.harness import Roles, batch_shapes, harness_text, model_class, roles_of, spread
from refactor.drafting.layers import Shape, known
from refactor.drafting.program import asks_clock, left_names, program_text, runs_on_import
from refactor.journal import memory, write_file
from refactor.source import SourceError, load, parse

if TYPE_CHECKING:
    from refactor.analysis.model import Facts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "targets.toml"
_OPT_IN = ("autocast", "grad", "strides", "deepcopy", "threads", "attributes")
"""What a rewrite with our runtime has to stand on top of the verifier's default operations.

Not several threads in a training step: they race for parameters and random numbers without a rewrite, too.
"""
_INTEGERS = re.compile(r"(^|_)(ids?|idx|ind(ex|ices)|tokens?|labels?|targets?|lengths?|positions?)$")
_TENSOR = re.compile(r"^(Optional\[)?[\w.]*Tensor\]?( *\| *None)?$")
_RANGES: Mapping[str, object] = {
    "B": [1, 32],
    "N": [1, 32],
    "S": [1, 16],
    "T": [1, 16],
    "H": 32,
    "W": 32,
    "L": 32,
    "D": 8,
}
_HEADER = """\
# Targets drafted by `refactor apply`: one for each region. Replace every "?"; what is here is never changed.
# A tensor is "DTYPE[dims]", with "in LOW..HIGH" to bound its values; dims are numbers, or names from `dims`.
"""


@dataclass(frozen=True)
class Draft:
    """One target as it is written; values are TOML."""

    name: str
    about: str
    entry: str
    init: tuple[tuple[str, str], ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    dims: tuple[tuple[str, object], ...] = ()
    mode: str = "inference"
    is_edited: bool = False
    harness: tuple[str, str] | None = field(default=None)
    """File name and text of a harness beside the targets."""
    vary: tuple[str, ...] = ()
    """Operations; empty: the default ones, and all others for an edited region."""

    def rendered(self) -> str:
        """The table."""
        rows = [
            "",
            f"# {self.about}",
            "[[target]]",
            f"name = {json.dumps(self.name)}",
            f"entry = {self.entry}",
        ]
        if self.harness:
            rows.append(f"harness = {json.dumps(self.harness[0])}")
        if self.init:
            rows.append(f"init = {_inline(self.init)}")
        rows.append(f"inputs = {_inline((key, json.dumps(value)) for key, value in self.inputs)}")
        if self.dims:
            rows.append(f"dims = {_inline((key, json.dumps(value)) for key, value in self.dims)}")
        rows += [f"mode = {json.dumps(self.mode)}", 'device = "cuda"']
        if self.vary:
            rows.append(f"vary = {json.dumps(list(self.vary))}")
        elif self.is_edited:
            operations = [name for name in _OPT_IN if name != "threads" or self.mode != "train"]
            rows.append(f"vary = {json.dumps(operations)}")
        return "".join(f"{row}\n" for row in rows)


def _inline(pairs: Iterable[tuple[str, str]]) -> str:
    body = ", ".join(
        f"{key if re.fullmatch(r'[A-Za-z0-9_-]+', key) else json.dumps(key)} = {value}"
        for key, value in pairs
    )
    return f"{{ {body} }}" if body else "{}"


def drafts(
    facts: Facts, regions: Sequence[str], edited: Collection[str], root: Path | None = None
) -> tuple[Draft, ...]:
    """Drafts for regions, in order and each once.

    Args:
        facts: of the file the regions were found from.
        regions: ``module:qualname``, also of other modules under the same import root.
        edited: those of them for which code was rewritten.
        root: of the project; None: that of the imports. A script is run by its path from there.
    """
    found: dict[str, Draft] = {}
    trees: dict[str, Classes | None] = {}
    script = f"{facts.module}:<module>"
    if script in edited and runs_on_import(facts.tree):  # that would run with every target of the file
        regions = [r for r in regions if r == script or r.partition(":")[0] != facts.module]
    for region in dict.fromkeys(regions):  # one for each finding in it
        module, _, qualname = region.partition(":")
        if qualname == "<module>":
            draft = (
                _program(facts, root or facts.root) if module == facts.module and region in edited else None
            )
            if draft is not None:
                found.setdefault(draft.name, draft)
            continue
        if module not in trees:
            tree = facts.tree if module == facts.module else _tree(facts.root, module)
            trees[module] = classes_of(tree) if tree is not None else None
        classes = trees[module]
        draft = _draft(classes, module, qualname, region in edited) if classes else None
        if draft is not None:
            found.setdefault(draft.name, draft)
    return tuple(found.values())


def _tree(root: Path, module: str) -> ast.Module | None:
    path = root.joinpath(*module.split("."))
    try:
        return parse(load(path / "__init__.py" if path.is_dir() else path.with_suffix(".py")))
    except SourceError:
        return None


def _draft(classes: Classes, module: str, qualname: str, is_edited: bool) -> Draft | None:
    owner, _, name = qualname.partition(".<")[0].rpartition(".")
    cls = classes.classes.get(owner) if owner else None
    function = (
        classes.method(cls, name) if cls is not None else classes.functions.get(name) if not owner else None
    )
    if function is None:
        return None
    is_forward = cls is not None and name == "forward"
    where = f"{module}:{owner if is_forward else qualname.partition('.<')[0]}"
    roles = None if is_forward else roles_of(function, method=cls is not None)
    if roles is not None:
        return _harnessed(classes, module, owner, function, roles, where, is_edited)
    arguments = classes.built(cls) if cls is not None else {}
    attributes = classes.layers(cls, arguments) if cls is not None else {}
    shapes = input_shapes(classes, function, attributes)
    specs = [
        (p.name, _spec(p, shapes.get(p.name, Shape())))
        for p in parameters(function, method=cls is not None)
        if p.is_required
    ]
    return Draft(
        name=_slug(where),
        about=where,
        entry=json.dumps(where),
        init=tuple(_init(classes, cls, arguments)) if cls is not None else (),
        inputs=tuple(specs) or (("_0", "?"),) * bool(function.args.vararg),
        dims=_dims(spec for _, spec in specs),
        mode="train" if _trains(function) else "inference",
        is_edited=is_edited,
    )


def _program(facts: Facts, root: Path) -> Draft | None:
    """A script that is run as a whole; None if it lies outside the project."""
    try:
        path = facts.source.path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return None
    slug = _slug(path.removesuffix(".py"))
    label = "".join(part.capitalize() for part in slug.split("_"))
    label = label if label.isidentifier() else f"Script{label}"
    file = f"harness_{slug}.py"
    names = left_names(facts.source.text, facts.tree)
    text = program_text(path, names, label, prints=not asks_clock(facts.tree))
    return Draft(
        name=slug,
        about=f"{path} is run as a program, whole, for every call: see ARGUMENTS in {file}",
        entry=json.dumps(f"{file.removesuffix('.py')}:{label}"),
        inputs=(("seed", "int in 0..9"),),
        mode="train",
        is_edited=True,
        harness=(file, text),
        vary=("runs",),
    )


def _harnessed(
    classes: Classes, module: str, owner: str, function: Function, roles: Roles, where: str, is_edited: bool
) -> Draft:
    cls = model_class(classes, function, roles) if not owner else None
    roles = spread(classes, cls, roles)
    built = _built(classes, cls) if cls is not None else None
    file = f"harness_{_slug(where)}.py"
    label = "".join(part.capitalize() for part in function.name.split("_")) or "Harness"
    text, complete = harness_text(module, owner, function, roles, built, label)
    shapes = batch_shapes(classes, cls, roles)
    specs = [(name, _tensor(name, shapes.get(name, Shape()), "")) for name in roles.batch]
    entry = f"{file.removesuffix('.py')}:{label}"
    return Draft(
        name=_slug(where),
        about=f"{where} takes batches: {file} builds and calls it"
        + ("" if complete else f'; then entry = "{entry}"'),
        entry=json.dumps(entry if complete else "?"),
        inputs=tuple(specs) or (("x", "?"),),
        dims=_dims((spec for _, spec in specs), batch=[1, 40]),
        mode="train" if _trains(function) else "inference",
        is_edited=is_edited,
        harness=(file, text),
    )


def _built(classes: Classes, cls: ast.ClassDef) -> str | None:
    """The expression that builds a class, if everything it needs is known."""
    init = dict(_init(classes, cls, classes.built(cls)))
    if '"?"' in init.values():
        return None
    return f"{cls.name}({', '.join(f'{key}={_python(value)}' for key, value in init.items())})"


def _python(toml: str) -> str:
    return {"true": "True", "false": "False"}.get(toml, toml)


def _init(classes: Classes, cls: ast.ClassDef, arguments: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Constructor arguments that have no default, and those some call in the file gives."""
    init = classes.method(cls, "__init__")
    for parameter in parameters(init, method=True) if init else ():
        value = _toml(arguments.get(parameter.name))
        if value is not None or parameter.is_required:
            yield parameter.name, value or '"?"'


def _toml(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)) and value == value and abs(value) != float("inf"):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        items = [_toml(item) for item in value]
        return None if None in items else f"[{', '.join(map(str, items))}]"
    return None


def _spec(parameter: Parameter, shape: Shape) -> str:
    """The specification of one argument."""
    scalars = {"int": "int in 1..8", "float": "float in 0.5..2.0", "bool": "bool"}
    kind = parameter.annotation.strip("'\"")
    if kind in scalars:
        return scalars[kind]
    if kind and not _TENSOR.match(kind):
        return "?"
    return _tensor(parameter.name, shape, kind)


def _tensor(name: str, shape: Shape, kind: str) -> str:
    integer = shape.dtype == "int64" or bool(_INTEGERS.search(name)) or "LongTensor" in kind
    dtype = "int64" if integer else "bool" if name.endswith("mask") or "BoolTensor" in kind else "float32"
    if not known(shape):
        return f"{dtype}[?]" if dtype != "float32" or "Tensor" in kind else "?"
    high = f" in 0..{shape.high}" if shape.high is not None else " in 0..?" if integer else ""
    return f"{dtype}[{', '.join(map(str, shape.dims()))}]{high}"


def _dims(specs: Iterable[str], batch: object = None) -> tuple[tuple[str, object], ...]:
    found: dict[str, object] = {}
    for spec in specs:
        inside = re.search(r"\[(.*?)\]", spec)
        for name in inside[1].split(",") if inside else ():
            if name.strip().isidentifier():
                default = batch if batch and name.strip() == "B" else _RANGES.get(name.strip(), 16)
                found.setdefault(name.strip(), default)
    return tuple(found.items())


@lru_cache(maxsize=8)
def _trains(function: Function) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "backward" for node in ast.walk(function))


def _slug(where: str) -> str:
    return re.sub(r"\W+", "_", where).strip("_")


def update_targets(root: Path, found: Sequence[Draft]) -> tuple[Draft, ...]:
    """Add drafts to ``.refactor/targets.toml``; targets that are there are kept as they are.

    Returns:
        The drafts that were added.

    Raises:
        JournalError: ``.refactor`` cannot be written or is locked.
        OSError: the file cannot be written.
    """
    if not found:
        return ()
    with memory(root) as folder:
        file = folder / NAME
        text = file.read_text("utf-8") if file.exists() else _HEADER
        try:
            names = {target.get("name") for target in tomllib.loads(text).get("target", [])}
        except (tomllib.TOMLDecodeError, AttributeError, TypeError):
            return ()
        fresh: dict[str, Draft] = {}
        for draft in found:
            if draft.name not in names and not (draft.name in fresh and fresh[draft.name].is_edited):
                fresh[draft.name] = draft
        if not fresh:
            return ()
        for draft in fresh.values():
            if draft.harness and not (folder / draft.harness[0]).exists():
                write_file(folder / draft.harness[0], draft.harness[1].encode("utf-8"))
        write_file(file, (text + "".join(draft.rendered() for draft in fresh.values())).encode("utf-8"))
    return tuple(fresh.values())
