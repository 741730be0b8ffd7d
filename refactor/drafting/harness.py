"""A harness for a function that takes a model and batches: a module whose ``forward`` takes tensors alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from refactor.drafting.classes import Classes, Function, Parameter, parameters
from refactor.drafting.flow import input_shapes
from refactor.drafting.layers import Shape, known

_WRAPPERS = frozenset({"enumerate", "tqdm", "list", "iter", "zip", "trange", "track"})
BATCH = 8


@dataclass(frozen=True)
class Roles:
    """What the parameters of a function are for."""

    model: str | None
    loader: str
    batch: tuple[str, ...]
    """Names of the tensors in a batch."""
    layout: str
    """``tensor``, ``tuple`` or ``dict``."""
    sent: tuple[tuple[str, int | str], ...]
    """``(name of the batch's tensor, argument of the model by position or name)``."""
    is_spread: bool = False
    """The model is called with ``**batch``."""


def roles_of(function: Function, *, method: bool) -> Roles | None:
    """The model and the batches a function loops over; None if it loops over none of its arguments."""
    names = [parameter.name for parameter in parameters(function, method=method)]
    for node in ast.walk(function):
        if isinstance(node, ast.For | ast.AsyncFor):
            loader, target = _looped(node.iter, node.target, names)
            if loader is not None:
                return _roles(function, node, names, loader, target)
    return None


def _looped(iterable: ast.expr, target: ast.expr, names: Sequence[str]) -> tuple[str | None, ast.expr]:
    while isinstance(iterable, ast.Call) and iterable.args:
        called = (
            iterable.func.attr
            if isinstance(iterable.func, ast.Attribute)
            else getattr(iterable.func, "id", "")
        )
        if called not in _WRAPPERS:
            break
        if called == "enumerate" and isinstance(target, ast.Tuple) and len(target.elts) == 2:
            target = target.elts[1]
        iterable = iterable.args[0]
    name = iterable.id if isinstance(iterable, ast.Name) else None
    return (name if name in names else None), target


def _roles(
    function: Function, loop: ast.For | ast.AsyncFor, names: Sequence[str], loader: str, target: ast.expr
) -> Roles:
    calls = [
        n
        for n in ast.walk(loop)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in names
    ]
    call = calls[0] if calls else None
    model = call.func.id if call is not None and isinstance(call.func, ast.Name) else None
    if isinstance(target, ast.Tuple) and all(isinstance(item, ast.Name) for item in target.elts):
        batch = tuple(
            item.id if item.id != "_" else f"part{i}"
            for i, item in enumerate(target.elts)
            if isinstance(item, ast.Name)
        )
        return Roles(model, loader, batch, "tuple", tuple(_sent(call, batch)))
    name = target.id if isinstance(target, ast.Name) else "batch"
    keys = tuple(dict.fromkeys(_keys(loop, name)))
    starred = call is not None and any(
        k.arg is None and getattr(k.value, "id", "") == name for k in call.keywords
    )
    if keys or starred:
        return Roles(model, loader, keys, "dict", tuple((key, key) for key in keys), starred)
    return Roles(model, loader, (name,), "tensor", tuple(_sent(call, (name,))))


def _keys(loop: ast.AST, name: str) -> Iterator[str]:
    for node in ast.walk(loop):
        match node:
            case ast.Subscript(value=ast.Name(id=base), slice=ast.Constant(value=str() as key)) if (
                base == name
            ):
                yield key
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=base), attr="pop"),
                args=[ast.Constant(value=str() as key)],
            ) if base == name:
                yield key


def _sent(call: ast.Call | None, batch: Sequence[str]) -> Iterator[tuple[str, int | str]]:
    if call is None:
        return
    places: list[tuple[int | str, ast.expr]] = [*enumerate(call.args)]
    places += [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg]
    for place, value in places:
        used = [node.id for node in ast.walk(value) if isinstance(node, ast.Name) and node.id in batch]
        if used:
            yield used[0], place


def model_class(classes: Classes, function: Function, roles: Roles) -> ast.ClassDef | None:
    """The class of the model: as a call in this file builds it, else the only whole model of the file."""
    names = [parameter.name for parameter in parameters(function, method=False)]
    if roles.model is None:
        return None
    built: dict[str, str] = {}
    calls: list[ast.Call] = []
    for node in ast.walk(classes.tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id=called))):
                built[name] = called
            case ast.Call(func=ast.Name(id=called)) if called == function.name:
                calls.append(node)
    for call in calls:
        given = dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
        match given.get(roles.model):
            case ast.Name(id=name) if built.get(name) in classes.classes:
                return classes.classes[built[name]]
            case ast.Call(func=ast.Name(id=name)) if name in classes.classes:
                return classes.classes[name]
    modules = [cls for cls in classes.classes.values() if classes.method(cls, "forward")]
    parts = {name for cls in modules for name in _called(cls)}
    whole = [cls for cls in modules if cls.name not in parts]
    return whole[0] if len(whole) == 1 else None


