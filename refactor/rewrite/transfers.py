"""Tensors made on the CPU and moved to the device (CG402): made where they are used, or kept as constants.

Only factories and operations whose results are the same to the bit everywhere are moved: integers, zeros,
ones, masks. Anything computed in floating point keeps its values by staying where it is.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from refactor.analysis.model import Facts, Kind
from refactor.rewrite.constants import (
    clone_of,
    host_data,
    is_number,
    is_plain,
    kept_arguments,
    torch_attribute,
)
from refactor.rewrite.escape import Fate, fate
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.names import reference
from refactor.rewrite.ops import names_in
from refactor.rewrite.syntax import (
    appended,
    argument,
    code,
    dotted,
    enclosing_function,
    expression,
    keyword,
    self_name,
)
from refactor.rewrite.uploads import draws, varies
from refactor.rule import Hit

_FACTORIES = ("zeros", "ones", "full", "empty", "eye", "arange", "tril_indices", "triu_indices")
_TYPED = ("zeros", "ones", "eye")  # may be made in the final dtype at once
_EXACT = names_in(
    """triu tril view reshape unsqueeze squeeze expand repeat transpose permute t bool long int flip flatten
    masked_fill logical_not float half double bfloat16 contiguous roll"""
)
_BUILDERS = ("torch.tensor", "torch.as_tensor", "torch.from_numpy", "torch.asarray")
_FLOATING = "computed in floating point on the CPU, and a GPU would round it differently"


@dataclass(frozen=True)
class _Target:
    """Where ``.to(...)`` moves a tensor, as source text."""

    device: str
    dtype: str | None


def propose_transfer(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``cpu_made.to(device)``, ``.cuda()``, ``.type_as(x)``."""
    call = hit.event.node
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return Refusal(
            "the CPU tensor meets device tensors directly; make it with `device=` where it is built"
        )
    target = _target(facts, call)
    if isinstance(target, Refusal):
        return target
    subject = call.func.value
    if isinstance(subject, ast.Call) and dotted(facts, subject.func) in _BUILDERS:
        return _built(facts, call, subject, target)
    if _exact(facts, subject):
        return _made_there(facts, call, subject, target)
    if isinstance(subject, ast.Attribute) and is_plain(subject):
        return _kept(facts, call, target)
    stepwise = _made_in_steps(facts, call, subject, target)
    if stepwise is not None:
        return stepwise
    if isinstance(subject, ast.Name):
        there = _made_earlier(facts, subject, target)
        return there if isinstance(there, Proposal) else _uploaded(facts, call, target, there.reason)
    return _uploaded(facts, call, target, f"it is {_FLOATING}")


def _target(facts: Facts, call: ast.Call) -> _Target | Refusal:
    assert isinstance(call.func, ast.Attribute)
    method = call.func.attr
    unclear = Refusal("the target of the move is not understood; write `.to(device=..., dtype=...)`")
    if method == "cuda":
        return unclear if call.args or keyword(call, "device") else _Target('"cuda"', None)
    if method == "type_as" and len(call.args) == 1 and is_plain(call.args[0]):
        other = ast.unparse(call.args[0])
        return _Target(f"{other}.device", f"{other}.dtype")
    if method != "to" or any(k.arg not in ("device", "dtype", "non_blocking") for k in call.keywords):
        return unclear
    device, dtype = keyword(call, "device"), keyword(call, "dtype")
    for arg in call.args:
        role = _role(facts, arg)
        if role == "tensor" and is_plain(arg) and len(call.args) == 1:
            other = ast.unparse(arg)
            return _Target(f"{other}.device", f"{other}.dtype")
        if role == "device" and device is None:
            device = arg
        elif role == "dtype" and dtype is None:
            dtype = arg
        else:
            return unclear
    if device is None:
        return unclear
    return _Target(ast.unparse(device), ast.unparse(dtype) if dtype is not None else None)


def _role(facts: Facts, node: ast.expr) -> str:
    value = facts.value(node)
    if value.kind is Kind.TENSOR:
        return "tensor"
    if value.kind is Kind.HOST and value.dtype in ("device", "dtype"):
        return value.dtype
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return "device"
    if isinstance(node, ast.Attribute) and node.attr in ("device", "dtype"):
        return node.attr
    if isinstance(node, ast.Name) and node.id in ("device", "dev"):
        return "device"
    name = dotted(facts, node) or ""
    return "dtype" if name.startswith("torch.") and name.count(".") == 1 else ""


# -- what is moved -------------------------------------------------------------------------------------------


