"""The top level of a script as the scope of a training step: its variables are globals that others may use.

What a step binds becomes local to the function made of it, so a step is refused where a function or class of
the file would miss such a name, and where one that the step runs reads a global that changes between steps:
a replay would not see the change.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from refactor.analysis import liveness
from refactor.analysis.globalnames import GlobalUse, exported, global_uses
from refactor.analysis.model import Facts
from refactor.analysis.project import last_name
from refactor.analysis.trees import walk
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.names import bound_names
from refactor.rewrite.syntax import ancestors, same_scope

SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Assert, ast.Delete)
_COMPOUND = (ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With)
_WHOLE = frozenset({"globals", "locals", "vars", "dir"})  # without arguments
_CODE = frozenset({"exec", "eval"})


class Script:
    """Answers about one file's top level."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.tree = facts, facts.tree

    @cached_property
    def uses(self) -> tuple[GlobalUse, ...]:
        """The functions and classes of the file, with the globals they use."""
        return global_uses(self.facts.source.text, self.tree)

    @cached_property
    def shared(self) -> frozenset[str]:
        """Globals that code other than the top level names."""
        names = (use.reads | use.binds for use in self.uses)
        return frozenset().union(*names) | exported(self.tree)

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names that a step takes as arguments: not imports, definitions, and numbers given once."""
        bound = bound_names(self.tree)
        found: set[str] = set()
        for stmt in _own(self.tree.body):
            defined = isinstance(
                stmt, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            )
            if not defined:
                fixed = isinstance(stmt, ast.Assign) and _is_number(stmt.value) and stmt in self.tree.body
                found |= {n for n in liveness.writes([stmt]) if not (fixed and bound.get(n) == 1)}
        return frozenset(found)

    def live_after(self, stmt: ast.stmt) -> frozenset[str]:
        """Names that may be read when a statement is done, by anything in the file."""
        return liveness.live_out(self.tree, self.shared)[stmt]

    def trouble(self, owner: ast.AST, inside: Sequence[ast.stmt]) -> str:
        """Why the statements cannot become a function of their own; empty if they can."""
        bound = set(liveness.writes(list(inside)))
        for use in self.uses:
            both = sorted(bound & (use.reads | use.binds))
            if both:
                return f"{_called(use)} uses the global `{both[0]}` that the step makes; pass it as argument"
        changing = self._changing(owner)
        for use in self._reached(inside):
            both = sorted(changing & use.reads)
            if both:
                return (
                    f"{_called(use)} reads the global `{both[0]}`, which changes from step to step; "
                    "pass it as argument"
                )
            if use.binds:
                return f"{_called(use)} changes the global `{min(use.binds)}`, which a replay would not do"
        return self._by_name(inside[0].lineno)

    def _by_name(self, line: int) -> str:
        """``globals()`` and the like, where the names of the step could be asked for."""
        top = {id(node) for node in same_scope(self.tree)}
        for node in walk(self.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            whole = node.func.id in _WHOLE and not node.args and not node.keywords
            if (whole or node.func.id in _CODE) and (node.lineno > line or id(node) not in top):
                return (
                    f"`{ast.unparse(node.func)}` in line {node.lineno} can reach every global by its name; "
                    "move the loop into a function"
                )
        return ""

    def _changing(self, owner: ast.AST) -> set[str]:
        """Globals that the loops around a step bind."""
        loops = [n for n in (owner, *ancestors(self.facts, owner)) if isinstance(n, ast.For | ast.While)]
        return set(liveness.writes(loops[-1:]))

    def _reached(self, inside: Sequence[ast.stmt]) -> list[GlobalUse]:
        """Functions and classes that the step may run: by their names, however they come to it."""
        made: dict[str, list[ast.stmt]] = {}
        todo = list(inside)
        for stmt in _own(self.tree.body):
            if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                made.setdefault(stmt.name, []).append(stmt)
            elif isinstance(stmt, SIMPLE):
                for name in liveness.writes([stmt]):
                    made.setdefault(name, []).append(stmt)
                if any(name.startswith("register_") for name in _identifiers(stmt)):
                    todo.append(stmt)
        seen: set[ast.stmt] = set()
        names: set[str] = set()
        while todo:
            stmt = todo.pop()
            if stmt not in seen:
                seen.add(stmt)
                names |= _identifiers(stmt)
                todo += [other for name in _identifiers(stmt) for other in made.get(name, ())]
        lines = {line for stmt in seen for line in range(stmt.lineno, (stmt.end_lineno or stmt.lineno) + 1)}
        return [use for use in self.uses if use.name in names or (not use.name and use.line in lines)]

    def place(self, owner: ast.AST) -> tuple[ast.stmt, bool, int, int]:
        """Where the function of a step goes.

        Returns:
            A top-level statement; whether the function stands behind it and not before it; and how many empty
            lines are missing before and behind the function for two on each side.
        """
        top = next(n for n in (owner, *ancestors(self.facts, owner)) if n in self.tree.body)
        index = self.tree.body.index(top)
        before = self.tree.body[index - 1] if index else None
        lines = [text for _, text in self.facts.source.lines]
        if before is None or not self._is_alone(index - 1):
            above = lines[: top.lineno - 1]
            empty = next((i for i, text in enumerate(reversed(above)) if text.strip()), 2)
            commented = not empty and above[-1:] and above[-1].startswith("#")
            return top, False, 0 if commented else max(0, 2 - empty), 2
        last = before.end_lineno or before.lineno
        following = lines[last:]
        empty = next((i for i, text in enumerate(following) if text.strip()), 2)
        return before, True, 2, max(0, 2 - empty)

    def beside(self, owner: ast.AST, made: Sequence[cst.FunctionDef], node: Any) -> Any:
        """The functions of a top-level loop behind the statement before it, or before the loop."""
        _, behind, before, after = self.place(owner)
        gap = cst.EmptyLine(indent=False)
        spaced = [f.with_changes(leading_lines=[gap, gap]) for f in made]
        spaced[0] = spaced[0].with_changes(leading_lines=[gap] * before)
        body = cst.ensure_type(spaced[-1].body, cst.IndentedBlock)
        spaced[-1] = spaced[-1].with_changes(body=body.with_changes(footer=[*body.footer, *[gap] * after]))
        return cst.FlattenSentinel([node, *spaced] if behind else [*spaced, node])

    def _is_alone(self, index: int) -> bool:
        """Whether a statement can be given a function behind it: it shares no line, and is no import."""
        body = self.tree.body
        stmt = body[index]
        docstring = index == 0 and isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Constant)
        previous = body[index - 1].end_lineno if index else 0
        shared = previous == stmt.lineno or stmt.end_lineno == body[index + 1].lineno
        between = self.facts.source.lines[(stmt.end_lineno or stmt.lineno) : body[index + 1].lineno - 1]
        inner = any(text[:1].isspace() and text.strip() for _, text in between)  # comments of its block
        return isinstance(stmt, (*SIMPLE, *_COMPOUND)) and not (shared or docstring or inner)


def _called(use: GlobalUse) -> str:
    return f"`{use.name}` in line {use.line}" if use.name else f"the function in line {use.line}"


def _own(stmts: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Statements of the same scope, those in blocks too."""
    for stmt in stmts:
        yield stmt
        if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from _own(getattr(stmt, name, ()))
        for part in (*getattr(stmt, "handlers", ()), *getattr(stmt, "cases", ())):
            yield from _own(part.body)


def _identifiers(node: ast.AST) -> set[str]:
    found = {n.id for n in walk(node) if isinstance(n, ast.Name)}
    return found | {last_name(n) for n in walk(node) if isinstance(n, ast.Attribute)}


def _is_number(node: ast.expr) -> bool:
    """A literal, or one with a sign."""
    value = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(value, ast.Constant)
