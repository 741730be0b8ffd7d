"""Whether padding the batch, and the sequence, is invisible in what a model computes.

The forward of the model and of what it calls is interpreted with named dimensions (`refactor.rewrite.axes`).
Only operations known not to mix padded places with real ones are followed; anything else means: no padding.
What is left open (a tensor with fewer dimensions than the code suggests) the runtime notices when it compares
a padded run with an exact one.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from refactor.analysis.model import Facts
from refactor.analysis.project import ClassInfo, FunctionInfo
from refactor.rewrite.axes import Arr
from refactor.rewrite.reader import Reader
from refactor.rewrite.receiver import class_of
from refactor.rewrite.syntax import ancestors, enclosing_function


@dataclass(frozen=True)
class Padding:
    """The arguments of ``graphed`` for one model."""

    pad: str | Mapping[str, str]
    limits: tuple[str, ...] = field(default=())  # expressions: the longest sequence the model takes

    @property
    def sequence(self) -> bool:
        """Whether the sequence is padded as well."""
        return not isinstance(self.pad, str)

    def arguments(self) -> str:
        """As source text, to follow the model."""
        if isinstance(self.pad, str):
            return f', pad="{self.pad}"'
        names = ", ".join(f'"{name}": "{pattern}"' for name, pattern in self.pad.items())
        text = f", pad={{{names}}}"
        if self.limits:
            sizes = f"sorted({{min(2**i, {', '.join(self.limits)}) for i in range(20)}})"
            text += f', buckets={{"S": {sizes}}}'
        return text


def padding_of(facts: Facts, call: ast.Call, derived: frozenset[str]) -> Padding | None:
    """How the inputs of the model called here can be padded, or None: a graph for each exact shape.

    ``derived`` are the names that hold parts of the batch.
    """
    cls = class_of(facts, call.func)
    if cls is None or not _no_hooks(cls):
        return None
    names = _parameters(cls)
    spread = [k for k in call.keywords if k.arg is None]
    if names is None or (spread and len(spread) + len(call.args) < len(call.args) + len(call.keywords)):
        return None
    given = names if spread else [*names[: len(call.args)], *(k.arg for k in call.keywords if k.arg)]
    values = [*call.args, *(k.value for k in call.keywords)]
    if len(call.args) > len(names) or not set(given) <= set(names):
        return None
    if not values or not all(_of_batch(value, derived) for value in values):
        return None
    evaluated = _evaluated(facts, call)
    path = ast.unparse(call.func)
    optional = _optional(cls) if spread else frozenset[str]()
    fewer = [n for n in given if n not in optional]
    found = _sequence(cls, evaluated, given, path)
    if found is not None and (
        fewer == given or not fewer or _sequence(cls, evaluated, fewer, path, alone=False)
    ):
        return found
    if fewer != given and fewer and _batch(cls, evaluated, fewer, path) is False:
        return None
    return Padding("B ...") if _batch(cls, evaluated, given, path) else None


def _batch(cls: ClassInfo, evaluated: bool, given: Sequence[str], path: str) -> bool | None:
    """Whether padding the batch is invisible; None: no reading of the ranks makes sense."""
    readings: list[list[Arr]] = [[Arr(("B",), f"r{i}") for i in range(len(given))]]
    readings += [[Arr(axes) for axes in ranks] for ranks in _ranks(len(given), ("B", "_"))]
    seen: list[bool] = []
    for arrays in readings:
        result = Reader(evaluated).keeps(cls, dict(zip(given, arrays, strict=True)), path)
        if result and arrays[0].open:
            return True  # whatever the ranks are
        if result is not None and not arrays[0].open:
            seen.append(result)
    return all(seen) if seen else None


def _optional(cls: ClassInfo) -> frozenset[str]:
    """Parameters of ``forward`` with a default: ``**batch`` may leave them out."""
    found = cls.find("forward")
    spec = getattr(found[1].node, "args", None) if found is not None else None
    if spec is None:
        return frozenset()
    names = [a.arg for a in spec.args]
    return frozenset(names[len(names) - len(spec.defaults) :]) | {a.arg for a in spec.kwonlyargs}


def _ranks(count: int, lead: tuple[str, ...]) -> list[list[tuple[str, ...]]]:
    """Likely numbers of dimensions of several inputs: all alike, or the first larger than the others."""
    shapes = [lead + ("_",) * n for n in range(4)]
    same = [[shape] * count for shape in shapes]
    mixed = [[one, *[two] * (count - 1)] for one in shapes for two in shapes if one != two]
    return [*same, *(mixed if count > 1 else [])]


def _sequence(
    cls: ClassInfo, evaluated: bool, given: Sequence[str], path: str, *, alone: bool = True
) -> Padding | None:
    """Padding of batch and sequence, if exactly one reading of the ranks makes sense.

    ``alone`` False: with fewer inputs it is enough that no reading is wrong.
    """
    found: list[tuple[list[tuple[str, ...]], Reader]] = []
    for axes in _ranks(len(given), ("B", "S")):
        reader = Reader(evaluated)
        # the runtime fills padding with zeros
        values = {n: Arr(a, "", ((1 - len(a), "zero"),)) for n, a in zip(given, axes, strict=True)}
        result = reader.keeps(cls, values, path)
        if result is False:
            return None
        if result:
            found.append((axes, reader))
    if not alone:
        return Padding("B ...")
    if len(found) != 1 or not found[0][1].meets:
        return None
    axes, reader = found[0]
    if any(not limit for limit in reader.limits):
        return None
    pad = {name: " ".join(a) for name, a in zip(given, axes, strict=True)}
    return Padding(pad, tuple(dict.fromkeys(reader.limits)))


def _parameters(cls: ClassInfo) -> list[str] | None:
    found = cls.find("forward")
    if found is None or not isinstance(found[1], FunctionInfo):
        return None
    spec = getattr(found[1].node, "args", None)
    if spec is None or spec.vararg is not None or spec.kwarg is not None or spec.posonlyargs:
        return None
    return [a.arg for a in (*spec.args[1:], *spec.kwonlyargs)]


def _of_batch(node: ast.expr, derived: frozenset[str]) -> bool:
    """A part of the batch, moved or cast, but with its first dimension as it came."""
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in (
                "to",
                "cuda",
                "float",
                "half",
                "long",
                "bool",
                "contiguous",
                "bfloat16",
                "int",
            ):
                return False
            node = node.func.value
        elif isinstance(node, ast.Subscript):
            part = node.slice
            if isinstance(part, ast.Slice) and part.lower is not None and part.step is None:
                return isinstance(node.value, ast.Name | ast.Attribute)  # data[i : i + size]: some rows of it
            if not isinstance(part, ast.Constant):
                return False
            node = node.value
        elif isinstance(node, ast.Attribute):
            node = node.value
        else:
            return isinstance(node, ast.Name) and node.id in derived


def _evaluated(facts: Facts, call: ast.Call) -> bool:
    """Whether the model, or what it is an attribute of, is put into evaluation mode around the loop."""
    function = enclosing_function(facts, call)
    scope = function if function is not None else facts.tree
    if function is not None and _kept_evaluated(facts, function, call.func):
        return True
    parts = ast.unparse(call.func).split(".")
    wanted = {".".join([*parts[:i], "eval"]) for i in range(1, len(parts) + 1)}
    wanted |= {f"{name}.eval" for name in _origins(scope, parts[0])}
    loops = {n for n in ancestors(facts, call) if isinstance(n, ast.For)}
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in wanted
        for node in ast.walk(scope)
        if not loops & set(ancestors(facts, node))
    )


def _kept_evaluated(facts: Facts, function: ast.AST, func: ast.expr) -> bool:
    """``self.model = model.eval()`` in ``__init__``, and nothing in the class trains it again."""
    cls = facts.parents.get(function)
    if not isinstance(cls, ast.ClassDef) or not isinstance(func, ast.Attribute):
        return False
    text = ast.unparse(func)
    modes = [n for n in ast.walk(cls) if isinstance(n, ast.Attribute) and n.attr in ("train", "training")]
    stored = [
        node.value
        for node in ast.walk(cls)
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == text for t in node.targets)
    ]
    calls = [ast.unparse(n.func) for n in ast.walk(cls) if isinstance(n, ast.Call)]
    evaluated = all(
        isinstance(v, ast.Call) and isinstance(v.func, ast.Attribute) and v.func.attr == "eval"
        for v in stored
    )
    return not modes and bool(stored) and (evaluated or f"{text}.eval" in calls)


def _origins(scope: ast.AST, name: str) -> set[str]:
    """Objects of which ``name`` is an attribute: ``service`` for ``encoder = service.encoder``."""
    found: set[str] = set()
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for one, value in pairs:
                if isinstance(one, ast.Name) and one.id == name and isinstance(value, ast.Attribute):
                    parts = ast.unparse(value).split(".")
                    found |= {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    return found


def _no_hooks(cls: ClassInfo) -> bool:
    return "hook" not in "".join(n.attr for n in ast.walk(cls.node) if isinstance(n, ast.Attribute))
