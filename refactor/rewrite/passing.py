"""What goes into a piece in the place of an object: the attributes of it that the piece reads.

``features = self.backbone(images.tensors)``: an object made at every call would be another graph each time,
while the tensor that is taken out of it is an input like any other. An attribute is read before the piece
instead of in it, so it must be read on every path through the piece, and the object used for nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from refactor.analysis import liveness
from refactor.analysis.model import Facts, Kind
from refactor.rewrite.ops import METADATA, VIEW_ATTRIBUTES
from refactor.rewrite.syntax import (
    COMPREHENSIONS,
    SCOPES,
    ancestors,
    dotted,
    enclosing_class,
    is_owner,
    same_scope,
)
from refactor.rewrite.work import on_layer

if TYPE_CHECKING:
    from refactor.rewrite.plan import Piece
    from refactor.rewrite.planner import Planner

Taken = dict[tuple[str, str], list[ast.Attribute]]
_PERHAPS = (ast.If, ast.For, ast.While, ast.Try, ast.IfExp, ast.BoolOp, ast.Match, *COMPREHENSIONS, *SCOPES)


def taken_from(planner: Planner, piece: Piece, name: str) -> Taken:
    """Reads of the attributes of a variable that can be arguments in its place; empty if it has to go in."""
    if name in liveness.writes(piece.statements):
        return {}
    found: Taken = {}
    sure: set[str] = set()
    for node in _inside(piece.nodes):
        if not isinstance(node, ast.Name) or node.id != name:
            continue
        around = planner.facts.parents.get(node)
        if not isinstance(around, ast.Attribute) or not is_part(planner, around):
            return {}
        found.setdefault((name, around.attr), []).append(around)
        if _is_certain(planner, piece, around):
            sure.add(around.attr)
    return found if all(attr in sure for _, attr in found) else {}


def replaced_in(planner: Planner, piece: Piece) -> Taken:
    """Reads of tensors in attributes that the method replaces: ``self.state = self.cell(x, self.state)``.

    A graph reads where the tensor was when it was recorded. As an argument, it may be another one every time.
    """
    found: Taken = {}
    sure: set[str] = set()
    owner = planner.owner
    for node in _inside(piece.nodes) if planner.replaced else ():
        if not isinstance(node, ast.Attribute) or node.attr not in planner.replaced:
            continue
        if not isinstance(node.value, ast.Name) or node.value.id != owner:
            continue
        if planner.facts.value(node).kind is Kind.TENSOR and isinstance(node.ctx, ast.Load):
            found.setdefault((owner, node.attr), []).append(node)
            if _is_certain(planner, piece, node):
                sure.add(node.attr)
    return {key: nodes for key, nodes in found.items() if key[1] in sure}


def replaced_attributes(facts: Facts, function: ast.FunctionDef) -> frozenset[str]:
    """Attributes of the instance that a method assigns, or a method of its class that it calls."""
    cls = enclosing_class(facts, function)
    own = {n.name: n for n in cls.body if isinstance(n, ast.FunctionDef)} if cls is not None else {}
    called = {
        node.func.attr
        for node in same_scope(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and is_owner(facts, function, node.func.value)
    }
    return frozenset(
        node.attr
        for method in (function, *(own[name] for name in sorted(called & own.keys())))
        for node in (same_scope(method) if cls is not None else ())
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and is_owner(facts, method, node.value)
    )


def needs(planner: Planner, root: ast.AST, name: str) -> bool:
    """Whether a node reads a variable for more than parts that could be passed in its place."""
    for node in _inside([root]):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            around = planner.facts.parents.get(node)
            if not isinstance(around, ast.Attribute) or not is_part(planner, around):
                return True
    return False


def is_part(planner: Planner, node: ast.Attribute) -> bool:
    """Whether an attribute of an object is a tensor, or what a layer or arithmetic with one is given."""
    facts = planner.facts
    if node.attr in METADATA | VIEW_ATTRIBUTES or not isinstance(node.ctx, ast.Load):
        return False
    if facts.value(node.value).kind is not Kind.UNKNOWN and node.value.id not in planner.objects:  # type: ignore[attr-defined]
        return False
    if facts.value(node).kind in (Kind.TENSOR, Kind.CONTAINER):
        return True
    around = facts.parents.get(node)
    if isinstance(around, ast.BinOp) or (isinstance(around, ast.Compare) and len(around.comparators) == 1):
        sides = [around.left, around.right if isinstance(around, ast.BinOp) else around.comparators[0]]
        return any(facts.value(side).kind is Kind.TENSOR for side in sides if side is not node)
    if isinstance(around, ast.keyword):
        around = facts.parents.get(around)
    if not isinstance(around, ast.Call) or around.func is node:
        return False
    return facts.value(node).kind in (Kind.UNKNOWN, Kind.HOST) and on_layer(facts, around)


def objects_in(facts: Facts, function: ast.FunctionDef) -> frozenset[str]:
    """Variables that hold an object of a class, by what is known of them or by the attributes they have."""
    found: set[str] = set()
    for node in same_scope(function):
        if isinstance(node, ast.Name) and facts.value(node).kind is Kind.UNKNOWN:
            if facts.value(node).qualname:
                found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            around = facts.parents.get(node)
            called = isinstance(around, ast.Call) and around.func is node
            tensor = facts.value(node.value).kind is Kind.TENSOR
            strange = node.attr not in METADATA | VIEW_ATTRIBUTES and facts.value(node).kind is Kind.UNKNOWN
            if tensor and strange and not called:
                found.add(node.value.id)  # no tensor has it, whatever the layer that made it was taken for
    return frozenset(found)


def doubted_in(facts: Facts, function: ast.FunctionDef) -> dict[str, int]:
    """Lines up to which variables may be no tensors by the function's own account.

    ``if not isinstance(img, Tensor): img = to_tensor(img)``.
    """
    found: dict[str, int] = {}
    for node in same_scope(function):
        if not isinstance(node, ast.If) or not isinstance(node.test, ast.UnaryOp):
            continue
        call = node.test.operand
        asked = isinstance(call, ast.Call) and getattr(call.func, "id", "") == "isinstance"
        if not asked or isinstance(node.body[0], ast.Raise) or len(call.args) != 2:  # type: ignore[attr-defined]
            continue
        value, kind = call.args  # type: ignore[attr-defined]
        if isinstance(value, ast.Name) and dotted(facts, kind) in ("torch.Tensor", "torch.tensor.Tensor"):
            found[value.id] = max(node.lineno, found.get(value.id, 0))
    return found


def _inside(roots: Sequence[ast.AST]) -> list[ast.AST]:
    return [node for root in roots for node in (root, *same_scope(root))]


def _is_certain(planner: Planner, piece: Piece, node: ast.AST) -> bool:
    """Whether a node is evaluated whenever the piece is."""
    if node in piece.nodes:
        return True
    for around in ancestors(planner.facts, node):
        if isinstance(around, _PERHAPS):
            return False
        if around in piece.nodes:
            return True
    return False
