"""Whether the ``step`` of an optimizer can be captured, by where the file makes it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from refactor.analysis import liveness
from refactor.analysis.model import Facts
from refactor.analysis.project import ModuleInfo, last_name
from refactor.analysis.trees import walk
from refactor.rewrite.constants import is_plain
from refactor.rewrite.syntax import FunctionNode, enclosing_class, enclosing_function, keyword

_DEPTH = 4  # assignments and calls between an optimizer and the name it steps under
_PLAIN = frozenset({"SGD"})
_CAPTURABLE = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "Rprop", "ASGD"})
_SCHEDULES = (b"lr_scheduler", b"scheduler", b"param_groups", b"lr_lambda", b"_schedule")


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An optimizer whose step a graph can hold."""

    made: ast.Call
    model: ast.expr | None  # not None: ``capturable`` has to be added; the model whose parameters it gets


def optimizer_of(
    facts: Facts, module: ModuleInfo, receiver: ast.expr, function: FunctionNode | None
) -> Optimizer | str:
    """The optimizer behind ``receiver`` in a function, or why its step stays outside the graph."""
    if any(word in facts.source.data for word in _SCHEDULES):
        return "the learning rate is a Python number that changes, and a graph would keep its value"
    found = list(dict.fromkeys(_bound_to(facts, receiver, function, 0)))
    if not found or None in found:
        return f"it is not known which optimizer `{ast.unparse(receiver)}` is"
    if len(found) > 1:
        return f"`{ast.unparse(receiver)}` is made in several places"
    made = found[0]
    assert made is not None
    kind = module.resolve(made.func)
    scope, _, last = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
    if not scope.startswith("torch.optim"):
        return f"it is not known which optimizer `{ast.unparse(receiver)}` is"
    if last in _PLAIN:
        return Optimizer(made, None)
    given = keyword(made, "capturable")
    if last not in _CAPTURABLE:
        return f"`{last}` cannot be captured"
    if given is not None:
        off = isinstance(given, ast.Constant) and given.value is False
        return f"`{last}` is made with `capturable=False`" if off else Optimizer(made, None)
    model = _model(made)
    if model is None or any(k.arg is None for k in made.keywords):
        return f"`{last}` needs `capturable=True` to be captured"
    return Optimizer(made, model)


def _model(made: ast.Call) -> ast.expr | None:
    """``model`` of ``AdamW(model.parameters(), …)``."""
    first = made.args[0] if made.args else None
    if (
        isinstance(first, ast.Call)
        and isinstance(first.func, ast.Attribute)
        and first.func.attr == "parameters"
        and not first.args
        and is_plain(first.func.value)
    ):
        return first.func.value
    return None


def _bound_to(
    facts: Facts, receiver: ast.expr, function: FunctionNode | None, depth: int
) -> Iterator[ast.Call | None]:
    """The calls whose results a name or attribute holds; None: something else, or not known."""
    name = last_name(receiver)
    around: ast.AST = facts.tree
    if isinstance(receiver, ast.Attribute):
        # of the instance: any method of the class may set it
        owner = enclosing_class(facts, function) if function is not None else None
        around = owner or facts.tree
    elif function is not None:
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if name in (arg.arg for arg in every):
            yield from _given(facts, function, name, depth)
            return
        if name in liveness.writes(function.body):
            around = function
    for node in walk(around):
        if not isinstance(node, ast.Assign) or not any(_is(target, receiver) for target in node.targets):
            continue
        if around is facts.tree and isinstance(receiver, ast.Name) and enclosing_function(facts, node):
            continue  # a local name of another function
        if isinstance(node.value, ast.Name | ast.Attribute) and depth < _DEPTH:
            yield from _bound_to(facts, node.value, enclosing_function(facts, node), depth + 1)
        else:
            yield node.value if isinstance(node.value, ast.Call) else None


def _is(target: ast.expr, receiver: ast.expr) -> bool:
    return type(target) is type(receiver) and last_name(target) == last_name(receiver)


def _given(facts: Facts, function: FunctionNode, name: str, depth: int) -> Iterator[ast.Call | None]:
    """What the calls of a function in its file give for one of its parameters."""
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    bound = bool(names) and names[0] in ("self", "cls")
    for call in walk(facts.tree):
        if not isinstance(call, ast.Call) or depth >= _DEPTH:
            continue
        called = last_name(call.func)
        inits = function.name == "__init__" and called == getattr(
            enclosing_class(facts, function), "name", ""
        )
        if called != function.name and not inits:
            continue
        positions = dict(zip(names[1:] if bound else names, call.args, strict=False))
        value = next((k.value for k in call.keywords if k.arg == name), positions.get(name))
        if isinstance(value, ast.Name | ast.Attribute):
            yield from _bound_to(facts, value, enclosing_function(facts, call), depth + 1)
        else:
            yield value if isinstance(value, ast.Call) else None
