"""Functions of the code base, and what their text alone tells."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from refactor.analysis.remarks import remark
from refactor.analysis.trees import walk

if TYPE_CHECKING:
    from refactor.analysis.project import ClassInfo, ModuleInfo

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_USES = (ast.Attribute, ast.Call, ast.Compare, ast.BinOp, ast.Subscript)


@dataclass(eq=False)
class FunctionInfo:
    """A function, method or lambda of the code base."""

    node: FunctionNode
    module: ModuleInfo
    qualname: str
    cls: ClassInfo | None = None
    closure: Any = None  # the frame around a nested function
    statement: ast.stmt | None = None  # the one a lambda stands in

    @cached_property
    def decorators(self) -> frozenset[str]:
        """Last names of its decorators: ``{"staticmethod"}``."""
        return frozenset(last_name(d) for d in getattr(self.node, "decorator_list", ()))

    @property
    def remark(self) -> str | None:
        """What a comment on its header says: ``"region"`` or ``"host"``."""
        return remark(self.module.remarks, self.node)

    @cached_property
    def parameters(self) -> tuple[tuple[ast.arg, ast.expr | None, bool], ...]:
        """Its parameters but starred ones, their defaults, and whether they can be given by position."""
        spec = self.node.args
        given = [*spec.posonlyargs, *spec.args]
        defaults = [None] * (len(given) - len(spec.defaults)) + list(spec.defaults)
        return (
            *((arg, default, True) for arg, default in zip(given, defaults, strict=True)),
            *((arg, default, False) for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)),
        )

    @cached_property
    def nodes(self) -> list[Any]:
        """The function and all nodes below it, breadth first."""
        return walk(self.node)

    @cached_property
    def mentioned(self) -> frozenset[str]:
        """Names that its code has, and its first parameter, which ``super()`` reads unnamed."""
        first = [arg.arg for arg, _, _ in self.parameters[:1]]
        return frozenset((*first, *(node.id for node in self.nodes if node.__class__ is ast.Name)))

    @cached_property
    def uses(self) -> list[ast.expr]:
        """The expressions below it that tell how a name is used, breadth first."""
        return [node for node in self.nodes if isinstance(node, _USES)]

    @cached_property
    def unpacked(self) -> frozenset[str]:
        """Names that it iterates over, taking each item apart: ``for height, width in shapes``."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ast.For | ast.comprehension):
                source, target = node.iter, node.target
                counted = isinstance(source, ast.Call) and last_name(source.func) == "enumerate"
                if counted and isinstance(source, ast.Call) and source.args:
                    source = source.args[0]
                    target = target.elts[-1] if isinstance(target, ast.Tuple) else target
                if isinstance(source, ast.Name) and isinstance(target, ast.Tuple):
                    found.add(source.id)
        return frozenset(found)

    @cached_property
    def assigned(self) -> frozenset[str]:
        """Attributes that its body assigns, on whatever object."""
        return frozenset(
            target.attr
            for node in self.nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Attribute)
        )

    @cached_property
    def sets_any(self) -> bool:
        """Whether it sets attributes of its first argument by names that only its caller knows."""
        args = [*self.node.args.posonlyargs, *self.node.args.args]
        own = args[0].arg if args else ""
        for node in self.uses:
            if not isinstance(node, ast.Call):
                continue
            func = node.func
            if isinstance(func, ast.Name) and func.id == "setattr" and len(node.args) == 3:
                if getattr(node.args[0], "id", "") == own and not isinstance(node.args[1], ast.Constant):
                    return True
            elif isinstance(func, ast.Attribute) and func.attr == "update":
                table = func.value
                if isinstance(table, ast.Attribute) and table.attr == "__dict__":
                    return getattr(table.value, "id", "") == own
        return False

    @cached_property
    def tensor_uses(self) -> dict[Any, bool]:
        """Whether it uses a parameter as a tensor, by parameter; filled by the binding of arguments."""
        return {}

    @cached_property
    def wrapping(self) -> dict[str, Any]:
        """Its decorators that matter, and whether it matters as one; filled by `decorators`."""
        return {}

    @cached_property
    def read_only(self) -> dict[str, frozenset[str] | None]:
        """Attributes of a parameter that it reads, if it does nothing else with it; filled by `standins`."""
        return {}

    @cached_property
    def options(self) -> frozenset[str] | None:
        """Keys that it reads out of its ``**options``, by name; None: they are used in other ways too."""
        rest = self.node.args.kwarg
        if rest is None:
            return frozenset()
        keys: set[str] = set()
        mentioned = understood = 0
        for node in self.nodes:
            if node.__class__ is ast.Name:
                mentioned += node.id == rest.arg
            key = _key_read(node, rest.arg)
            if key is not None:
                keys.add(key)
                understood += 1
        return frozenset(keys) if mentioned == understood else None

    def __repr__(self) -> str:
        return f"<{self.qualname}>"


def _key_read(node: ast.AST, table: str) -> str | None:
    """The key in ``table.get("key")``, ``table["key"]`` and ``"key" in table``."""
    key: ast.expr | None = None
    owner: ast.expr | None = None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        if node.func.attr in ("get", "pop"):
            owner, key = node.func.value, node.args[0]
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        owner, key = node.value, node.slice
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn) and len(node.ops) == 1:
        owner, key = node.comparators[0], node.left
    named = isinstance(owner, ast.Name) and owner.id == table
    return key.value if named and isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def last_name(node: ast.AST) -> str:
    """``c`` of ``a.b.c``, also of a call to it or a subscript of it."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
