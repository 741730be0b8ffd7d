"""What a hand-written capture needs: warmup, side stream, cloned outputs, one pool, registered generators."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from refactor.analysis.callees import Callees, FunctionNode, Scope, inside, own_nodes, renamed
from refactor.analysis.drivers import captures
from refactor.analysis.graphmemory import IN, OUT, Each, Fields, Memory
from refactor.analysis.model import Event, EventKind, Region
from refactor.analysis.project import ModuleInfo, last_name
from refactor.analysis.replays import few_replays
from refactor.analysis.trees import walk

_Found = tuple[str, ast.AST, ast.expr | None]
_COPIES = frozenset({"clone", "cpu", "item", "tolist", "numpy", "copy"})


def discipline(module: ModuleInfo) -> Iterator[Event]:
    """CAPTURE events of a file; ``detail`` names the point. Helpers of the same file are followed."""
    if b"cuda.graph" not in module.source.data and b"CUDAGraph" not in module.source.data:
        return
    callees = Callees.of(module.tree)
    memory = Memory(callees)
    for scope in callees.scopes:
        function = scope.node if isinstance(scope.node, FunctionNode) else None
        name = scope.name or "<module>"
        found = [
            *_of_captures(callees, scope),
            *_uncloned(callees, scope, memory),
            *_rebound(callees, scope, memory),
            *_wrong_key(callees, scope),
        ]
        for block in scope.nodes:
            few = few_replays(scope, block) if captures(block) and isinstance(block, ast.With) else None
            if few is not None:
                region = Region("captured", name, module.name, scope.node)
                assert isinstance(block, ast.With)
                more = {"replays": few[1]}
                yield Event(
                    EventKind.CAPTURE, block, block, function, region, (name,), "few-replays", few[0], more
                )
        for detail, place, subject in found:
            region = Region("captured", name, module.name, scope.node)
            statement = place if isinstance(place, ast.stmt) else _statement(scope.body, place)
            yield Event(EventKind.CAPTURE, place, statement, function, region, (name,), detail, subject)
    yield from _settings(module)


def _statement(body: list[ast.stmt], place: ast.AST) -> ast.stmt:
    best = body[0]
    for stmt in body:
        for node in walk(stmt):
            if isinstance(node, ast.stmt) and any(inner is place for inner in walk(node)):
                best = node
    return best


def _of_captures(callees: Callees, scope: Scope) -> Iterator[_Found]:
    nodes = scope.nodes
    blocks = [node for node in nodes if captures(node)]
    for block in blocks:
        assert isinstance(block, ast.With)
        missing = _unprepared(callees, scope, block)
        if missing:
            yield missing, block, block.items[0].context_expr
        yield from _inside(block, nodes)
    loops = [node for node in nodes if isinstance(node, ast.For | ast.While)]
    for block in blocks:
        assert isinstance(block, ast.With)
        again = any(inside(block, loop) for loop in loops) or _called_in_loop(callees, scope)
        if (again or len(blocks) > 1) and not _has_pool(block):
            yield "pool", block, block.items[0].context_expr


def _unprepared(callees: Callees, scope: Scope, block: ast.With) -> str:
    """What is missing before a capture: "warmup", "side-stream", or nothing; callers may have done it."""
    called = {ast.unparse(n.func) for n in _calls(block.body) if not _is_setup(n)}
    if not called:
        return ""
    before = [n for n in scope.nodes if _ends_before(n, block)]
    missing = _missing(callees, scope, before, called)
    if not missing:
        return ""
    for caller, call in callees.callers(scope):
        # In a helper: what its caller ran before, under the names the caller has for it.
        earlier = [n for n in caller.nodes if _ends_before(n, call)]
        names = renamed(call, scope)
        wanted = {names.get(source.partition(".")[0], source) for source in called}
        found = _missing(callees, caller, [*earlier, *before], wanted)
        if not found:
            return ""
        missing = "side-stream" if "side-stream" in (found, missing) else missing
    return missing


def _missing(callees: Callees, scope: Scope, before: list[ast.AST], called: set[str]) -> str:
    earlier = {source for _, source, _ in callees.calls(before, scope)}
    # A helper from another file, or one whose calls have other names.
    named = any("warm" in source.rpartition(".")[2].lower() for source in earlier)
    if not named and not called & earlier and "torch.cuda.make_graphed_callables" not in earlier:
        return "warmup"
    streams = any(_is_stream_block(node) for node in callees.below([*scope.nodes, *before], scope))
    return "" if streams or (named and not called & earlier) else "side-stream"


def _called_in_loop(callees: Callees, scope: Scope) -> bool:
    for caller, call in callees.callers(scope):
        for node in caller.nodes:
            if isinstance(node, ast.For | ast.While) and inside(call, node):
                return True
    return False


def _ends_before(node: ast.AST, block: ast.With | ast.Call) -> bool:
    line = getattr(node, "end_lineno", None)
    return line is not None and line < block.lineno


def _calls(stmts: list[ast.stmt]) -> list[ast.Call]:
    return [n for stmt in stmts for n in walk(stmt) if isinstance(n, ast.Call)]


def _is_setup(call: ast.Call) -> bool:
    """Calls that need no warmup of their own: methods of tensors and the optimizer's bookkeeping."""
    return isinstance(call.func, ast.Attribute) and call.func.attr in (
        "copy_", "clone", "zero_grad", "fill_", "zero_", "detach", "to", "view", "reshape",
    )  # fmt: skip


