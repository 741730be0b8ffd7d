"""Host-made constants (CG401) and index lists (CG403): a fill on the device, or `constant`, built once.

One number becomes ``torch.full((), number)``, which runs on the device and infers the same dtype. Everything
else becomes `constant`, which behaves like ``torch.tensor`` but hands out one shared tensor; where the result
may be written or leave the function it is cloned, so that it is as fresh as before.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from refactor.analysis.model import Device, Facts, Kind
from refactor.rewrite.escape import Fate, fate
from refactor.rewrite.fills import filled
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Build, Change, Proposal, Refusal
from refactor.rewrite.names import reference
from refactor.rewrite.syntax import argument, dotted, expression, keyword
from refactor.rewrite.uploads import draws, varies
from refactor.rule import Hit

_FACTORIES = {
    "torch.tensor": ("data",),
    "torch.as_tensor": ("data", "dtype", "device"),
    "torch.asarray": ("data",),
}
_DROPPED = ("requires_grad", "pin_memory", "copy")


def propose_constant(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``torch.tensor(c, device=d)``, ``torch.as_tensor``, ``x.new_tensor(c)`` of host values."""
    call = hit.event.node
    if not isinstance(call, ast.Call):
        return Refusal("only a direct call that builds the tensor is rewritten; use `torch.full` here")
    name = dotted(facts, call.func)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "new_tensor":
        return _new_tensor(facts, call)
    if name not in _FACTORIES:
        return Refusal(
            "only torch.tensor, torch.as_tensor and new_tensor are rewritten; build it on the device"
        )
    data = host_data(facts, call, _FACTORIES[name])
    if isinstance(data, Refusal):
        return data
    if keyword(call, "device") is None and len(call.args) < 3:
        return Refusal("the device is not named here; pass `device=` so that the constant can be kept for it")
    drawn = draws(facts, data)
    if drawn:
        return Refusal(f"{drawn}, and a captured graph would keep the first; draw it on the device")
    if (is_number(data) or _is_typed_number(facts, call, data)) and len(call.args) == 1:
        return Proposal((Change(call, _fill),), "filled on the device", imports=_torch_import(call))
    return constant_proposal(facts, call)


def constant_proposal(facts: Facts, call: ast.Call) -> Proposal:
    """The same call of `constant`, with a clone where the result is not only read."""
    cloned = fate(facts, call) is not Fate.CONSUMED

    def build(node: cst.Call) -> cst.BaseExpression:
        made = node.with_changes(func=reference("constant"), args=kept_arguments(node))
        return clone_of(made) if cloned else made

    note = "built once per device and kept; verify that its values do not change unseen"
    return Proposal((Change(call, build),), note, frozenset({"constant"}))


def host_data(facts: Facts, call: ast.Call, positional: Sequence[str]) -> ast.expr | Refusal:
    """The data argument of a factory call, if it is made of host values and the call is understood."""
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        return Refusal("its arguments are unpacked; write them out, or build it once outside the region")
    if len(call.args) > len(positional):
        return Refusal("its positional arguments are not understood; pass dtype and device by name")
    known = {*positional, "dtype", "device", *_DROPPED}
    for word in call.keywords:
        literal_false = isinstance(word.value, ast.Constant) and not word.value.value
        if word.arg not in known or (word.arg in _DROPPED and not literal_false):
            return Refusal(f"a constant cannot have `{word.arg}=`; build it once outside the region")
    data = call.args[0] if call.args else keyword(call, "data")
    if data is None:
        return Refusal("the values are not an argument of this call; build it once outside the region")
    for node in ast.walk(data):
        if isinstance(node, ast.expr) and facts.value(node).kind is Kind.READBACK:
            return Refusal("its values are read back from the device; compute them there instead")
        if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
            return Refusal("its values have side effects; build the tensor once outside the region")
    if _holds_tensor(facts, data):
        return Refusal("it is built from tensors; use `torch.stack` or `torch.cat`, which stay on the device")
    return data


