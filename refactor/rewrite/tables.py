"""How many dimensions a table has that a module makes in ``__init__``: of positions, of biases."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.receivers import self_name
from refactor.analysis.trees import walk
from refactor.rewrite.ops import names_in

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_SIZED = names_in("zeros ones empty rand randn")
_SAME = names_in(
    """to float half double long int clone contiguous detach sin cos tan exp log abs sqrt neg triu tril
    transpose swapaxes flip roll sigmoid tanh softmax requires_grad_ type_as bfloat16 t Parameter normal_
    zero_ fill_"""
)
_GIVEN = names_in("view reshape expand repeat")
_DEPTH = 12


def rank_of(cls: ClassInfo, name: str) -> int | None:
    """The number of dimensions of ``self.name``, where all that is stored there has as many; else None."""
    found: set[int | None] = set()
    for base in cls.mro:
        for item in base.own.values() if isinstance(base, ClassInfo) else ():
            if isinstance(item, FunctionInfo) and isinstance(item.node, FunctionNode):
                made = _Init(item.module, item.node)
                found.update(made.rank(value) if value is not None else None for value in made.stored(name))
    return found.pop() if len(found) == 1 else None


class _Init:
    """A method that makes tables; only the straight line of its statements is followed."""

    def __init__(self, module: ModuleInfo, function: FunctionNode) -> None:
        self.module, self.function = module, function

    def stored(self, name: str) -> Iterator[ast.expr | None]:
        """What is stored under a name of the instance; None for what is stored by other methods."""
        owner, known = self_name(self.function), self.function.name == "__init__"
        for node in walk(self.function):
            if isinstance(node, ast.Call) and last_name(node.func) in (
                "register_buffer",
                "register_parameter",
            ):
                first = node.args[0] if len(node.args) > 1 else None
                if isinstance(first, ast.Constant) and first.value == name:
                    yield node.args[1] if known else None
            elif isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store):
                stmt = self.module.parents.get(node)
                own = isinstance(node.value, ast.Name) and node.value.id == owner
                if own:
                    yield stmt.value if known and isinstance(stmt, ast.Assign | ast.AnnAssign) else None

    def rank(self, node: ast.expr, depth: int = 0) -> int | None:
        """The number of dimensions of an expression; a Python number has none."""
        if depth > _DEPTH:
            return None
        if isinstance(node, ast.Constant):
            return 0 if isinstance(node.value, int | float) else None
        if isinstance(node, ast.Name):
            value = self.assigned(node)
            return self.rank(value, depth + 1) if value is not None else None
        if isinstance(node, ast.UnaryOp):
            return self.rank(node.operand, depth + 1)
        if isinstance(node, ast.BinOp):
            sides = [self.rank(side, depth + 1) for side in (node.left, node.right)]
            return None if None in sides else max(side for side in sides if side is not None)
        if isinstance(node, ast.Subscript):
            return self.part(node, depth)
        return self.called(node, depth) if isinstance(node, ast.Call) else None

    def part(self, node: ast.Subscript, depth: int) -> int | None:
        """``x[None]``, ``x[:, 0]``."""
        rank = self.rank(node.value, depth + 1)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            constant = part.value if isinstance(part, ast.Constant) else 0
            if rank is None or not isinstance(part, ast.Slice | ast.Constant):
                return None
            if isinstance(part, ast.Constant) and constant is not ...:
                rank += 1 if constant is None else -1
        return rank

    def called(self, node: ast.Call, depth: int) -> int | None:
        """Constructors, and operations that keep or give the number of dimensions."""
        name = last_name(node.func)
        found = self.module.resolve(node.func)
        plain = isinstance(found, str) and found.startswith("torch.")
        args = (
            node.args if plain or not isinstance(node.func, ast.Attribute) else [node.func.value, *node.args]
        )
        if not args or any(isinstance(arg, ast.Starred) for arg in args):
            return None
        if plain and name in _SIZED:
            return self.sizes(args)
        if plain and name == "full":
            return self.sizes(args[:1])
        if plain and name in ("arange", "linspace"):
            return 1
        if name in _GIVEN and not plain:
            return self.sizes(args[1:])
        rank = self.rank(args[0], depth + 1)
        if name == "unsqueeze":
            return rank + 1 if rank is not None else None
        return rank if name in _SAME else None

    def sizes(self, args: list[ast.expr]) -> int | None:
        """How many sizes are given; one that is not written as a number may be a tuple of them."""
        only = args[0] if len(args) == 1 else None
        if isinstance(only, ast.Tuple | ast.List):
            return None if any(isinstance(size, ast.Starred) for size in only.elts) else len(only.elts)
        if only is not None and not isinstance(only, ast.Constant):
            return None
        return len(args) or None

    def assigned(self, name: ast.Name) -> ast.expr | None:
        """What a name was last assigned before it is used, in the straight line of the method."""
        stores = [n for n in walk(self.function) if isinstance(n, ast.Name) and n.id == name.id]
        stmts = [self.module.parents.get(n) for n in stores if isinstance(n.ctx, ast.Store)]
        if not all(isinstance(s, ast.Assign) and s in self.function.body for s in stmts):
            return None
        before = [s for s in stmts if isinstance(s, ast.Assign) and (s.end_lineno or 0) < name.lineno]
        return max(before, key=lambda s: s.lineno).value if before else None
