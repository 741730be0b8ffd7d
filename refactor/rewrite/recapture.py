"""Repairs of code that captures by hand (CG501 to CG508): what is missing around a capture is put there.

All that is inserted before one capture block is planned together, so that the repairs do not collide.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from refactor.analysis.drivers import captures
from refactor.analysis.model import Facts, Kind
from refactor.analysis.project import FunctionInfo, last_name
from refactor.analysis.trees import walk
from refactor.rewrite.constants import is_plain
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Joint, Proposal, Refusal
from refactor.rewrite.names import bound_names, fresh, placeholder, used_names
from refactor.rewrite.receiver import class_of
from refactor.rewrite.syntax import (
    ancestors,
    appended,
    argument,
    enclosing_function,
    expression,
    keyword,
    same_scope,
)
from refactor.rule import Hit

_TRAINS = frozenset({"backward", "step", "zero_grad", "update", "unscale_"})
_NO_GRAD = frozenset({"no_grad", "inference_mode"})
_MODES = _NO_GRAD | {"enable_grad", "set_grad_enabled", "autocast"}
_TORCH = frozenset({"torch"})
_ORDER = ("pool", "warmup", "side-stream", "zero-grad", "generator")


def propose_around(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """Lines before a capture: warmup, cleared gradients, a registered generator, a shared pool."""
    block = _block(facts, hit)
    if block is None:
        return Refusal("the capture around this was not found; repair it by hand")
    reason = _reason(facts, hit, block)
    if reason:
        return Refusal(reason)

    def plan(hits: Sequence[Hit], settled: Collection[ast.AST]) -> Mapping[Hit, Proposal | Refusal]:
        proposal = _repair(facts, hits)
        return dict.fromkeys(hits, proposal)

    return Proposal((), "", joint=Joint(("capture", id(_scope(facts, block))), plan))


def _scope(facts: Facts, node: ast.AST) -> ast.AST:
    return enclosing_function(facts, node) or facts.tree


def _block(facts: Facts, hit: Hit) -> ast.With | None:
    node = hit.event.node
    around = [node, *ancestors(facts, node)]
    return next((n for n in around if isinstance(n, ast.With) and captures(n)), None)


def _call(block: ast.With) -> ast.Call | None:
    """``torch.cuda.graph(…)`` of a block."""
    found = (item.context_expr for item in block.items)
    return next((c for c in found if isinstance(c, ast.Call) and last_name(c.func) == "graph"), None)


# -- why not


def _reason(facts: Facts, hit: Hit, block: ast.With) -> str:
    detail = hit.event.detail
    if detail in ("warmup", "side-stream"):
        return _no_warmup(facts, block) if detail == "warmup" else _no_stream(facts, block)
    if detail == "zero-grad" and not _optimizer(facts, block):
        return (
            "it is not known whose gradients to clear; call `zero_grad(set_to_none=True)` before the capture"
        )
    call = _call(block)
    if detail == "generator" and (call is None or not call.args or not is_plain(call.args[0])):
        return "the graph has no name here; register the generator with it before the capture"
    if detail == "pool" and (
        call is None or "threading" in facts.source.text or "Thread" in facts.source.text
    ):
        return "graphs that share a pool must not be replayed at the same time, and this file has threads"
    return ""


def _no_warmup(facts: Facts, block: ast.With) -> str:
    """Why the body must not simply run three times more."""
    for item in _beside(block):
        known = isinstance(item.context_expr, ast.Call) and last_name(item.context_expr) in _MODES
        if not known or item.optional_vars is not None:
            name = ast.unparse(item.context_expr)
            return f"a warmup needs `{name}` as well, and it may do something once; warm up by hand under it"
    for stmt in block.body:
        if not isinstance(stmt, ast.Assign | ast.Expr):
            return "what is captured changes state, so a warmup would too; save and restore it around one"
        for node in walk(stmt):
            if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                return "what is captured writes into a tensor; warm it up on a copy"
            name = last_name(node.func) if isinstance(node, ast.Call) else ""
            if name in _TRAINS:
                return (
                    "a warmup would train; run it on a copy of weights and optimizer state, then restore both"
                )
            if name.endswith("_") and not name.startswith("_"):
                return f"`{name}` writes in place, and a warmup would do so three times; warm up on a copy"
    guarded = [n for n in (block, *ancestors(facts, block)) if isinstance(n, ast.With)]
    names = {last_name(i.context_expr) for n in guarded for i in n.items}
    function = enclosing_function(facts, block)
    names |= {last_name(d) for d in function.decorator_list} if function is not None else set()
    if names & _NO_GRAD or ".eval()" in facts.source.text:
        return ""
    return "a warmup runs the model three times more; if that may advance its statistics, restore them"


def _no_stream(facts: Facts, block: ast.With) -> str:
    return (
        "" if _warmup_before(facts, block) is not None else "the warmup is not next to the capture; move it"
    )


def _warmup_before(facts: Facts, block: ast.With) -> ast.stmt | None:
    """The one statement before a block, in its list, that runs what it captures."""
    parent = facts.parents.get(block)
    siblings = next((b for name in ("body", "orelse") if block in (b := getattr(parent, name, []))), [])
    called = {ast.unparse(n.func) for s in block.body for n in walk(s) if isinstance(n, ast.Call)}
    found = [
        stmt
        for stmt in (siblings[: siblings.index(block)] if siblings else [])
        if any(isinstance(n, ast.Call) and ast.unparse(n.func) in called for n in walk(stmt))
    ]
    fits = len(found) == 1 and isinstance(found[0], ast.For | ast.Expr | ast.Assign)
    return found[0] if fits else None


def _optimizer(facts: Facts, block: ast.With) -> str:
    """The optimizer that steps in the block, or in the function around it, if there is one."""
    for scope in (block, _scope(facts, block)):
        found = {
            ast.unparse(node.func.value)
            for node in walk(scope)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "step"
            if is_plain(node.func.value) and "sched" not in ast.unparse(node.func.value).lower()
        }
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


# -- the repair


def _repair(facts: Facts, hits: Sequence[Hit]) -> Proposal:
    """All repairs of one scope as one rewrite."""
    scope = _scope(facts, hits[0].event.node)
    taken = set(used_names(scope)) | set(bound_names(facts.tree))
    torch = placeholder("torch")
    lines: dict[ast.AST, list[str]] = {}
    changes: list[Change] = []
    notes: dict[str, None] = {}
    pool = fresh("pool", taken)
    for hit in sorted(hits, key=lambda h: _ORDER.index(h.event.detail)):
        block, detail = _block(facts, hit), hit.event.detail
        assert block is not None
        call = _call(block)
        if detail == "pool" and call is not None:
            anchor = _outermost(facts, block, scope)
            text = f"{pool} = {torch}.cuda.graph_pool_handle()"
            if not any(text in known for known in lines.values()):
                lines.setdefault(anchor, []).append(text)
            changes.append(Change(call, _with_argument("pool", pool)))
            notes["the graphs share one pool; they must not be replayed at the same time"] = None
        elif detail == "warmup":
            side = fresh("side", taken)
            lines.setdefault(block, []).append(_warmup(facts, block, side, torch))
            notes["three runs on a side stream before the capture"] = None
        elif detail == "side-stream":
            stmt = _warmup_before(facts, block)
            assert stmt is not None
            changes.append(
                Change(stmt, _on_side(fresh("side", taken), torch), line=not hasattr(stmt, "body"))
            )
            notes["the warmup runs on a side stream"] = None
        elif detail == "zero-grad":
            text = f"{_optimizer(facts, block)}.zero_grad(set_to_none=True)"
            lines.setdefault(block, []).append(text)
            notes["gradients are cleared before the capture, so that a replay writes them anew"] = None
        elif detail == "generator" and call is not None:
            generator = ast.unparse(hit.event.subject or block)
            text = f"{ast.unparse(call.args[0])}.register_generator_state({generator})"
            if text not in lines.setdefault(block, []):
                lines[block].append(text)
            notes["the graph knows the generator"] = None
    changes += [Change(anchor, _before(texts)) for anchor, texts in lines.items()]
    return Proposal(tuple(changes), "; ".join(notes), frozenset(), _TORCH)


def _outermost(facts: Facts, block: ast.With, scope: ast.AST) -> ast.AST:
    """The outermost loop around a block, or the first capture block of its scope."""
    loops = [n for n in ancestors(facts, block) if isinstance(n, ast.For | ast.While) and n is not scope]
    inside = [n for n in loops if n in set(same_scope(scope))]
    if inside:
        return inside[-1]
    blocks = [n for n in same_scope(scope) if isinstance(n, ast.With) and captures(n)]
    return min(blocks, key=lambda n: n.lineno)


def _warmup(facts: Facts, block: ast.With, side: str, torch: str) -> str:
    body = "\n".join(f"        {_text(facts, stmt)}" for stmt in block.body)
    modes = "".join(f", {ast.unparse(item.context_expr)}" for item in _beside(block))
    return (
        f"{side} = {torch}.cuda.Stream()\n{side}.wait_stream({torch}.cuda.current_stream())\n"
        f"with {torch}.cuda.stream({side}){modes}:\n    for _ in range(3):\n{body}\n"
        f"{torch}.cuda.current_stream().wait_stream({side})"
    )


def _text(facts: Facts, stmt: ast.stmt) -> str:
    """A statement as it is written, on one line."""
    text = facts.source.snippet(stmt)
    return ast.unparse(stmt) if set(text) & {"\n", "\r"} else text


def _beside(block: ast.With) -> list[ast.withitem]:
    """What else is entered with a capture: ``with torch.no_grad(), torch.cuda.graph(g):``."""
    call = _call(block)
    return [item for item in block.items if item.context_expr is not call] if call is not None else []


def _before(texts: Sequence[str]) -> Callable[[Any], Any]:
    def build(node: Any) -> Any:
        made = list(cst.parse_module("\n".join(texts) + "\n").body)
        lead = node.leading_lines
        blank = next((i for i, line in enumerate(lead) if line.comment is not None), len(lead))
        made[0] = made[0].with_changes(leading_lines=lead[:blank])
        return cst.FlattenSentinel([*made, node.with_changes(leading_lines=lead[blank:])])

    return build


def _on_side(side: str, torch: str) -> Callable[[Any], Any]:
    def build(node: Any) -> Any:
        text = f"{side} = {torch}.cuda.Stream()\n{side}.wait_stream({torch}.cuda.current_stream())\n"
        text += f"with {torch}.cuda.stream({side}):\n    pass\n"
        text += f"{torch}.cuda.current_stream().wait_stream({side})\n"
        first, second, block, last = cst.parse_module(text).body
        lead = node.leading_lines
        blank = next((i for i, line in enumerate(lead) if line.comment is not None), len(lead))
        inner = cst.IndentedBlock([node.with_changes(leading_lines=lead[blank:])])
        return cst.FlattenSentinel(
            [first.with_changes(leading_lines=lead[:blank]), second, block.with_changes(body=inner), last]
        )

    return build


def _with_argument(name: str, value: str) -> Callable[[Any], Any]:
    return lambda node: node.with_changes(args=appended(node.args, argument(expression(value), name)))


# -- repairs in place


def propose_autocast(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``autocast(…, cache_enabled=False)``: weights cast in one graph are not used by another."""
    call = hit.event.node
    assert isinstance(call, ast.Call)
    given = keyword(call, "cache_enabled")
    if len(call.args) > 3 or any(k.arg is None for k in call.keywords):
        return Refusal("the arguments of this autocast are not plain; give it `cache_enabled=False`")
    note = "weights are cast inside the graph at every replay"
    if given is not None:
        return Proposal((Change(given, lambda node: cst.Name("False")),), note)
    return Proposal((Change(call, _with_argument("cache_enabled", "False")),), note)


