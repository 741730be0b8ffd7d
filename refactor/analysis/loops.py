"""Loops over batches that call a model without recording gradients: the pattern that padding makes static."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from refactor.analysis.liveness import target_names
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.receivers import class_of
from refactor.analysis.torchops import names as words_of
from refactor.analysis.trees import children, statements, walk

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_NO_GRAD = frozenset({"no_grad", "inference_mode"})
MODEL_WORDS = words_of(
    """
    model net network encoder decoder module backbone classifier generator discriminator unet vae
    transformer student teacher policy actor critic detector segmenter
    """
)
_NOT_MODELS = words_of(
    """
    tokenizer processor collate collate_fn tokenize preprocess preprocessor postprocess transform
    transforms criterion loss_fn metric metrics accuracy print len list dict tuple zip enumerate range
    tqdm str int float isinstance logger scheduler optimizer sampler augment to_device move_to_device
    """
)
_NOT_BATCHES = words_of("timesteps timestep sigmas layers blocks epochs modules parameters betas")
_NAMED = (ast.Name, ast.Attribute)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Loop = (
    ast.For
    | ast.AsyncFor
    | ast.While
    | ast.ListComp
    | ast.SetComp
    | ast.DictComp
    | ast.GeneratorExp
    | FunctionNode
)
"""A function counts as one: a method that runs the model on its arguments and is itself called in a loop."""
_TRAINING = frozenset({"backward", "step", "zero_grad"})
_TAKES = frozenset({"popleft", "get", "get_nowait", "recv"})


_LOOPS = (ast.For, ast.AsyncFor, ast.While, *_COMPREHENSIONS)


@dataclass(frozen=True, eq=False)
class BatchLoop:
    """One loop, the calls of one model in it, and how the batch gets there."""

    loop: Loop
    calls: tuple[ast.Call, ...]
    callee: ast.expr
    target: tuple[str, ...]  # names bound by the loop
    derived: frozenset[str]  # names in the body computed from them
    function: FunctionNode | None
    guard: str  # what says that no gradients are recorded: "no_grad", "inference_mode", "eval"


def batch_loops(module: ModuleInfo) -> Iterator[BatchLoop]:
    """Every batch loop of a file, in order of its place."""
    for function, body in module.scopes if module.names_no_grad else ():
        yield from _in_scope(module, function, body)
        yield from _served(module, function, body)


def _served(module: ModuleInfo, function: FunctionNode | None, body: list[ast.stmt]) -> Iterator[BatchLoop]:
    """``self.model(x)`` in a method without a loop of its own that loops of the file call for each batch."""
    if function is None or function.name in ("forward", "__call__"):
        return
    guard = _decorated(function) or _context_inside(function)
    owner = module.parents.get(function) if guard else None
    cls = module.lookup(owner.name) if isinstance(owner, ast.ClassDef) else None
    if not isinstance(cls, ClassInfo) or cls.is_module or _trains_inside(function):
        return
    if any(isinstance(n, _LOOPS) for stmt in body for n in walk(stmt)) or function.name not in _looped(
        module
    ):
        return
    arguments = frozenset(a.arg for a in (*function.args.args[1:], *function.args.kwonlyargs))
    derived = arguments | _assigned_from(body, arguments)
    found: dict[str, list[ast.Call]] = {}
    for node in _walk_in_order(list(body)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            names = {n.id for arg in _operands(node) for n in walk(arg) if isinstance(n, ast.Name)}
            if names & derived and _is_model(module, function, node, frozenset()):
                found.setdefault(ast.unparse(node.func), []).append(node)
    for calls in found.values():
        yield BatchLoop(function, tuple(calls), calls[0].func, tuple(arguments), derived, function, guard)


def _looped(module: ModuleInfo) -> frozenset[str]:
    """Names of the methods that loops and comprehensions of a file call."""
    return frozenset(
        call.func.attr
        for node in module.nodes
        if isinstance(node, _LOOPS)
        for call in walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
    )


def _assigned_from(body: list[ast.stmt], names: frozenset[str]) -> frozenset[str]:
    """Names that a body computes from others."""
    found: set[str] = set()
    for stmt in body:
        for node in walk(stmt):
            if isinstance(node, ast.Assign):
                used = {n.id for n in walk(node.value) if isinstance(n, ast.Name)}
                if used & (names | found):
                    found.update(name for target in node.targets for name in target_names(target))
    return frozenset(found)


def drives_batches(module: ModuleInfo, node: ast.AST) -> bool:
    """Whether a function runs a model over batches or trains it: regions lie inside it, it is in none."""
    if not isinstance(node, FunctionNode):
        return False
    if node.name != "forward" and _replays(module, node):
        return True
    for loop, guard, evaluated in _guarded(node, node.body) if module.names_no_grad else ():
        if _calls_graphed(module, loop) or any(True for _ in _calls(module, node, loop, guard, evaluated)):
            return True
    return module.names_step and trains(node)


def _replays(module: ModuleInfo, function: FunctionNode) -> bool:
    """Whether a loop calls what runs from graphs already: the same loop as before it was rewritten."""
    return b"graphed" in module.source.data and any(
        isinstance(loop, _LOOPS) and _calls_graphed(module, loop) for loop in walk(function)
    )


def _calls_graphed(module: ModuleInfo, loop: Loop) -> bool:
    """Whether a loop calls ``graphed_model`` of ``graphed_model = graphed(model)``, or a graphed function."""
    if b"graphed" not in module.source.data:
        return False
    graphed = _graphed(module).difference(_segments(module.tree)) | _decorated_functions(module.tree)
    return bool(graphed) and any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in graphed
        for part in _body(loop)
        for node in walk(part)
    )


def trains(node: ast.AST) -> bool:
    """Whether a function calls ``loss.backward()`` or ``optimizer.step()``."""
    return any(
        isinstance(inner, ast.Call)
        and isinstance(inner.func, ast.Attribute)
        and (
            inner.func.attr == "backward"
            or (inner.func.attr == "step" and "optim" in ast.unparse(inner.func.value).lower())
        )
        for inner in walk(node)
    )


def _in_scope(module: ModuleInfo, function: FunctionNode | None, body: list[ast.stmt]) -> Iterator[BatchLoop]:
    for loop, guard, evaluated in _guarded(function, body):
        for batch in _calls(module, function, loop, guard, evaluated):
            if _is_without_gradients(batch, body, evaluated):
                yield batch


def _is_without_gradients(batch: BatchLoop, body: list[ast.stmt], evaluated: frozenset[str]) -> bool:
    """Whether the calls, and not just something else in their loop, record no gradients."""
    if evaluated or _decorated(batch.function):
        return True
    blocks = [block for stmt in body for _, block in _contexts_inside(stmt)]
    inside = {id(node) for block in blocks for node in walk(block)}
    return all(id(call) in inside for call in batch.calls)


def _guarded(
    function: FunctionNode | None, body: list[ast.stmt]
) -> Iterator[tuple[Loop, str, frozenset[str]]]:
    """Loops of a scope that record no gradients, what says so, and what ``eval()`` is called on there."""
    if function is not None and function.name == "forward":
        found = any(isinstance(node, ast.For) for node in statements(body))
    else:
        found = any(isinstance(node, _LOOPS) for stmt in body for node in walk(stmt))
    if not found:
        return
    guard = _decorated(function)
    evaluated = _evaluated(body)
    for loop, outer in _loops(body, guard):
        inner_guard = outer or ("eval" if evaluated else _context_inside(loop))
        if inner_guard and not _trains_inside(loop):
            yield loop, inner_guard, evaluated


def _decorated(function: FunctionNode | None) -> str:
    for decorator in function.decorator_list if function is not None else ():
        if last_name(decorator) in _NO_GRAD:
            return last_name(decorator)
    return ""


def _evaluated(body: list[ast.stmt]) -> frozenset[str]:
    """Sources of the objects that ``.eval()`` is called on."""
    return frozenset(
        ast.unparse(node.func.value)
        for stmt in body
        for node in walk(stmt)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "eval"
        if not node.args and isinstance(node.func.value, ast.Name | ast.Attribute)
    )


def _loops(stmts: list[ast.stmt], guard: str) -> Iterator[tuple[Loop, str]]:
    """Loops and comprehensions of a scope with the mode around them, outer loops first."""
    for stmt in stmts:
        if isinstance(stmt, FunctionNode | ast.ClassDef):
            continue
        if isinstance(stmt, ast.For | ast.AsyncFor | ast.While):
            yield stmt, guard
        for child in children(stmt):
            if isinstance(child, ast.expr):
                yield from ((n, guard) for n in walk(child) if isinstance(n, _COMPREHENSIONS))
        inner = guard
        if isinstance(stmt, ast.With | ast.AsyncWith):
            inner = next((n for i in stmt.items if (n := last_name(i.context_expr)) in _NO_GRAD), guard)
        for name in ("body", "orelse", "finalbody"):
            yield from _loops(getattr(stmt, name, []), inner)
        for handler in getattr(stmt, "handlers", ()):
            yield from _loops(handler.body, inner)


def _iterated(loop: Loop) -> list[ast.expr]:
    """What a loop runs over; of a `while` loop what it takes the next of."""
    if isinstance(loop, ast.For | ast.AsyncFor):
        return [loop.iter]
    if isinstance(loop, ast.While):
        return [source for n in walk(loop) if (source := _source_of_next(n)) is not None]
    if isinstance(loop, FunctionNode):
        return []
    return [generator.iter for generator in loop.generators]


def _source_of_next(node: ast.AST) -> ast.expr | None:
    """The loader of ``next(loader)``, the queue of ``queue.popleft()`` or ``queue.get()``."""
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Name):
        return node.args[0] if node.func.id == "next" and node.args else None
    queued = isinstance(node.func, ast.Attribute) and node.func.attr in _TAKES and not node.args
    return node.func.value if queued else None  # type: ignore[attr-defined]


def _targets(loop: Loop) -> tuple[str, ...]:
    """Names that hold what a loop runs over."""
    if isinstance(loop, ast.For | ast.AsyncFor):
        return target_names(loop.target)
    if isinstance(loop, ast.While):
        assigned = [
            n
            for n in walk(loop)
            if isinstance(n, ast.Assign)
            and _source_of_next(n.value.value if isinstance(n.value, ast.Await) else n.value) is not None
        ]
        return tuple(name for node in assigned for t in node.targets for name in target_names(t))
    if isinstance(loop, FunctionNode):
        return ()
    return tuple(name for generator in loop.generators for name in target_names(generator.target))


def _body(loop: Loop) -> list[ast.AST]:
    """What a loop does at every step."""
    if isinstance(loop, ast.For | ast.AsyncFor | ast.While | FunctionNode):
        return list(loop.body)
    values: list[ast.AST] = [loop.key, loop.value] if isinstance(loop, ast.DictComp) else [loop.elt]
    return values + [test for generator in loop.generators for test in generator.ifs]


def _contexts_inside(scope: ast.AST) -> list[tuple[str, ast.With]]:
    """The blocks without gradients in a scope, by how they are asked for."""
    return [
        (name, node)
        for node in walk(scope)
        if isinstance(node, ast.With)
        for item in node.items
        if (name := last_name(item.context_expr)) in _NO_GRAD
    ]


def _context_inside(scope: ast.AST) -> str:
    """What says that a part of a scope records no gradients."""
    return next((name for name, _ in _contexts_inside(scope)), "")


def _trains_inside(loop: Loop) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _TRAINING
        for node in walk(loop)
    )


def _calls(
    module: ModuleInfo, function: FunctionNode | None, loop: Loop, guard: str, evaluated: frozenset[str]
) -> Iterator[BatchLoop]:
    over, targets = _iterated(loop), _targets(loop)
    if not over or any(words_in(part) & _NOT_BATCHES for part in over):
        return
    derived = _derived(loop)
    counted = isinstance(over[0], ast.Call) and last_name(over[0].func) in ("range", "trange")
    if counted:
        # A counter alone is no batch; what it slices out of the data is.
        derived = frozenset(derived - set(targets)) if _slices(loop) else frozenset()
    found: dict[str, list[ast.Call]] = {}
    nested = {id(n) for inner in _inner_loops(loop) for n in walk(inner)}
    for node in _walk_in_order(_body(loop)):
        if (
            isinstance(node, ast.Call)
            and id(node) not in nested
            and _is_model(module, function, node, evaluated)
        ):
            names = {n.id for arg in _operands(node) for n in walk(arg) if isinstance(n, ast.Name)}
            root = ast.unparse(node.func).partition(".")[0]
            if root in targets and not isinstance(loop, ast.For | ast.AsyncFor | ast.While):
                continue
            if names & derived or (counted and any(_sliced(arg, loop) for arg in _operands(node))):
                found.setdefault(ast.unparse(node.func), []).append(node)
    for calls in found.values():
        yield BatchLoop(loop, tuple(calls), calls[0].func, targets, derived, function, guard)


def words_in(node: ast.expr) -> frozenset[str]:
    """Lower-case words of the names in an expression."""
    names = [n.id if isinstance(n, ast.Name) else n.attr for n in walk(node) if isinstance(n, _NAMED)]
    return frozenset(word for name in names for word in name.lower().split("_"))


def _sliced(node: ast.AST, loop: Loop) -> bool:
    """Whether an expression takes a slice whose bounds use the loop's counter."""
    counters = set(_targets(loop))
    return any(
        isinstance(part, ast.Slice)
        and part.lower is not None  # x[:i] is a prefix that grows
        and counters & {n.id for n in walk(part.lower) if isinstance(n, ast.Name)}
        for part in walk(node)
    )


