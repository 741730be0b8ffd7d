"""A statement whose new value takes lines of its own before it: ``total = …``, ``return total / count``.

While the changes of a file are made a line must stay one line, since those around it (a function that is cut)
count lines. So the new statements share the line of the old one until the text is written.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from refactor.analysis.model import Facts
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.names import fresh, used_names
from refactor.rewrite.syntax import enclosing_function, enclosing_statement, expression

_BREAK = ";\f"


def spreadable(facts: Facts, node: ast.expr) -> ast.stmt | None:
    """The statement of which a node is the whole value, if lines can be put before it."""
    stmt = enclosing_statement(facts, node)
    assigned = isinstance(stmt, ast.Assign) and all(isinstance(t, ast.Name) for t in stmt.targets)
    if not (assigned or isinstance(stmt, ast.Return)) or stmt.value is not node:  # type: ignore[attr-defined]
        return None
    around = facts.parents.get(stmt)
    beside = [n for n in ast.iter_child_nodes(around) if n is not stmt] if around is not None else []
    places = [(n.lineno, n.end_lineno) for n in beside if isinstance(n, ast.stmt | ast.expr)]
    shared = any(first == stmt.lineno or last == stmt.lineno for first, last in places)
    return None if shared or getattr(around, "lineno", 0) == stmt.lineno else stmt


def fresh_in(facts: Facts, node: ast.AST, name: str) -> str:
    """A name for a new variable in the function around a node."""
    return fresh(name, used_names(enclosing_function(facts, node) or facts.tree))


def with_lines(lines: Callable[[], Sequence[tuple[str, Any]]]) -> Callable[[Any], Any]:
    """The change of a statement's line: assignments of names to expressions go before it."""

    def build(line: Any) -> Any:
        gap = cst.Semicolon(whitespace_after=cst.SimpleWhitespace(_BREAK[1:]))
        made = [
            cst.Assign(
                [cst.AssignTarget(cst.Name(name))],
                expression(value) if isinstance(value, str) else value,
                semicolon=gap,
            )
            for name, value in lines()
        ]
        return line.with_changes(body=[*made, *line.body])

    return build


def separated(text: str) -> str:
    """The text with every statement on a line of its own again."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        lines.append((end + indent).join(line.split(_BREAK)))
    return "\n".join(lines)
