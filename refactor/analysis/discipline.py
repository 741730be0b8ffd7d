"""What a hand-written capture needs: warmup, side stream, cloned outputs, one pool, registered generators."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.callees import Callees, FunctionNode, Scope, inside, own_nodes, renamed
from refactor.analysis.drivers import captures
from refactor.analysis.model import Event, EventKind, Region
from refactor.analysis.project import ModuleInfo, last_name
from refactor.analysis.replays import few_replays
from refactor.analysis.trees import walk

_Found = tuple[str, ast.AST, ast.expr | None]


def discipline(module: ModuleInfo) -> Iterator[Event]:
    """CAPTURE events of a file; ``detail`` names the point. Helpers of the same file are followed."""
    if b"cuda.graph" not in module.source.data and b"CUDAGraph" not in module.source.data:
        return
    callees = Callees.of(module.tree)
    static = _Static(callees)
    for scope in callees.scopes:
        function = scope.node if isinstance(scope.node, FunctionNode) else None
        name = scope.name or "<module>"
        found = [
            *_of_captures(callees, scope),
            *_uncloned(callees, scope, static),
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


class _Static:
    """Names and attributes that hold outputs of captures: each replay overwrites them."""

    def __init__(self, callees: Callees) -> None:
        self.callees = callees
        self.attributes: set[str] = set()
        self.names: dict[int, set[str]] = {}
        for scope in callees.scopes:
            self.names[id(scope.node)] = set()
            for block in scope.nodes:
                if captures(block) and isinstance(block, ast.With):
                    for target in _targets(block.body):
                        self._add(scope, target)
        for scope in callees.scopes:
            self._returned(scope)

    def _add(self, scope: Scope, target: ast.expr) -> None:
        if isinstance(target, ast.Attribute):
            self.attributes.add(ast.unparse(target))
        elif isinstance(target, ast.Name):
            self.names[id(scope.node)].add(target.id)

    def _returned(self, scope: Scope) -> None:
        """``graph, out = capture(model, x)``: what a helper captured and returned."""
        for node in scope.nodes:
            inner = self.callees.entered(node.value, scope) if isinstance(node, ast.Assign) else None
            if inner is None or not isinstance(node, ast.Assign):
                continue
            for given in inner.nodes:
                if isinstance(given, ast.Return) and given.value is not None:
                    for target in node.targets:
                        for name, value in _paired(target, given.value):
                            if self.holds(inner, value):
                                self._add(scope, name)

    def holds(self, scope: Scope, value: ast.expr) -> bool:
        """Whether an expression is such a name or attribute, in a scope."""
        if isinstance(value, ast.Attribute):
            return ast.unparse(value) in self.attributes
        around: Scope | None = scope
        while isinstance(value, ast.Name) and around is not None:
            if value.id in self.names[id(around.node)]:
                return True
            around = around.outer
        return False


def _paired(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        if len(target.elts) == len(value.elts):
            yield from zip(target.elts, value.elts, strict=True)
    elif not isinstance(target, ast.Tuple | ast.List):
        yield target, value


def _targets(body: list[ast.stmt]) -> Iterator[ast.expr]:
    for stmt in body:
        for inner in walk(stmt):
            if isinstance(inner, ast.Assign):
                yield from inner.targets


def _uncloned(callees: Callees, scope: Scope, static: _Static) -> Iterator[_Found]:
    """Static outputs that leave a function which replays: the next replay overwrites what the caller kept."""
    nodes = scope.nodes
    replays = [n for n in nodes if isinstance(n, ast.Call) and _replays(callees, scope, n)]
    if not replays:
        return
    first = min(call.lineno for call in replays)
    for stmt in nodes:
        kept: list[ast.expr] = []
        if isinstance(stmt, ast.Return | ast.Yield) and stmt.value is not None and stmt.lineno >= first:
            kept = list(stmt.value.elts) if isinstance(stmt.value, ast.Tuple | ast.List) else [stmt.value]
        elif (
            isinstance(stmt, ast.Call) and isinstance(stmt.func, ast.Attribute) and stmt.func.attr == "append"
        ):
            kept = [arg for arg in stmt.args if stmt.lineno >= first]
        for value in kept:
            if isinstance(value, ast.Name | ast.Attribute) and static.holds(scope, value):
                yield "uncloned", value, value


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
        for target in _targets(node.body):
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
