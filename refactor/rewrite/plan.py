"""The plan of a method that is cut into segments: a tree of what stays and what becomes a piece."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class Predicate:
    """The test of an ``if``, or a part of it, that the piece before it computes."""

    branch: ast.If
    test: ast.expr
    name: str = ""


@dataclass(eq=False)
class Piece:
    """Consecutive statements that become one segment."""

    units: tuple[int, ...]  # positions in the block
    statements: list[ast.stmt]
    sure: frozenset[str]  # variables bound on every path to it
    predicate: Predicate | None
    returns: bool  # its last statement is the return of the function
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(eq=False)
class Keep:
    """A line that stays as it is."""

    unit: int


@dataclass(eq=False)
class Nest:
    """A compound statement that stays, with pieces inside it."""

    unit: int
    statement: ast.If | ast.For | ast.While | ast.With
    body: Block
    orelse: Block | None


@dataclass(eq=False)
class Block:
    """What becomes of the lines of one block, in order."""

    entries: list[Keep | Nest | Piece]

    def pieces(self) -> Iterator[Piece]:
        """All pieces, in order of the source."""
        return (piece for piece, _ in self.placed())

    def placed(self, place: str = "") -> Iterator[tuple[Piece, str]]:
        """All pieces, each with a word for where it stands: start, then, otherwise, step, end."""
        seen = False
        for index, entry in enumerate(self.entries):
            if isinstance(entry, Piece):
                last = not any(isinstance(e, Nest | Piece) for e in self.entries[index + 1 :])
                word = place or ("start" if not seen else "end" if last else "middle")
                if entry.returns and not place:
                    word = "output"
                if entry.predicate is not None and not entry.statements:
                    word = "test"
                yield entry, word
                seen = True
            elif isinstance(entry, Nest):
                loop = isinstance(entry.statement, ast.For | ast.While)
                inside = "step" if loop else "then" if isinstance(entry.statement, ast.If) else place
                yield from entry.body.placed(inside)
                if entry.orelse is not None:
                    yield from entry.orelse.placed("otherwise")
                seen = True


def units_of(statements: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
    """Statements grouped by line: ``a = 1; b = 2`` is one unit, as it is one line for libcst."""
    units: list[list[ast.stmt]] = []
    for stmt in statements:
        if units and units[-1][-1].end_lineno == stmt.lineno:
            units[-1].append(stmt)
        else:
            units.append([stmt])
    return units