def _is_stream_block(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and any(
        last_name(item.context_expr) == "stream" or "stream" in last_name(item.context_expr).lower()
        for item in node.items
    )


def _has_pool(block: ast.AST) -> bool:
    assert isinstance(block, ast.With)
    return any(
        isinstance(item.context_expr, ast.Call)
        and (len(item.context_expr.args) > 1 or any(k.arg == "pool" for k in item.context_expr.keywords))
        for item in block.items
    )


def _inside(block: ast.With, nodes: list[ast.AST]) -> Iterator[_Found]:
    registered = any(isinstance(n, ast.Attribute) and n.attr == "register_generator_state" for n in nodes)
    made = {
        name.id
        for n in nodes
        if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call) and last_name(n.value) == "Generator"
        for name in n.targets
        if isinstance(name, ast.Name)
    }
    around = [n for n in nodes if isinstance(n, ast.With) and any(i is block for i in walk(n))]
    for node in (*around, *(n for stmt in block.body for n in walk(stmt))):
        for item in node.items if isinstance(node, ast.With) else ():
            call = item.context_expr
            if isinstance(call, ast.Call) and last_name(call.func) == "autocast":
                cached = next((k.value for k in call.keywords if k.arg == "cache_enabled"), None)
                if not (isinstance(cached, ast.Constant) and cached.value is False):
                    yield "autocast", call, call
        if isinstance(node, ast.Call) and not registered:
            given = next((k.value for k in node.keywords if k.arg == "generator"), None)
            if isinstance(given, ast.Name) and given.id in made:
                yield "generator", node, given
    backward = any(
        isinstance(c.func, ast.Attribute) and c.func.attr == "backward" for c in _calls(block.body)
    )
    cleared = any(isinstance(n, ast.Attribute) and n.attr == "zero_grad" for n in nodes) or any(
        isinstance(n, ast.Assign) and any(getattr(t, "attr", "") == "grad" for t in n.targets) for n in nodes
    )
    if backward and not cleared:
        yield "zero-grad", block, block.items[0].context_expr


def _uncloned(callees: Callees, scope: Scope, memory: Memory) -> Iterator[_Found]:
    """Static outputs that leave a function which replays: the next replay overwrites what the caller kept."""
    nodes = scope.nodes
    replays = [n for n in nodes if isinstance(n, ast.Call) and _replays(callees, scope, n)]
    if not replays or _copied_by_callers(callees, scope):
        return
    first = min(call.lineno for call in replays)
    for stmt in nodes:
        for value in _leaving(stmt) if getattr(stmt, "lineno", 0) >= first else ():
            if memory.value(scope, value) == OUT and callees.entered(value, scope) is None:
                yield "uncloned", value, value


def _leaving(node: ast.AST) -> list[ast.expr]:
    """What a statement or call hands out or keeps, displays taken apart."""
    kept: list[ast.expr] = []
    if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
        kept = [node.value]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        kept = list(node.args) if node.func.attr in ("append", "put", "put_nowait") else []
    elif isinstance(node, ast.AugAssign) and isinstance(node.value, ast.List | ast.Tuple):
        kept = [node.value]
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        kept = [node.value] if isinstance(node.targets[0].value, ast.Name) else []
    found: list[ast.expr] = []
    while kept:
        value = kept.pop(0)
        if isinstance(value, ast.Tuple | ast.List):
            kept[:0] = value.elts
        elif isinstance(value, ast.Dict):
            kept[:0] = value.values
        else:
            found.append(value)
    return found