def _built(facts: Facts, call: ast.Call, subject: ast.Call, target: _Target) -> Proposal | Refusal:
    """``torch.tensor([...]).to(device, dtype)``."""
    name = dotted(facts, subject.func) or ""
    data = host_data(facts, subject, ("data", "dtype") if name == "torch.as_tensor" else ("data",))
    if isinstance(data, Refusal):
        return data
    drawn = draws(facts, data)
    if drawn:
        return Refusal(
            f"{drawn}, and a copy that is kept would never be used again; compute it on the device"
        )
    number = is_number(data) and name == "torch.tensor"
    small = isinstance(data, ast.Constant) and type(data.value) is int and 0 <= data.value < 128
    exact = (
        number and small and target.dtype is not None and keyword(subject, "dtype") is None
    )  # in any dtype
    cloned = not number and target.dtype is None and fate(facts, call) is not Fate.CONSUMED

    def build(node: cst.Call) -> cst.BaseExpression:
        assert isinstance(node.func, cst.Attribute)
        inner = node.func.value
        assert isinstance(inner, cst.Call)
        args = appended(kept_arguments(inner), argument(expression(target.device), "device"))
        if number and exact:
            args = [*args, argument(expression(str(target.dtype)), "dtype")]
        if number:
            made = inner.with_changes(
                func=torch_attribute(inner, "full"), args=[argument(expression("()")), *args]
            )
        else:
            made = inner.with_changes(func=reference("constant"), args=args)
        made = made.with_changes(lpar=node.lpar, rpar=node.rpar)
        return _cast(clone_of(made) if cloned else made, None if exact else target.dtype)

    runtime = frozenset() if number else frozenset({"constant"})
    needs = frozenset({"torch"}) if number and not isinstance(subject.func, ast.Attribute) else frozenset()
    return Proposal((Change(call, build),), "built on the device, or once and kept", runtime, needs)


def _cast(node: cst.BaseExpression, dtype: str | None) -> cst.BaseExpression:
    if dtype is None:
        return node
    return cst.Call(cst.Attribute(node, cst.Name("to")), [argument(expression(dtype))])


def _made_there(facts: Facts, call: ast.Call, subject: ast.expr, target: _Target) -> Proposal | Refusal:
    """``torch.arange(n).to(x.device)``: every factory inside gets the device, the move goes."""
    factories = _factories(facts, subject)
    direct = len(factories) == 1 and factories[0] is subject
    name = (dotted(facts, factories[0].func) or "").rpartition(".")[2]
    typed = direct and name in _TYPED and keyword(factories[0], "dtype") is None
    dtype = target.dtype if typed else None

    def build(node: cst.Call) -> cst.BaseExpression:
        assert isinstance(node.func, cst.Attribute)
        made = node.func.value
        if direct:
            made = made.with_changes(lpar=[*node.lpar, *made.lpar], rpar=[*made.rpar, *node.rpar])
        return made if typed else _cast(made, target.dtype)

    changes = [Change(call, build)]
    changes += [Change(factory, _on_device(target.device, dtype)) for factory in factories]
    return Proposal(tuple(changes), "made on the device instead of being copied there")


def _uploaded(facts: Facts, call: ast.Call, target: _Target, otherwise: str) -> Proposal | Refusal:
    """Any other value that the CPU computes from shapes and numbers: its copy is kept, by content."""
    assert isinstance(call.func, ast.Attribute)
    why = varies(facts, call.func.value)
    if why:
        return Refusal(f"{otherwise}; its copy cannot be kept either, since {why}")
    kept = _kept(facts, call, target)
    note = "computed on the CPU as before; its copy on the device is kept and found again by content"
    return replace(kept, note=note)


def _kept(facts: Facts, call: ast.Call, target: _Target) -> Proposal:
    """``self.table.to(device)``: state_dict keys stay, and ``.half()`` does not cast it."""
    cloned = fate(facts, call) is not Fate.CONSUMED

    def build(node: cst.Call) -> cst.BaseExpression:
        assert isinstance(node.func, cst.Attribute)
        value = node.func.value
        if not isinstance(value, cst.Yield):
            value = value.with_changes(lpar=[], rpar=[])
        args = [argument(value)]
        if target.dtype is not None:
            args.append(argument(expression(target.dtype), "dtype"))
        args.append(argument(expression(target.device), "device"))
        made = cst.Call(reference("constant"), args, lpar=node.lpar, rpar=node.rpar)
        return clone_of(made) if cloned else made

    note = "copied once per device and kept; verify that the attribute is not rebound between calls"
    return Proposal((Change(call, build),), note, frozenset({"constant"}))


