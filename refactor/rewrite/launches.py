"""Host time that code takes to launch its kernels, estimated from what it calls."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from refactor.analysis.model import Device, Facts, Kind, Value
from refactor.analysis.trees import walk
from refactor.rewrite.ops import FRESH_MODULES, METADATA, VIEWS, names_in, torch_function
from refactor.rewrite.syntax import SCOPES, FunctionNode, ancestors, dotted, same_scope
from refactor.rewrite.training import in_training
from refactor.rewrite.work import BUILTINS, on_device, on_layer, understood
from refactor.vendor import NAME as RUNTIME

LAUNCH = 6.0
"""Host time of a bare operation in µs: 4 to 6 measured on an H100 with torch 2.11."""
LAYER = 18.0
"""The same for an operation run through a module. ResNet-50 at batch 1 takes 27 µs for each of its layers
there, of which the part that every module pays is counted."""
UNKNOWN_MODULE = 6 * LAYER
"""A module of which nothing is known: a block of a network, rarely a single layer."""
UNKNOWN_LAYER = 3 * LAYER
"""What an instance was given to call, which may be a network or an activation."""
UNKNOWN_CALL = 3 * LAUNCH
_STATEMENTS = 40
ROUNDS = 4
"""Rounds counted for a loop whose length is not known."""
SURE_ROUNDS = 3
"""The same where only what is sure counts."""
_SIZED_BY_DATA = names_in("masked_select where nonzero one_hot repeat_interleave")
_LAYERS = {
    "MultiheadAttention": 8,
    "TransformerEncoderLayer": 14,
    "TransformerDecoderLayer": 22,
    "LSTM": 6,
    "GRU": 6,
    "RNN": 4,
    "LSTMCell": 3,
    "GRUCell": 3,
    "RNNCell": 3,
}
_ONE_KERNEL = (FRESH_MODULES - names_in("LSTM GRU RNN MultiheadAttention")) | names_in(
    "ReLU Identity Dropout Flatten ReLU6 Hardswish LeakyReLU MaxPool2d AvgPool2d AdaptiveAvgPool2d"
)
_FREE = (VIEWS | METADATA) - names_in(
    "to float half double bfloat16 int long bool type type_as contiguous einsum"
)


def work(
    facts: Facts,
    function: FunctionNode,
    nodes: Iterable[ast.AST],
    free: Collection[ast.AST] = (),
    *,
    sure: bool = False,
) -> float:
    """An estimate of the host time in µs that nodes take to launch their kernels; ``free`` ones take none.

    ``sure`` counts what runs whichever way the conditions in them go, and few rounds of loops.
    """
    total = 0.0
    for root in nodes:
        if isinstance(root, ast.For | ast.While):
            head = [root.iter] if isinstance(root, ast.For) else [root.test]
            total += work(facts, function, head, free, sure=sure)
            body = [*root.body, *root.orelse]
            total += _rounds(root, SURE_ROUNDS if sure else ROUNDS) * work(
                facts, function, body, free, sure=sure
            )
            continue
        if in_training(facts, root):
            continue
        if root in free:
            decides = isinstance(root, ast.If | ast.IfExp)
            priced = _choice_work if decides else _selection_work
            total += priced(facts, function, root, free)
            continue
        if sure and (sides := _sides(root)) is not None:
            always, *rest = sides
            total += work(facts, function, always, free, sure=True)
            total += min((work(facts, function, side, free, sure=True) for side in rest), default=0.0)
            continue
        if isinstance(root, ast.Call):
            total += _call_work(facts, function, root, sure)
        elif isinstance(root, ast.BinOp | ast.Compare | ast.UnaryOp):
            total += LAUNCH * on_device(facts, root)
        elif isinstance(root, ast.AugAssign):
            total += LAUNCH * (on_device(facts, root.target) or on_device(facts, root.value))
        if not isinstance(root, SCOPES):
            total += work(facts, function, ast.iter_child_nodes(root), free, sure=sure)
    return total


def _sides(node: ast.AST) -> tuple[Sequence[ast.AST], ...] | None:
    """What a node that decides always evaluates, and then the blocks of which it runs one."""
    if isinstance(node, ast.If):
        return [node.test], node.body, node.orelse
    if isinstance(node, ast.IfExp):
        return [node.test], [node.body], [node.orelse]
    if isinstance(node, ast.BoolOp):
        return (node.values[:1],)
    if isinstance(node, ast.Match):
        return [node.subject], *(case.body for case in node.cases), []
    return None


def _choice_work(facts: Facts, function: FunctionNode, node: ast.AST, free: Collection[ast.AST]) -> float:
    """What a branch takes as a choice on the device: both sides, and one choice for each variable."""
    sides = [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.expr_context)]
    chosen = max(1, len(getattr(node, "orelse", ()) or ()) if isinstance(node, ast.If) else 1)
    return LAUNCH * chosen + work(facts, function, sides, free)


def _selection_work(facts: Facts, function: FunctionNode, node: ast.AST, free: Collection[ast.AST]) -> float:
    """What a selection by a mask takes at most when it is computed for all elements instead."""
    called = node.func if isinstance(node, ast.Call) else None
    chooses = getattr(called, "attr", getattr(called, "id", "")) in _SIZED_BY_DATA
    if not chooses and not (isinstance(node, ast.Subscript) and on_device(facts, node.value)):
        return 0.0
    around = (n for n in ancestors(facts, node) if isinstance(n, ast.Call))
    mean = any(getattr(call.func, "attr", "") == "mean" for call in around)
    stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    launches = 2 if stored or not _is_stored(facts, node) else 0  # the choice and the copy of an assignment
    launches += 4 * mean
    parts = work(facts, function, ast.iter_child_nodes(node), free)
    return LAUNCH * launches + parts * (1 + mean)


def _is_stored(facts: Facts, node: ast.AST) -> bool:
    """Whether what a mask selects is assigned to what a mask selects: ``x[mask] = y[mask] * 2``."""
    stmt = next((n for n in ancestors(facts, node) if isinstance(n, ast.stmt)), None)
    targets = stmt.targets if isinstance(stmt, ast.Assign) else ()
    return isinstance(node, ast.Subscript) and any(isinstance(t, ast.Subscript) for t in targets)


def _rounds(loop: ast.For | ast.While, unknown: int) -> int:
    call = loop.iter if isinstance(loop, ast.For) else None
    if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "range" and len(call.args) == 1:
        limit = call.args[0]
        if isinstance(limit, ast.Constant) and isinstance(limit.value, int):
            return limit.value
    return unknown


def _call_work(facts: Facts, function: FunctionNode, call: ast.Call, sure: bool) -> float:
    func = call.func
    value = facts.value(func)
    if _is_constant(facts, call):
        return 0
    if value.kind is Kind.MODULE:
        return _module_work(facts, function, value)
    if value.kind is Kind.HOST and on_layer(facts, call) and understood(facts, function, call):
        return UNKNOWN_LAYER
    if not understood(facts, function, call) or (isinstance(func, ast.Name) and func.id in BUILTINS):
        return 0
    made = facts.value(call)
    result = made.kind
    if result is Kind.HOST or made.device is Device.HOST or _all_host(made):
        return 0
    if isinstance(func, ast.Attribute) and facts.value(func.value).kind is Kind.CONTAINER:
        return 0  # dict.get, list.index: no kernel
    operation = torch_function(dotted(facts, func))
    if operation is None and isinstance(func, ast.Attribute) and facts.value(func.value).kind is Kind.TENSOR:
        operation = func.attr
    if operation is not None:
        return LAUNCH * (operation not in _FREE)
    body = _function(facts, value.qualname)
    if body is not None and body is not function:
        return max(LAUNCH, work(facts, body, body.body[:_STATEMENTS], sure=sure))
    scope = (value.qualname or "").partition(":")[0].partition(".")[0]
    if result is Kind.CONTAINER and scope in sys.stdlib_module_names:
        return 0
    return LAUNCH if sure else UNKNOWN_CALL


def _is_constant(facts: Facts, call: ast.Call) -> bool:
    """``constant(…)`` of the runtime and its ``.clone()``: free, as what they were written for is.

    A method is then worth the same before its constants are rewritten and after it.
    """
    func = call.func
    if isinstance(func, ast.Attribute) and func.attr == "clone" and isinstance(func.value, ast.Call):
        func = func.value.func
    name = dotted(facts, func) or ""
    return name.endswith(f"{RUNTIME}.constant")


def _function(facts: Facts, qualname: str | None) -> ast.FunctionDef | None:
    """The function of this file that a qualified name means, if it calls none of its own kind."""
    module, _, name = (qualname or "").partition(":")
    if module != facts.module:
        return None
    node: ast.AST | None = facts.tree
    for part in name.split("."):
        body: Sequence[ast.stmt] = getattr(node, "body", ())
        node = next(
            (n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == part), None
        )
    if not isinstance(node, ast.FunctionDef):
        return None
    called = {
        n.func.attr if isinstance(n.func, ast.Attribute) else getattr(n.func, "id", "")
        for n in walk(node)
        if isinstance(n, ast.Call)
    }
    return None if called & _own_functions(facts) else node


@lru_cache(maxsize=2)
def _own_functions(facts: Facts) -> frozenset[str]:
    return frozenset(n.name for n in walk(facts.tree) if isinstance(n, ast.FunctionDef))


def _module_work(facts: Facts, function: FunctionNode, value: Value) -> float:
    """Host time of a call of a module, by its class or by what a container holds."""
    scope, _, name = (value.qualname or "").partition(":")
    if (scope == "torch.nn" and name in _ONE_KERNEL) or "Norm" in name or name.startswith("Drop"):
        return LAYER * (not name.startswith(("Drop", "Identity", "Flatten")))
    if value.items is not None:
        return sum(_module_work(facts, function, item) for item in value.items)
    if scope == "torch.nn" and name in _LAYERS:
        return LAYER * _LAYERS[name]
    if scope == facts.module and (small := _small_module(facts, name)) is not None:
        return small
    return UNKNOWN_MODULE


@lru_cache(maxsize=256)
def _small_module(facts: Facts, name: str) -> float | None:
    """Host time of a module of this file whose ``forward`` is short and calls no other module."""
    forward = _function(facts, f"{facts.module}:{name}.forward")
    if forward is None or any(isinstance(n, ast.For | ast.While) for n in same_scope(forward)):
        return None
    calls = [n for n in same_scope(forward) if isinstance(n, ast.Call)]
    if not all(_is_one_operation(facts, forward, call) for call in calls):
        return None
    return LAYER - LAUNCH + work(facts, forward, forward.body)


def _is_one_operation(facts: Facts, function: FunctionNode, call: ast.Call) -> bool:
    """Whether a call is known to launch a kernel or two: an operation, a layer of torch, plain Python."""
    value = facts.value(call.func)
    if value.kind is Kind.MODULE:
        scope, _, name = (value.qualname or "").partition(":")
        return (scope == "torch.nn" and name in _ONE_KERNEL) or "Norm" in name or name.startswith("Drop")
    if torch_function(dotted(facts, call.func)) is not None:
        return True
    if isinstance(call.func, ast.Attribute) and facts.value(call.func.value).kind is Kind.TENSOR:
        return True
    return isinstance(call.func, ast.Name) and call.func.id in BUILTINS


def _all_host(value: Value) -> bool:
    return value.items is not None and all(item.kind is Kind.HOST or _all_host(item) for item in value.items)