def _copied_by_callers(callees: Callees, scope: Scope) -> bool:
    """Whether every call of a helper is ``helper(...).clone()`` or another copy."""
    calls = list(callees.callers(scope))
    copied = {
        id(node.value)
        for caller, _ in calls
        for node in caller.nodes
        if isinstance(node, ast.Attribute) and node.attr in _COPIES
    }
    return bool(calls) and all(id(call) in copied for _, call in calls)


def _rebound(callees: Callees, scope: Scope, memory: Memory) -> Iterator[_Found]:
    """``static = x`` before a replay: the graph goes on reading the tensor that it was captured with."""
    replays = [n for n in scope.nodes if isinstance(n, ast.Call) and _replays(callees, scope, n)]
    if not replays:
        return
    own = memory.captures[id(scope.node)]
    loops = [n for n in scope.nodes if isinstance(n, ast.For | ast.While)]
    for stmt in scope.nodes:
        if not isinstance(stmt, ast.Assign) or isinstance(stmt.value, ast.Constant):
            continue
        again = [loop for loop in loops if inside(stmt, loop)]
        if any(stmt.lineno <= one.last or _in_any(one.place, again) for one in own):
            continue  # before the capture, or captured anew each time
        if not own and _records(callees, scope, stmt):
            continue
        if not any(call.lineno > stmt.lineno or _in_any(call, again) for call in replays):
            continue
        for target in stmt.targets:
            if _is_input(memory, scope, target) and memory.value(scope, stmt.value) != IN:
                yield "rebound", stmt, target


def _is_input(memory: Memory, scope: Scope, target: ast.expr) -> bool:
    if isinstance(target, ast.Subscript):
        held = memory.value(scope, target.value)
        return isinstance(held, Each | Fields) and memory.value(scope, target) == IN
    return isinstance(target, ast.Name | ast.Attribute) and memory.value(scope, target) == IN


def _in_any(node: ast.AST, loops: Sequence[ast.AST]) -> bool:
    return any(inside(node, loop) for loop in loops)


def _records(callees: Callees, scope: Scope, stmt: ast.stmt) -> bool:
    """Whether a function captures anew behind a statement, itself or through a helper."""
    later = [n for n in scope.nodes if getattr(n, "lineno", 0) > stmt.lineno]
    below = callees.below(later, scope)
    return any(_captures_in(node) for node in below if isinstance(node, ast.stmt | ast.Call))


def _replays(callees: Callees, scope: Scope, call: ast.Call) -> bool:
    """``graph.replay()``, or a helper that does it and returns nothing of its own."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replay"
        for node in callees.below([call], scope)
    )


def _wrong_key(callees: Callees, scope: Scope) -> Iterator[_Found]:
    """``if key not in graphs: … graphs[other] = graph``: the lookup never hits."""
    for node in scope.nodes:
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and len(node.test.ops) == 1):
            continue
        made = any(_captures_in(inner) for inner in callees.below(own_nodes(node.body), scope))
        if not isinstance(node.test.ops[0], ast.NotIn) or not made:
            continue
        table, key = ast.unparse(node.test.comparators[0]), ast.unparse(node.test.left)
        targets = [t for n in own_nodes(node.body) if isinstance(n, ast.Assign) for t in n.targets]
        for target in targets:
            stored = isinstance(target, ast.Subscript) and ast.unparse(target.value) == table
            if stored and isinstance(target, ast.Subscript) and ast.unparse(target.slice) != key:
                yield "key", target, node.test.left


def _captures_in(stmt: ast.AST) -> bool:
    return any(
        captures(n) or (isinstance(n, ast.Call) and "capture" in last_name(n.func).lower())
        for n in walk(stmt)
    )


def _settings(module: ModuleInfo) -> Iterator[Event]:
    for stmt in walk(module.tree):
        if isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.Constant) and stmt.value.value is True:
            target = stmt.targets[0]
            if isinstance(target, ast.Attribute) and ast.unparse(target).endswith("cudnn.benchmark"):
                region = Region("captured", "<module>", module.name, module.tree)
                yield Event(EventKind.CAPTURE, stmt, stmt, None, region, ("<module>",), "benchmark", target)
