"""Operations whose result has a size that the data decides (CG202): the static form, where it is the same."""

from __future__ import annotations

import ast
from typing import Any

from refactor.analysis.model import Facts, Kind
from refactor.rewrite.branch import propose_split
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.masks import propose_selection
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.ops import names_in, torch_function
from refactor.rewrite.packed import is_plain
from refactor.rewrite.shapes import definition, shapes_around
from refactor.rewrite.syntax import (
    appended,
    argument,
    code_of,
    dotted,
    enclosing_function,
    enclosing_statement,
    expression,
    keyword,
    same_scope,
    self_name,
)
from refactor.rule import Hit

_WRITE_INSTEAD = {
    "bincount": (
        "`bincount` is as long as its largest value says, `minlength` or not; if no value is above n - 1, "
        "write `torch.zeros(n, dtype=torch.long, device=x.device).scatter_add_(0, x, torch.ones_like(x))`"
    ),
    "unique": (
        "how many values are distinct only the device knows; sort and compare neighbours, or ask the host "
        "once outside the region"
    ),
    "nonzero": (
        "how many places are found only the device knows; use the condition itself as a mask, or "
        "`torch.nonzero_static(x, size=n)` where n is never exceeded"
    ),
    "repeat_interleave": (
        "how long the result is only the device knows; pass `output_size=`, the sum of the repeats, where "
        "the host knows it"
    ),
    "one_hot": "the number of classes is read from the largest value; pass `num_classes=`",
    "combinations": "the number of combinations is decided on the host; compute the index pairs once",
    "to_sparse": "a sparse tensor is as large as its values say; keep it dense, or build it once",
}


def propose_static(facts: Facts, hit: Hit) -> Proposal | Refusal:
    """``masked_select``, ``nonzero``, ``repeat_interleave(x, r)``, ``one_hot(x)`` and their kind."""
    answer = _static(facts, hit)
    return propose_split(facts, hit, answer) if isinstance(answer, Refusal) else answer


def _static(facts: Facts, hit: Hit) -> Proposal | Refusal:
    node, detail = hit.event.node, hit.event.detail
    if detail == "masked_select":
        return propose_selection(facts, node, hit.event.statement)
    word = {"where": "nonzero", "argwhere": "nonzero", "unique_consecutive": "unique"}.get(detail, detail)
    made: Proposal | None = None
    if isinstance(node, ast.Call):
        found = {"nonzero": _filled_places, "one_hot": _classes, "repeat_interleave": _repeated}.get(word)
        made = found(facts, node) if found is not None else None
    if made is not None:
        return made
    return Refusal(
        _WRITE_INSTEAD.get(word, "the size of the result is decided by the data; compute it outside")
    )


# -- places that are only filled


def _filled_places(facts: Facts, call: ast.Call) -> Proposal | None:
    """``x[torch.where(condition)] = number``: the condition itself is the mask."""
    condition = _condition(facts, call)
    if condition is None or facts.value(condition).dtype != "bool":
        return None
    place: ast.AST = call
    around = facts.parents.get(call)
    if isinstance(around, ast.Subscript) and around.value is call:
        only = isinstance(around.slice, ast.Constant) and around.slice.value == 0
        if not only or facts.value(condition).rank != 1:
            return None
        place, around = around, facts.parents.get(around)
    if not isinstance(around, ast.Subscript) or around.slice is not place:
        return None
    stmt = facts.parents.get(around)
    if not isinstance(stmt, ast.Assign) or around not in stmt.targets or not _is_number(facts, stmt.value):
        return None
    shapes = shapes_around(facts, call)
    if shapes is None or shapes.behind(condition, around.value) is None:
        return None  # integers may index what the mask does not fit
    functional = torch_function(dotted(facts, call.func)) is not None
    indexed = place is not call

    def build(node: Any) -> Any:
        inner = node.value if indexed else node
        found = inner.args[0].value if functional else inner.func.value
        return found.with_changes(lpar=(), rpar=()) if getattr(found, "lpar", ()) else found

    return Proposal((Change(place, build),), "the places are filled through the condition itself")


def _condition(facts: Facts, call: ast.Call) -> ast.expr | None:
    """The condition of one-argument ``where`` or ``nonzero(as_tuple=True)``."""
    name = torch_function(dotted(facts, call.func))
    words = {word.arg: word.value for word in call.keywords}
    if name == "where" and len(call.args) == 1 and not words:
        return call.args[0]
    as_tuple = words.get("as_tuple")
    if set(words) != {"as_tuple"} or not (isinstance(as_tuple, ast.Constant) and as_tuple.value is True):
        return None
    if name == "nonzero" and len(call.args) == 1:
        return call.args[0]
    method = isinstance(call.func, ast.Attribute) and call.func.attr == "nonzero" and not call.args
    return call.func.value if name is None and method else None  # type: ignore[attr-defined]


def _is_number(facts: Facts, node: ast.expr) -> bool:
    value = facts.value(node)
    return value.kind is Kind.HOST and value.dtype in ("int", "float", "bool")


# -- the number of classes


def _classes(facts: Facts, call: ast.Call) -> Proposal | None:
    """``one_hot(x)`` that is multiplied by a matrix: it has as many classes as the matrix has rows."""
    if len(call.args) != 1 or call.keywords:
        return None
    size = _contracted(facts, call) or _contracted_later(facts, call)
    if size is None:
        return None

    def build(node: cst.Call) -> cst.BaseExpression:
        return node.with_changes(args=appended(node.args, argument(expression(size), "num_classes")))

    note = "the product fixes the number of classes; verify it with indices that leave out the last class"
    return Proposal((Change(call, build),), note)


_CASTS = names_in("float half double bfloat16 to type_as")


