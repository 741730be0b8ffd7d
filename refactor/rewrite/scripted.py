"""What ``torch.jit.script`` compiles: it knows a part of Python, and stops at what a rewrite brings in."""

from __future__ import annotations

import ast
from functools import lru_cache

from refactor.analysis.model import Facts
from refactor.analysis.trees import walk
from refactor.rewrite.syntax import ancestors, dotted

_COMPILES = frozenset({"torch.jit.script", "torch.jit.script_method", "torch.jit.script_if_tracing"})
_LEFT_OUT = frozenset({"torch.jit.ignore", "torch.jit.unused"})
_Compiled = ast.FunctionDef | ast.ClassDef


def compiled_around(facts: Facts, node: ast.AST) -> str:
    """The name of the function or class around a node that is compiled; empty if none is."""
    if "torch.jit" not in facts.source.text:
        return ""
    compiled = _compiled(facts)
    name = ""
    for around in (node, *ancestors(facts, node)):
        if isinstance(around, ast.FunctionDef) and _decorated(facts, around, _LEFT_OUT):
            return ""
        if isinstance(around, _Compiled) and around in compiled:
            name = around.name
    return name


@lru_cache(maxsize=4)
def _compiled(facts: Facts) -> frozenset[_Compiled]:
    """Functions and classes with the decorator or handed to ``torch.jit.script``, and functions they call."""
    top = {stmt.name: stmt for stmt in facts.tree.body if isinstance(stmt, _Compiled)}
    found: set[_Compiled] = set()
    for node in walk(facts.tree):
        if isinstance(node, _Compiled) and _decorated(facts, node, _COMPILES):
            found.add(node)
        elif isinstance(node, ast.Call) and node.args and dotted(facts, node.func) in _COMPILES:
            given = node.args[0].func if isinstance(node.args[0], ast.Call) else node.args[0]
            if isinstance(given, ast.Name) and given.id in top:
                found.add(top[given.id])
    pending = list(found)
    while pending:
        for node in walk(pending.pop()):
            called = (
                top.get(node.func.id)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                else None
            )
            if called is not None and called not in found and not _decorated(facts, called, _LEFT_OUT):
                found.add(called)
                pending.append(called)
    return frozenset(found)


def _decorated(facts: Facts, node: _Compiled, names: frozenset[str]) -> bool:
    functions = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return any(dotted(facts, function) in names for function in functions)
