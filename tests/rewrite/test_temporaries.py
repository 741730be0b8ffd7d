"""Fresh temporaries (CG404): the work for a method grows with its lines, not with their square."""

from __future__ import annotations

import ast

import pytest

from refactor.analysis import loops
from refactor.analysis.model import EventKind, Kind, Value
from refactor.analysis.trees import walk
from refactor.rewrite import temporaries
from refactor.rewrite.model import Proposal
from tests.rewrite.support import facts_of, hit_at


def _visited(assignments: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Nodes visited by walks while every assignment of one method is proposed."""
    head = "import torch\nfrom torch import nn\n\n\nclass M(nn.Module):\n    def forward(self, x):\n"
    code = head + "        t = x * 2\n" * assignments + "        return t.sum(-1)\n"
    facts = facts_of(code, {"x": Value(Kind.TENSOR), "t": Value(Kind.TENSOR)})
    visited = 0

    def counted(root: ast.AST) -> list[ast.AST]:
        nonlocal visited
        found = walk(root)
        visited += len(found)
        return found

    places = [node for node in ast.walk(facts.tree) if isinstance(node, ast.Assign)]
    assert len(places) == assignments
    with monkeypatch.context() as patched:
        for module in (temporaries, loops):
            patched.setattr(module, "walk", counted)
        patched.setattr(ast, "walk", lambda root: iter(counted(root)))
        for place in places:
            hit = hit_at(facts, place.value, EventKind.TEMPORARY)
            assert isinstance(temporaries.propose_temporary(facts, hit), Proposal)
    return visited


def test_twice_the_assignments_of_a_method_are_twice_the_nodes_visited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = _visited(200, monkeypatch), _visited(400, monkeypatch)
    assert 0 < small < large <= 2.1 * small
