"""Fresh temporaries (CG404): an elementwise result that stays in its method is written into a kept buffer.

``tmp = x * 2`` becomes ``tmp = torch.mul(x, 2, out=scratch(self, "tmp", x, 2))``. Every place has a buffer of
its own, which lives from one execution of that place to the next, so a place qualifies only if nothing can
still refer to the value by then: not returned, stored, passed to unknown code, written in place or captured.
`scratch` gives no buffer where one would change what the operation does (autograd, CPU, integers, …).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from refactor.analysis.model import EventKind, Facts, Kind
from refactor.analysis.trees import walk
from refactor.rewrite.constants import is_number, is_plain
from refactor.rewrite.escape import Fate, aliases, fate
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.names import placeholder, reference
from refactor.rewrite.ops import BINARY, UNARY_FLOAT, UNARY_SAME
from refactor.rewrite.syntax import (
    FunctionNode,
    ancestors,
    dotted,
    enclosing_class,
    enclosing_function,
    expression,
    self_name,
)
from refactor.rewrite.training import computes_loss
from refactor.rule import Hit

_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder",
}
_CUT = (EventKind.BRANCH, EventKind.WHILE, EventKind.COUNTED_LOOP)
_WIDTH = 104  # of a line without its indentation; the placeholder of `scratch` is longer than its name
_COMMUTATIVE = ("add", "mul")


@dataclass(frozen=True)
class _Operation:
    function: str  # of torch
    operands: tuple[ast.expr, ...]


def propose_temporary(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``name = <elementwise operation>`` in a method."""
    place = _place(facts, hit)
    if isinstance(place, Refusal):
        return place
    statement, target, function, owner = place
    operation = _operation(facts, statement.value)
    if isinstance(operation, Refusal):
        return operation
    reason = _escapes(facts, statement, target, function)
    if reason:
        return Refusal(reason)
    cls = enclosing_class(facts, function)
    assert cls is not None
    name = _buffer_name(facts, cls, statement, target)
    operands = [ast.unparse(operand) for operand in operation.operands]

    def build(node: cst.BaseExpression) -> cst.BaseExpression:
        given = ", ".join(operands)
        out = f'{placeholder("scratch")}({owner}, "{name}", {given})'
        text = f"torch.{operation.function}({given}, out={out})"
        if len(target) + len(text) > _WIDTH:
            text = f"torch.{operation.function}(\n    {given}, out={out}\n)"
        made = expression(text)
        assert isinstance(made, cst.Call)
        assert isinstance(made.func, cst.Attribute)
        return made.with_changes(func=made.func.with_changes(value=reference("torch")))

    note = "computed into a buffer kept with the module; verify that no caller keeps the value"
    runtime, modules = frozenset({"scratch"}), frozenset({"torch"})
    return Proposal((Change(statement.value, build),), note, runtime, modules)


_Place = tuple[ast.Assign, str, FunctionNode, str]


def _place(facts: Facts, hit: Hit) -> _Place | Refusal:
    """The assignment, its target, the method and the name of the instance."""
    statement = hit.event.statement
    single = isinstance(statement, ast.Assign) and len(statement.targets) == 1
    if not isinstance(statement, ast.Assign) or not single or not isinstance(statement.targets[0], ast.Name):
        return Refusal("only `name = operation` is rewritten; give the temporary a name of its own")
    function = enclosing_function(facts, statement)
    cls = enclosing_class(facts, function) if function is not None else None
    if function is None or cls is None:
        return Refusal("a plain function has no object to keep the buffer; make it a method of the module")
    uses = _uses(function)
    if isinstance(function, ast.AsyncFunctionDef) or uses.suspended:
        return Refusal(
            "the function can be suspended while the buffer is in use; compute this in a plain method"
        )
    if any(ast.unparse(d).endswith("segment") for d in function.decorator_list):
        return Refusal("it is computed inside a graph, where the memory is reused anyway")
    if function in _cut(facts):
        return Refusal("this method is cut into graphs, inside which the memory is reused anyway")
    if computes_loss(function):
        return Refusal(
            "the method computes a loss, which autograd records, and then no buffer can be used; leave it"
        )
    if len(hit.event.chain) < 2 and _reduces(function):
        return Refusal(
            "the method reduces its arguments to one number, as a loss does: autograd records it, and then "
            "no buffer can be used; leave it as it is"
        )
    owner = self_name(function)
    static = {"staticmethod", "classmethod"} & {getattr(d, "id", "") for d in function.decorator_list}
    if owner is None or static:
        return Refusal("the method has no instance to keep the buffer; make it an ordinary method")
    if owner in uses.bound:
        return Refusal(f"`{owner}` is assigned in this method; use another name for that")
    return statement, statement.targets[0].id, function, owner


@dataclass(frozen=True)
class _Uses:
    """What all temporaries of one function ask of it."""

    suspended: bool  # it yields or awaits
    bound: frozenset[str]  # names assigned or deleted below it


@lru_cache(maxsize=8)
def _uses(function: FunctionNode) -> _Uses:
    nodes = walk(function)
    return _Uses(
        any(isinstance(node, ast.Yield | ast.YieldFrom | ast.Await) for node in nodes),
        frozenset(n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)),
    )


@lru_cache(maxsize=8)
def _reduces(function: FunctionNode) -> bool:
    """Whether it may return the sum or mean of a whole tensor: ``return -loss.sum()``."""
    nodes = walk(function)
    returned = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
    names = {value.id for value in returned if isinstance(value, ast.Name)}
    assigned = (
        node.value
        for node in nodes
        if isinstance(node, ast.Assign) and any(getattr(t, "id", None) in names for t in node.targets)
    )
    return any(
        _is_reduction(value.operand if isinstance(value, ast.UnaryOp) else value)
        for value in (*returned, *assigned)
    )


