"""Numbers assigned through an index (CG406): the number is made on the device, where it is written."""

from __future__ import annotations

import ast

from refactor.analysis.model import EventKind, Facts, Kind
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.packed import inside, is_plain, shortened, spaced
from refactor.rewrite.syntax import argument, code_of, expression
from refactor.rule import Hit


def propose_fill(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``x[index] = 0.0`` becomes ``x[index] = x.new_full((), 0.0)``: same dtype, no copy from the host."""
    stmt = hit.event.statement
    if not isinstance(stmt, ast.Assign):
        return Refusal("only a plain assignment is rewritten; use `index_fill_`")
    target = next((t for t in stmt.targets if isinstance(t, ast.Subscript)), None)
    if len(stmt.targets) != 1 or target is None:
        return Refusal("several targets are assigned at once; give each a line of its own")
    if any(e.kind is EventKind.DYNAMIC_OP and inside(e.node, target.slice) for e in facts.events):
        return Refusal("the places are looked for on the device; fill them through the condition itself")
    owner = target.value
    if not is_plain(owner):
        text = shortened(code_of(facts, owner))
        return Refusal(f"`{text}` is computed in the assignment; bind it to a name first")
    if not _is_number(facts, stmt.value):
        return Refusal("what is assigned is not surely a Python number; make it on the device")
    return Proposal((_on_device(facts, stmt.value, owner),), "the number is filled in on the device")


def filled(facts: Facts, subscript: ast.Subscript, index: ast.expr) -> tuple[Change, ...]:
    """The change of the number assigned through an index that another rewrite puts on the device.

    Of several such indices in a statement only the first brings it along.
    """
    stmt = facts.parents.get(subscript)
    if not isinstance(stmt, ast.Assign) or stmt.targets != [subscript] or not is_plain(subscript.value):
        return ()
    if not _is_number(facts, stmt.value):
        return ()
    own = [event for event in facts.events if event.statement is stmt]
    lists = [event.subject for event in own if event.kind is EventKind.INDEX_LIST]
    if any(event.kind is EventKind.INDEX_FILL for event in own) or lists[:1] != [index]:
        return ()
    return (_on_device(facts, stmt.value, subscript.value),)


def _is_number(facts: Facts, node: ast.expr) -> bool:
    value = facts.value(node)
    return value.kind is Kind.HOST and value.dtype in ("int", "float", "bool")


def _on_device(facts: Facts, number: ast.expr, owner: ast.expr) -> Change:
    name = code_of(facts, owner)

    def build(node: cst.BaseExpression) -> cst.BaseExpression:
        made = cst.Attribute(expression(name), cst.Name("new_full"))
        return cst.Call(made, [spaced(argument(expression("()"))), argument(node)])

    return Change(number, build)
