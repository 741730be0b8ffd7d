"""Regions: the functions that should live inside a graph, those nothing else in the file calls first."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator

from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.torchops import TENSOR_CLASSES
from refactor.analysis.trees import walk


def classes(module: ModuleInfo) -> Iterator[ClassInfo]:
    """Top-level classes of a file and the classes nested in them, in order."""
    for bound in module.table.values():
        if isinstance(bound, ClassInfo):
            yield bound
            yield from (inner for inner in bound.own.values() if isinstance(inner, ClassInfo))


def forwards(module: ModuleInfo) -> list[tuple[ClassInfo, FunctionInfo]]:
    """``forward`` of every module class of a file, inherited ones too; classes that others make come last."""
    found: list[tuple[ClassInfo, FunctionInfo]] = []
    for cls in classes(module):
        defined = cls.written("forward") if cls.is_module else None
        if defined is not None:
            found.append((cls, defined))
    used = _constructed(module)
    # What others use comes after them: files define a class before the ones that are built from it.
    place = {id(cls): -index for index, (cls, _) in enumerate(found)}
    return sorted(
        found,
        key=lambda pair: (
            pair[0].name in used,
            pair[1].cls is not pair[0],
            place[id(pair[0])] if pair[0].name in used else 0,
        ),
    )


def left_out(module: ModuleInfo, info: FunctionInfo, seen: Container[ast.expr]) -> bool:
    """Whether a ``forward`` that others call was never seen without an optional argument that it tests.

    Only of a class that ``__all__`` names: it is called from outside as well. ``seen``: expressions that were
    interpreted.
    """
    exported = module.table.get("__all__")
    names = exported.elts if isinstance(exported, ast.List | ast.Tuple) else []
    if info.cls is None or not any(getattr(name, "value", "") == info.cls.name for name in names):
        return False
    optional = {arg.arg for arg, default, _ in info.parameters if getattr(default, "value", "") is None}
    for node in info.nodes:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
            test = node.test
            missing = isinstance(test.ops[0], ast.Is) and getattr(test.comparators[0], "value", "") is None
            first = [part for part in ast.iter_child_nodes(node.body[0]) if isinstance(part, ast.expr)]
            if missing and getattr(test.left, "id", "") in optional and first:
                reached = any(part in seen for part in ast.walk(node.body[0]) if isinstance(part, ast.expr))
                if not reached and test.left in seen:
                    return True
    return False


def entrances(module: ModuleInfo) -> Iterator[tuple[ClassInfo, FunctionInfo]]:
    """Public methods that take tensors, of module classes without a ``forward``: they are called instead."""
    every = list(classes(module))
    bases = {base for cls in every for base in cls.mro[1:] if isinstance(base, ClassInfo)}
    for cls in every:
        if not cls.is_module or cls in bases or cls.find("forward") is not None or cls.find("__call__"):
            continue
        if any(base.startswith("torch.nn.") and base != "torch.nn.Module" for base in _outside(cls)):
            continue
        for name, item in cls.own.items():
            if isinstance(item, FunctionInfo) and not name.startswith("_") and _takes_tensor(item):
                yield cls, item


_HOOKS = frozenset({"register_forward_hook", "register_forward_pre_hook"})


def hooks(module: ModuleInfo) -> Iterator[tuple[ClassInfo, FunctionInfo]]:
    """Functions that the methods of a file's modules register to run with a ``forward``, with the module."""
    if b"register_forward_" not in module.source.data:
        return
    for cls in classes(module):
        for item in cls.own.values() if cls.is_module else ():
            for node in item.nodes if isinstance(item, FunctionInfo) else ():
                named = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
                if named and node.func.attr in _HOOKS:
                    found = _hook(module, cls, item, node.args[0])
                    if found is not None:
                        yield cls, found


def _hook(module: ModuleInfo, cls: ClassInfo, method: FunctionInfo, given: ast.expr) -> FunctionInfo | None:
    """The function that is registered: a method, one of the file or nested in the method, or a lambda."""
    if isinstance(given, ast.Lambda):
        statement = module.parents[given]
        while not isinstance(statement, ast.stmt):
            statement = module.parents[statement]
        return FunctionInfo(given, module, f"{method.qualname}.<lambda>", statement=statement)
    if isinstance(given, ast.Attribute) and isinstance(given.value, ast.Name) and given.value.id == "self":
        bound = cls.find(given.attr)
        found = bound[1] if bound is not None else None
        return found if isinstance(found, FunctionInfo) and found.module is module else None
    if not isinstance(given, ast.Name):
        return None
    for node in method.nodes:
        if isinstance(node, ast.FunctionDef) and node.name == given.id:
            return FunctionInfo(node, module, f"{method.qualname}.{node.name}")
    known = module.lookup(given.id)
    return known if isinstance(known, FunctionInfo) and known.module is module else None


def _outside(cls: ClassInfo) -> list[str]:
    return [base for base in cls.mro if isinstance(base, str)]


def _takes_tensor(info: FunctionInfo) -> bool:
    if info.decorators & {"staticmethod", "classmethod", "property"}:
        return False
    args = info.node.args
    return any(
        arg.annotation is not None and last_name(arg.annotation) in TENSOR_CLASSES
        for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)
    )


def _constructed(module: ModuleInfo) -> frozenset[str]:
    """Names of classes that the bodies of other classes mention."""
    names: set[str] = set()
    for cls in classes(module):
        methods = {item.node: item for item in cls.own.values() if isinstance(item, FunctionInfo)}
        for stmt in cls.node.body:
            method = methods.get(stmt) if isinstance(stmt, ast.FunctionDef) else None
            nodes = method.nodes if method is not None else walk(stmt)
            tested = {id(n) for call in nodes if _tests_class(call) for n in walk(call)}
            names.update(
                n.id for n in nodes if n.__class__ is ast.Name and n.id != cls.name and id(n) not in tested
            )
    return frozenset(names)


def _tests_class(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"