def propose_benchmark(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``cudnn.benchmark = False``."""
    stmt = hit.event.node
    assert isinstance(stmt, ast.Assign)
    if len(stmt.targets) != 1:
        return Refusal("several names are set here; set `cudnn.benchmark` on a line of its own")
    change = Change(stmt.value, lambda node: cst.Name("False"))
    return Proposal(
        (change,), "no convolution is timed while a graph is captured; other kernels may be chosen"
    )


def propose_clone(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``return y`` of a static output becomes ``return y.clone()``."""
    value = hit.event.node
    assert isinstance(value, ast.expr)
    if not _is_tensor(facts, value):
        return Refusal(
            f"it is not known that `{ast.unparse(value)}` is one tensor; clone each tensor of it that leaves"
        )

    def build(node: Any) -> Any:
        return cst.Call(cst.Attribute(node, cst.Name("clone")))

    return Proposal((Change(value, build),), "what leaves is a copy; the next replay does not change it")


def propose_copy(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``static = x`` becomes ``static.copy_(x)``."""
    stmt, target = hit.event.node, hit.event.subject
    assert isinstance(stmt, ast.Assign)
    assert target is not None
    text = ast.unparse(target)
    if len(stmt.targets) != 1:
        return Refusal(f"several names are bound here; write `{text}.copy_(...)` on a line of its own")
    if not (_makes_tensor(facts, stmt.value) or _starts_as_tensor(facts, target)):
        return Refusal(f"it is not known that `{text}` is one tensor; if it is, write `{text}.copy_(...)`")

    def build(node: Any) -> Any:
        written = cst.Attribute(node.targets[0].target, cst.Name("copy_"))
        return cst.Expr(cst.Call(written, [argument(node.value)]), semicolon=node.semicolon)

    note = "the input is copied to where the graph reads it; shapes must be those of the capture"
    return Proposal((Change(stmt, build),), note)


_MADE = frozenset(
    {"clone", "zeros", "ones", "empty", "full", "randn", "rand", "randint", "arange", "tensor"}
    | {"zeros_like", "ones_like", "empty_like", "full_like", "randn_like", "rand_like", "cuda", "contiguous"}
)


def _makes_tensor(facts: Facts, value: ast.expr) -> bool:
    """Whether an expression surely gives one tensor."""
    return facts.value(value).kind is Kind.TENSOR or (
        isinstance(value, ast.Call) and last_name(value.func) in _MADE
    )


def _starts_as_tensor(facts: Facts, target: ast.expr) -> bool:
    """Whether everything else that a place is given in its class or function is one tensor."""
    text = ast.unparse(target)
    values = [
        node.value
        for node in walk(facts.tree)
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == text for t in node.targets)
    ]
    return any(_makes_tensor(facts, value) for value in values)


def _is_tensor(facts: Facts, value: ast.expr) -> bool:
    """Whether a static output is one tensor, by what the capture assigns to it or how it is used."""
    if isinstance(value, ast.Call) or (isinstance(value, ast.Subscript) and _slices(value.slice)):
        return True  # a view of it
    text = ast.unparse(value)
    made: list[ast.expr] = []
    for node in walk(facts.tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == text and _slices(node.slice):
            return True
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == text for t in node.targets):
            inside = any(isinstance(n, ast.With) and captures(n) for n in ancestors(facts, node))
            made += [node.value] if inside else []
        used = isinstance(node, ast.Attribute) and ast.unparse(node.value) == text
        if used and node.attr in (
            "shape",
            "dtype",
            "copy_",
            "argmax",
            "softmax",
            "size",
            "float",
            "detach",
            "cpu",
        ):
            return True
    return bool(made) and all(_gives_tensor(facts, node) for node in made)


def _slices(index: ast.expr) -> bool:
    """``[:n]``, which of all that a model gives only a tensor takes: a tuple is unpacked or indexed."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    return any(isinstance(part, ast.Slice) for part in parts)


def _gives_tensor(facts: Facts, node: ast.expr) -> bool:
    if facts.value(node).kind is Kind.TENSOR or isinstance(node, ast.BinOp):
        return True
    if not isinstance(node, ast.Call):
        return False
    cls = class_of(facts, node.func)
    found = cls.find("forward") if cls is not None else None
    if found is None or not isinstance(found[1], FunctionInfo):
        return False
    returned = [n.value for n in walk(found[1].node) if isinstance(n, ast.Return)]
    single = (ast.Name, ast.BinOp, ast.Call)
    plain = [v for v in returned if isinstance(v, single) and not _makes_object(found[1], v)]
    annotated = getattr(found[1].node, "returns", None)
    if annotated is not None:
        return last_name(annotated) == "Tensor"
    return bool(returned) and len(plain) == len(returned)


def _makes_object(info: FunctionInfo, node: ast.expr) -> bool:
    """A call of a class (a dataclass of outputs), or a name that is bound to a container."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id[:1].isupper()
    if isinstance(node, ast.Name):
        values = [
            n.value
            for n in walk(info.node)
            if isinstance(n, ast.Assign) and any(getattr(t, "id", "") == node.id for t in n.targets)
        ]
        return any(
            isinstance(v, ast.Tuple | ast.List | ast.Dict | ast.ListComp | ast.DictComp) for v in values
        )
    return False


def propose_key(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``graphs[other] = graph`` after ``if key not in graphs``: stored under the key that is looked up."""
    store, key = hit.event.node, hit.event.subject
    assert isinstance(store, ast.Subscript)
    if key is None or not isinstance(store.slice, ast.expr):
        return Refusal("the key was not understood; look up and store under the same one")
    table, other = ast.unparse(store.value), ast.unparse(store.slice)
    names = {n.id for n in walk(key) if isinstance(n, ast.Name)}
    branch = next((n for n in ancestors(facts, store) if isinstance(n, ast.If)), None)
    for node in walk(branch) if branch is not None else ():
        if isinstance(node, ast.Name) and node.id in names and not isinstance(node.ctx, ast.Load):
            return Refusal(
                f"`{node.id}` changes before the graph is stored; keep the key in a name of its own"
            )
    text = ast.unparse(key)
    changes = [
        Change(node.slice, lambda _: expression(text))
        for node in same_scope(_scope(facts, store))
        if isinstance(node, ast.Subscript)
        and ast.unparse(node.value) == table
        and ast.unparse(node.slice) == other
    ]
    return Proposal(tuple(changes), f"graphs are stored under `{text}`, which is what is looked up")