def _holds_tensor(facts: Facts, data: ast.expr) -> bool:
    value = facts.value(data)
    if value.kind is Kind.TENSOR:
        return value.device.value != "host"
    if isinstance(data, ast.List | ast.Tuple):
        return any(facts.value(item).kind is Kind.TENSOR or _holds_tensor(facts, item) for item in data.elts)
    return any(item.kind is Kind.TENSOR for item in value.items or ())


def is_number(node: ast.expr) -> bool:
    """A literal number, or an expression of literals that is surely a plain Python number."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool | int | float | complex)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub | ast.UAdd) and is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
        return len(node.args) == 1 and isinstance(node.args[0], ast.Constant)
    if isinstance(node, ast.Attribute):
        known = {("math", "inf"), ("math", "pi"), ("math", "e"), ("math", "nan"), ("math", "tau")}
        return isinstance(node.value, ast.Name) and (node.value.id, node.attr) in known
    return False


def _is_typed_number(facts: Facts, call: ast.Call, data: ast.expr) -> bool:
    """One number of the host, whose dtype is given: ``torch.tensor(x.shape[0], dtype=…)``."""
    value = facts.value(data)
    number = value.kind is Kind.HOST and value.dtype in ("int", "size", "float", "bool")
    return number and (keyword(call, "dtype") is not None or len(call.args) > 1)


def kept_arguments(call: cst.Call) -> list[cst.Arg]:
    """The arguments without those that say nothing (``requires_grad=False``)."""
    args = [a for a in call.args if a.keyword is None or a.keyword.value not in _DROPPED]
    if args and len(args) < len(call.args):
        args[-1] = args[-1].with_changes(comma=call.args[-1].comma)
    return args


def clone_of(node: cst.BaseExpression) -> cst.Call:
    """``node.clone()``."""
    return cst.Call(cst.Attribute(node, cst.Name("clone")))


def torch_attribute(call: cst.Call, name: str) -> cst.BaseExpression:
    """``torch.name`` with the prefix that the call itself uses."""
    if isinstance(call.func, cst.Attribute):
        return call.func.with_changes(attr=cst.Name(name))
    return cst.Attribute(reference("torch"), cst.Name(name))


def _torch_import(call: ast.Call) -> frozenset[str]:
    return frozenset() if isinstance(call.func, ast.Attribute) else frozenset({"torch"})


def _fill(call: cst.Call) -> cst.BaseExpression:
    """``torch.full((), number, …)`` from ``torch.tensor(number, …)``."""
    args = kept_arguments(call)
    data = next(a for a in args if a.keyword is None or a.keyword.value == "data")
    rest = [a for a in args if a is not data]
    plain = data.with_changes(keyword=None, equal=cst.MaybeSentinel.DEFAULT)
    shape = cst.Arg(expression("()"), comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
    return call.with_changes(func=torch_attribute(call, "full"), args=[shape, plain, *rest])


def _new_tensor(facts: Facts, call: ast.Call) -> Proposal | Refusal:
    assert isinstance(call.func, ast.Attribute)
    data = host_data(facts, call, ("data",))
    if isinstance(data, Refusal):
        return data
    if is_number(data):

        def fill(node: cst.Call) -> cst.BaseExpression:
            assert isinstance(node.func, cst.Attribute)
            return _fill(node).with_changes(func=node.func.with_changes(attr=cst.Name("new_full")))

        return Proposal((Change(call, fill),), "filled on the device")
    if not is_plain(call.func.value):
        return Refusal("the tensor whose dtype and device are used is computed here; bind it to a name first")
    cloned = fate(facts, call) is not Fate.CONSUMED

    def build(node: cst.Call) -> cst.BaseExpression:
        assert isinstance(node.func, cst.Attribute)
        args = kept_arguments(node)
        given = {a.keyword.value for a in args if a.keyword is not None}
        for name in ("dtype", "device"):
            if name not in given:
                args.append(argument(cst.Attribute(node.func.value, cst.Name(name)), name))
        made = node.with_changes(func=reference("constant"), args=args)
        return clone_of(made) if cloned else made

    note = "built once per device and kept; verify that its values do not change unseen"
    return Proposal((Change(call, build),), note, frozenset({"constant"}))


def is_plain(node: ast.expr) -> bool:
    """A name or a chain of attributes: evaluating it twice does nothing else."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and is_plain(node.value))


