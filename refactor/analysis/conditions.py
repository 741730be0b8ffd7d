"""Tests: which tensors they ask for their truth, what is known of the outcome, what it says about names."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from refactor.analysis import shapes
from refactor.analysis.arithmetic import tensor_binary
from refactor.analysis.domain import (
    BOOL,
    HOST,
    NO_VALUE,
    NONE,
    OPAQUE,
    Dict,
    Host,
    Obj,
    Opaque,
    Readback,
    Seq,
    Tensor,
    Val,
    is_tainted,
    join,
    may_be_none,
    not_none,
    on_device,
    read_back,
    replace,
    truth,
    value,
)
from refactor.analysis.model import Device, EventKind
from refactor.analysis.torchops import OTHER_DEVICES, names
from refactor.analysis.trees import walk

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_FOLD: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


_NUMBER = names("Tensor Parameter list tuple dict ndarray dtype device Size Module str set")
_CLASSES = {
    "int": (names("int Number"), _NUMBER),
    "float": (names("float Number"), _NUMBER),
    "bool": (names("bool"), _NUMBER),
    "str": (names("str"), names("Tensor Parameter list tuple dict ndarray dtype Size Module int float")),
    "dtype": (names("dtype"), names("Tensor Parameter list tuple dict ndarray int float device")),
    "device": (names("device"), names("Tensor Parameter list tuple dict ndarray float dtype")),
    "shape": (names("Size tuple"), names("Tensor Parameter list dict ndarray int float str device dtype")),
    "array": (names("-"), names("Tensor Parameter device dtype")),
}
"""By type of a host value: classes it is an instance of, and classes it is no instance of."""
_NO_TENSORS = names("int float str bool list tuple dict Number SparseTensor ndarray dtype device Size")
_CONTAINERS = names("list tuple dict sequence mapping iterable")


_ASKING = frozenset({EventKind.READBACK, EventKind.TO_HOST, EventKind.BOOL_OP, EventKind.BRANCH})
"""What a test does to get its answer; whatever else waits in it would wait without the test, too."""


class Leaf(NamedTuple):
    """What is read back in a test, and how it would be recorded elsewhere."""

    kind: EventKind
    node: ast.expr
    subject: ast.expr
    detail: str


@value
class Decision:
    """Outcome of a test, where known, and the expressions whose tensors it reads back."""

    truth: bool | None
    tensors: tuple[ast.expr, ...] = ()
    only: ast.expr | None = None  # a test of the precision without which no tensor is read


def decide(it: Interpreter, frame: Frame, test: ast.expr) -> Decision:
    """Evaluate a test as ``if`` would: short-circuits, and the truth of tensors."""
    if isinstance(test, ast.BoolOp):
        return _decide_boolop(it, frame, test)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = decide(it, frame, test.operand)
        if frame.emit:
            it.recorded(frame.module).values[test] = Readback("bool") if inner.tensors else BOOL
        return Decision(None if inner.truth is None else not inner.truth, inner.tensors, inner.only)
    frame.header += 1
    outer, frame.leaves = frame.leaves, []
    value = it.evaluate(frame, test)
    leaves, frame.leaves = frame.leaves, outer
    frame.header -= 1
    asks = read_back(value)
    if frame.header:
        frame.leaves.extend(leaves)
    elif asks or any(leaf.kind in _ASKING for leaf in leaves):
        for leaf in leaves:
            if asks or leaf.kind not in _ASKING:
                it.emit(frame, *leaf)
    if asks:
        return Decision(None, (test,))
    return Decision(truth(value), tuple(leaf.node for leaf in leaves))


def _decide_boolop(it: Interpreter, frame: Frame, test: ast.BoolOp) -> Decision:
    conjunction = isinstance(test.op, ast.And)
    tensors: list[ast.expr] = []
    known: bool | None = conjunction
    half: ast.expr | None = None
    only: ast.expr | None = None
    with frame.env.tried() as changes:
        for operand in test.values:
            result = decide(it, frame, operand)
            if result.tensors and not tensors:
                only = result.only or half
            tensors.extend(result.tensors)
            if conjunction and tests_half(operand):
                half = operand
            if result.truth is (not conjunction):
                known = not conjunction
                break
            if result.truth is None:
                known = None
            refine(it, frame, operand, conjunction)
    if changes:
        walrus = {n.target.id for n in walk(test) if isinstance(n, ast.NamedExpr)}
        frame.env.assign({k: v for k, v in changes.items() if k in walrus and v is not None})
    return Decision(known, tuple(tensors), only)


def tests_half(test: ast.expr) -> bool:
    """``x.dtype == torch.float16``: what follows runs in that precision alone."""
    if not (
        isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is)
    ):
        return False
    sides = (test.left, test.comparators[0])
    return any(
        isinstance(side, ast.Attribute)
        and side.attr in ("float16", "half")
        and isinstance(side.value, ast.Name)
        and side.value.id == "torch"
        for side in sides
    )


def boolop_value(it: Interpreter, frame: Frame, node: ast.BoolOp) -> Val:
    """The value of ``a and b`` outside a test: all operands but the last are asked for their truth."""
    with frame.env.tried():
        value = _boolop_value(it, frame, node)
    # A tensor that decides is itself the value where it decides: the next test waits for it once more.
    return replace(value, maybe=False) if isinstance(value, Tensor) and value.maybe else value


def _boolop_value(it: Interpreter, frame: Frame, node: ast.BoolOp) -> Val:
    conjunction = isinstance(node.op, ast.And)
    result: Val | None = None
    for operand in node.values[:-1]:
        if isinstance(operand, ast.BoolOp | ast.UnaryOp):
            decision = decide(it, frame, operand)
            value: Val = Host("bool", decision.truth) if decision.truth is not None else BOOL
            known = decision.truth
            if decision.tensors:
                it.readback(frame, EventKind.BOOL_OP, operand, decision.tensors[0], _word(node))
                value = Readback("bool")
        else:
            value = it.evaluate(frame, operand)
            known = truth(value)
            if read_back(value):
                it.readback(frame, EventKind.BOOL_OP, operand, operand, _word(node))
        if known is (not conjunction):
            return value if result is None else join(result, value)
        if known is None:
            chosen = not_none(value) if not conjunction else value
            result = chosen if result is None else join(result, chosen)
        refine(it, frame, operand, conjunction)
    last = it.evaluate(frame, node.values[-1])
    if truth(last) is (not conjunction) and isinstance(result, Host | None) and isinstance(last, Host):
        return Host("bool", not conjunction)  # whatever the others are: "a and False"
    return last if result is None else join(result, last)


def _word(node: ast.BoolOp) -> str:
    return "and" if isinstance(node.op, ast.And) else "or"


def compare(
    it: Interpreter, frame: Frame, node: ast.Compare, left: Val, op: ast.cmpop, right: Val, child: ast.expr
) -> Val:
    """The value of one comparison."""
    if isinstance(op, ast.Is | ast.IsNot):
        return _identity(left, right, isinstance(op, ast.Is))
    if isinstance(op, ast.In | ast.NotIn):
        return _membership(it, frame, node, left, op, right)
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        if NONE in (left, right) or _never_equal(left, right):
            return BOOL
        return tensor_binary(left, right, None, boolean=True)
    if isinstance(left, Host) and isinstance(right, Host):
        return _host_compare(left, op, right)
    if isinstance(left, Readback) or isinstance(right, Readback):
        return Readback("bool")
    if isinstance(left, Opaque) and isinstance(right, Opaque | Host) and left.tainted:
        return left
    return BOOL


def _never_equal(left: Val, right: Val) -> bool:
    """A tensor compared with a string or a device is no tensor comparison."""
    other = right if isinstance(left, Tensor) else left
    return isinstance(other, Host) and other.type in ("str", "device", "dtype", "layout")


def _host_compare(left: Host, op: ast.cmpop, right: Host) -> Val:
    fold = _FOLD.get(type(op))
    if left.value is not NO_VALUE and right.value is not NO_VALUE and fold is not None:
        try:
            return Host("bool", bool(fold(left.value, right.value)))
        except TypeError:
            return BOOL
    if left.type == "array" or right.type == "array":
        return Host("array")
    for kind, other in ((left, right), (right, left)):
        # Graphs are captured on one kind of device: code for others does not run then.
        if (
            kind.owner == "device type"
            and other.value in OTHER_DEVICES
            and isinstance(op, ast.Eq | ast.NotEq)
        ):
            return Host("bool", isinstance(op, ast.NotEq))
    return BOOL


def _identity(left: Val, right: Val, positive: bool) -> Val:
    known: bool | None = None
    if right == NONE:
        known = may_be_none(left)
    elif isinstance(left, Host) and isinstance(right, Host) and isinstance(right.value, bool):
        known = left.value is right.value if left.value is not NO_VALUE else None
    return BOOL if known is None else Host("bool", known if positive else not known)


def _membership(
    it: Interpreter, frame: Frame, node: ast.Compare, left: Val, op: ast.cmpop, right: Val
) -> Val:
    if isinstance(right, Dict) and isinstance(left, Host) and left.value is not NO_VALUE:
        # Absence is never concluded: another name of the same dict may have added the key.
        return Host("bool", isinstance(op, ast.In)) if right.get(left.value) is not None else BOOL
    if isinstance(left, Host) and left.type == "str" and isinstance(right, Tensor):
        return BOOL
    if isinstance(left, Host) and left.value is not NO_VALUE and isinstance(right, Seq):
        values = [item.value if isinstance(item, Host) else NO_VALUE for item in right.items or ()]
        if right.items is not None and NO_VALUE not in values:
            return Host("bool", (left.value in values) == isinstance(op, ast.In))
    if read_back(right) or (read_back(left) and isinstance(right, Seq) and right.type != "set"):
        it.readback(
            frame, EventKind.BOOL_OP, node, node.left if on_device(left) else node.comparators[0], "in"
        )
        return Readback("bool")
    return BOOL


def refine(it: Interpreter, frame: Frame, test: ast.expr, outcome: bool) -> None:
    """Narrow names in the environment by the outcome of a test."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        refine(it, frame, test.operand, not outcome)
    elif isinstance(test, ast.BoolOp):
        if isinstance(test.op, ast.And) == outcome:
            for operand in test.values:
                refine(it, frame, operand, outcome)
    elif isinstance(test, ast.Compare) and len(test.ops) == 1:
        op, right = test.ops[0], test.comparators[0]
        if isinstance(right, ast.Constant) and right.value is None and isinstance(op, ast.Is | ast.IsNot):
            _refine_none(frame, test.left, isinstance(op, ast.Is) == outcome)
        else:
            shapes.counted(frame, test, outcome)
    elif isinstance(test, ast.Call):
        _refine_isinstance(it, frame, test, outcome)
    elif outcome and isinstance(test, ast.Name | ast.Attribute):
        key = place(test)
        if key is not None and key in frame.env:
            frame.env[key] = not_none(frame.env[key])


