"""Values that annotations promise."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from refactor.analysis.domain import NONE, OPAQUE, Cls, Dict, ExtObj, Host, Obj, Seq, Tensor, Val, join
from refactor.analysis.model import Device
from refactor.analysis.project import ClassInfo, ModuleInfo, last_name
from refactor.analysis.torchops import TENSOR_CLASSES, names

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Interpreter

_SCALARS = {"int": "int", "float": "float", "bool": "bool", "str": "str", "bytes": "str", "complex": "float"}
_SEQUENCES = names(
    """
    List list Sequence Iterable Iterator Set set FrozenSet Collection Generator MutableSequence deque
    """
)
_MAPPINGS = frozenset(
    ["Dict", "dict", "Mapping", "MutableMapping", "OrderedDict", "DefaultDict", "defaultdict"]
)
_JAXTYPING = {
    "Float": "float", "Int": "int", "Bool": "bool", "Num": None, "Integer": "int", "Shaped": None,
    "Real": None, "Float32": "float", "Float16": "float", "BFloat16": "float", "Int64": "int",
    "Int32": "int", "UInt8": "int",
    "Inexact": "float",
}  # fmt: skip
_WRAPPERS = frozenset(["Annotated", "Final", "ClassVar", "Required", "NotRequired", "ReadOnly"])


def from_annotation(it: Interpreter, module: ModuleInfo, node: ast.expr | None, depth: int = 0) -> Val | None:
    """What a value of that annotation is; None: no annotation, `OPAQUE`: it says nothing."""
    if node is None:
        return None
    if depth:
        return _promised(it, module, node, depth)
    known: Val | None = module.promises.get(node)
    if known is None:
        known = module.promises[node] = _promised(it, module, node, 0)
    return known


def _promised(it: Interpreter, module: ModuleInfo, node: ast.expr, depth: int) -> Val:
    if depth > 8:
        return OPAQUE
    if isinstance(node, ast.Constant):
        return _constant(it, module, node.value, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union(it, module, _flatten(node), depth)
    if isinstance(node, ast.Subscript):
        return _subscript(it, module, node, depth)
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(it, module, node, depth)
    return OPAQUE


def _constant(it: Interpreter, module: ModuleInfo, value: object, depth: int) -> Val:
    if value is None:
        return NONE
    if isinstance(value, str):
        try:
            parsed = ast.parse(value.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError):
            return OPAQUE
        return from_annotation(it, module, parsed, depth + 1) or OPAQUE
    return OPAQUE


def _flatten(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_flatten(node.left), *_flatten(node.right)]
    return [node]


def _elements(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _union(it: Interpreter, module: ModuleInfo, members: list[ast.expr], depth: int) -> Val:
    values = [from_annotation(it, module, member, depth + 1) or OPAQUE for member in members]
    none = NONE in values
    rest = [value for value in values if value != NONE]
    if not rest:
        return NONE
    known = rest[0]
    for value in rest[1:]:
        if isinstance(value, Tensor) and isinstance(known, Tensor):
            known = join(known, value)
        elif isinstance(value, Tensor) != isinstance(known, Tensor):
            # A number or a tensor: which one is the caller's choice, so nothing is claimed.
            return OPAQUE
        else:
            known = join(known, value)
    return join(known, NONE) if none and not isinstance(known, Obj) else known


def _subscript(it: Interpreter, module: ModuleInfo, node: ast.Subscript, depth: int) -> Val:
    name = last_name(node.value)
    elements = _elements(node)
    if name == "Optional":
        return _union(it, module, [*elements, ast.Constant(None)], depth)
    if name == "Union":
        return _union(it, module, elements, depth)
    if name in _WRAPPERS:
        return from_annotation(it, module, elements[0], depth + 1) or OPAQUE
    if name in _SEQUENCES:
        inner = from_annotation(it, module, elements[0], depth + 1)
        return Seq("list", None, inner)
    if name in ("Tuple", "tuple"):
        if len(elements) == 2 and isinstance(elements[1], ast.Constant) and elements[1].value is ...:
            return Seq("tuple", None, from_annotation(it, module, elements[0], depth + 1))
        items = tuple(from_annotation(it, module, item, depth + 1) or OPAQUE for item in elements)
        return Seq("tuple", items)
    if name in _MAPPINGS and len(elements) == 2:
        return Dict((), from_annotation(it, module, elements[1], depth + 1), True)
    if name in ("Type", "type"):
        inner = from_annotation(it, module, elements[0], depth + 1)
        return Cls(inner.classes) if isinstance(inner, Obj) else OPAQUE
    if name in _JAXTYPING and last_name(elements[0]) in TENSOR_CLASSES:
        return Tensor(Device.DEVICE, _JAXTYPING[name])
    if name in TENSOR_CLASSES:  # torchtyping: TensorType["batch", 3]
        return Tensor(Device.DEVICE)
    return (
        _named(it, module, node.value, depth) if isinstance(node.value, ast.Name | ast.Attribute) else OPAQUE
    )


def _named(it: Interpreter, module: ModuleInfo, node: ast.expr, depth: int) -> Val:
    name = last_name(node)
    if isinstance(node, ast.Name) and name in _SCALARS:
        return Host(_SCALARS[name])
    if isinstance(node, ast.Name) and name in ("list", "tuple", "set", "List", "Tuple", "Sequence"):
        return Seq("tuple" if name in ("tuple", "Tuple") else "list")
    if name in ("dict", "Dict", "Mapping"):
        return Dict((), None, True)
    found: Any = module.resolve(node)
    if isinstance(found, ClassInfo):
        return Tensor(Device.DEVICE) if "torch.Tensor" in found.mro else Obj((found,))
    if isinstance(found, str):
        scope, _, leaf = found.rpartition(".")
        if leaf in TENSOR_CLASSES and scope.split(".")[0] in ("torch", "jaxtyping", "torchtyping"):
            return Tensor(Device.DEVICE, TENSOR_CLASSES[leaf])
        if found in ("torch.nn.Parameter", "torch.nn.parameter.Parameter"):
            return Tensor(Device.DEVICE, "float")
        if found in ("numpy.ndarray", "numpy.typing.NDArray"):
            return Host("array")
        if found in ("torch.device", "torch.types.Device"):
            return Host("device")
        if found in ("torch.dtype", "torch.Size", "numbers.Number"):
            return Host({"dtype": "dtype", "Size": "shape", "Number": "float"}[leaf])
        return ExtObj(found) if found.startswith(("torch.nn.", "torch.cuda.", "torch.Generator")) else OPAQUE
    if isinstance(node, ast.Name):
        alias = module.lookup(node.id)
        if isinstance(alias, tuple) and isinstance(alias[1], ast.expr):
            scope_module, expr = alias
            if not isinstance(expr, ast.Constant):
                return from_annotation(it, scope_module, expr, depth + 1) or OPAQUE
    if found is None and name in TENSOR_CLASSES and isinstance(node, ast.Name):
        return Tensor(Device.DEVICE, TENSOR_CLASSES[name])
    return OPAQUE