def _made_earlier(facts: Facts, subject: ast.Name, target: _Target) -> Proposal | Refusal:
    """``steps = torch.arange(n)`` … ``steps.to(x.device)``: the factory gets the device."""
    function = enclosing_function(facts, subject)
    if function is None:
        return Refusal("it is made outside a function; keep it as a buffer of the module")
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == subject.id]
    stores = [use for use in uses if not isinstance(use.ctx, ast.Load)]
    made = facts.parents.get(stores[0]) if len(stores) == 1 else None
    if not isinstance(made, ast.Assign) or len(made.targets) != 1 or not _exact(facts, made.value):
        return Refusal(
            f"`{subject.id}` is not made in one place by an operation that is exact on every device; "
            "make it with `device=`, or register it as a buffer"
        )
    if not all(_only_moved(facts, use) for use in uses if isinstance(use.ctx, ast.Load)):
        return Refusal(f"`{subject.id}` is also used on the CPU; make another one with `device=`")
    root = expression_root(target.device)
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    if root not in {arg.arg for arg in arguments} and root != self_name(function):
        return Refusal(f"`{target.device}` is not known where `{subject.id}` is made; make it with `device=`")
    changes = [Change(f, _on_device(target.device, None)) for f in _factories(facts, made.value)]
    return Proposal(tuple(changes), "made on the device instead of being copied there")


def _made_in_steps(facts: Facts, call: ast.Call, subject: ast.expr, target: _Target) -> Proposal | None:
    """``m = torch.full(…)``, then ``m = torch.triu(m, 1).to(x)``: the factory in the first gets the device.

    The steps stand before the move in its block, and nothing else uses what they assign.
    """
    function, stmt = enclosing_function(facts, call), facts.parents.get(call)
    if function is None or not isinstance(stmt, ast.Assign) or len(stmt.targets) != 1:
        return None
    around = facts.parents[stmt]
    bodies = [getattr(around, part, None) for part in ("body", "orelse", "finalbody")]
    block = next((body for body in bodies if isinstance(body, list) and stmt in body), [stmt])
    steps, made = _steps(facts, block[: block.index(stmt)], subject)
    if not steps or not _exact(facts, subject, made) or not _only_in(function, made, steps, stmt):
        return None
    first = block.index(steps[-1])
    root = expression_root(target.device)
    spec = function.args
    known = root in {a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)}
    if not (known or _binds(block[:first], root)) or _binds(block[first : block.index(stmt)], root):
        return None

    def build(node: cst.Call) -> cst.BaseExpression:
        assert isinstance(node.func, cst.Attribute)
        value = node.func.value
        if target.dtype is None and "\n" not in code(value):
            value = value.with_changes(lpar=node.lpar, rpar=node.rpar)
        return _cast(value, target.dtype)

    factories = [f for value in (*(s.value for s in steps), subject) for f in _factories(facts, value)]
    changes = [Change(f, _on_device(target.device, None)) for f in factories]
    if not isinstance(subject, ast.Name):  # a name that is moved where it is already stays
        changes.append(Change(call, build))
    return Proposal(tuple(changes), "made on the device instead of being copied there")


def _steps(
    facts: Facts, before: Sequence[ast.stmt], subject: ast.expr
) -> tuple[list[ast.Assign], frozenset[str]]:
    """The exact assignments that make what an expression uses, the last first, and the names they assign."""
    nothing: tuple[list[ast.Assign], frozenset[str]] = ([], frozenset())
    wanted, made, steps = _tensors(facts, subject), frozenset[str](), list[ast.Assign]()
    for stmt in reversed(before):
        if not (wanted | made) & {n.id for n in ast.walk(stmt) if isinstance(n, ast.Name)}:
            continue
        if not wanted:
            break
        name = stmt.targets[0] if isinstance(stmt, ast.Assign) and len(stmt.targets) == 1 else None
        if not isinstance(stmt, ast.Assign) or not isinstance(name, ast.Name) or name.id not in wanted:
            return nothing
        needed = _tensors(facts, stmt.value)
        if not _exact(facts, stmt.value, needed):
            return nothing
        steps.append(stmt)
        made |= {name.id}
        wanted = (wanted - {name.id}) | needed
    return nothing if wanted else (steps, made)


