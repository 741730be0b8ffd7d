"""What a statement does: how much device work, which side effects, and whether a segment may hold it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from refactor.analysis.model import Device, EventKind, Facts, Kind, Value
from refactor.analysis.trees import walk
from refactor.rewrite.ops import FRESH_MODULES, METADATA, VIEWS, names_in, torch_function
from refactor.rewrite.syntax import (
    SCOPES,
    FunctionNode,
    ancestors,
    dotted,
    is_owner,
    same_scope,
)
from refactor.rewrite.training import in_training

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
LAUNCH = 5.0
"""Host time of a bare operation in µs: 4 to 6 measured on an H100 with torch 2.11."""
LAYER = 12.0
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
_LOOKS = frozenset({"values", "items", "keys"})
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
) -> float:
    """An estimate of the host time in µs that nodes take to launch their kernels; ``free`` ones take none."""
    total = 0.0
    for root in nodes:
        if isinstance(root, ast.For | ast.While):
            head = [root.iter] if isinstance(root, ast.For) else [root.test]
            total += work(facts, function, head, free)
            total += _rounds(root) * work(facts, function, [*root.body, *root.orelse], free)
            continue
        if in_training(facts, root):
            continue
        if root in free:
            total += _selection_work(facts, function, root, free)
            continue
        if isinstance(root, ast.Call):
            total += _call_work(facts, function, root)
        elif isinstance(root, ast.BinOp | ast.Compare | ast.UnaryOp):
            total += LAUNCH * on_device(facts, root)
        elif isinstance(root, ast.AugAssign):
            total += LAUNCH * (on_device(facts, root.target) or on_device(facts, root.value))
        if not isinstance(root, SCOPES):
            total += work(facts, function, ast.iter_child_nodes(root), free)
    return total


def _selection_work(facts: Facts, function: FunctionNode, node: ast.AST, free: Collection[ast.AST]) -> float:
    """What a selection by a mask takes at most when it is computed for all elements instead."""
    called = node.func if isinstance(node, ast.Call) else None
    chooses = getattr(called, "attr", getattr(called, "id", "")) in _SIZED_BY_DATA
    if not chooses and not (isinstance(node, ast.Subscript) and on_device(facts, node.value)):
        return 0.0
    around = (n for n in ancestors(facts, node) if isinstance(n, ast.Call))
    mean = any(getattr(call.func, "attr", "") == "mean" for call in around)
    stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    launches = 3 if stored else 2 + 4 * mean
    parts = work(facts, function, ast.iter_child_nodes(node), free)
    return LAUNCH * launches + parts * (1 + mean)


def _rounds(loop: ast.For | ast.While) -> int:
    call = loop.iter if isinstance(loop, ast.For) else None
    if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "range" and len(call.args) == 1:
        limit = call.args[0]
        if isinstance(limit, ast.Constant) and isinstance(limit.value, int):
            return limit.value
    return ROUNDS


def _call_work(facts: Facts, function: FunctionNode, call: ast.Call) -> float:
    func = call.func
    value = facts.value(func)
    if value.kind is Kind.MODULE:
        return _module_work(value)
    if value.kind is Kind.HOST and on_layer(facts, call) and understood(facts, function, call):
        return UNKNOWN_LAYER
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
        return LAUNCH * (operation not in _FREE)
    body = _function(facts, value.qualname)
    if body is not None and body is not function:
        return max(LAUNCH, work(facts, body, body.body[:_STATEMENTS]))
    scope = (value.qualname or "").partition(":")[0].partition(".")[0]
    return 0 if result is Kind.CONTAINER and scope in sys.stdlib_module_names else UNKNOWN_CALL


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


def _module_work(value: Value) -> float:
    """Host time of a call of a module, by its class or by what a container holds."""
    scope, _, name = (value.qualname or "").partition(":")
    if (scope == "torch.nn" and name in _ONE_KERNEL) or "Norm" in name or name.startswith("Drop"):
        return LAYER * (not name.startswith(("Drop", "Identity", "Flatten")))
    if value.items is not None:
        return sum(_module_work(item) for item in value.items)
    if scope == "torch.nn" and name in _LAYERS:
        return LAYER * _LAYERS[name]
    return UNKNOWN_MODULE


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
    tensors = _are_data(facts, arguments)
    if facts.value(func).kind is Kind.MODULE:
        return tensors
    if not isinstance(func, ast.Attribute):
        return False
    if facts.value(func.value).kind is Kind.TENSOR:
        return True
    if func.attr in _LOOKS and facts.value(func.value).kind in (Kind.CONTAINER, Kind.UNKNOWN):
        return not arguments
    return tensors and is_owner(facts, function, func.value)


def _are_data(facts: Facts, nodes: Sequence[ast.expr]) -> bool:
    """Whether arguments are tensors, host values and containers of them, which the runtime watches.

    Or all of them are parts of one object: ``self.backbone(images.tensors)``, ``conv(batch.x, batch.edges)``.
    What gets parts of an object beside other things is rather a stage of a program than a layer.
    """
    data = (Kind.TENSOR, Kind.HOST, Kind.CONTAINER)
    rest = [node for node in nodes if facts.value(node).kind not in data]
    if not rest or not nodes:
        return bool(nodes)
    parts = [n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    return len(parts) == len(nodes) and len(set(parts)) == 1


def on_layer(facts: Facts, call: ast.Call) -> bool:
    """Whether a call is one of a module, or of what an instance was given to call: ``self.backbone(x)``."""
    func = call.func
    value = facts.value(func)
    if value.kind is Kind.MODULE:
        return True
    around = next((n for n in ancestors(facts, call) if isinstance(n, ast.FunctionDef)), None)
    own = isinstance(func, ast.Attribute) and is_owner(facts, around, func.value)
    return own and value.kind in (Kind.HOST, Kind.UNKNOWN)


_ONE_OF_SEVERAL = Value(Kind.FUNCTION)


def host_nodes(facts: Facts, function: FunctionNode, settled: Iterable[ast.AST]) -> set[ast.AST]:
    """Nodes of a function that no graph can hold, by the events at them or in what they call."""
    done = set(settled)
    found: set[ast.AST] = set()
    callees: set[str] = set()
    name = qualname(facts, function)
    for event in (*facts.events, *(e for other in facts.foreign for e in other.events)):
        if event.kind not in BREAKING or event.node in done:
            continue
        if event.function is function:
            found.add(event.node)
            continue
        for place, caller in enumerate(event.chain[:-1]):
            if caller == name and _is_certain(facts, event.chain[place + 1 :]):
                callees.update(_called(event.chain[place + 1 :]))
    if callees:
        properties = _properties(facts, callees)
        for node in same_scope(function):
            called = isinstance(node, ast.Call) and _calls_one_of(facts, node, callees)
            if called or (isinstance(node, ast.Attribute) and node.attr in properties):
                found.add(node)
    return found


@lru_cache(maxsize=4096)
def _is_certain(facts: Facts, chain: tuple[str, ...]) -> bool:
    """Whether the functions of this file in a chain call the next one wherever they run.

    A function out of a table (attention in one of several ways) is only perhaps the one that waits: such a
    call may stand in a segment, which runs eagerly if it was that one.
    """
    for place, name in enumerate(chain[:-1]):
        function = _by_name(facts).get(name)
        if function is None:
            continue
        callees = frozenset(_called(chain[place + 1 :]))
        properties = _properties(facts, callees)
        if not any(
            (isinstance(node, ast.Call) and _calls_one_of(facts, node, callees))
            or (isinstance(node, ast.Attribute) and node.attr in properties)
            for node in same_scope(function)
        ):
            return not any(
                isinstance(node, ast.Call) and facts.value(node.func) == _ONE_OF_SEVERAL
                for node in same_scope(function)
            )
    return True


@lru_cache(maxsize=2)
def _by_name(facts: Facts) -> Mapping[str, ast.FunctionDef]:
    """The functions of a file by qualified name."""
    return {qualname(facts, n): n for n in walk(facts.tree) if isinstance(n, ast.FunctionDef)}


def _called(chain: Sequence[str]) -> Iterator[str]:
    """What a call enters: the next function, and behind a wrapper of a decorator the method itself."""
    for name in chain:
        yield name
        scope = name.rpartition(".")[0]
        if "." not in scope and not scope[:1].islower():
            return


def _properties(facts: Facts, callees: Collection[str]) -> frozenset[str]:
    """Those of the called methods that are properties: they are called by reading an attribute."""
    return frozenset(callee.rpartition(".")[2] for callee in callees) & _all_properties(facts)


@lru_cache(maxsize=2)
def _all_properties(facts: Facts) -> frozenset[str]:
    return frozenset(
        node.name
        for node in walk(facts.tree)
        if isinstance(node, ast.FunctionDef)
        and any(getattr(d, "id", getattr(d, "attr", "")).endswith("property") for d in node.decorator_list)
    )


def qualname(facts: Facts, function: FunctionNode) -> str:
    """The name of a function with the classes and functions around it."""
    parts = [function.name]
    node = facts.parents.get(function)
    while node is not None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            parts.insert(0, node.name)
        node = facts.parents.get(node)
    return ".".join(parts)


def _calls_one_of(facts: Facts, call: ast.Call, callees: Collection[str]) -> bool:
    value = facts.value(call.func)
    target = (value.qualname or "").partition(":")[2]
    if value.kind is Kind.MODULE:
        return f"{target}.forward" in callees or f"{target}.__call__" in callees
    if value.kind is Kind.FUNCTION and target:
        return target in callees
    last = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return any(callee.rpartition(".")[2] == last for callee in callees)


def effects(facts: Facts, function: FunctionNode, statement: ast.AST) -> set[str] | None:
    """Names of local containers that a node changes, or None: it may change or ask other host state."""
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
