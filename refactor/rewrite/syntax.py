"""Small questions about syntax that several rewrites ask, and libcst nodes made from text."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from refactor.analysis.model import Facts, Kind
from refactor.analysis.trees import children, statements
from refactor.rewrite.lazily import libcst as cst

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def dotted(facts: Facts, node: ast.expr) -> str | None:
    """``torch.nn.functional.relu`` for what a name or attribute refers to; None where it is not an import."""
    value = facts.value(node)
    if value.kind is Kind.FUNCTION and value.qualname:
        return value.qualname.replace(":", ".").removeprefix(".")
    if isinstance(node, ast.Name):
        return _imported(facts.tree).get(node.id)
    if isinstance(node, ast.Attribute):
        scope = dotted(facts, node.value)
        return f"{scope}.{node.attr}" if scope else None
    return None


@lru_cache(maxsize=4)
def _imported(tree: ast.Module) -> Mapping[str, str]:
    table: dict[str, str] = {}
    top = set(tree.body)
    found = [stmt for stmt in statements(tree.body) if isinstance(stmt, ast.Import | ast.ImportFrom)]
    for node in sorted(found, key=lambda stmt: stmt not in top):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.split(".")[0]
                table[alias.asname or name] = name
        elif not node.level and node.module:
            for alias in node.names:
                table[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return MappingProxyType(table)


def ancestors(facts: Facts, node: ast.AST) -> Iterator[ast.AST]:
    """The nodes around a node, the nearest first."""
    while (parent := facts.parents.get(node)) is not None:
        yield parent
        node = parent


def enclosing_function(facts: Facts, node: ast.AST) -> FunctionNode | None:
    """The innermost function around a node, lambdas apart."""
    around = ancestors(facts, node)
    return next((n for n in around if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)), None)


def enclosing_statement(facts: Facts, node: ast.AST) -> ast.stmt:
    """The innermost statement around a node, or the node itself."""
    current = node
    while not isinstance(current, ast.stmt):
        current = facts.parents[current]
    return current


def enclosing_class(facts: Facts, node: ast.AST) -> ast.ClassDef | None:
    """The class whose body directly holds a function; None for a plain or nested function."""
    parent = facts.parents.get(node)
    return parent if isinstance(parent, ast.ClassDef) else None


def self_name(function: FunctionNode) -> str | None:
    """The name of the instance in a method."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    return arguments[0].arg if arguments else None


def owner_name(facts: Facts, function: ast.AST | None) -> str | None:
    """The name of the instance in a method; None in a plain function, which has none."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    return self_name(function) if enclosing_class(facts, function) is not None else None


def is_owner(facts: Facts, function: ast.AST | None, node: ast.AST) -> bool:
    """Whether a node is the instance that a method belongs to."""
    return isinstance(node, ast.Name) and node.id == owner_name(facts, function)


def same_scope(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes under ``node`` evaluated in its scope; nested functions and classes are not entered."""
    stack = children(node)
    while stack:
        current = stack.pop()
        yield current
        if not isinstance(current, SCOPES):
            stack += children(current)


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument."""
    return next((k.value for k in call.keywords if k.arg == name), None)


def expression(text: str) -> cst.BaseExpression:
    """A libcst expression from source text."""
    return cst.parse_expression(text)


def code_of(facts: Facts, node: ast.expr) -> str:
    """The source text of an expression, as it was written."""
    return facts.source.snippet(node)


def code(node: cst.CSTNode) -> str:
    """The source text of a libcst node."""
    return cst.Module(body=[]).code_for_node(node)


def argument(value: cst.BaseExpression, name: str | None = None) -> cst.Arg:
    """A call argument with the usual spacing."""
    if name is None:
        return cst.Arg(value)
    bare = cst.SimpleWhitespace("")
    return cst.Arg(value, cst.Name(name), equal=cst.AssignEqual(bare, bare))


def appended(args: Sequence[cst.Arg], *new: cst.Arg) -> list[cst.Arg]:
    """Arguments with more at the end; a trailing comma and the line end behind it stay at the end."""
    if not args or not new:
        return [*args, *new]
    end = args[-1].whitespace_after_arg
    if isinstance(end, cst.ParenthesizedWhitespace) and not isinstance(args[-1].comma, cst.Comma):
        # the bracket stands on a line of its own, and stays there
        before = args[-1].with_changes(whitespace_after_arg=cst.SimpleWhitespace(""))
        return [*args[:-1], before, *new[:-1], new[-1].with_changes(whitespace_after_arg=end)]
    if not isinstance(args[-1].comma, cst.Comma):
        return [*args, *new]
    spaced = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    first = args[-1].with_changes(comma=spaced)
    middle = [arg.with_changes(comma=spaced) for arg in new[:-1]]
    return [*args[:-1], first, *middle, new[-1].with_changes(comma=args[-1].comma)]


def keyword_of(call: cst.Call, name: str) -> cst.BaseExpression | None:
    """The value of a keyword argument of a libcst call."""
    return next((a.value for a in call.args if a.keyword is not None and a.keyword.value == name), None)