def place(node: ast.expr) -> str | None:
    """The key of a name or of an attribute of a name in the environment."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.NamedExpr):
        return node.target.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


def _refine_none(frame: Frame, node: ast.expr, none: bool) -> None:
    key = place(node)
    if key is None:
        return
    if none:
        frame.env[key] = NONE
    elif key in frame.env:
        frame.env[key] = not_none(frame.env[key])


def isinstance_known(it: Interpreter, frame: Frame, node: ast.Call) -> bool | None:
    """The outcome of ``isinstance(x, T)`` where the value of ``x`` says so."""
    if len(node.args) != 2:
        return None
    value = it.evaluate(frame, node.args[0])
    asked = _class_names(node.args[1])
    if isinstance(value, Tensor) and not value.maybe and not value.optional:
        if "Tensor" in asked or "Parameter" in asked:
            return True if "Tensor" in asked else None
        if asked & _CONTAINERS and _promised_more(frame, node.args[0]):
            return None
        return False if asked <= _NO_TENSORS else None
    if isinstance(value, Seq) and value.type in ("list", "tuple"):
        if value.type in asked:
            return True
        return False if asked <= {"Tensor", "int", "float", "str", "dict", "ndarray", "set"} else None
    if isinstance(value, Host) and value.type in _CLASSES and not value.optional:
        own, others = _CLASSES[value.type]
        if own & asked:
            return True
        return False if asked <= others else None
    if isinstance(value, Dict):
        return True if "dict" in asked else False if asked <= {"Tensor", "list", "tuple", "str"} else None
    if isinstance(value, Obj) or value == NONE:
        return False if asked <= {"Tensor", "int", "float", "str", "list", "tuple", "dict"} else None
    return None


def _promised_more(frame: Frame, node: ast.expr) -> bool:
    """Whether a name is an argument of the region that its annotation allows to be something else as well."""
    info = frame.function
    if info is None or frame.depth or not isinstance(node, ast.Name):
        return False
    for arg, _, _ in info.parameters:
        if arg.arg == node.id and arg.annotation is not None:
            words = {getattr(n, "id", getattr(n, "attr", "")) for n in walk(arg.annotation)}
            return bool({word.lower() for word in words} & _CONTAINERS)
    return False


def _class_names(node: ast.expr) -> set[str]:
    from refactor.analysis.project import last_name

    if isinstance(node, ast.Tuple):
        return {name for item in node.elts for name in _class_names(item)}
    if isinstance(node, ast.BinOp):
        return _class_names(node.left) | _class_names(node.right)
    return {last_name(node)}


def _refine_isinstance(it: Interpreter, frame: Frame, test: ast.Call, outcome: bool) -> None:
    func = test.func
    named = isinstance(func, ast.Name) and func.id == "isinstance" and len(test.args) == 2
    checks_tensor = isinstance(func, ast.Attribute) and func.attr == "is_tensor" and len(test.args) == 1
    if not named and not checks_tensor:
        return
    key = place(test.args[0])
    if key is None or (key not in frame.env and "." not in key):
        return
    value = frame.env.get(key, OPAQUE)
    asked = {"Tensor"} if checks_tensor else _class_names(test.args[1])
    if asked == {"Tensor"}:
        if outcome:
            if isinstance(value, Tensor):
                frame.env[key] = replace(value, maybe=False, optional=False)
            else:
                frame.env[key] = Tensor(Device.DEVICE if is_tainted(value) else Device.UNKNOWN)
        elif isinstance(value, Tensor):
            frame.env[key] = HOST if value.maybe else OPAQUE
    elif outcome and isinstance(value, Tensor | Opaque) and asked <= {"int", "float", "str", "bool"}:
        frame.env[key] = Host(next(iter(sorted(asked))))
    elif outcome and isinstance(value, Tensor | Opaque) and asked <= {"list", "tuple"}:
        inner = replace(value, optional=False, maybe=False, rank=None) if isinstance(value, Tensor) else value
        frame.env[key] = Seq(next(iter(sorted(asked))), None, inner)
    elif outcome and isinstance(value, Tensor) and asked == {"ndarray"}:
        frame.env[key] = Host("array")