def _called(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
            yield inner.func.id


def spread(classes: Classes, cls: ast.ClassDef | None, roles: Roles) -> Roles:
    """The roles with the keys that ``model(**batch)`` passes: the arguments the model cannot do without."""
    forward = classes.method(cls, "forward") if cls is not None else None
    if not roles.is_spread or forward is None:
        return roles
    needed = [parameter.name for parameter in parameters(forward, method=True) if parameter.is_required]
    batch = tuple(dict.fromkeys((*needed, *roles.batch)))
    return replace(roles, batch=batch, sent=tuple((key, key) for key in batch))


def batch_shapes(classes: Classes, cls: ast.ClassDef | None, roles: Roles) -> dict[str, Shape]:
    """Shapes of the tensors of a batch, from what the model does with them."""
    forward = classes.method(cls, "forward") if cls is not None else None
    if cls is None or forward is None:
        return {}
    shapes = input_shapes(classes, forward, classes.layers(cls, classes.built(cls)))
    names = [parameter.name for parameter in parameters(forward, method=True)]
    found = {}
    for name, place in roles.sent:
        argument = place if isinstance(place, str) else names[place] if place < len(names) else ""
        if argument in shapes and known(shapes[argument]):
            found[name] = shapes[argument]
    return found


def harness_text(
    module: str, owner: str, function: Function, roles: Roles, built: str | None, label: str
) -> tuple[str, bool]:
    """The file, and whether nothing is left to fill in.

    Args:
        module: dotted name of the function's module.
        owner: class of a method, or ``""``.
        function: what is called.
        roles: of its parameters.
        built: the expression that builds the model, if the file tells.
        label: name of the class to write.
    """
    inputs = roles.batch or ("x",)
    pairs = [
        (name, _argument(p, roles, inputs[0]))
        for p in parameters(function, method=bool(owner))
        for name in (p.name,)
    ]
    arguments = ", ".join(f"{name}={value}" for name, value in pairs if value is not None)
    names = ", ".join(dict.fromkeys((owner or function.name, *([built.partition("(")[0]] if built else []))))
    model = built or f'_blank("build the model that {function.name} takes")'
    setup = [f"self.model = {model}"] if roles.model else []
    setup += [f'self.owner = _blank("build the {owner} whose {function.name} is called")'] if owner else []
    called = f"self.owner.{function.name}" if owner else function.name
    what = f"{module}:{owner}.{function.name}" if owner else f"{module}:{function.name}"
    text = f'''"""Harness for {what}: `forward` takes tensors and makes the batches of them."""

from torch import nn

from {module} import {names}

BATCH = {BATCH}  # rows of one batch; the last one may be smaller


def _blank(what):
    raise NotImplementedError(f"{{__file__}}: {{what}}")


class {label}(nn.Module):
    def __init__(self):
        super().__init__()
        {f"{chr(10)}        ".join(setup)}

    def forward(self, {", ".join(inputs)}):
        batches = [{_sliced(inputs, roles.layout)} for i in range(0, len({inputs[0]}), BATCH)]
        return {called}({arguments})
'''
    complete = text.count("_blank(") == 1 and bool(roles.batch)
    if complete:
        text = re.sub(r"def _blank.*?\n\n\n", "", text, flags=re.S)
    return re.sub(r"\n +\n\n", "\n\n", text), complete


def _sliced(inputs: Sequence[str], layout: str) -> str:
    """One batch of the tensors in ``inputs``."""
    parts = [f"{name}[i : i + BATCH]" for name in inputs]
    if layout == "dict":
        return "{" + ", ".join(f'"{name}": {part}' for name, part in zip(inputs, parts, strict=True)) + "}"
    if layout == "tuple":
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    return parts[0]


def _argument(parameter: Parameter, roles: Roles, first: str) -> str | None:
    """What to pass; None to leave the default."""
    if parameter.name == roles.model:
        return "self.model"
    if parameter.name == roles.loader:
        return "batches"
    if parameter.name == "device" or "device" in parameter.annotation:
        return f"{first}.device"
    return f'_blank("pass {parameter.name}")' if parameter.is_required else None