# -- index lists ---------------------------------------------------------------------------------------------


def propose_index(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``x[[0, 2]]``: the list becomes a constant on the device of ``x``, and so do the others beside it."""
    index = hit.event.subject
    subscript = _subscript_around(facts, index) if index is not None else None
    if index is None or subscript is None:
        return Refusal("the index is not written in the brackets; keep it on the device as a buffer")
    base = subscript.value
    while isinstance(base, ast.Subscript) and facts.value(base.value).kind is Kind.TENSOR:
        base = base.value  # a part of a tensor is where the tensor is
    if not is_plain(base):
        return Refusal("the indexed tensor is computed here; bind it to a name first")
    parts = subscript.slice.elts if isinstance(subscript.slice, ast.Tuple) else [index]
    copied = [part for part in parts if part is index or _is_copied(facts, part)]
    for part in copied:
        why = _unfit_index(facts, part, hit.event.detail if part is index else "")
        if why:
            return Refusal(why)

    def build(empty: bool) -> Build:
        def made(node: cst.BaseExpression) -> cst.BaseExpression:
            device = expression(ast.unparse(base) + ".device")
            args = [argument(node)]
            if empty:  # as an index an empty list is one of integers, as a tensor it is not
                args.append(argument(cst.Attribute(reference("torch"), cst.Name("long")), "dtype"))
            return cst.Call(reference("constant"), [*args, argument(device, "device")])

        return made

    note = "the index is built once per device and kept"
    empty = {part: _may_be_empty(facts, part) for part in copied}
    changes = (*(Change(part, build(empty[part])) for part in copied), *filled(facts, subscript, index))
    imports = frozenset({"torch"} if any(empty.values()) else ())
    return Proposal(changes, note, frozenset({"constant"}), imports=imports)


def _may_be_empty(facts: Facts, part: ast.expr) -> bool:
    """Whether an index on the host is a list that may have no elements."""
    if isinstance(part, ast.List | ast.Tuple):
        return all(isinstance(item, ast.Starred) for item in part.elts)
    value = facts.value(part)
    return value.kind is not Kind.TENSOR and not value.items


def _is_copied(facts: Facts, part: ast.expr) -> bool:
    """Whether an index beside another one is copied to the device as well."""
    value = facts.value(part)
    if value.kind is Kind.TENSOR:
        return value.device is Device.HOST and value.rank != 0
    return isinstance(part, ast.List) or value.kind is Kind.CONTAINER


def _unfit_index(facts: Facts, index: ast.expr, detail: str) -> str:
    """Why an index on the host cannot be kept on the device; empty if it can."""
    if isinstance(index, ast.List | ast.Tuple):
        if not index.elts:
            return "an empty index selects nothing; write an empty slice"
        if detail != "integers" and not all(_is_int(facts, item) for item in index.elts):
            return "only a flat list of integers is rewritten; masks and nested lists differ"
        return ""
    if detail == "integers" or _is_kept_tensor(facts, index) or _names_integers(facts, index):
        return ""
    why = "it is no tensor" if facts.value(index).kind is not Kind.TENSOR else varies(facts, index)
    return f"the index is computed on the host at every call, and {why}; make it on the device" if why else ""


def _is_kept_tensor(facts: Facts, index: ast.expr) -> bool:
    return facts.value(index).kind is Kind.TENSOR and is_plain(index) and isinstance(index, ast.Attribute)


def _names_integers(facts: Facts, index: ast.expr) -> bool:
    """A name or attribute that holds a flat list of integers; `constant` sees if its content changes."""
    items = facts.value(index).items or ()
    return is_plain(index) and bool(items) and all(v.kind is Kind.HOST and v.dtype == "int" for v in items)


def _subscript_around(facts: Facts, index: ast.expr) -> ast.Subscript | None:
    parent = facts.parents.get(index)
    if isinstance(parent, ast.Tuple):
        index, parent = parent, facts.parents.get(parent)
    return parent if isinstance(parent, ast.Subscript) and parent.slice is index else None


def _is_int(facts: Facts, node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_int(facts, node.operand)
    value = facts.value(node)
    return value.kind is Kind.HOST and value.dtype == "int"
