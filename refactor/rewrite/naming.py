"""Names that a person would choose for segments and for the decisions between them."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Sequence
from keyword import iskeyword

from refactor.analysis import liveness
from refactor.analysis.model import Facts, Kind
from refactor.analysis.project import ClassInfo
from refactor.rewrite.names import attribute_names, used_names
from refactor.rewrite.plan import Piece
from refactor.rewrite.receiver import module_of
from refactor.rewrite.syntax import FunctionNode, dotted, enclosing_class, is_owner

_COMPARED: dict[type[ast.cmpop], tuple[str, str, str]] = {
    # with zero, with anything else (as prefix), with a named threshold (as prefix)
    ast.Gt: ("is_positive", "is_above", "exceeds"),
    ast.GtE: ("is_nonnegative", "is_at_least", "reaches"),
    ast.Lt: ("is_negative", "is_below", "is_below"),
    ast.LtE: ("is_nonpositive", "is_at_most", "is_within"),
    ast.Eq: ("is_zero", "is_equal", "is_equal_to"),
    ast.NotEq: ("is_nonzero", "differs", "differs_from"),
}


def predicate_name(test: ast.expr) -> str:
    """A name for the value of a test: ``is_positive``, ``exceeds_threshold``, ``any_mask``."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return "not_" + predicate_name(test.operand)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in _COMPARED:
        zero, other, named = _COMPARED[type(test.ops[0])]
        right = test.comparators[0]
        if isinstance(right, ast.Constant) and right.value == 0:
            return zero
        name = _last(right)
        return f"{named}_{name}" if name else other
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute):
        method = test.func.attr
        if method in ("any", "all"):
            inner = test.func.value if not test.args else test.args[0]
            return f"{method}_{_asked(inner) or _last(inner) or 'true'}"
        if method in ("item", "bool"):
            return predicate_name(test.func.value)
        if method in _ASKED:
            return f"is_{_ASKED[method]}"
        if getattr(test.func.value, "id", None) == "self":
            return method.strip("_").lower() or "decision"
    return "decision"


_ASKED = {"isnan": "nan", "isinf": "inf", "isfinite": "finite", "eq": "equal", "lt": "below", "gt": "above"}


