"""What a statement does: how much device work, which side effects, and whether a segment may hold it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise

from refactor.analysis.model import Device, EventKind, Facts, Kind, Value
from refactor.analysis.trees import walk
from refactor.rewrite.ops import FRESH_MODULES, METADATA, VIEWS, names_in, torch_function
from refactor.rewrite.syntax import (
    FunctionNode,
    ancestors,
    dotted,
    enclosing_statement,
    same_scope,
    self_name,
)

BREAKING = frozenset(
    {
        EventKind.READBACK,
        EventKind.TO_HOST,
        EventKind.SHOW,
        EventKind.ASSERT,
        EventKind.SYNCHRONIZE,
        EventKind.SYNC_OP,
        EventKind.DYNAMIC_OP,
        EventKind.MASK_INDEX,
        EventKind.DEVICE_SIZE,
        EventKind.BRANCH,
        EventKind.BOOL_OP,
        EventKind.WHILE,
        EventKind.COUNTED_LOOP,
        EventKind.HOST_CONSTANT,
        EventKind.HOST_TO_DEVICE,
        EventKind.INDEX_LIST,
        EventKind.INDEX_FILL,
        EventKind.LAUNCH,
        EventKind.GROWING_CACHE,
        EventKind.HOST_STATE,
    }
)
"""Events whose statement stays outside every graph, unless another rewrite takes care of it."""
MODULE_WORK = 3
_ONE_KERNEL = (FRESH_MODULES - names_in("LSTM GRU RNN MultiheadAttention")) | names_in(
    "ReLU Identity Dropout Flatten ReLU6 Hardswish LeakyReLU MaxPool2d AvgPool2d AdaptiveAvgPool2d"
)
_MUTATORS = frozenset(
    {
        "append",
        "extend",
        "insert",
        "pop",
        "remove",
        "clear",
        "update",
        "setdefault",
        "add",
        "discard",
        "popitem",
        "appendleft",
    }
)
_EFFECTS = frozenset(
    {"print", "next", "setattr", "delattr", "open", "input", "register_buffer", "register_hook"}
)
_HOST_SCOPES = (
    "random.",
    "numpy.",
    "time.",
    "logging.",
    "warnings.",
    "os.",
    "sys.",
    "torch.cuda.",
    "torch.distributed.",
)
_FREE = (VIEWS | METADATA) - names_in(
    "to float half double bfloat16 int long bool type type_as contiguous einsum"
)
_BUILTINS = names_in(
    """len range zip enumerate isinstance min max sum tuple list dict set sorted reversed getattr hasattr
    float int bool str abs round slice type super map filter any all"""
)
OUTLINABLE = (
    ast.Assign,
    ast.AugAssign,
    ast.AnnAssign,
    ast.Expr,
    ast.If,
    ast.For,
    ast.While,
    ast.With,
    ast.Pass,
)


def work(
    facts: Facts, function: FunctionNode, nodes: Iterable[ast.AST], free: Collection[ast.AST] = ()
) -> int:
    """An estimate of the number of kernels: modules and own methods count for several, ``free`` for none."""
    total = 0
    for root in nodes:
        for node in (root, *same_scope(root)):
            if node in free or in_training(facts, node):
                continue
            if isinstance(node, ast.Call):
                total += _call_work(facts, function, node)
            elif isinstance(node, ast.BinOp | ast.Compare | ast.UnaryOp):
                total += on_device(facts, node)
            elif isinstance(node, ast.AugAssign):
                total += on_device(facts, node.target) or on_device(facts, node.value)
    return total


def _call_work(facts: Facts, function: FunctionNode, call: ast.Call) -> int:
    func = call.func
    value = facts.value(func)
    if value.kind is Kind.MODULE:
        scope, _, name = (value.qualname or "").partition(":")
        one = (scope == "torch.nn" and name in _ONE_KERNEL) or "Norm" in name or name.startswith("Drop")
        return 1 if one else MODULE_WORK
    if not understood(facts, function, call) or (isinstance(func, ast.Name) and func.id in _BUILTINS):
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
        return int(operation not in _FREE)
    scope = (value.qualname or "").partition(":")[0].partition(".")[0]
    return 0 if result is Kind.CONTAINER and scope in sys.stdlib_module_names else MODULE_WORK


def _all_host(value: Value) -> bool:
    return value.items is not None and all(item.kind is Kind.HOST or _all_host(item) for item in value.items)


def on_device(facts: Facts, node: ast.expr) -> bool:
    """Whether an expression is a tensor that is not known to live on the CPU."""
    value = facts.value(node)
    return value.kind is Kind.TENSOR and value.device is not Device.HOST


def understood(facts: Facts, function: FunctionNode, call: ast.Call) -> bool:
    """Whether the analysis knows what a call does, or it is a submodule given tensors."""
    func = call.func
    anything = facts.value(func).qualname in ("torch.nn:Module", None)
    if facts.value(call).kind in (Kind.TENSOR, Kind.CONTAINER, Kind.HOST) and not (
        facts.value(func).kind is Kind.MODULE and anything
    ):
        return True
    if isinstance(func, ast.Name) and func.id in _BUILTINS:
        return True
    arguments = [*call.args, *(word.value for word in call.keywords)]
    tensors = all(facts.value(a).kind in (Kind.TENSOR, Kind.HOST) for a in arguments) and bool(arguments)
    if facts.value(func).kind is Kind.MODULE:
        return tensors
    if not isinstance(func, ast.Attribute):
        return False
    if facts.value(func.value).kind is Kind.TENSOR:
        return True
    return tensors and getattr(func.value, "id", None) == self_name(function)


def host_statements(facts: Facts, function: FunctionNode, settled: Iterable[ast.AST]) -> set[ast.stmt]:
    """Statements of a function that no graph can hold, by the events in them or in what they call."""
    done = set(settled)
    found: set[ast.stmt] = set()
    callees: set[str] = set()
    name = _qualname(facts, function)
    for event in (*facts.events, *(e for other in facts.foreign for e in other.events)):
        if event.kind not in BREAKING or event.node in done:
            continue
        if event.function is function:
            found.add(enclosing_statement(facts, event.node))
            continue
        chain = event.chain
        callees.update(after for before, after in pairwise(chain) if before == name)
    if callees:
        for node in same_scope(function):
            if isinstance(node, ast.Call) and _calls_one_of(facts, node, callees):
                found.add(enclosing_statement(facts, node))
    return found


def _qualname(facts: Facts, function: FunctionNode) -> str:
    parts = [function.name]
    node = facts.parents.get(function)
    while node is not None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            parts.insert(0, node.name)
        node = facts.parents.get(node)
    return ".".join(parts)


def _calls_one_of(facts: Facts, call: ast.Call, callees: set[str]) -> bool:
    value = facts.value(call.func)
    target = (value.qualname or "").partition(":")[2]
    if value.kind is Kind.MODULE:
        return f"{target}.forward" in callees or f"{target}.__call__" in callees
    if value.kind is Kind.FUNCTION and target:
        return target in callees
    last = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return any(callee.rpartition(".")[2] == last for callee in callees)


def effects(facts: Facts, function: FunctionNode, statement: ast.stmt) -> set[str] | None:
    """Names of local containers that a statement changes, or None: it may change or ask other host state."""
    changed: set[str] = set()
    for node in (statement, *same_scope(statement)):
        if isinstance(node, ast.Lambda | ast.NamedExpr | ast.Yield | ast.YieldFrom | ast.Await | ast.Starred):
            if isinstance(node, ast.Starred) and isinstance(node.ctx, ast.Load):
                continue
            return None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return None
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            return None
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            if facts.value(node.value).kind is Kind.TENSOR:
                continue
            if not isinstance(node.value, ast.Name):
                return None
            changed.add(node.value.id)
        if isinstance(node, ast.Call):
            touched = _call_effect(facts, node)
            if touched is None or not (touched or understood(facts, function, node)):
                return None
            changed |= touched
    return changed


def _call_effect(facts: Facts, call: ast.Call) -> set[str] | None:
    func = call.func
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    if name in _EFFECTS or (dotted(facts, func) or "").startswith(_HOST_SCOPES):
        return None
    if (
        isinstance(func, ast.Attribute)
        and name in _MUTATORS
        and facts.value(func.value).kind is not Kind.TENSOR
    ):
        return {func.value.id} if isinstance(func.value, ast.Name) else None
    logger = isinstance(func, ast.Attribute) and "log" in getattr(func.value, "id", "").lower()
    if logger and name in ("debug", "info", "warning", "error", "exception", "log"):
        return None
    return set()


def only_trains(facts: Facts, function: FunctionNode) -> bool:
    """Whether a method is called in its file, and only under ``if self.training``: autograd records there."""
    called = _method_calls(facts).get(function.name, [])
    return bool(called) and all(in_training(facts, node) for node in called)


@lru_cache(maxsize=2)
def _method_calls(facts: Facts) -> Mapping[str, list[ast.Call]]:
    """Calls ``….name(…)`` of a file by name: asked for at every method that is cut."""
    found: dict[str, list[ast.Call]] = {}
    for node in walk(facts.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found.setdefault(node.func.attr, []).append(node)
    return found


def in_training(facts: Facts, node: ast.AST) -> bool:
    """Whether a node stands in the body of ``if self.training``."""
    inner = node
    for around in ancestors(facts, node):
        if isinstance(around, ast.If) and inner in around.body:
            tests = around.test.values if isinstance(around.test, ast.BoolOp) else [around.test]
            conjunction = not isinstance(around.test, ast.BoolOp) or isinstance(around.test.op, ast.And)
            if conjunction and any(isinstance(t, ast.Attribute) and t.attr == "training" for t in tests):
                return True
        inner = around
    return False


def leaves(statement: ast.stmt) -> bool:
    """Whether control can leave the statement in another way than at its end (exceptions apart)."""
    if isinstance(statement, ast.Return | ast.Break | ast.Continue):
        return True
    loops = isinstance(statement, ast.For | ast.While)
    inner = [*getattr(statement, "body", ()), *([] if loops else getattr(statement, "orelse", ()))]
    if loops and any(_returns(child) for child in statement.body):  # type: ignore[attr-defined]
        return True
    if loops:
        return any(leaves(child) for child in statement.orelse)  # type: ignore[attr-defined]
    return any(leaves(child) for child in inner)


def _returns(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Return) for node in (statement, *same_scope(statement)))
