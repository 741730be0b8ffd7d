"""The parts of the runtime: of its source what some of its public names need, and nothing else.

A code base that needs constants alone gets a page or two, not the machinery of graphs. What a name needs
follows from the source: the top-level statements that bind the names it uses, those that they use, and so on.
Comments go with the statement below them, imports keep what is used, and the docstring keeps the paragraphs
that speak of nothing that is missing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

NAME = "cuda_graphs"
_TOGETHER = frozenset({"graphed", "segment"})  # the same machinery
_HEADING = "# ---"


@cache
def source() -> bytes:
    """The runtime as it is in this version, whole."""
    return (Path(__file__).parent / "runtime" / f"{NAME}.py").read_bytes()


@cache
def public() -> frozenset[str]:
    """The names that it offers."""
    match = re.search(rb"^__all__ = \[(.*?)\]", source(), re.MULTILINE | re.DOTALL)
    assert match is not None
    return frozenset(ast.literal_eval(f"[{match[1].decode()}]"))


def closed(names: Collection[str]) -> frozenset[str]:
    """Public names with those that come with them."""
    wanted = frozenset(names) & public()
    return wanted | _TOGETHER if wanted & _TOGETHER else wanted


@cache
def part(names: frozenset[str]) -> bytes:
    """The source that offers these public names; the whole file if they are all."""
    return source() if names >= public() else _Text(source().decode()).part(names).encode()


@dataclass(frozen=True)
class _Statement:
    node: ast.stmt
    lines: tuple[str, ...]
    """The statement with its decorators and the comments right above it."""
    gap: int
    """Empty lines above it."""
    section: str
    """The heading that it stands under."""

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, ast.FunctionDef | ast.ClassDef)

    @cached_property
    def binds(self) -> frozenset[str]:
        """The names that are not complete without it, such as ``_Observer`` for ``_Observer.see = …``."""
        node = self.node
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            return frozenset({node.name})
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
        return frozenset(n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))

    @cached_property
    def uses(self) -> frozenset[str]:
        """Every name in it, also in annotations that are quoted."""
        return frozenset(_names(self.node))


def _names(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        cast = isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "cast"
        parts = inner.args[:1] if cast else [inner.slice] if isinstance(inner, ast.Subscript) else []  # type: ignore[attr-defined]
        for quoted in (c.value for part in parts for c in ast.walk(part) if isinstance(c, ast.Constant)):
            yield from re.findall(r"\w+", quoted) if isinstance(quoted, str) else ()


class _Text:
    """The runtime as statements."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        docstring, *body = ast.parse(text).body
        self.docstring = ast.literal_eval(docstring.value)  # type: ignore[attr-defined]
        self.imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        self.statements = [self._statement(node) for node in body if node not in self.imports]

    def _statement(self, node: ast.stmt) -> _Statement:
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        while self.lines[first - 1].startswith("#") and not self.lines[first - 1].startswith(_HEADING):
            first -= 1
        above = next(i for i in range(first - 1, -1, -1) if self.lines[i])
        section = next((line for line in reversed(self.lines[:first]) if line.startswith(_HEADING)), "")
        return _Statement(node, tuple(self.lines[first : node.end_lineno]), first - 1 - above, section)

    def part(self, names: frozenset[str]) -> str:
        """The source of what these names need."""
        kept = self._needed(names)
        used = frozenset[str]().union(*(s.uses for s in kept))
        lines = [f'"""{self._docstring(names)}"""', "", *self._imports(used)]
        before: _Statement | None = None
        for statement in (s for s in self.statements if s in kept or "__all__" in s.binds):
            apart = statement.is_definition or before is None or before.is_definition
            gap = (
                1 if before is None and not statement.is_definition else 2 if apart else min(statement.gap, 1)
            )
            if names >= _TOGETHER and before is not None and statement.section != before.section:
                lines += ["", "", statement.section]
                gap = 2
            lines += [""] * gap
            offered = ", ".join(f'"{name}"' for name in sorted(names))
            lines += [f"__all__ = [{offered}]"] if "__all__" in statement.binds else statement.lines
            before = statement
        return "\n".join(lines) + "\n"

    def _needed(self, names: frozenset[str]) -> list[_Statement]:
        todo, kept = [*names], set[int]()
        while todo:
            name = todo.pop()
            for i, statement in enumerate(self.statements):
                if name in statement.binds and i not in kept:
                    kept.add(i)
                    todo += statement.uses
        return [self.statements[i] for i in sorted(kept)]

    def _docstring(self, names: frozenset[str]) -> str:
        missing = public() - names
        paragraphs = [
            text
            for text in self.docstring.rstrip().split("\n\n")
            if missing.isdisjoint(re.findall(r"``@?(\w+)", text))
        ]
        end = "\n" if len(paragraphs) > 1 or "\n" in paragraphs[0] else ""
        return "\n\n".join(paragraphs) + end

    def _imports(self, used: Collection[str]) -> Iterator[str]:
        """The imports of what is used, in groups as they were."""
        line = 0
        for node in self.imports:
            names = [a for a in node.names if (a.asname or a.name).partition(".")[0] in used]
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                names = node.names
            if names:
                if line and any(not text for text in self.lines[line : node.lineno - 1]):
                    yield ""
                yield ast.unparse(_only(node, names))
                line = node.end_lineno or node.lineno


def _only(node: ast.Import | ast.ImportFrom, names: Iterable[ast.alias]) -> ast.stmt:
    if isinstance(node, ast.Import):
        return ast.Import([*names])
    return ast.ImportFrom(node.module, [*names], node.level)
