"""What runs only in training, where autograd records and no graph is replayed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache

from refactor.analysis.model import Facts
from refactor.analysis.project import last_name
from refactor.analysis.trees import walk
from refactor.rewrite.ops import names_in
from refactor.rewrite.syntax import FunctionNode, ancestors


def only_trains(facts: Facts, function: FunctionNode) -> bool:
    """Whether a method is called in its file, and only under ``if self.training``: autograd records there.

    A call in a method that only trains itself is such a call.
    """
    return _only_trains(facts, function.name, frozenset())


def _only_trains(facts: Facts, name: str, seen: frozenset[str]) -> bool:
    direct = False
    for call in _method_calls(facts).get(name, []):
        if in_training(facts, call):
            direct = True
            continue
        around = next((n for n in ancestors(facts, call) if isinstance(n, ast.FunctionDef)), None)
        if around is None:
            return False
        if around.name in seen or around.name == name:
            continue
        if not _only_trains(facts, around.name, seen | {name}):
            return False
        direct = True
    return direct


_LOSSES = names_in(
    """mse_loss l1_loss smooth_l1_loss huber_loss cross_entropy nll_loss binary_cross_entropy kl_div ctc_loss
    binary_cross_entropy_with_logits triplet_margin_loss cosine_embedding_loss margin_ranking_loss
    gaussian_nll_loss poisson_nll_loss hinge_embedding_loss soft_margin_loss"""
)


@lru_cache(maxsize=8)
def computes_loss(function: FunctionNode) -> bool:
    """Whether every call of a function computes one of torch's losses, which autograd records."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
        and last_name(node.func) in _LOSSES
        for stmt in function.body if isinstance(stmt, ast.Assign | ast.Return | ast.AnnAssign)
        for node in walk(stmt)
    )  # fmt: skip


@lru_cache(maxsize=2)
def _method_calls(facts: Facts) -> Mapping[str, list[ast.Call]]:
    """Calls ``….name(…)`` of a file by name: asked for at every method that is cut."""
    found: dict[str, list[ast.Call]] = {}
    for node in walk(facts.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found.setdefault(node.func.attr, []).append(node)
    return found


def in_training(facts: Facts, node: ast.AST) -> bool:
    """Whether a node stands in the body of ``if self.training``."""
    inner = node
    for around in ancestors(facts, node):
        if isinstance(around, ast.If) and inner in around.body:
            tests = around.test.values if isinstance(around.test, ast.BoolOp) else [around.test]
            conjunction = not isinstance(around.test, ast.BoolOp) or isinstance(around.test.op, ast.And)
            if conjunction and any(isinstance(t, ast.Attribute) and t.attr == "training" for t in tests):
                return True
        inner = around
    return False
