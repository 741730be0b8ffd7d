"""What a hand-written capture needs: warmup, side stream, cloned outputs, one pool, registered generators."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.drivers import captures
from refactor.analysis.model import Event, EventKind, Region
from refactor.analysis.project import ModuleInfo, last_name
from refactor.analysis.trees import children, walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = tuple[str, ast.AST, list[ast.stmt]]


def discipline(module: ModuleInfo) -> Iterator[Event]:
    """CAPTURE events of a file; ``detail`` names the point."""
    if b"cuda.graph" not in module.source.data and b"CUDAGraph" not in module.source.data:
        return
    scopes = list(_scopes(module.tree, ""))
    static = _static_outputs(module.tree)
    for name, node, body in scopes:
        function = node if isinstance(node, FunctionNode) else None
        found = [
            *_of_captures(body),
            *_uncloned(node, body, static),
            *_wrong_key(body),
        ]
        for detail, place, subject in found:
            region = Region("captured", name or "<module>", module.name, node)
            statement = place if isinstance(place, ast.stmt) else _statement(body, place)
            yield Event(
                EventKind.CAPTURE, place, statement, function, region, (name or "<module>",), detail, subject
            )
    yield from _settings(module)


def _scopes(node: ast.AST, prefix: str) -> Iterator[_Scope]:
    if isinstance(node, ast.Module):
        yield "", node, [s for s in node.body if not isinstance(s, FunctionNode | ast.ClassDef)]
    for child in children(node):
        if isinstance(child, FunctionNode):
            yield prefix + child.name, child, child.body
            yield from _scopes(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _scopes(child, f"{prefix}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from _scopes(child, prefix)


def _statement(body: list[ast.stmt], place: ast.AST) -> ast.stmt:
    best = body[0]
    for stmt in body:
        for node in walk(stmt):
            if isinstance(node, ast.stmt) and any(inner is place for inner in walk(node)):
                best = node
    return best


def _own(body: list[ast.stmt]) -> list[ast.AST]:
    """Nodes of a scope in order, nested functions apart."""
    found: list[ast.AST] = []
    todo: list[ast.AST] = list(reversed(body))
    while todo:
        node = todo.pop()
        found.append(node)
        if not isinstance(node, FunctionNode | ast.ClassDef | ast.Lambda):
            todo.extend(reversed(list(children(node))))
    return found


_Found = tuple[str, ast.AST, ast.expr | None]


def _of_captures(body: list[ast.stmt]) -> Iterator[_Found]:
    nodes = _own(body)
    blocks = [node for node in nodes if captures(node)]
    for block in blocks:
        assert isinstance(block, ast.With)
        before = [n for n in nodes if _ends_before(n, block)]
        called = {ast.unparse(n.func) for n in _calls(block.body) if not _is_setup(n)}
        earlier = {ast.unparse(n.func) for n in before if isinstance(n, ast.Call)}
        if called and not called & earlier and "torch.cuda.make_graphed_callables" not in earlier:
            yield "warmup", block, block.items[0].context_expr
        elif called and not any(_is_stream_block(n) for n in nodes):
            yield "side-stream", block, block.items[0].context_expr
        yield from _inside(block, nodes)
    looped = [n for n in nodes if isinstance(n, ast.For | ast.While) for i in walk(n) if captures(i)]
    for block in blocks:
        in_loop = any(any(i is block for i in walk(loop)) for loop in looped)
        if (in_loop or len(blocks) > 1) and not _has_pool(block):
            assert isinstance(block, ast.With)
            yield "pool", block, block.items[0].context_expr


def _ends_before(node: ast.AST, block: ast.With) -> bool:
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


def _static_outputs(tree: ast.Module) -> frozenset[str]:
    """Sources of the names and attributes that captures assign."""
    return frozenset(
        ast.unparse(target)
        for node in walk(tree)
        if captures(node) and isinstance(node, ast.With)
        for stmt in node.body
        for inner in walk(stmt)
        if isinstance(inner, ast.Assign)
        for target in inner.targets
        if isinstance(target, ast.Name | ast.Attribute)
    )


def _uncloned(node: ast.AST, body: list[ast.stmt], static: frozenset[str]) -> Iterator[_Found]:
    """Static outputs that leave a function which replays: the next replay overwrites what the caller kept."""
    nodes = _own(body)
    replays = [
        n
        for n in nodes
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "replay"
    ]
    if not replays or not static:
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
            if isinstance(value, ast.Name | ast.Attribute) and ast.unparse(value) in static:
                yield "uncloned", value, value


def _wrong_key(body: list[ast.stmt]) -> Iterator[_Found]:
    """``if key not in graphs: … graphs[other] = graph``: the lookup never hits."""
    for node in _own(body):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and len(node.test.ops) == 1):
            continue
        if not isinstance(node.test.ops[0], ast.NotIn) or not any(_captures_in(stmt) for stmt in node.body):
            continue
        table, key = ast.unparse(node.test.comparators[0]), ast.unparse(node.test.left)
        stores = [
            target
            for stmt in node.body
            for inner in walk(stmt)
            if isinstance(inner, ast.Assign)
            for target in inner.targets
            if isinstance(target, ast.Subscript) and ast.unparse(target.value) == table
        ]
        for target in stores:
            if ast.unparse(target.slice) != key:
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
