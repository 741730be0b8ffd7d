"""What the original's text says is worth trying: numbers it compares with, settings it reads."""

from __future__ import annotations

import ast
import contextlib
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .observe import public_attributes, public_items
from .trees import Subject, under

MAX_THRESHOLDS = 6
MAX_SETTINGS = 12
SIZES = ("shape", "size", "dim", "ndim", "numel", "len", "device", "dtype", "version_info", "isinstance")
COMPARING = (
    "gt", "ge", "lt", "le", "eq", "ne", "greater", "greater_equal", "less", "less_equal",
    "gt_", "ge_", "lt_", "le_", "isclose", "allclose", "maximum", "minimum", "clamp", "threshold",
)  # fmt: skip

Number = int | float


@dataclass
class Clues:
    """Facts of some parsed files: comparisons, what names stand for, which attributes methods read."""

    compared: list[ast.expr] = field(default_factory=list)
    named: dict[str, list[Number]] = field(default_factory=lambda: defaultdict(list))
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    sizes: set[str] = field(default_factory=set)  # names in calls, subscripts and comparisons
    factors: set[str] = field(default_factory=set)  # names that are operands of arithmetic
    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, tree: ast.AST) -> None:
        """Read one file."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                self._comparison(node)
            elif isinstance(node, ast.Call):
                self._call(node)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    self._name(label(target), node.value)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._function(node)
            elif isinstance(node, ast.Subscript):
                self.sizes |= labels(node.slice)
            elif isinstance(node, ast.BinOp):
                if labels(node) & set(SIZES):
                    self.sizes |= labels(node)
                self.factors |= {label(node.left), label(node.right)}

    def _comparison(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        self.sizes |= labels(node)
        for side in sides:
            name = label(side)
            if name:
                self.texts[name] += [t for other in sides for t in _texts(other)]
        if any(isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) for op in node.ops):
            return
        if not labels(node) & set(SIZES):
            self.compared += sides

    def _call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            self._name(keyword.arg or "", keyword.value)
        given = [*node.args, *(k.value for k in node.keywords)]
        if label(node.func) in COMPARING:
            self.compared += given
        else:
            self.sizes |= {n for g in given for n in labels(g)}

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        for given, value in zip(reversed(positional), reversed(arguments.defaults), strict=False):
            self._name(given.arg, value)
        for given, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            self._name(given.arg, default)
        if node.name == "__init__":
            return
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute):
                (self.read if isinstance(inner.ctx, ast.Load) else self.written).add(inner.attr)

    def _name(self, name: str, value: ast.expr | None) -> None:
        number = _number(value) if value is not None else None
        if name and number is not None:
            self.named[name].append(number)

    def thresholds(self, held: Iterable[tuple[str, Any]]) -> list[Number]:
        """Numbers compared with something, names among them as ``held`` and the files give them."""
        known: dict[str, list[Number]] = defaultdict(list)
        for name, value in held:
            number = _plain(value)
            if number is not None:
                known[name].append(number)
        for name, numbers in self.named.items():
            known[name] += numbers
        found: list[Number] = []
        for expression in self.compared:
            for number in _values(expression, known):
                if number not in found and math.isfinite(number):
                    found.append(number)
        return sorted(found, key=lambda n: n == 0)[:MAX_THRESHOLDS]

    def settings(self, held: Iterable[tuple[str, str, Any]]) -> list[dict[str, Any]]:
        """Attributes that methods read and never write, each with other values to try."""
        found = []
        for where, name, value in held:
            if name not in self.read or name in self.written:
                continue
            values = self._others(name, value)
            if values:
                found.append({"at": where, "name": name, "values": [value, *values]})
        return found[:MAX_SETTINGS]

    def _others(self, name: str, value: Any) -> list[Any]:
        if isinstance(value, bool):
            return [not value]
        if isinstance(value, int):  # memory may be laid out by a size: only factors are settings for certain
            return [value + 1, value + 2] if name in self.factors - self.sizes else []
        if isinstance(value, float):
            return [value * 0.5, value * 2.0, value + 0.25] if math.isfinite(value) else []
        if isinstance(value, str):
            return [t for t in dict.fromkeys(self.texts.get(name, [])) if t != value]
        return []


def clues(files: Iterable[Path]) -> Clues:
    """Facts of the files that can be read; the rest is left out."""
    found = Clues()
    for file in files:
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            found.add(ast.parse(file.read_bytes()))
    return found


def held_by(subjects: Iterable[Subject], root: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, name and value of what the user's objects keep: ``("", "limit", 4.0)`` is ``self.limit``."""
    for subject in subjects:
        network = subject.network
        if network is None:
            if subject.owner is not None:
                yield from (("", name, value) for name, value in public_items(subject.owner))
            continue
        for path, module in network.named_modules():
            if under(class_file(module), root):
                yield from ((path, n, v) for n, v in public_attributes(module) if n != "training")


def class_files(subjects: Iterable[Subject], root: Path) -> set[Path]:
    """Files of the tree in which the classes of the user's objects are defined, bases included."""
    found = set()
    for subject in subjects:
        owners = subject.network.modules() if subject.network is not None else [subject.owner]
        kinds = {kind for owner in owners for kind in type(owner).__mro__}
        files = (getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in kinds)
        found |= {Path(f) for f in files if f and under(f, root)}
    return found


def class_file(value: object) -> str | None:
    """The file that defines the class of an object, where it has one."""
    return getattr(sys.modules.get(type(value).__module__), "__file__", None)


def buffers_of(subjects: Iterable[Subject]) -> Iterator[tuple[str, Any]]:
    """Buffers and parameters of one element by the last part of their names."""
    for subject in subjects:
        network: nn.Module | None = subject.network
        if network is not None:
            yield from (
                (name.rpartition(".")[2], t) for name, t in network.state_dict().items() if t.numel() == 1
            )


def label(node: ast.AST) -> str:
    """The last name of an expression: ``limit`` of ``limit``, ``self.limit`` and ``cfg.limit``."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def labels(node: ast.AST) -> set[str]:
    """All names inside an expression."""
    return {n for n in map(label, ast.walk(node)) if n}


def _texts(node: ast.expr) -> list[str]:
    items = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return [i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)]


def _number(node: ast.expr) -> Number | None:
    values = _values(node, {})
    return values[0] if len(values) == 1 else None


def _plain(value: Any) -> Number | None:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.detach().cpu().item()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _values(node: ast.AST, known: dict[str, list[Number]]) -> list[Number]:
    """Numbers an expression may stand for; none where anything in it is not known."""
    if isinstance(node, ast.Constant):
        number = _plain(node.value)
        return [] if number is None else [number]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [-v for v in _values(node.operand, known)]
    if isinstance(node, (ast.Name, ast.Attribute)):
        return known.get(label(node), [])[:3]
    if isinstance(node, ast.BinOp):
        left, right = _values(node.left, known)[:3], _values(node.right, known)[:3]
        return [v for a in left for b in right if (v := _combined(node.op, a, b)) is not None]
    return []


def _combined(op: ast.operator, a: Number, b: Number) -> Number | None:
    try:
        if isinstance(op, ast.Add):
            return a + b
        if isinstance(op, ast.Sub):
            return a - b
        if isinstance(op, ast.Mult):
            return a * b
        if isinstance(op, ast.Div):
            return a / b
        return float(a**b) if isinstance(op, ast.Pow) and abs(b) < 64 else None
    except (ArithmeticError, TypeError, ValueError):
        return None
