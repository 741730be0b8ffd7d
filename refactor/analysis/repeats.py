"""Loops that call a model again and again with what it gave before: decoding, sampling, solving.

Every call has the shapes of the last one, unless something grows: that is what a graph needs to know.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from refactor.analysis.feeding import calls_model
from refactor.analysis.liveness import reads, target_names
from refactor.analysis.loops import _NO_GRAD as NO_GRAD
from refactor.analysis.loops import _context_inside as context_inside
from refactor.analysis.loops import _decorated as decorated
from refactor.analysis.loops import _evaluated as evaluated_in
from refactor.analysis.loops import _is_model as is_model
from refactor.analysis.loops import _operands as operands
from refactor.analysis.loops import trains
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.trees import walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_GROW = frozenset({"cat", "concat", "concatenate", "hstack", "vstack", "stack", "append", "column_stack"})
_COUNTS = frozenset({"range", "trange"})
_READS = frozenset({"item", "float", "int"})
_DEPTH = 5
_NUMBERS = frozenset({"len", "int", "size", "item", "min", "max"})


@dataclass(frozen=True, eq=False)
class RepeatedCall:
    """One loop and the calls of one model in it."""

    loop: ast.For | ast.While
    calls: tuple[ast.Call, ...]
    callee: ast.expr
    function: FunctionNode | None
    guard: str  # what says that no gradients are recorded
    varies: str  # an argument that changes its shape or is another number at every step, with why; "": none
    raw: tuple[str, ...]  # arguments that are parts of the model's last output, as they came
    leads: bool  # the first argument is made of the last output, and not of what the loop goes over


def repeated_calls(module: ModuleInfo) -> Iterator[RepeatedCall]:
    """Every such loop of a file, in order of its place; batch loops apart."""
    for function, body in module.scopes if module.names_no_grad else ():
        loops = [*_loops(body, decorated(function))]
        evaluated = evaluated_in(body) if loops else frozenset()
        scope: ast.AST = function if function is not None else module.tree
        for loop, around in loops:
            guard = around or ("eval" if evaluated else context_inside(loop))
            if guard and not trains(loop):
                yield from _calls(module, function, scope, loop, guard, evaluated)


def _loops(stmts: list[ast.stmt], guard: str) -> Iterator[tuple[ast.For | ast.While, str]]:
    for stmt in stmts:
        if isinstance(stmt, FunctionNode | ast.ClassDef):
            continue
        inner = guard
        if isinstance(stmt, ast.With):
            inner = next((n for i in stmt.items if (n := last_name(i.context_expr)) in NO_GRAD), guard)
        if isinstance(stmt, ast.For | ast.While):
            yield stmt, guard
        for name in ("body", "orelse", "finalbody"):
            yield from _loops(getattr(stmt, name, []), inner)
        for handler in getattr(stmt, "handlers", ()):
            yield from _loops(handler.body, inner)


def _calls(
    module: ModuleInfo,
    function: FunctionNode | None,
    scope: ast.AST,
    loop: ast.For | ast.While,
    guard: str,
    evaluated: frozenset[str],
) -> Iterator[RepeatedCall]:
    nested = {id(n) for node in walk(loop) if node is not loop and isinstance(node, ast.For | ast.While)
              for n in walk(node)}  # fmt: skip
    stored = _assignments(loop)
    found: dict[str, list[ast.Call]] = {}
    for node in walk(loop):
        if isinstance(node, ast.Call) and id(node) not in nested and (
            is_model(module, function, node, evaluated) or _is_self(module, function, node)
        ):  # fmt: skip
            found.setdefault(ast.unparse(node.func), []).append(node)
    for source, calls in found.items():
        if source.partition(".")[0] in target_names(getattr(loop, "target", loop)):
            continue  # another module at every step
        if _is_method(module, function, calls[0].func):
            continue
        ordered = sorted(calls, key=lambda n: (n.lineno, n.col_offset))
        names = {n.id for c in ordered for a in operands(c) for n in walk(a) if isinstance(n, ast.Name)}
        outputs = _depending(stored, ordered)
        if not _reached(stored, names) & outputs:
            continue  # nothing is fed back: no repeated call of this kind
        varies, raw = _varies(loop, scope, stored, ordered)
        first = _names(next(iter(operands(ordered[0])), ordered[0].func))
        leads = bool(_reached(stored, first) & outputs) and not first & set(
            target_names(getattr(loop, "target", loop))
        )
        yield RepeatedCall(loop, tuple(ordered), ordered[0].func, function, guard, varies, raw, leads)


def _is_self(module: ModuleInfo, function: FunctionNode | None, call: ast.Call) -> bool:
    """``self(...)`` in a method of a module."""
    owner = module.parents.get(function) if function is not None else None
    cls = module.lookup(owner.name) if isinstance(owner, ast.ClassDef) else None
    first = function.args.args[:1] if function is not None else []
    name = first[0].arg if first else ""
    return isinstance(call.func, ast.Name) and call.func.id == name and bool(getattr(cls, "is_module", False))


def _is_method(module: ModuleInfo, function: FunctionNode | None, func: ast.expr) -> bool:
    """``self._prepare_encoder_inputs(...)``: a method of the class that calls no model it holds."""
    owner = module.parents.get(function) if function is not None else None
    cls = module.lookup(owner.name) if isinstance(owner, ast.ClassDef) else None
    if not isinstance(func, ast.Attribute) or not isinstance(cls, ClassInfo):
        return False
    found = cls.find(func.attr)
    return found is not None and isinstance(found[1], FunctionInfo) and not calls_model(found[1])


_Stores = Mapping[str, tuple[tuple[ast.expr, bool], ...]]  # name -> (what is assigned, whether taken apart)


def _assignments(loop: ast.For | ast.While) -> dict[str, tuple[tuple[ast.expr, bool], ...]]:
    """What the body of a loop assigns to each name; True: the name gets a part of the value."""
    found: dict[str, list[tuple[ast.expr, bool]]] = {}
    for stmt in loop.body:
        for node in walk(stmt):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    for name in target_names(target):
                        found.setdefault(name, []).append((node.value, not isinstance(target, ast.Name)))
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
                value = ast.copy_location(ast.BinOp(left, node.op, node.value), node)
                found.setdefault(node.target.id, []).append((value, False))
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                for name in target_names(node.target):
                    found.setdefault(name, []).append((node.value, False))
    return {name: tuple(values) for name, values in found.items()}


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in walk(node) if isinstance(n, ast.Name)}


def _reached(stored: _Stores, names: set[str]) -> set[str]:
    """The names and those that they are computed from in the loop."""
    found, todo = set(names), list(names)
    while todo:
        for value, _ in stored.get(todo.pop(), ()):
            new = _names(value) - found
            found |= new
            todo += new
    return found


def _depending(stored: _Stores, calls: list[ast.Call]) -> set[str]:
    """Names that the loop computes from the outputs of the calls."""
    ids = {id(call) for call in calls}
    found: set[str] = set()
    for _ in range(len(stored) + 1):
        before = len(found)
        for name, values in stored.items():
            if any(_names(v) & found or any(id(n) in ids for n in walk(v)) for v, _ in values):
                found.add(name)
        if len(found) == before:
            break
    return found


def _varies(
    loop: ast.For | ast.While, scope: ast.AST, stored: _Stores, calls: list[ast.Call]
) -> tuple[str, tuple[str, ...]]:
    """Why the arguments of the calls change from step to step, and which are the output as it came."""
    counters = set(target_names(loop.target)) if isinstance(loop, ast.For) else set()
    numbers = _numbers(loop)
    changing = counters | set(stored)
    ids = {id(call) for call in calls}
    growing = _growing(stored, set(reads(loop.body)), ids)
    outputs = {
        n for n in _depending(stored, calls) if not _is_read(stored, changing, ast.Name(n, ast.Load()))
    }
    raw: list[str] = []
    for call in calls:
        for argument in operands(call):
            direct, handed = _names(argument), _handed(argument)
            if any(isinstance(n, ast.Name) and n.id in numbers for n in _plain(argument)):
                return f"`{ast.unparse(argument)}` is another Python number at every step; pass a tensor", ()
            if not isinstance(argument, ast.Constant) and _is_read(stored, changing, argument):
                return (
                    f"`{ast.unparse(argument)}` is read back as another Python number at every step; "
                    "keep it in a tensor"
                ), ()
            for name in sorted(_reached(stored, direct)):
                if name in growing:
                    return (
                        f"`{name}` grows at every step, so every call has another shape; a graph needs "
                        "a cache of fixed size and one new token a step"
                    ), ()
                for value, part in stored.get(name, ()):
                    if any(_slices_by(node, changing) for node in walk(value)):
                        return f"`{name}` is cut at another place at every step, so its shape changes", ()
                    if name in direct and _is_number(scope, loop, name, value, outputs):
                        return f"`{name}` is another Python number at every step; keep it in a tensor", ()
                    if name in handed and _is_raw(value, part, ids, stored):
                        raw.append(name)
            if any(_slices_by(n, changing) for n in walk(argument)):
                return f"`{ast.unparse(argument)}` is cut at another place at every step", ()
    return "", tuple(dict.fromkeys(raw))


def _handed(argument: ast.expr) -> set[str]:
    """Names whose tensors an argument hands over as they are, or parts of them: nothing is computed."""
    found, todo = set(), [argument]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            todo.append(node.value)
        elif isinstance(node, ast.Tuple | ast.List):
            todo += node.elts
        elif isinstance(node, ast.Dict):
            todo += node.values
        elif isinstance(node, ast.IfExp):
            todo += [node.body, node.orelse]
        elif not isinstance(node, ast.BinOp | ast.Constant):
            found |= _names(node)
    return found


def _numbers(loop: ast.For | ast.While) -> frozenset[str]:
    """The counters of a loop: ``i`` of ``range`` and of ``enumerate``."""
    if not isinstance(loop, ast.For):
        return frozenset()
    target = loop.target
    if last_name(loop.iter) == "enumerate" and isinstance(target, ast.Tuple):
        target = target.elts[0]
    elif last_name(loop.iter) not in _COUNTS:
        return frozenset()
    return frozenset(target_names(target))


def _plain(argument: ast.expr) -> Iterator[ast.AST]:
    """Nodes of an argument that are not inside a call, which may make a tensor of them."""
    todo: list[ast.AST] = [argument]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.Call | ast.Subscript):
            todo += ast.iter_child_nodes(node)


def _growing(stored: _Stores, carried: set[str], ids: set[int]) -> set[str]:
    """The names that take more in at every step: the next value joins the last one, or an output.

    What is joined on the way into a call is another matter: the call gives back what one step needs.
    """
    outputs = {n for n, every in stored.items() if any(_calls_one(v, ids) for v, _ in every)}
    found = set()
    for name in carried & stored.keys():
        for join in _joins(stored, name, ids):
            if _slides(join, name):
                continue
            own = _around(join, ids)
            names = {n.id for n in own if isinstance(n, ast.Name)}
            if any(id(n) in ids for n in own) or _before(stored, names, ids) & (outputs | {name}):
                found.add(name)
    return found


def _slides(join: ast.Call, name: str) -> bool:
    """``torch.cat([window[:, 1:], token], 1)``: what comes in at one end goes out at the other."""
    cut = {id(n.value) for n in walk(join) if isinstance(n, ast.Subscript) and _drops(n.slice)}
    own = [n for n in walk(join) if isinstance(n, ast.Name) and n.id == name]
    parts = join.args[0] if join.args else None
    pair = isinstance(parts, ast.Tuple | ast.List) and len(parts.elts) == 2  # what goes and what comes
    return pair and bool(own) and all(id(n) in cut for n in own)


def _drops(index: ast.expr) -> bool:
    """Whether an index leaves out a fixed number of places at one end."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    bounds = [b for p in parts if isinstance(p, ast.Slice) for b in (p.lower, p.upper) if b is not None]
    return any(
        isinstance(b.operand if isinstance(b, ast.UnaryOp) else b, ast.Constant)
        and ast.unparse(b) not in ("0", "None")
        for b in bounds
    )


