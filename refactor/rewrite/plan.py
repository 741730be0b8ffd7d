"""The plan of a method that is cut into segments: a tree of what stays and what becomes a piece."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.FunctionDef, ast.ClassDef)


@dataclass(eq=False)
class Hoist:
    """Parts of a statement that stays, computed before it; ``names`` are what stands for them then."""

    statement: ast.stmt
    parts: tuple[ast.expr, ...]
    rotated: bool = False  # the test of a ``while``, computed before the loop and at the end of its body
    names: tuple[str, ...] = ()


@dataclass(eq=False)
class Piece:
    """Consecutive statements that become one segment."""

    units: tuple[int, ...]  # positions in the block
    statements: list[ast.stmt]
    sure: frozenset[str]  # variables bound on every path to it
    hoist: Hoist | None
    returns: bool  # its last statement is the return of the function
    guarded: Guard | None = None  # it stands in a ``try``
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    taken: dict[tuple[str, str], list[ast.Attribute]] = field(default_factory=dict)
    """Reads of attributes that are arguments in the place of the object: ``(variable, attribute)``."""
    named: dict[tuple[str, str], str] = field(default_factory=dict)
    """The parameter that each of them becomes."""

    def __post_init__(self) -> None:
        self.computed = reading(self.hoist) if self.hoist is not None else None
        """Stands for the hoisted parts where liveness is asked for."""

    @property
    def parts(self) -> tuple[ast.expr, ...]:
        """What it computes for the statement behind it."""
        return self.hoist.parts if self.hoist else ()

    @property
    def nodes(self) -> list[ast.AST]:
        """Everything it evaluates."""
        return [*self.statements, *self.parts]


@dataclass(eq=False)
class Guard:
    """A ``try`` or ``with`` whose body may be left in the middle and the function go on."""

    statement: ast.stmt
    outer: Guard | None


@dataclass(eq=False)
class Keep:
    """A line that stays as it is, apart from parts that were computed before."""

    unit: int
    statement: ast.stmt


@dataclass(eq=False)
class Decide:
    """A new line that computes the test of a loop for the first time, where there is no piece to do it."""

    hoist: Hoist

    def __post_init__(self) -> None:
        self.computed = reading(self.hoist)


@dataclass(eq=False)
class Nest:
    """A compound statement that stays, with pieces inside it; blocks as `suites_of` orders them."""

    unit: int
    statement: ast.stmt
    blocks: tuple[Block, ...]


@dataclass(eq=False)
class Block:
    """What becomes of the lines of one block, in order."""

    entries: list[Keep | Nest | Piece | Decide] = field(default_factory=list)

    def pieces(self) -> Iterator[Piece]:
        """All pieces, in order of the source."""
        return (piece for piece, _ in self.placed())

    def hoists(self) -> Iterator[Hoist]:
        """All hoists, once each, in order of the source."""
        seen: dict[Hoist, None] = {}
        for entry in self.walk():
            if isinstance(entry, Piece | Decide) and entry.hoist is not None:
                seen.setdefault(entry.hoist)
        return iter(seen)

    def walk(self) -> Iterator[Keep | Nest | Piece | Decide]:
        """All entries, those of nested blocks behind the statement they stand in."""
        for entry in self.entries:
            yield entry
            if isinstance(entry, Nest):
                for block in entry.blocks:
                    yield from block.walk()

    def placed(self, place: str = "") -> Iterator[tuple[Piece, str]]:
        """All pieces, each with a word for where it stands: start, then, otherwise, step, end."""
        seen = False
        for index, entry in enumerate(self.entries):
            if isinstance(entry, Piece):
                last = not any(isinstance(e, Nest | Piece) for e in self.entries[index + 1 :])
                word = place or ("start" if not seen else "end" if last else "middle")
                if entry.returns and not place:
                    word = "output"
                yield entry, word
                seen = True
            elif isinstance(entry, Nest):
                for block, word in zip(entry.blocks, _words(entry.statement, place), strict=True):
                    yield from block.placed(word)
                seen = True


def reading(hoist: Hoist) -> ast.stmt:
    """A statement that reads what the parts of a hoist read."""
    return ast.Expr(ast.Tuple(list(hoist.parts), ast.Load()))


def suites_of(statement: ast.stmt) -> tuple[list[ast.stmt], ...]:
    """The blocks of a compound statement, in order of the source; missing ones are empty."""
    if isinstance(statement, ast.If | ast.For | ast.While):
        return statement.body, statement.orelse
    if isinstance(statement, ast.With):
        return (statement.body,)
    if isinstance(statement, ast.Try):
        handlers = (handler.body for handler in statement.handlers)
        return statement.body, *handlers, statement.orelse, statement.finalbody
    if isinstance(statement, ast.Match):
        return tuple(case.body for case in statement.cases)
    return ()


def _words(statement: ast.stmt, place: str) -> list[str]:
    if isinstance(statement, ast.For | ast.While):
        return ["step", "otherwise"]
    if isinstance(statement, ast.If):
        return ["then", "otherwise"]
    if isinstance(statement, ast.Try):
        return [place, *("recovery" for _ in statement.handlers), place, "cleanup"]
    if isinstance(statement, ast.Match):
        return ["case" for _ in statement.cases]
    return [place]


def units_of(statements: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
    """Statements grouped by line: ``a = 1; b = 2`` is one unit, as it is one line for libcst."""
    units: list[list[ast.stmt]] = []
    for stmt in statements:
        if units and units[-1][-1].end_lineno == stmt.lineno:
            units[-1].append(stmt)
        else:
            units.append([stmt])
    return units