def _asked(node: ast.expr) -> str:
    """``nan`` for ``torch.isnan(h)``, ``above`` for ``h > 3``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _ASKED.get(node.func.attr, "")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
        inner = _asked(node.operand) or _last(node.operand)
        return f"not_{inner}" if inner else ""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARED:
        zero, other, _ = _COMPARED[type(node.ops[0])]
        right = node.comparators[0]
        return (zero if isinstance(right, ast.Constant) and right.value == 0 else other).removeprefix("is_")
    return ""


def hoist_name(facts: Facts, stmt: ast.stmt, part: ast.expr) -> str:
    """A name for what is computed before a statement: by its place in it, else by what it is."""
    if isinstance(part, ast.Compare) or _is_any(part) or isinstance(part, ast.BoolOp | ast.UnaryOp):
        return predicate_name(part)
    around = facts.parents.get(part)
    if isinstance(around, ast.keyword) and around.arg:
        return around.arg
    if isinstance(around, ast.Dict):
        key = next((k for k, v in zip(around.keys, around.values, strict=True) if v is part), None)
        text = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
        if text.isidentifier() and not iskeyword(text):
            return text
    if isinstance(part, ast.Call):
        return _called(part, stmt)
    if isinstance(stmt, ast.Return):
        return "out"
    target = stmt.targets[0] if isinstance(stmt, ast.Assign) else None
    if isinstance(target, ast.Name) and stmt.value is part:  # type: ignore[attr-defined]
        return target.id
    return "value"


def _is_any(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("any", "all")
    )


def _called(part: ast.Call, stmt: ast.stmt) -> str:
    """``h_norm`` for ``h.norm()``, ``head_out`` for ``self.head(h)``, ``energy`` for ``self.energy(h)``."""
    func = part.func
    if not isinstance(func, ast.Attribute):
        name = func.id if isinstance(func, ast.Name) else ""
        return f"{name.strip('_').lower()}_out" if name else "value"
    if isinstance(func.value, ast.Name) and func.value.id == "self":
        name = func.attr.strip("_").lower()
        if isinstance(stmt, ast.If | ast.While | ast.Assert) and stmt.test is part:
            return name
        return "out" if isinstance(stmt, ast.Return) else f"{name}_out"
    root: ast.expr = func.value
    while not isinstance(root, ast.Name | ast.Attribute):
        if isinstance(root, ast.Call):
            if isinstance(root.func, ast.Attribute) and getattr(root.func.value, "id", "") not in (
                "self",
                "torch",
                "F",
            ):
                root = root.func.value
            elif root.args:
                root = root.args[0]
            else:
                break
        elif isinstance(root, ast.Subscript):
            root = root.value
        elif isinstance(root, ast.BinOp):
            root = root.left
        else:
            break
    if getattr(root, "id", "") in ("torch", "F") and part.args:
        root = part.args[0]
    name = _last(root)
    return f"{name}_{func.attr}" if name else f"{func.attr}_value"


def _last(node: ast.expr) -> str:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.strip("_").lower()


def piece_prefix(facts: Facts, function: FunctionNode) -> str:
    """``_forward``, with the class in front where a base class has such a method that may be cut, too."""
    base = function.name.strip("_") or "call"
    cls = enclosing_class(facts, function)
    if cls is None:
        return f"_{base}"
    bases = known_bases(facts, cls)
    if bases is not None and not any(function.name in found.own for found in bases):
        return f"_{base}"
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.name).strip("_").lower()
    if any(found.name == cls.name for found in bases or ()):
        snake = f"{facts.module.rpartition('.')[2].strip('_').lower()}_{snake}"
    return f"_{snake}_{base}"


def known_bases(facts: Facts, cls: ast.ClassDef) -> list[ClassInfo] | None:
    """The base classes of a class in the code base; None if one of its bases is not known at all."""
    found = module_of(facts).lookup(cls.name)
    if not isinstance(found, ClassInfo) or found.node is not cls:
        plain = all(dotted(facts, base) == "torch.nn.Module" for base in cls.bases)
        return [] if plain else None
    bases = [base for base in found.mro if isinstance(base, ClassInfo) and base is not found]
    for one in (found, *bases):
        if any(one.module.resolve(base) is None for base in one.node.bases):
            return None
    return bases


def names_beside(facts: Facts, function: FunctionNode) -> set[str]:
    """Names that a piece of a function must not have: attributes of its instances, or names of the file."""
    cls = enclosing_class(facts, function)
    if cls is None:
        return set(used_names(facts.tree)) | set(dir(builtins))
    return set(attribute_names(facts.tree)) | inherited_names(facts, cls)


def inherited_names(facts: Facts, cls: ast.ClassDef) -> set[str]:
    """Attributes that the instances of a class have from elsewhere than its file."""
    names = set(_OF_MODULES)
    for base in known_bases(facts, cls) or ():
        names |= attribute_names(base.node)
    return names


_OF_MODULES = (
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_call_impl",
)
"""Attributes of every module that a segment could be named like."""


def piece_role(facts: Facts, function: FunctionNode, piece: Piece, place: str) -> str:
    """What a piece is about: the one or two submodules it runs, else the value it makes, else its place."""
    parts = _submodules(facts, function, piece.nodes)
    if 1 <= len(parts) <= 2:
        return "_".join(parts)
    if not piece.statements and piece.hoist is not None:
        return piece.hoist.names[0]
    made = piece.outputs or (() if piece.returns else liveness.writes(piece.statements))
    name = made[-1].strip("_").lower() if made and not parts else ""
    return name if len(name) > 1 else place


def _submodules(facts: Facts, function: FunctionNode, nodes: Sequence[ast.AST]) -> list[str]:
    found: dict[str, tuple[int, int]] = {}
    inside = [node for root in nodes for node in ast.walk(root)]
    looped = {n for loop in inside if isinstance(loop, ast.For) for n in liveness.target_names(loop.target)}
    for root in nodes:
        for node in ast.walk(root):
            called = (
                node.func if isinstance(node, ast.Call) else node.iter if isinstance(node, ast.For) else None
            )
            while isinstance(called, ast.Subscript):
                called = called.value
            name = ""
            if isinstance(called, ast.Name) and isinstance(node, ast.Call):
                name = called.id if facts.value(called).kind is Kind.MODULE else ""
                name = "" if name in looped else name
            elif isinstance(called, ast.Attribute):
                chain: ast.expr = called
                while isinstance(chain, ast.Attribute) and isinstance(chain.value, ast.Attribute):
                    chain = chain.value
                if isinstance(chain, ast.Attribute) and is_owner(facts, function, chain.value):
                    name = chain.attr
            name = name.strip("_").lower()
            if name and called is not None:
                place = (called.lineno, called.col_offset)
                found[name] = min(place, found.get(name, place))
    return sorted(found, key=lambda name: found[name])
