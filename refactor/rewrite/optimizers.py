"""Whether the ``step`` of an optimizer can be captured, by where the file makes it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from refactor.analysis.model import Facts
from refactor.analysis.project import ModuleInfo, last_name
from refactor.analysis.trees import walk
from refactor.rewrite.constants import is_plain
from refactor.rewrite.syntax import keyword

_PLAIN = frozenset({"SGD"})
_CAPTURABLE = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "Rprop", "ASGD"})
_SCHEDULES = (b"lr_scheduler", b"scheduler", b"param_groups", b"lr_lambda", b"_schedule")


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An optimizer whose step a graph can hold."""

    made: ast.Call
    model: ast.expr | None  # not None: ``capturable`` has to be added; the model whose parameters it gets


def optimizer_of(facts: Facts, module: ModuleInfo, receiver: ast.expr) -> Optimizer | str:
    """The optimizer behind ``receiver``, or why its step stays outside the graph."""
    name = last_name(receiver)
    if any(word in facts.source.data for word in _SCHEDULES):
        return "the learning rate is a Python number that changes, and a graph would keep its value"
    found: list[ast.Call] = []
    for node in walk(facts.tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        named = any(last_name(t) == name for t in targets if isinstance(t, ast.Name | ast.Attribute))
        if named and isinstance(node.value, ast.Call):
            found.append(node.value)
    if not found:
        return f"it is not known which optimizer `{ast.unparse(receiver)}` is"
    if len(found) > 1:
        return f"`{ast.unparse(receiver)}` is made in several places"
    made = found[0]
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
