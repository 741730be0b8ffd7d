"""Which names a list of statements reads, writes, and leaves live: what outlined code takes and returns.

Backward data flow over the structured tree, exact for straight lines, branches and loops, and on the safe
side (more reads, more live names) for ``try``, closures and generators that run later.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from refactor.analysis.trees import children, walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_Op = tuple[str, str]  # ("r" | "w" | "m", name): read, sure write, possible write


def reads(stmts: Sequence[ast.stmt]) -> tuple[str, ...]:
    """Names possibly read before they are surely assigned, in order of their first appearance."""
    flow = _Flow()
    live = flow.block(stmts, frozenset(), _Exits())
    order: dict[str, tuple[int, int]] = {}
    for stmt in stmts:
        for node in walk(stmt):
            if isinstance(node, ast.Name) and node.id in live:
                place = (node.lineno, node.col_offset)
                order[node.id] = min(place, order.get(node.id, place))
    return tuple(sorted(live, key=lambda name: (order.get(name, (0, 0)), name)))


def writes(stmts: Sequence[ast.stmt]) -> tuple[str, ...]:
    """Names bound or deleted anywhere in the statements (nested scopes apart), in order of appearance."""
    found: dict[str, None] = {}
    for stmt in stmts:
        for node in _own_statements(stmt):
            for op, name in _header_ops(node):
                if op != "r":
                    found.setdefault(name)
    return tuple(found)


def surely_writes(stmts: Sequence[ast.stmt]) -> frozenset[str]:
    """Names bound on every path that leaves the statements at their end; all writes if no path does."""
    sure = _sure(stmts)
    return frozenset(writes(stmts)) if sure is None else sure


def live_after(function: FunctionNode, stmt: ast.stmt) -> frozenset[str]:
    """Names whose value at the end of ``stmt`` may still be read in ``function``, in a later iteration too.

    Names captured by a nested function or a stored generator are live everywhere, as are names declared
    ``global`` or ``nonlocal`` and names that the function deletes.

    Raises:
        KeyError: ``stmt`` is not a statement of this function (nested functions have their own).
    """
    return live_out(function)[stmt]


def live_out(
    scope: FunctionNode | ast.Module, always: frozenset[str] | None = None
) -> dict[ast.stmt, frozenset[str]]:
    """`live_after` of every statement of a function, or of a file's top level, at once.

    Args:
        scope: its statements are asked about.
        always: names that are live everywhere; None: those that nested scopes capture or that are declared.
    """
    flow = _Flow()
    if always is None:
        always = captured(scope.body) | declared(scope.body)
    flow.block(scope.body, always, _Exits(returns=always, raises=always, breaks=always, continues=always))
    return {stmt: live | always for stmt, live in flow.out.items()}


def captured(stmts: Iterable[ast.stmt]) -> frozenset[str]:
    """Names that a nested function, class or generator that may run later reads from the scope around it."""
    found: set[str] = set()
    for stmt in stmts:
        immediate = {
            id(arg)
            for node in walk(stmt)
            for arg in (
                node.args if isinstance(node, ast.Call) else [node.iter] if isinstance(node, ast.For) else []
            )
        }
        for node in walk(stmt):
            later = isinstance(node, ast.GeneratorExp) and id(node) not in immediate
            if later or isinstance(node, _SCOPES):
                found |= free_names(node)
    return frozenset(found)


def declared(stmts: Iterable[ast.stmt]) -> frozenset[str]:
    """Names declared ``global`` or ``nonlocal``: they outlive the function."""
    return frozenset(
        name
        for stmt in stmts
        for node in _own_statements(stmt)
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
    )


def free_names(node: ast.AST) -> frozenset[str]:
    """Names that a function, lambda, class or comprehension reads or rebinds in the scopes around it."""
    if isinstance(node, ast.ClassDef):
        bound: frozenset[str] = frozenset()
        inner: list[ast.AST] = list(node.body)
    elif isinstance(node, ast.Lambda):
        bound, inner = _parameters(node.args), [node.body]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        outer = declared(node.body)
        bound = (_parameters(node.args) | frozenset(writes(node.body))) - outer
        inner = list(node.body)
    elif isinstance(node, _COMPREHENSIONS):
        bound = frozenset(name for gen in node.generators for name in target_names(gen.target))
        inner = [node]
    else:
        bound, inner = frozenset(), [node]
    names = {n.id for item in inner for n in walk(item) if isinstance(n, ast.Name)}
    return frozenset(names) - bound


def target_names(target: ast.AST) -> tuple[str, ...]:
    """Names bound by an assignment target; subscripts and attributes bind none."""
    if isinstance(target, ast.Name):
        return (target.id,)
    if isinstance(target, ast.Starred):
        return target_names(target.value)
    if isinstance(target, ast.Tuple | ast.List):
        return tuple(name for element in target.elts for name in target_names(element))
    return ()


def _parameters(args: ast.arguments) -> frozenset[str]:
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    return frozenset(arg.arg for arg in every)


def _own_statements(stmt: ast.stmt) -> Iterable[ast.stmt]:
    """A statement and those nested in it, not those of nested functions and classes."""
    yield stmt
    if isinstance(stmt, _SCOPES):
        return
    for name in ("body", "orelse", "finalbody"):
        for child in getattr(stmt, name, ()):
            yield from _own_statements(child)
    for part in (*getattr(stmt, "handlers", ()), *getattr(stmt, "cases", ())):
        for child in part.body:
            yield from _own_statements(child)


# -- expressions ---------------------------------------------------------------------------------------------


def _ops(node: ast.AST | None, sure: bool = True) -> Iterable[_Op]:
    """Reads and writes of an expression in the order of evaluation (conditional writes are possible ones)."""
    if node is None:
        return
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield ("w" if sure else "m", node.id)
        else:
            yield ("r", node.id)
        if isinstance(node.ctx, ast.Del):
            yield ("m", node.id)
    elif isinstance(node, ast.NamedExpr):
        yield from _ops(node.value, sure)
        yield from _ops(node.target, sure)
    elif isinstance(node, ast.BoolOp):
        yield from _ops(node.values[0], sure)
        for value in node.values[1:]:
            yield from _ops(value, False)
    elif isinstance(node, ast.IfExp):
        yield from _ops(node.test, sure)
        yield from _ops(node.body, False)
        yield from _ops(node.orelse, False)
    elif isinstance(node, ast.Lambda):
        for default in (*node.args.defaults, *node.args.kw_defaults):
            yield from _ops(default, sure)
        for name in sorted(free_names(node)):
            yield ("r", name)
    elif isinstance(node, _COMPREHENSIONS):
        yield from _ops(node.generators[0].iter, sure)
        for name in sorted(free_names(node)):
            yield ("r", name)
        for inner in walk(node):
            if isinstance(inner, ast.NamedExpr):
                yield ("m", inner.target.id)
    else:
        for child in children(node):
            yield from _ops(child, sure)


def _target_ops(target: ast.AST) -> Iterable[_Op]:
    if isinstance(target, ast.Name):
        yield ("w", target.id)
    elif isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _target_ops(element)
    elif isinstance(target, ast.Starred):
        yield from _target_ops(target.value)
    else:
        yield from _ops(target)


def _pattern_names(pattern: ast.AST) -> Iterable[str]:
    for node in walk(pattern):
        name = getattr(node, "name", None) or getattr(node, "rest", None)
        if isinstance(node, ast.pattern) and isinstance(name, str):
            yield name


def _header_ops(stmt: ast.stmt) -> Iterable[_Op]:
    """Reads and writes of a simple statement, or of the header of a compound one, in order of evaluation."""
    if isinstance(stmt, ast.Assign):
        yield from _ops(stmt.value)
        for target in stmt.targets:
            yield from _target_ops(target)
    elif isinstance(stmt, ast.AugAssign):
        yield from ([("r", stmt.target.id)] if isinstance(stmt.target, ast.Name) else _ops(stmt.target))
        yield from _ops(stmt.value)
        yield from _target_ops(stmt.target)
    elif isinstance(stmt, ast.AnnAssign):
        if stmt.value is not None:
            yield from _ops(stmt.value)
            yield from _target_ops(stmt.target)
    elif isinstance(stmt, ast.For | ast.AsyncFor):
        yield from _ops(stmt.iter)
        yield from (("m", name) for name in target_names(stmt.target))
    elif isinstance(stmt, ast.While | ast.If):
        yield from _ops(stmt.test)
    elif isinstance(stmt, ast.With | ast.AsyncWith):
        for item in stmt.items:
            yield from _ops(item.context_expr)
            if item.optional_vars is not None:
                yield from _target_ops(item.optional_vars)
    elif isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef):
        for part in (*stmt.decorator_list, *stmt.args.defaults, *stmt.args.kw_defaults):
            yield from _ops(part)
        yield from (("r", name) for name in sorted(free_names(stmt) - {stmt.name}))
        yield ("w", stmt.name)
    elif isinstance(stmt, ast.ClassDef):
        for part in (*stmt.decorator_list, *stmt.bases, *(keyword.value for keyword in stmt.keywords)):
            yield from _ops(part)
        yield from (("r", name) for name in sorted(free_names(stmt) - {stmt.name}))
        yield ("w", stmt.name)
    elif isinstance(stmt, ast.Import | ast.ImportFrom):
        yield from (("w", (alias.asname or alias.name).split(".")[0]) for alias in stmt.names)
    elif isinstance(stmt, ast.Match):
        yield from _ops(stmt.subject)
        yield from (("m", name) for case in stmt.cases for name in _pattern_names(case.pattern))
    elif stmt.__class__.__name__ in ("Try", "TryStar"):
        yield from (("m", handler.name) for handler in stmt.handlers if handler.name)  # type: ignore[attr-defined]
    elif isinstance(stmt, ast.Global | ast.Nonlocal):
        return
    else:
        yield from _ops(stmt)


def _before(ops: Iterable[_Op], live: frozenset[str]) -> frozenset[str]:
    names = set(live)
    for op, name in reversed(list(ops)):
        if op == "w":
            names.discard(name)
        elif op == "r":
            names.add(name)
    return frozenset(names)


# -- statements ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Exits:
    """Names live where control goes when it leaves the block in another way than at its end."""

    returns: frozenset[str] = frozenset()
    raises: frozenset[str] = frozenset()
    breaks: frozenset[str] = frozenset()
    continues: frozenset[str] = frozenset()


class _Flow:
    """One backward pass; ``out`` maps each statement to the names live after it."""

    def __init__(self) -> None:
        self.out: dict[ast.stmt, frozenset[str]] = {}

    def block(self, stmts: Sequence[ast.stmt], live: frozenset[str], exits: _Exits) -> frozenset[str]:
        for stmt in reversed(stmts):
            self.out[stmt] = live
            live = self.statement(stmt, live, exits) | exits.raises
        return live

    def statement(self, stmt: ast.stmt, live: frozenset[str], exits: _Exits) -> frozenset[str]:
        if isinstance(stmt, ast.If):
            inner = self.block(stmt.body, live, exits) | self.block(stmt.orelse, live, exits)
            return _before(_ops(stmt.test), inner)
        if isinstance(stmt, ast.For | ast.AsyncFor | ast.While):
            return self.loop(stmt, live, exits)
        if isinstance(stmt, ast.With | ast.AsyncWith):
            return _before(_header_ops(stmt), self.block(stmt.body, live, exits))
        if isinstance(stmt, ast.Match):
            inner = live
            for case in stmt.cases:
                body = self.block(case.body, live, exits)
                ops = [*_ops(case.pattern), *_ops(case.guard)]
                inner |= _before(ops, body) - frozenset(_pattern_names(case.pattern))
            return _before(_ops(stmt.subject), inner)
        if stmt.__class__.__name__ in ("Try", "TryStar"):
            return self.attempt(stmt, live, exits)
        if isinstance(stmt, ast.Return):
            return _before(_ops(stmt.value), exits.returns)
        if isinstance(stmt, ast.Raise):
            return _before([*_ops(stmt.exc), *_ops(stmt.cause)], exits.raises)
        if isinstance(stmt, ast.Break):
            return exits.breaks
        if isinstance(stmt, ast.Continue):
            return exits.continues
        return _before(_header_ops(stmt), live)

    def loop(
        self, stmt: ast.For | ast.AsyncFor | ast.While, live: frozenset[str], exits: _Exits
    ) -> frozenset[str]:
        after = self.block(stmt.orelse, live, exits)
        test = stmt.test if isinstance(stmt, ast.While) else None
        endless = isinstance(test, ast.Constant) and bool(test.value)
        head = frozenset() if endless else after
        while True:
            inner = replace(exits, breaks=live, continues=head)
            body = self.block(stmt.body, head, inner)
            if isinstance(stmt, ast.While):
                grown = head | _before(_ops(stmt.test), body if endless else body | after)
            else:
                grown = head | _before(_target_ops(stmt.target), body)
            if grown == head:
                break
            head = grown
        return head if isinstance(stmt, ast.While) else _before(_ops(stmt.iter), head)

    def attempt(self, stmt: ast.stmt, live: frozenset[str], exits: _Exits) -> frozenset[str]:
        """``try``: any statement of the body may jump to any handler, everything passes ``finally``."""
        final: Sequence[ast.stmt] = stmt.finalbody  # type: ignore[attr-defined]
        if final:
            every = live | exits.returns | exits.raises | exits.breaks | exits.continues
            through = self.block(final, every, exits)
            exits = _Exits(through, through, through, through)
            live = through
        caught: frozenset[str] = frozenset()
        for handler in stmt.handlers:  # type: ignore[attr-defined]
            body = self.block(handler.body, live, exits)
            caught |= _before(_ops(handler.type), body - {handler.name} if handler.name else body)
        after = self.block(stmt.orelse, live, exits)  # type: ignore[attr-defined]
        inner = replace(exits, raises=exits.raises | caught)
        return self.block(stmt.body, after, inner) | caught  # type: ignore[attr-defined]


def _sure(stmts: Sequence[ast.stmt]) -> frozenset[str] | None:
    """Sure writes at the end of the statements; None: control never gets there."""
    found: frozenset[str] = frozenset()
    for stmt in stmts:
        if isinstance(stmt, ast.Return | ast.Raise | ast.Break | ast.Continue):
            return None
        found |= frozenset(name for op, name in _header_ops(stmt) if op == "w")
        paths = _paths(stmt)
        if paths is None:
            continue
        ends = [path for path in paths if path is not None]
        if not ends:
            return None
        found |= frozenset.intersection(*ends)
    return found


def _paths(stmt: ast.stmt) -> list[frozenset[str] | None] | None:
    """Sure writes of each way through a compound statement; None: it adds nothing to its header."""
    if isinstance(stmt, ast.If):
        return [_sure(stmt.body), _sure(stmt.orelse)]
    if isinstance(stmt, ast.With | ast.AsyncWith):
        return [_sure(stmt.body)]
    if stmt.__class__.__name__ in ("Try", "TryStar"):
        main = _sure([*stmt.body, *stmt.orelse])  # type: ignore[attr-defined]
        handlers = [_sure(handler.body) for handler in stmt.handlers]  # type: ignore[attr-defined]
        final = _sure(stmt.finalbody)  # type: ignore[attr-defined]
        return [None if path is None or final is None else path | final for path in (main, *handlers)]
    if isinstance(stmt, ast.Match):
        last = stmt.cases[-1]
        total = last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
        return [*(_sure(case.body) for case in stmt.cases), *([] if total else [frozenset[str]()])]
    return None