def _slices(loop: Loop) -> bool:
    return any(_sliced(part, loop) for part in _body(loop))


def _inner_loops(loop: Loop) -> Iterator[ast.AST]:
    for part in _body(loop):
        for node in walk(part):
            if isinstance(node, ast.For | ast.AsyncFor):
                yield node


def _operands(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _walk_in_order(stmts: list[ast.AST]) -> Iterator[ast.AST]:
    for stmt in stmts:
        nodes = [n for n in walk(stmt) if hasattr(n, "lineno")]
        yield from sorted(nodes, key=lambda n: (n.lineno, n.col_offset))


def _derived(loop: Loop) -> frozenset[str]:
    """Names in a loop's body that hold the batch or something computed from it."""
    names = set(_targets(loop))
    for _ in range(3):
        for node in walk(loop):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value:
                used = {n.id for n in walk(node.value) if isinstance(n, ast.Name)}
                if used & names:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names.update(name for target in targets for name in target_names(target))
    return frozenset(names)


def _is_model(
    module: ModuleInfo, function: FunctionNode | None, call: ast.Call, evaluated: frozenset[str]
) -> bool:
    """Whether a call is that of a model: by ``eval()``, by class, or by name where nothing else is known."""
    func = call.func
    if not isinstance(func, ast.Name | ast.Attribute):
        return False
    if isinstance(func, ast.Attribute) and not (isinstance(func.value, ast.Name) and func.value.id == "self"):
        # A method of a model (model.encode_image(x)) is a call of it as well where eval() names the model.
        return ast.unparse(func.value) in evaluated and func.attr not in ("to", "state_dict", "parameters")
    source = ast.unparse(func)
    if source in _graphed(module):
        return False
    name = last_name(func)
    if name.lower() in _NOT_MODELS:
        return False
    if source in evaluated:
        return True
    if isinstance(func, ast.Name) and not _is_local(function, name):
        known = module.lookup(name)
        if isinstance(known, FunctionInfo | ClassInfo | str):
            return False
    made = _constructed(module, function, name)
    if made is not None:
        return made
    if set(name.lower().strip("_").split("_")) & MODEL_WORDS:
        return True
    first = function.args.args[0].arg if function is not None and function.args.args else ""
    if isinstance(func, ast.Name) and (name == first or not _is_local(function, name)):
        return False
    cls = class_of(module, function, func)  # the last resort: it looks at the whole function
    return cls is not None and cls.is_module


_WRAPPERS = frozenset({"graphed", "make_graphed_callables", "segment"})


def _graphed(module: ModuleInfo) -> frozenset[str]:
    """Sources of the names that hold a callable which replays graphs already."""
    if not any(word.encode() in module.source.data for word in _WRAPPERS):
        return frozenset()
    return _graphed_below(module.tree)


@lru_cache(maxsize=2)
def _graphed_below(tree: ast.Module) -> frozenset[str]:
    nodes = walk(tree)
    assigned = frozenset(
        ast.unparse(target)
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if last_name(node.value.func) in _WRAPPERS
        for target in node.targets
    )
    return assigned | _segments(tree)


@lru_cache(maxsize=2)
def _segments(tree: ast.Module) -> frozenset[str]:
    return frozenset(
        f"self.{node.name}"
        for node in walk(tree)
        if isinstance(node, ast.FunctionDef) and any(last_name(d) == "segment" for d in node.decorator_list)
    )


@lru_cache(maxsize=2)
def _decorated_functions(tree: ast.Module) -> frozenset[str]:
    """Functions under ``@graphed``, and methods of that kind as ``self.name``."""
    return frozenset(
        name
        for node in walk(tree)
        if isinstance(node, FunctionNode) and any(last_name(d) == "graphed" for d in node.decorator_list)
        for name in (node.name, f"self.{node.name}")
    )


def _is_local(function: FunctionNode | None, name: str) -> bool:
    if function is None:
        return False
    args = function.args
    return any(a.arg == name for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)) or any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in walk(function)
    )


def _constructed(module: ModuleInfo, function: FunctionNode | None, name: str) -> bool | None:
    """Whether a name is annotated as, or made from, a module class; None: the code does not say."""
    scope: ast.AST = function if function is not None else module.tree
    if function is not None:
        for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
            if arg.arg == name and arg.annotation is not None:
                found = (
                    module.resolve(arg.annotation) if not isinstance(arg.annotation, ast.Constant) else None
                )
                if isinstance(found, ClassInfo):
                    return found.is_module
                if isinstance(found, str) and found.startswith("torch.nn"):
                    return True
    for node in walk(scope):
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            value = node.value
            while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
                value = value.func.value  # Model().to(device).eval()
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                found = module.lookup(value.func.id)
                if isinstance(found, ClassInfo):
                    return found.is_module
    return None
