"""Writes a plan down with libcst: the pieces as methods or functions of their own, calls in their places."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from refactor.analysis import liveness
from refactor.analysis.model import Facts
from refactor.rewrite.layout import displayed, wrapped
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Refusal
from refactor.rewrite.names import placeholder
from refactor.rewrite.plan import Block, Decide, Hoist, Keep, Nest, Piece
from refactor.rewrite.syntax import code, owner_name

_Line: TypeAlias = "cst.SimpleStatementLine | cst.BaseCompoundStatement"
_UNCLEAR = Refusal(
    "the layout of this function was not understood (two statements on one line?); reformat it"
)
_TAKEN = Refusal(
    "another rewrite adds a line to this function where this one would cut; apply again after verifying it"
)


class _Mismatch(Exception):
    """The libcst block does not have the lines that the plan was made for."""


class Outliner:
    """Builds the methods of one plan; predicates are handed over as libcst leaves them."""

    def __init__(
        self, facts: Facts, function: ast.FunctionDef, plan: Block, names: Mapping[Piece, str]
    ) -> None:
        self.facts, self.function, self.plan, self.names = facts, function, plan, names
        self.owner = owner_name(facts, function)
        self.decorator = "segment" if self.owner is not None else "graphed"
        self.written = frozenset(liveness.writes(function.body))
        self.parts: dict[ast.expr, cst.BaseExpression] = {}
        self.placed: set[ast.expr] = set()
        self.methods: list[cst.FunctionDef] = []

    def changes(self) -> list[Change]:
        """One for each part that is computed before its statement, and one for the function."""
        taken = [
            Change(part, self.take(part, name), moves=True)
            for hoist in self.plan.hoists()
            for part, name in zip(hoist.parts, hoist.names, strict=True)
        ]
        given = [
            Change(node, _named(piece.named[key]))
            for piece in self.plan.pieces()
            for key, nodes in piece.taken.items()
            for node in nodes
        ]
        return [*taken, *given, Change(self.function, self.build)]

    def take(self, part: ast.expr, name: str) -> Callable[[Any], cst.BaseExpression]:
        """The change of a part: the expression is kept for its piece, its name takes the place."""

        def build(node: cst.BaseExpression) -> cst.BaseExpression:
            self.parts[part] = node
            return cst.Name(name)

        return build

    def computed(self, hoist: Hoist) -> list[cst.BaseExpression]:
        """The expressions of a hoist."""
        return [_bare(self.once(part)) for part in hoist.parts]

    def once(self, part: ast.expr) -> cst.BaseExpression:
        """A part that was taken, the node itself for its first place, so that it is known not to be lost."""
        if part in self.placed:
            return self.parts[part].deep_clone()
        self.placed.add(part)
        return self.parts[part]

    def build(self, node: cst.FunctionDef) -> cst.FlattenSentinel[cst.BaseStatement] | Refusal:
        """The segments before the method that calls them, those of a plain function behind it.

        Comments above a top-level statement are not libcst's to see here: what came before it would come
        between.
        """
        self.methods, self.placed = [], set()
        try:
            body = self.suite(node.body, self.plan)
        except _Mismatch as mismatch:
            return mismatch.args[0] if mismatch.args else _UNCLEAR
        if self.owner is None:
            gap = [cst.EmptyLine(indent=False)] * 2
            made = [m.with_changes(leading_lines=gap) for m in self.methods]
            return cst.FlattenSentinel([node.with_changes(body=body), *made])
        blanks = [line for line in node.leading_lines if line.comment is None]
        head = blanks if node.leading_lines and node.leading_lines[0].comment is None else []
        gap = [cst.EmptyLine(indent=False)]
        methods = [m.with_changes(leading_lines=gap) for m in self.methods]
        methods[0] = methods[0].with_changes(leading_lines=head)
        lines = node.leading_lines if head else [*gap, *node.leading_lines]
        return cst.FlattenSentinel([*methods, node.with_changes(body=body, leading_lines=lines)])

    # -- blocks

    def suite(self, suite: cst.BaseSuite, plan: Block) -> cst.BaseSuite:
        """A block with its pieces replaced by calls."""
        if isinstance(suite, cst.SimpleStatementSuite):
            line = cst.SimpleStatementLine(suite.body)
            lines = self.lines([line], plan)
            if len(lines) == 1 and isinstance(lines[0], cst.SimpleStatementLine):
                return suite.with_changes(body=lines[0].body)
            return cst.IndentedBlock(lines, header=suite.trailing_whitespace)
        assert isinstance(suite, cst.IndentedBlock)
        return suite.with_changes(body=self.lines(suite.body, plan))

    def lines(self, old: Sequence[Any], plan: Block) -> list[_Line]:
        """The lines of a block, in the order of the plan; a statement may have become several."""
        from refactor.rewrite.continued import by_statement

        found = by_statement(old)
        used = [
            i
            for e in plan.entries
            if not isinstance(e, Decide)
            for i in (e.units if isinstance(e, Piece) else (e.unit,))
        ]
        if sorted(used) != list(range(len(found))):
            raise _Mismatch(*[_TAKEN] * (len(found) > len(used)))
        new: list[_Line] = []
        for entry in plan.entries:
            if isinstance(entry, Keep):
                new += found[entry.unit]
            elif isinstance(entry, Nest):
                if len(found[entry.unit]) > 1:
                    raise _Mismatch(_TAKEN)
                new.append(self.nest(found[entry.unit][0], entry))
            elif isinstance(entry, Decide):
                new.append(self.decision(entry.hoist))
            else:
                new.append(self.call(entry, [line for i in entry.units for line in found[i]]))
        return new

    def decision(self, hoist: Hoist) -> cst.SimpleStatementLine:
        """The line that computes the test of a loop before its first round."""
        pairs = zip(hoist.names, self.computed(hoist), strict=True)
        return cst.SimpleStatementLine(
            [cst.Assign([cst.AssignTarget(cst.Name(name))], value) for name, value in pairs]
        )

    def nest(self, node: Any, entry: Nest) -> _Line:
        """A compound statement with pieces inside it."""
        if isinstance(node, cst.SimpleStatementLine) and isinstance(entry.statement, ast.If):
            node = _as_branch(node)
        if isinstance(node, cst.Match):
            return self.match(node, entry)
        if isinstance(node, cst.Try):
            return self.attempt(node, entry)
        if not isinstance(node, cst.If | cst.For | cst.While | cst.With):
            raise _Mismatch
        changed: Any = node.with_changes(body=self.suite(node.body, entry.blocks[0]))
        if isinstance(node, cst.If | cst.While) and isinstance(node.test, cst.Name):
            space: Any = (
                node.whitespace_before_test if isinstance(node, cst.If) else node.whitespace_after_while
            )
            if space.empty:
                name = "whitespace_before_test" if isinstance(node, cst.If) else "whitespace_after_while"
                changed = changed.with_changes(**{name: cst.SimpleWhitespace(" ")})
        if isinstance(node, cst.With) or not entry.blocks[1].entries:
            return changed  # type: ignore[no-any-return]
        orelse = node.orelse
        if isinstance(orelse, cst.If):
            return changed.with_changes(orelse=self.elif_(orelse, entry.blocks[1]))  # type: ignore[no-any-return]
        return changed.with_changes(orelse=self.part(orelse, entry.blocks[1]))  # type: ignore[no-any-return]

    def part(self, node: Any, plan: Block) -> Any:
        """An ``else``, ``except``, ``finally`` or ``case`` with its block cut."""
        if node is None:
            if plan.entries:
                raise _Mismatch
            return None
        return node.with_changes(body=self.suite(node.body, plan))

    def attempt(self, node: cst.Try, entry: Nest) -> cst.Try:
        """A ``try`` with pieces in its blocks."""
        body, *handlers, orelse, final = entry.blocks
        if len(handlers) != len(node.handlers):
            raise _Mismatch
        return node.with_changes(
            body=self.suite(node.body, body),
            handlers=[self.part(old, plan) for old, plan in zip(node.handlers, handlers, strict=True)],
            orelse=self.part(node.orelse, orelse),
            finalbody=self.part(node.finalbody, final),
        )

    def match(self, node: cst.Match, entry: Nest) -> cst.Match:
        """A ``match`` with pieces in its cases."""
        if len(node.cases) != len(entry.blocks):
            raise _Mismatch
        cases = [self.part(old, plan) for old, plan in zip(node.cases, entry.blocks, strict=True)]
        return node.with_changes(cases=cases)

    def elif_(self, node: cst.If, plan: Block) -> cst.If | cst.Else:
        """An ``elif`` stays one unless something has to be computed before its test."""
        lines = self.lines([node], plan)
        if len(lines) == 1 and isinstance(lines[0], cst.If):
            return lines[0]
        first = lines[0].with_changes(leading_lines=())
        return cst.Else(cst.IndentedBlock([first, *lines[1:]]), leading_lines=node.leading_lines)

    # -- pieces

    def call(self, piece: Piece, lines: Sequence[Any]) -> cst.SimpleStatementLine:
        """Make the method of a piece; return the line that calls it."""
        lead: Sequence[cst.EmptyLine] = lines[0].leading_lines if lines else ()
        count = next((i for i, line in enumerate(lead) if line.comment is not None), len(lead))
        body = [lines[0].with_changes(leading_lines=lead[count:]), *lines[1:]] if lines else []
        results: list[cst.BaseExpression] = [cst.Name(name) for name in piece.outputs]
        targets = list(piece.outputs)
        if piece.hoist is not None:
            results += self.computed(piece.hoist)
            targets += piece.hoist.names
        made = _made_last(body[-1], piece) if body else None
        if made is not None:
            body[-1] = made
        elif results:
            body.append(cst.SimpleStatementLine([_return(results)]))
        self.methods.append(self.method(piece, body))
        start = "return " if piece.returns else f"{', '.join(targets)} = " if targets else ""
        arguments = [*piece.inputs, *(f"{owner}.{attribute}" for owner, attribute in piece.taken)]
        called = self.names[piece] if self.owner is None else f"{self.owner}.{self.names[piece]}"
        text = wrapped(f"{start}{called}(", arguments, ")")
        line = cst.ensure_type(cst.parse_statement(text), cst.SimpleStatementLine)
        return line.with_changes(leading_lines=lead[:count])

    def method(self, piece: Piece, body: Sequence[_Line]) -> cst.FunctionDef:
        """The method or function of a piece."""
        given = [*(self.parameter(name) for name in piece.inputs), *piece.named.values()]
        parameters = given if self.owner is None else [self.owner, *given]
        header = wrapped(f"def {self.names[piece]}(", parameters, "):")
        text = f"@{placeholder(self.decorator)}\n{header}\n    pass\n"
        made = cst.ensure_type(cst.parse_statement(text), cst.FunctionDef)
        return made.with_changes(body=cst.IndentedBlock(body))

    def parameter(self, name: str) -> str:
        """A parameter, annotated as in the function while it still has the value it came with."""
        arguments = self.function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        found = next((a.annotation for a in every if a.arg == name), None)
        if found is None or name in self.written:
            return name
        text = self.facts.source.snippet(found)
        return name if "\n" in text or "\r" in text else f"{name}: {text}"


def _named(name: str) -> Callable[[Any], cst.BaseExpression]:
    return lambda node: cst.Name(name)


def _as_branch(line: cst.SimpleStatementLine) -> cst.If | None:
    """``y = a if t else b`` as an ``if`` with an ``else``."""
    stmt = line.body[0]
    choice = stmt.value if isinstance(stmt, cst.Assign | cst.Return) else None
    if len(line.body) != 1 or not isinstance(choice, cst.IfExp):
        return None
    sides = [cst.SimpleStatementLine([stmt.with_changes(value=v)]) for v in (choice.body, choice.orelse)]
    return cst.If(
        test=choice.test,
        body=cst.IndentedBlock([sides[0]], header=line.trailing_whitespace),
        orelse=cst.Else(cst.IndentedBlock([sides[1]])),
        leading_lines=line.leading_lines,
    )


def _made_last(line: Any, piece: Piece) -> cst.SimpleStatementLine | None:
    """``return value`` for a last line ``name = value`` that makes the only result."""
    if len(piece.outputs) != 1 or piece.hoist is not None or not isinstance(line, cst.SimpleStatementLine):
        return None
    last = line.body[0]
    if len(line.body) != 1 or not isinstance(last, cst.Assign) or len(last.targets) != 1:
        return None
    target = last.targets[0].target
    if not isinstance(target, cst.Name) or target.value != piece.outputs[0]:
        return None
    return line.with_changes(body=[cst.Return(last.value)])


def _in_lines(items: Sequence[cst.BaseExpression]) -> cst.Tuple:
    """A tuple in brackets with an item a line; the items are the very nodes, which other edits look for."""
    first, end = cst.TrailingWhitespace(), cst.SimpleWhitespace("")
    inner = cst.ParenthesizedWhitespace(first, [], True, cst.SimpleWhitespace("    "))
    outer = cst.ParenthesizedWhitespace(first, [], True, end)
    commas = [
        cst.Comma(whitespace_after=inner if n < len(items) else outer) for n in range(1, len(items) + 1)
    ]
    return cst.Tuple(
        [cst.Element(item, comma) for item, comma in zip(items, commas, strict=True)],
        lpar=[cst.LeftParen(inner)],
        rpar=[cst.RightParen()],
    )


def _return(results: Sequence[cst.BaseExpression]) -> cst.Return:
    if len(results) == 1:
        return cst.Return(results[0])
    if displayed([code(result) for result in results]).startswith("("):
        return cst.Return(_in_lines(results))
    return cst.Return(cst.Tuple([cst.Element(result) for result in results], lpar=(), rpar=()))


def _bare(node: cst.BaseExpression) -> cst.BaseExpression:
    """Without parentheses that hold nothing together."""
    text = cst.Module([]).code_for_node(node)
    if len(node.lpar) == 1 and not set(text) & {"\n", "\r"}:
        return node.with_changes(lpar=(), rpar=())
    return node