def _joins(stored: _Stores, name: str, ids: set[int]) -> list[ast.Call]:
    """What is joined to make the next value of a name out of this one and the outputs of the calls."""
    return [
        node
        for source in sorted(_before(stored, {name}, ids))
        for value, _ in stored.get(source, ())
        for node in _around(value, ids)
        if isinstance(node, ast.Call) and last_name(node.func) in _GROW
    ]


def _before(stored: _Stores, names: set[str], ids: set[int]) -> set[str]:
    """The names and those that they are computed from in the loop, arguments of the calls apart."""
    found, todo = set(names), list(names)
    while todo:
        for value, _ in stored.get(todo.pop(), ()):
            new = {n.id for n in _around(value, ids) if isinstance(n, ast.Name)} - found
            found |= new
            todo += new
    return found


def _around(value: ast.AST, ids: set[int]) -> list[ast.AST]:
    """The nodes of an expression, without what is inside one of the calls."""
    found, todo = [], [value]
    while todo:
        node = todo.pop()
        found.append(node)
        if id(node) not in ids:
            todo += ast.iter_child_nodes(node)
    return found


def _calls_one(value: ast.expr, ids: set[int]) -> bool:
    return any(id(node) in ids for node in walk(value))


def _slices_by(node: ast.AST, changing: set[str]) -> bool:
    """A slice whose bounds move."""
    return isinstance(node, ast.Slice) and any(
        bound is not None and _names(bound) & changing for bound in (node.lower, node.upper)
    )


