"""Whether the model that a loop calls under a condition is there before the loop, where it is to be bound."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.model import Facts
from refactor.analysis.project import FunctionInfo
from refactor.analysis.trees import walk
from refactor.rewrite.receiver import class_of, module_of
from refactor.rewrite.syntax import COMPREHENSIONS, FunctionNode, ancestors, self_name

_LEAVES = (ast.Continue, ast.Break, ast.Return, ast.Raise)
_Condition = tuple[ast.expr | None, bool]  # what is asked (None: nothing that can be), and the answer needed


def presence(facts: Facts, calls: list[ast.Call], loop: ast.AST, function: FunctionNode | None) -> str | None:
    """The question whose answer tells whether the callee is there; "": it is; None: that is not known."""
    found = [list(_conditions(facts, call, loop)) for call in calls]
    if not calls or not all(found):
        return ""
    func = calls[0].func
    if _is_sure(facts, func, function, [c for conditions in found for c in conditions]):
        return ""
    questions = {_question(facts, func, *conditions[0]) for conditions in found}
    return questions.pop() if len(questions) == 1 else None


def _conditions(facts: Facts, call: ast.Call, loop: ast.AST) -> Iterator[_Condition]:
    """What has to hold in a round of the loop for the call to be reached, the outermost first."""
    path: list[ast.AST] = [call]
    for node in ancestors(facts, call):
        path.append(node)
        if node is loop:
            break
    for outer, inner in zip(reversed(path), [*reversed(path)][1:], strict=False):
        if (
            isinstance(outer, ast.If | ast.IfExp | ast.While)
            and outer is not loop
            and inner is not outer.test
        ):
            body = outer.body if isinstance(outer.body, list) else [outer.body]
            yield outer.test, any(inner is part for part in body)
        elif isinstance(outer, ast.BoolOp) and inner is not outer.values[0]:
            yield outer.values[0], isinstance(outer.op, ast.And)
        elif isinstance(outer, COMPREHENSIONS):
            yield from ((test, True) for part in outer.generators for test in part.ifs)
        elif isinstance(outer, ast.Try | ast.match_case | ast.ExceptHandler):
            yield None, True
        for block in (getattr(outer, name, ()) for name in ("body", "orelse")):
            at = next((i for i, s in enumerate(block) if s is inner), 0) if isinstance(block, list) else 0
            for stmt in block[:at] if at else ():
                if isinstance(stmt, ast.If) and any(isinstance(n, _LEAVES) for n in walk(stmt)):
                    yield stmt.test, False
                elif any(isinstance(n, _LEAVES) for n in walk(stmt)):
                    yield None, True


def _question(facts: Facts, func: ast.expr, test: ast.expr | None, answer: bool) -> str | None:
    """``x is not None`` where the first condition asks for the callee itself and for nothing else."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) and answer:
        test = test.values[0]
    callee = ast.unparse(func)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, answer = test.operand, not answer
    if test is None:
        return None
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and ast.unparse(test.left) == callee:
        none = isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None
        there = isinstance(test.ops[0], ast.IsNot if answer else ast.Is)
        return f"{callee} is not None" if none and there else None
    if answer and ast.unparse(test) == callee:
        return callee
    asks = (
        isinstance(test, ast.Call) and [ast.unparse(a) for a in test.args] == [callee] and not test.keywords
    )
    return ast.unparse(test) if asks and answer and _is_predicate(facts, test) else None


def _is_predicate(facts: Facts, test: ast.expr) -> bool:
    """``exists(x)`` of ``def exists(x): return x is not None``."""
    found = module_of(facts).resolve(test.func) if isinstance(test, ast.Call) else None
    if not isinstance(found, FunctionInfo) or isinstance(found.node, ast.Lambda):
        return isinstance(test, ast.Call) and ast.unparse(test.func) == "callable"
    body = found.node.body
    value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
    return isinstance(value, ast.Compare) and isinstance(value.left, ast.Name)


def _is_sure(
    facts: Facts, func: ast.expr, function: FunctionNode | None, conditions: list[_Condition]
) -> bool:
    """Whether the callee is there whatever the conditions say."""
    callee = ast.unparse(func)
    if any(test is not None and any(isinstance(n, ast.expr) and ast.unparse(n) == callee for n in walk(test))
           for test, _ in conditions):  # fmt: skip
        return False
    if isinstance(func, ast.Name):
        return _is_bound(facts, func, function)
    root = func.value if isinstance(func, ast.Attribute) else None
    if not isinstance(func, ast.Attribute) or not isinstance(root, ast.Name) or function is None:
        return False
    if root.id != self_name(function):
        return False
    cls = class_of(facts, root)
    if cls is None:
        return False
    if cls.find(func.attr) is not None:
        return True
    first = cls.find("__init__")
    init = first[1].node if first is not None and isinstance(first[1], FunctionInfo) else None
    if init is None or isinstance(init, ast.Lambda):
        return False
    own = self_name(init)
    return any(
        isinstance(stmt, ast.Assign)
        and isinstance(stmt.value, ast.Call)
        and any(ast.unparse(t) == f"{own}.{func.attr}" for t in stmt.targets)
        for stmt in init.body
    ) or _is_given(init, f"{own}.{func.attr}")


def _is_given(init: FunctionNode, attribute: str) -> bool:
    """``self.model = model`` of a parameter that has no default."""
    required = _required(init)
    return any(
        isinstance(stmt, ast.Assign)
        and isinstance(stmt.value, ast.Name)
        and stmt.value.id in required
        and any(ast.unparse(t) == attribute for t in stmt.targets)
        for stmt in init.body
    )


def _required(function: FunctionNode) -> set[str]:
    """The parameters without a default and without ``None`` in their annotation."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    free = positional[: len(positional) - len(args.defaults)]
    free += [a for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is None]
    optional = ("Optional", "None")
    return {
        a.arg
        for a in free
        if a.annotation is None or not any(word in ast.unparse(a.annotation) for word in optional)
    }


def _is_bound(facts: Facts, name: ast.Name, function: FunctionNode | None) -> bool:
    """A required parameter, or what the function or the file assigns or defines outside any branch."""
    if function is not None and name.id in _required(function):
        return True
    local = function is not None and any(
        isinstance(n, ast.Name) and n.id == name.id and isinstance(n.ctx, ast.Store) for n in walk(function)
    )
    if function is not None and any(a.arg == name.id for a in walk(function) if isinstance(a, ast.arg)):
        return False
    for stmt in function.body if local and function is not None else facts.tree.body:
        if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and stmt.name == name.id:
            return True
        if isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.Call | ast.Attribute):
            names = {n.id for t in stmt.targets for n in walk(t) if isinstance(n, ast.Name)}
            if name.id in names and (not local or stmt.lineno < name.lineno):
                return True
    return False
