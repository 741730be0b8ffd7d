"""Grouped matrix products (CG205): the runtime's `grouped_mm`, which lays the groups out on the device."""

from __future__ import annotations

import ast

from refactor.analysis.model import Facts
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.names import reference
from refactor.rewrite.syntax import keyword
from refactor.rule import Hit


def propose_grouped(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``torch.nn.functional.grouped_mm(x, weight, offs=offs)`` and ``torch._grouped_mm``: another name."""
    call = hit.event.node
    if not isinstance(call, ast.Call) or hit.event.detail.rpartition(".")[2] not in (
        "grouped_mm",
        "_grouped_mm",
    ):
        return Refusal("only `grouped_mm` is rewritten; scaled products need a fixed capacity for each group")
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        return Refusal("its arguments are unpacked; write them out")
    offsets = keyword(call, "offs") or (call.args[2] if len(call.args) > 2 else None)
    if len(call.args) < 2 or len(call.args) > 3 or offsets is None:
        return Refusal("it has no offsets, or arguments that are not understood; pass them by name")

    def build(node: cst.Call) -> cst.BaseExpression:
        return node.with_changes(func=reference("grouped_mm"))

    note = "while a graph is captured, the groups are laid out in blocks on the device; verify the roundings"
    return Proposal((Change(call, build),), note, frozenset({"grouped_mm"}))
