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
    value = facts.value(stmt.value)
    if value.kind is not Kind.HOST or value.dtype not in ("int", "float", "bool"):
        return Refusal("what is assigned is not surely a Python number; make it on the device")
    name = code_of(facts, owner)

    def build(node: cst.BaseExpression) -> cst.BaseExpression:
        made = cst.Attribute(expression(name), cst.Name("new_full"))
        return cst.Call(made, [spaced(argument(expression("()"))), argument(node)])

    return Proposal((Change(stmt.value, build),), "the number is filled in on the device")
