"""The piece of a file that libcst sees: the top-level statements with edits, their lines and nothing else.

`ast` and libcst positions agree for every node but tuples and generators, whose parentheses libcst leaves out
of the span. A node that is not found by exact span and kind is not edited.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Refusal
from refactor.source import Source

MAX_DEPTH = 80
"""Deeper nesting brings libcst's recursive passes near the interpreter's recursion limit (LibCST#1000)."""

Positions = Mapping[cst.CSTNode, CodeRange]
_Range = tuple[int, int, int, int]
_KINDS: dict[type[ast.AST], tuple[type[cst.CSTNode], ...]] = {
    ast.FunctionDef: (cst.FunctionDef,),
    ast.AsyncFunctionDef: (cst.FunctionDef,),
    ast.ClassDef: (cst.ClassDef,),
    ast.If: (cst.If,),
    ast.While: (cst.While,),
    ast.For: (cst.For,),
    ast.AsyncFor: (cst.For,),
    ast.With: (cst.With,),
    ast.AsyncWith: (cst.With,),
    ast.Try: (cst.Try,),
    ast.Match: (cst.Match,),
    ast.Assign: (cst.Assign,),
    ast.AnnAssign: (cst.AnnAssign,),
    ast.AugAssign: (cst.AugAssign,),
    ast.Return: (cst.Return,),
    ast.Expr: (cst.Expr,),
    ast.Assert: (cst.Assert,),
    ast.Raise: (cst.Raise,),
    ast.Delete: (cst.Del,),
    ast.Call: (cst.Call,),
    ast.Attribute: (cst.Attribute,),
    ast.Name: (cst.Name,),
    ast.Constant: (cst.BaseNumber, cst.BaseString, cst.Name, cst.Ellipsis, cst.ConcatenatedString),
    ast.Subscript: (cst.Subscript,),
    ast.BinOp: (cst.BinaryOperation,),
    ast.UnaryOp: (cst.UnaryOperation,),
    ast.BoolOp: (cst.BooleanOperation,),
    ast.Compare: (cst.Comparison,),
    ast.IfExp: (cst.IfExp,),
    ast.List: (cst.List,),
    ast.Tuple: (cst.Tuple,),
    ast.Dict: (cst.Dict,),
    ast.Set: (cst.Set,),
    ast.GeneratorExp: (cst.GeneratorExp,),
    ast.ListComp: (cst.ListComp,),
    ast.SetComp: (cst.SetComp,),
    ast.DictComp: (cst.DictComp,),
    ast.Lambda: (cst.Lambda,),
    ast.NamedExpr: (cst.NamedExpr,),
    ast.JoinedStr: (cst.FormattedString, cst.ConcatenatedString),
}


@dataclass(frozen=True)
class Chunk:
    """Whole lines of the file: one top-level statement, or several that share a line."""

    first_line: int
    start: int
    end: int  # byte range in the file, without the end of the last line
    text: str
    depth: int


def chunk_of(source: Source, tree: ast.Module, node: ast.AST) -> Chunk:
    """The chunk with the top-level statement around ``node``."""
    line: int = node.lineno  # type: ignore[attr-defined]
    around = [stmt for stmt in tree.body if _first(stmt) <= line <= (stmt.end_lineno or line)]
    first, last = _first(around[0]), around[-1].end_lineno or line
    while True:
        sharing = [s for s in tree.body if _first(s) <= last and (s.end_lineno or last) >= first]
        low, high = min(map(_first, sharing)), max(s.end_lineno or last for s in sharing)
        if (low, high) == (first, last):
            break
        first, last = low, high
    start = source.lines[first - 1][0]
    offset, text = source.lines[last - 1]
    end = offset + len(text.rstrip("\r\n").encode(source.encoding))
    body = source.data[start:end].decode(source.encoding)
    return Chunk(first, start, end, body, max(map(_depth, sharing)))


def _first(stmt: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(stmt, "decorator_list", [])
    return min([stmt.lineno, *(node.lineno for node in decorators)])


@lru_cache(maxsize=16)
def _depth(node: ast.AST) -> int:
    deepest, stack = 0, [(node, 1)]
    while stack:
        current, depth = stack.pop()
        deepest = max(deepest, depth)
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(current)]
    return deepest


@dataclass(frozen=True)
class Parsed:
    """A chunk as libcst reads it, and the libcst node of each change."""

    module: cst.Module
    nodes: Mapping[Change, cst.CSTNode]
    positions: Positions
    carriage_returns: bool  # the chunk's lines end with "\r" alone, which libcst does not keep


def parse_chunk(source: Source, chunk: Chunk, changes: Sequence[Change]) -> Parsed | Refusal:
    """Parse a chunk and find the nodes of the changes in it; those not found are missing from ``nodes``."""
    if chunk.depth > MAX_DEPTH:
        return Refusal(f"the code around it is nested more than {MAX_DEPTH} levels deep; split it")
    single = "\n" not in chunk.text and "\r" not in chunk.text
    bare = "\n" not in chunk.text and ("\r" in chunk.text or source.newline == "\r")
    text = chunk.text.replace("\r", "\n") if bare else chunk.text
    config = cst.PartialParserConfig(default_newline=_newline(source, bare))
    try:
        module = cst.parse_module(text, config)
    except cst.ParserSyntaxError as error:
        return Refusal(f"libcst does not parse this statement ({error.message}); rewrite it by hand")
    if module.code != text:
        return Refusal("libcst does not reproduce this statement exactly (a form feed?); rewrite it by hand")
    positions = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    index: dict[_Range, list[cst.CSTNode]] = {}
    for node, place in positions.items():
        index.setdefault(_range(node, place, positions), []).append(node)
    nodes: dict[Change, cst.CSTNode] = {}
    for change in changes:
        found = _match(source, chunk, change, index)
        if found is not None:
            nodes[change] = found
    if single:  # it does not show how the file ends lines and indents
        ends = "\n" if bare else source.newline
        module = module.with_changes(default_newline=ends, default_indent=_indent(source))
    return Parsed(module, nodes, positions, bare)


def _indent(source: Source) -> str:
    """The first indentation behind a colon, else four spaces."""
    found = re.search(r":[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n)([ \t]+)[^\s#]", source.text)
    return found.group(1) if found else "    "


def _newline(source: Source, bare: bool) -> Any:
    return "\n" if bare else source.newline


def _range(node: cst.CSTNode, place: CodeRange, positions: Mapping[cst.CSTNode, CodeRange]) -> _Range:
    start, end = place.start, place.end
    if isinstance(node, cst.Tuple | cst.GeneratorExp) and node.lpar:
        start, end = positions[node.lpar[-1]].start, positions[node.rpar[0]].end
    return start.line, start.column, end.line, end.column


def _match(
    source: Source, chunk: Chunk, change: Change, index: Mapping[_Range, Iterable[cst.CSTNode]]
) -> cst.CSTNode | None:
    node: Any = change.node
    place = (
        node.lineno - chunk.first_line + 1,
        source.column(node.lineno, node.col_offset),
        node.end_lineno - chunk.first_line + 1,
        source.column(node.end_lineno, node.end_col_offset),
    )
    kinds = (cst.SimpleStatementLine,) if change.line else _KINDS.get(type(node), ())
    found = [item for item in index.get(place, ()) if isinstance(item, kinds)]
    return found[0] if len(found) == 1 else None