def _tensors(facts: Facts, node: ast.expr) -> frozenset[str]:
    """The names of tensors in an expression."""
    found = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return frozenset(n.id for n in found if facts.value(n).kind is Kind.TENSOR)


def _only_in(function: ast.AST, names: frozenset[str], steps: Sequence[ast.stmt], moved: ast.Assign) -> bool:
    """Whether nothing but these statements uses the names; what ``moved`` assigns is another tensor."""
    inside = {id(n) for stmt in (*steps, moved) for n in ast.walk(stmt)}
    kept = names - {t.id for t in moved.targets if isinstance(t, ast.Name)}
    found = (n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id in kept)
    return all(id(n) in inside for n in found)


def _binds(stmts: Sequence[ast.stmt], name: str) -> bool:
    nodes = (n for stmt in stmts for n in ast.walk(stmt) if isinstance(n, ast.Name) and n.id == name)
    return any(not isinstance(n.ctx, ast.Load) for n in nodes)


def _only_moved(facts: Facts, use: ast.AST) -> bool:
    parent = facts.parents.get(use)
    if not isinstance(parent, ast.Attribute):
        return False
    return parent.attr in ("to", "cuda", "type_as", "shape", "dtype", "ndim", "size", "dim", "numel")


def expression_root(text: str) -> str:
    """The name an expression in source text starts with."""
    return text.partition(".")[0]


# -- exact factories -----------------------------------------------------------------------------------------


def _factories(facts: Facts, node: ast.expr) -> list[ast.Call]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Call) and _is_factory(facts, n)]


def _is_factory(facts: Facts, call: ast.Call) -> bool:
    scope, _, name = (dotted(facts, call.func) or "").rpartition(".")
    if scope != "torch" or name not in _FACTORIES or not isinstance(call.func, ast.Attribute):
        return False
    known = ("dtype", "fill_value", "size", "end", "start", "step", "n", "m")
    if any(k.arg not in known for k in call.keywords):
        return False
    if name == "arange":
        bounds = (keyword(call, word) for word in ("start", "end", "step"))
        return all(_integer(facts, arg) for arg in (*call.args, *bounds))
    return not any(isinstance(arg, ast.Starred) for arg in call.args)


def _integer(facts: Facts, node: ast.expr | None) -> bool:
    if node is None or (isinstance(node, ast.Constant) and type(node.value) is int):
        return True
    if isinstance(node, ast.UnaryOp):
        return _integer(facts, node.operand)
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Div):
        return _integer(facts, node.left) and _integer(facts, node.right)
    value = facts.value(node)
    return value.kind is Kind.HOST and value.dtype in ("int", "size")


def _exact(facts: Facts, node: ast.expr, made: Collection[str] = ()) -> bool:
    """An expression of exact factories, ``made`` names and exact operations on them, all of it on the CPU."""
    if isinstance(node, ast.Name):
        return node.id in made
    if isinstance(node, ast.Call):
        if _is_factory(facts, node):
            return True
        name = (dotted(facts, node.func) or "").removeprefix("torch.")
        if name in _EXACT and node.args:
            return _exact(facts, node.args[0], made) and all(_host(facts, arg) for arg in node.args[1:])
        if isinstance(node.func, ast.Attribute) and node.func.attr in _EXACT:
            arguments = (*node.args, *(k.value for k in node.keywords))
            return _exact(facts, node.func.value, made) and all(_host(facts, arg) for arg in arguments)
        return False
    if isinstance(node, ast.Subscript):
        return _exact(facts, node.value, made) and not _factories(facts, node.slice)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _exact_pair(facts, node.left, node.comparators[0], made)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
        return _exact_pair(
            facts, node.left, node.right, made
        )  # each rounded correctly on its own, everywhere
    if isinstance(node, ast.UnaryOp):
        return _exact(facts, node.operand, made)
    return False


def _exact_pair(facts: Facts, left: ast.expr, right: ast.expr, made: Collection[str]) -> bool:
    sides = [_exact(facts, left, made), _exact(facts, right, made)]
    return any(sides) and all(e or _host(facts, n) for e, n in zip(sides, (left, right), strict=True))


def _host(facts: Facts, node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or facts.value(node).kind is Kind.HOST or is_number(node)


def _on_device(device: str, dtype: str | None) -> Callable[[cst.Call], cst.BaseExpression]:
    def build(node: cst.Call) -> cst.BaseExpression:
        new = [argument(expression(device), "device")]
        if dtype is not None:
            new.insert(0, argument(expression(dtype), "dtype"))
        return node.with_changes(args=appended(node.args, *new))

    return build
