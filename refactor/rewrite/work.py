"""What a statement does: which side effects, and whether a segment may hold it."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from refactor.analysis.model import Device, EventKind, Facts, Kind, Value
from refactor.analysis.trees import walk
from refactor.rewrite.ops import names_in
from refactor.rewrite.syntax import (
    FunctionNode,
    ancestors,
    dotted,
    is_owner,
    same_scope,
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
    "torch.jit.",
)
BUILTINS = names_in(
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
    if isinstance(func, ast.Name) and func.id in BUILTINS:
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
    waiting = {e.function for e in facts.events if e.kind in BREAKING and e.node not in done}
    callees |= _modules_that_wait(facts, frozenset(f for f in waiting if isinstance(f, ast.FunctionDef)))
    callees.discard(name)
    if callees:
        properties = _properties(facts, callees)
        for node in same_scope(function):
            called = isinstance(node, ast.Call) and _calls_one_of(facts, node, callees)
            if called or (isinstance(node, ast.Attribute) and node.attr in properties):
                found.add(node)
    return found


@lru_cache(maxsize=64)
def _modules_that_wait(facts: Facts, waiting: frozenset[ast.FunctionDef]) -> frozenset[str]:
    """The ``forward`` methods of this file that wait, or run a module of this file that does.

    An event has one chain of calls, although several may lead to it.
    """
    found = {name for name, node in _by_name(facts).items() if node in waiting and name.endswith(".forward")}
    while True:
        more = {
            name
            for name, node in _by_name(facts).items()
            if name not in found and name.endswith(".forward") and _runs_one_of(facts, node, found)
        }
        if not more:
            return frozenset(found)
        found |= more


def _runs_one_of(facts: Facts, function: ast.FunctionDef, methods: Collection[str]) -> bool:
    """Whether a method calls a module of this file whose ``forward`` is among these."""
    called = (facts.value(node.func) for node in same_scope(function) if isinstance(node, ast.Call))
    names = (value.qualname or "" for value in called if value.kind is Kind.MODULE)
    return any(
        scope == facts.module and f"{target}.forward" in methods
        for scope, _, target in (name.partition(":") for name in names)
    )


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