def _contracted(facts: Facts, node: ast.expr) -> str | None:
    """The size that the last dimension of a value must have for what happens to it; None: it is not said."""
    around = facts.parents.get(node)
    while isinstance(around, ast.Attribute) and around.attr in _CASTS:
        call = facts.parents.get(around)
        if not isinstance(call, ast.Call) or call.func is not around:
            return None
        node, around = call, facts.parents.get(call)
    if isinstance(around, ast.BinOp) and isinstance(around.op, ast.MatMult) and around.left is node:
        return _rows(facts, around.right)
    if not isinstance(around, ast.Call) or node not in around.args:
        method = isinstance(around, ast.Attribute) and around.attr in ("matmul", "mm")
        call = facts.parents.get(around) if around is not None else None
        if method and isinstance(call, ast.Call) and len(call.args) == 1:
            return _rows(facts, call.args[0])
        return None
    target = facts.value(around.func)
    if target.kind is Kind.MODULE and target.qualname == "torch.nn:Linear" and is_plain(around.func):
        return f"{code_of(facts, around.func)}.in_features"
    name = torch_function(dotted(facts, around.func))
    if around.args[0] is not node or len(around.args) < 2:
        return None
    if name in ("matmul", "mm"):
        return _rows(facts, around.args[1])
    weight = around.args[1]
    linear = name == "linear" and is_plain(weight) and facts.value(weight).kind is Kind.TENSOR
    return f"{code_of(facts, weight)}.shape[-1]" if linear else None


def _rows(facts: Facts, matrix: ast.expr) -> str | None:
    value = facts.value(matrix)
    if not is_plain(matrix) or value.kind is not Kind.TENSOR or (value.rank or 0) < 2:
        return None
    return f"{code_of(facts, matrix)}.shape[-2]"


def _contracted_later(facts: Facts, call: ast.Call) -> str | None:
    """The same for ``hot = one_hot(x)``, used that way further down in the same block."""
    value: ast.expr = call
    while (step := _cast(facts, value)) is not None:
        value = step
    stmt = facts.parents.get(value)
    function = enclosing_function(facts, call)
    if not isinstance(stmt, ast.Assign) or len(stmt.targets) != 1 or function is None:
        return None
    target = stmt.targets[0]
    if not isinstance(target, ast.Name):
        return None
    for use in same_scope(function):
        if not isinstance(use, ast.Name) or use.id != target.id or not isinstance(use.ctx, ast.Load):
            continue
        size = _contracted(facts, use)
        later = enclosing_statement(facts, use)
        same_block = facts.parents.get(later) is facts.parents.get(stmt)
        straight = isinstance(later, ast.Assign | ast.Return | ast.Expr | ast.AugAssign)
        if size is None or not same_block or not straight or definition(facts, function, use) is not stmt:
            continue
        named = {n.id for n in ast.walk(ast.parse(size, mode="eval")) if isinstance(n, ast.Name)}
        if named <= {self_name(function)}:
            return size
    return None


def _cast(facts: Facts, node: ast.expr) -> ast.Call | None:
    around = facts.parents.get(node)
    if not isinstance(around, ast.Attribute) or around.attr not in _CASTS:
        return None
    call = facts.parents.get(around)
    return call if isinstance(call, ast.Call) and call.func is around else None


# -- repeats that the host has as well


def _repeated(facts: Facts, call: ast.Call) -> Proposal | None:
    """``repeat_interleave(x, torch.tensor(counts))``: the host knows the sum of a list."""
    functional = torch_function(dotted(facts, call.func)) is not None
    place = 1 if functional else 0
    repeats = call.args[place] if len(call.args) > place else keyword(call, "repeats")
    function = enclosing_function(facts, call)
    if repeats is None or function is None or any(isinstance(a, ast.Starred) for a in call.args):
        return None
    if functional and len(call.args) == 1 and keyword(call, "repeats") is None:
        return None
    made: ast.expr = repeats
    if isinstance(repeats, ast.Name):
        found = definition(facts, function, repeats)
        if not isinstance(found, ast.Assign):
            return None
        made = found.value
    size = _sum_of(facts, function, made)
    if size is None:
        return None

    def build(node: cst.Call) -> cst.BaseExpression:
        return node.with_changes(args=appended(node.args, argument(expression(size), "output_size")))

    return Proposal((Change(call, build),), "the sum of the repeats is known on the host")


def _sum_of(facts: Facts, function: ast.AST, made: ast.expr) -> str | None:
    """The sum of a tensor made from a list of integers, as an expression of the host."""
    if not isinstance(made, ast.Call) or dotted(facts, made.func) not in ("torch.tensor", "torch.as_tensor"):
        return None
    counts = made.args[0] if made.args else None
    if isinstance(counts, ast.List | ast.Tuple):
        numbers = [item.value if isinstance(item, ast.Constant) else None for item in counts.elts]
        return str(sum(numbers)) if numbers and all(type(n) is int for n in numbers) else None  # type: ignore[arg-type]
    if counts is None or not is_plain(counts) or _changes(function, counts):
        return None
    value = facts.value(counts)
    items = value.items or ()
    if value.kind is not Kind.CONTAINER or not items:
        return None
    if any(item.kind is not Kind.HOST or item.dtype != "int" for item in items):
        return None
    return f"sum({code_of(facts, counts)})"


def _changes(function: ast.AST, counts: ast.expr) -> bool:
    """Whether a list is bound or changed in a function more than where it comes from."""
    text = ast.unparse(counts)
    bound = 0
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == text:
            return True
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == text:
            if not isinstance(node.ctx, ast.Load):
                return True
        elif isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) == text:
            bound += not isinstance(node.ctx, ast.Load)
    return bound > 1
