"""Where a finding points: the span of an expression, or the header of a statement, never a body."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from refactor.source import Source

_CLOSING = re.compile(rb"(?:[ \t\f]*\))+(?=[ \t\f]*:)")


@dataclass(frozen=True)
class Place:
    """Lines and columns from 1, columns in code points, ``end_line`` inclusive; ``start:end`` in bytes."""

    line: int
    column: int
    end_line: int
    end_column: int
    start: int
    end: int


def place_of(source: Source, node: ast.AST) -> Place:
    """The place of a node of the file's tree."""
    start, end = source.span(node)
    last = _header_end(node)
    end_line, end_column = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
    if last is not None:
        end_line, end_column = last
        end = source.offset(end_line, end_column)
        closing = _CLOSING.match(source.data, end)
        if closing:
            end, end_column = closing.end(), end_column + len(closing.group())
    line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
    return Place(
        line, source.column(line, column) + 1, end_line, source.column(end_line, end_column) + 1, start, end
    )


def _header_end(node: ast.AST) -> tuple[int, int] | None:
    """Line and UTF-8 column behind the header of a compound statement; None for everything else."""
    last: ast.AST | None = None
    match node:
        case ast.If(test=last) | ast.While(test=last) | ast.For(iter=last) | ast.AsyncFor(iter=last):
            pass
        case ast.With(items=items) | ast.AsyncWith(items=items):
            last = items[-1].optional_vars or items[-1].context_expr
        case ast.Match(subject=last):
            pass
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Try():
            return _keyword_end(node)
    return (last.end_lineno, last.end_col_offset) if last else None  # type: ignore[attr-defined]


def _keyword_end(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Try) -> tuple[int, int]:
    """Behind the name of a definition, whose position ``ast`` does not keep, or behind ``try``."""
    words = {ast.FunctionDef: "def ", ast.AsyncFunctionDef: "async def ", ast.ClassDef: "class "}
    name = "" if isinstance(node, ast.Try) else node.name
    width = len((words.get(type(node), "try") + name).encode("utf-8"))
    return node.lineno, node.col_offset + width