def _is_number(scope: ast.AST, loop: ast.AST, name: str, value: ast.expr, outputs: Collection[str]) -> bool:
    """A counter: what it starts from is a number, and the loop adds to it."""
    if not (isinstance(value, ast.BinOp) and name in _names(value)):
        return False
    inside = {id(node) for node in walk(loop)}
    starts = [
        node.value
        for node in walk(scope)
        if isinstance(node, ast.Assign) and id(node) not in inside
        for target in node.targets
        if name in target_names(target)
    ]
    if starts:
        return any(_host(start) for start in starts)
    if any(isinstance(node, ast.Call) for node in walk(value)):
        return False  # x = x + model(x)
    every = [a.annotation for a in walk(scope) if isinstance(a, ast.arg) and a.arg == name]
    named = [annotation for annotation in every if annotation is not None]
    if named:
        return last_name(named[0]) in ("int", "float")
    if _names(value) & set(outputs) - {name}:
        return False  # x = x - 0.1 * noise
    return any(isinstance(node, ast.Constant) for node in walk(value))


def _is_read(stored: _Stores, changing: set[str], node: ast.expr, depth: int = 0) -> bool:
    """``sigmas[i].item()``, or what is computed from such numbers alone."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "map":
            return any(isinstance(n, ast.Attribute) and n.attr == "item" for n in walk(node))
        return last_name(node.func) in _READS and bool(_names(node) & changing)
    if isinstance(node, ast.BinOp):
        sides = (node.left, node.right)
        known = [_is_read(stored, changing, side, depth) for side in sides]
        return any(known) and all(k or isinstance(s, ast.Constant) for k, s in zip(known, sides, strict=True))
    if isinstance(node, ast.Name) and depth < _DEPTH:
        values = stored.get(node.id, ())
        return bool(values) and all(_is_read(stored, changing, value, depth + 1) for value, _ in values)
    return False


def _host(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.BinOp):
        return _host(node.left) and _host(node.right)
    if isinstance(node, ast.Subscript):
        return last_name(node.value) in ("shape",) or _host(node.value)
    return (isinstance(node, ast.Call) and last_name(node.func) in _NUMBERS) or last_name(node) == "shape"


def _is_raw(value: ast.expr, part: bool, ids: set[int], stored: _Stores) -> bool:
    """Whether a name gets the output, an element or an attribute of it, and nothing is computed."""
    node = value
    while isinstance(node, ast.Attribute | ast.Subscript):
        node, part = node.value, True
    if isinstance(node, ast.Name):
        return part and any(id(v) in ids for v, _ in stored.get(node.id, ()))
    return id(node) in ids