def _is_reduction(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call) or node.args or node.keywords:
        return False
    return isinstance(node.func, ast.Attribute) and node.func.attr in ("sum", "mean")


@lru_cache(maxsize=2)
def _cut(facts: Facts) -> frozenset[ast.AST | None]:
    """Functions that are cut into graphs."""
    return frozenset(event.function for event in facts.events if event.kind in _CUT)


def _operation(facts: Facts, value: ast.expr) -> _Operation | Refusal:
    unknown = Refusal(
        "the operation has no known `out=` form; only elementwise arithmetic and functions have one"
    )
    if isinstance(value, ast.BinOp) and type(value.op) in _OPERATORS:
        found = _Operation(_OPERATORS[type(value.op)], (value.left, value.right))
    elif isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub):
        found = _Operation("neg", (value.operand,))
    elif isinstance(value, ast.Call) and not value.keywords:
        called = _called(facts, value)
        if called is None:
            return unknown
        found = called
    else:
        return unknown
    if not all(is_plain(operand) or is_number(operand) for operand in found.operands):
        return Refusal("an operand is computed in the same expression; give it a name of its own")
    tensors = [facts.value(operand).kind is Kind.TENSOR for operand in found.operands]
    numbers = [is_number(operand) or _is_host_number(facts, operand) for operand in found.operands]
    if not all(t or n for t, n in zip(tensors, numbers, strict=True)) or not any(tensors):
        return Refusal("it is not certain that the operands are tensors and numbers; annotate them")
    if not tensors[0]:
        if found.function not in _COMMUTATIVE:
            return Refusal("a number on the left has no `out=` form here; write the tensor first")
        found = _Operation(found.function, (found.operands[1], found.operands[0]))
    return found


def _called(facts: Facts, call: ast.Call) -> _Operation | None:
    """``torch.exp(x)`` or ``x.exp()``."""
    if any(isinstance(arg, ast.Starred) for arg in call.args):
        return None
    name = dotted(facts, call.func) or ""
    last = name.removeprefix("torch.")
    operands = tuple(call.args)
    if name in (f"torch.{last}", f"torch.special.{last}") and "." not in last:
        pass
    elif isinstance(call.func, ast.Attribute) and facts.value(call.func.value).kind is Kind.TENSOR:
        last, operands = call.func.attr, (call.func.value, *call.args)
    else:
        return None
    arity = 2 if last in BINARY else 1 if last in UNARY_FLOAT | UNARY_SAME else 0
    return _Operation(last, operands) if arity and arity == len(operands) else None


def _is_host_number(facts: Facts, node: ast.expr) -> bool:
    value = facts.value(node)
    return value.kind is Kind.HOST and value.dtype in ("int", "float", "size")


def _escapes(facts: Facts, statement: ast.Assign, target: str, function: FunctionNode) -> str:
    """Why the value may still be referred to when this place runs again; empty if it cannot."""
    worst = fate(facts, statement.value)
    if worst is Fate.WRITTEN:
        return f"`{target}` is changed in place later; the buffer would be shared with that"
    if worst is Fate.ESCAPES:
        return f"`{target}` may leave the method or be kept by code that is called here"
    in_loop = False
    for node in ancestors(facts, statement):
        if node is function:
            break
        in_loop = in_loop or isinstance(node, ast.For | ast.AsyncFor | ast.While)
    others = sorted(aliases(facts, statement.value) - {target})
    if in_loop and others:
        return f"`{others[0]}` is a view of `{target}` that the next iteration may still use"
    if _calls_itself(facts, function):
        return "the method can call itself while the buffer is in use; compute this in a method that does not"
    return ""


@lru_cache(maxsize=8)
def _calls_itself(facts: Facts, function: FunctionNode) -> bool:
    """Whether the method is reachable from itself through methods of its class."""
    cls = enclosing_class(facts, function)
    assert cls is not None
    methods = {n.name: n for n in cls.body if isinstance(n, ast.FunctionDef)}
    todo: list[ast.AST] = [function]
    seen: set[str] = set()
    while todo:
        current = todo.pop()
        owner = self_name(current) if isinstance(current, ast.FunctionDef) else None
        for node in walk(current):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == owner:
                return True
            if not isinstance(node.func, ast.Attribute) or getattr(node.func.value, "id", None) != owner:
                continue
            name = node.func.attr
            if name == function.name:
                return True
            if name in methods and name not in seen:
                seen.add(name)
                todo.append(methods[name])
    return False


def _buffer_name(facts: Facts, cls: ast.ClassDef, statement: ast.Assign, target: str) -> str:
    """One name for each place: the variable, numbered where a class assigns it at several places.

    A class with bases of its own adds its name: a method of a base class may use the same variable on the
    same instance while this value is alive.
    """
    places = _places(cls)
    index = places[target][statement]
    name = target if index == 0 else f"{target}_{index + 1}"
    while index and name in places:
        name += "_"
    plain = all(dotted(facts, base) == "torch.nn.Module" for base in cls.bases)
    return name if plain and cls.bases else f"{cls.name}.{name}"


@lru_cache(maxsize=4)
def _places(cls: ast.ClassDef) -> Mapping[str, Mapping[ast.Assign, int]]:
    """The assignments of each name below a class, numbered by place."""
    assigned = [node for node in walk(cls) if isinstance(node, ast.Assign)]
    found: dict[str, dict[ast.Assign, int]] = {}
    for node in sorted(assigned, key=lambda node: (node.lineno, node.col_offset)):
        for target in node.targets:
            if isinstance(target, ast.Name):
                places = found.setdefault(target.id, {})
                places.setdefault(node, len(places))
    return found
