"""The imports a patch needs: which names the file can use, and where a missing import goes.

A new import stands after the last import before the first class or function, so never before the docstring or
``from __future__`` (LibCST#841) nor after its first use (LibCST#1023), and never twice (codemodder#517).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from refactor.rewrite.model import Edit, Refusal, RuntimeImport
from refactor.rewrite.names import bound_names, fresh, used_names
from refactor.source import Source


@dataclass(frozen=True)
class Imports:
    """What placeholders stand for in one file, and the edits that make it so."""

    names: dict[str, str]
    edits: tuple[Edit, ...]


def settle(
    source: Source, tree: ast.Module, runtime: RuntimeImport, needed: Iterable[str], before: int
) -> Imports | Refusal:
    """Names and edits for the ``needed`` ones: ``torch``, and names of the vendored runtime.

    ``before`` is the line of the first top-level statement that uses them.
    """
    wanted = sorted(set(needed))
    names: dict[str, str] = {}
    missing: list[ast.alias] = []
    bound, used = bound_names(tree), used_names(tree)
    lines: list[str] = []
    if "torch" in wanted:
        local = _module_name(tree, "torch", bound)
        if local is None and "torch" in used:
            return Refusal("the name `torch` means something else in this file; import torch under that name")
        names["torch"] = local or "torch"
        lines += [] if local else ["import torch"]
    ours = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and _module(node) == runtime.module and node.names[0].name != "*"
    ]
    for name in (name for name in wanted if name != "torch"):
        local = _imported(ours, name, bound)
        if local is None:
            local = name if name not in used else fresh(f"cuda_graph_{name}", used)
            missing.append(ast.alias(name, None if local == name else local))
        names[name] = local
    edits: list[Edit] = []
    if missing:
        aliases = ", ".join(ast.unparse(alias) for alias in missing)
        if ours:
            edits.append(_extend(source, ours[-1], aliases))
        else:
            lines.append(f"from {runtime.module} import {aliases}")
    if lines:
        edits.append(_insertion(source, tree, lines, before))
    return Imports(names, tuple(edits))


def _module(node: ast.ImportFrom) -> str:
    return "." * node.level + (node.module or "")


def _imported(imports: Iterable[ast.ImportFrom], name: str, bound: Mapping[str, int]) -> str | None:
    """The local name of an import that nothing else in the file rebinds or shadows."""
    for node in imports:
        for alias in node.names:
            local = alias.asname or alias.name
            if alias.name == name and bound.get(local) == 1:
                return local
    return None


def _module_name(tree: ast.Module, module: str, bound: Mapping[str, int]) -> str | None:
    """What the file calls a module it imports at the top level, if nothing else has that name."""
    imports = [alias for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    for alias in imports:
        if alias.asname and alias.name == module and bound[alias.asname] == 1:
            return alias.asname
    plain = [alias for alias in imports if alias.asname is None and alias.name.split(".")[0] == module]
    every = [
        alias
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname is None and alias.name.split(".")[0] == module
    ]
    return module if plain and bound[module] == len(every) else None


def _extend(source: Source, node: ast.ImportFrom, aliases: str) -> Edit:
    """More names behind the last one of an import, in parentheses or not."""
    end = source.span(node.names[-1])[1]
    return Edit(end, end, f", {aliases}".encode(source.encoding))


def _insertion(source: Source, tree: ast.Module, lines: list[str], before: int) -> Edit:
    anchor: ast.stmt | None = None
    for index, node in enumerate(tree.body):
        if node.lineno >= before:
            break
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or (docstring and isinstance(node.value.value, str)):  # type: ignore[attr-defined]
            anchor = node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            break
    text = source.newline.join(lines)
    if anchor is None:
        start = _first_line(source, tree)
        return Edit(start, start, (text + source.newline).encode(source.encoding))
    last = anchor.end_lineno or anchor.lineno
    for node in tree.body:  # other statements on the same line
        last = (node.end_lineno or last) if node.lineno == last else last
    offset, line = source.lines[last - 1]
    body = line.rstrip("\r\n")
    end = offset + len(body.encode(source.encoding))
    blank = source.newline if isinstance(anchor, ast.Expr) else ""
    return Edit(end, end, (source.newline + blank + text).encode(source.encoding))


def _first_line(source: Source, tree: ast.Module) -> int:
    """Where the first statement starts, decorators included, but after the comments above it."""
    first = tree.body[0]
    decorators: list[ast.expr] = getattr(first, "decorator_list", [])
    return source.lines[min([first.lineno, *(node.lineno for node in decorators)]) - 1][0]
