"""Whether padding the batch is invisible: every row of every output comes from the same row of the inputs.

The bodies of the model and of what it calls are read. Only operations that cannot mix rows are known; one
that is not known, or reduces over the batch or over a dimension that may be the batch, means: no padding.
What this leaves open (a transposed batch) the runtime notices when it compares a padded run with an exact
one; what a comparison of values could miss (a maximum over the batch) is excluded here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from refactor.analysis.model import Facts
from refactor.analysis.project import ClassInfo, FunctionInfo, Project
from refactor.rewrite.ops import METADATA, UNARY_FLOAT, UNARY_SAME, names_in, torch_function
from refactor.rewrite.syntax import ancestors, enclosing_function, keyword

_MODULES = names_in(
    """Linear LayerNorm RMSNorm Embedding GELU ReLU ReLU6 LeakyReLU ELU SiLU Mish Softplus Sigmoid Tanh
    Hardswish Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d GroupNorm
    Identity Flatten MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d
    AdaptiveAvgPool2d AdaptiveMaxPool2d Upsample PixelShuffle Sequential ModuleList ModuleDict
    Parameter Module"""
)
_EVAL_MODULES = names_in("Dropout Dropout1d Dropout2d Dropout3d BatchNorm1d BatchNorm2d BatchNorm3d DropPath")
_BATCH_FIRST = names_in("MultiheadAttention TransformerEncoderLayer LSTM GRU RNN")
_ELEMENTWISE = (
    UNARY_FLOAT
    | UNARY_SAME
    | METADATA
    | names_in(
        """add sub mul div pow maximum minimum where masked_fill clamp clip relu gelu silu elu
        leaky_relu softplus mish hardswish hardtanh logsigmoid to float half double bfloat16 int
        long bool type_as contiguous clone detach view reshape permute transpose unsqueeze squeeze
        expand expand_as chunk split unbind size dim ndim linear layer_norm embedding conv1d conv2d
        conv3d interpolate scaled_dot_product_attention matmul bmm zeros ones full arange zeros_like
        ones_like full_like empty_like isnan isinf isfinite logical_and logical_or logical_not eq ne
        lt le gt ge stack numel masked_fill_ relu_ requires_grad_"""
    )
)
_REDUCING = names_in("softmax log_softmax mean sum norm std var logsumexp normalize flatten cat cumsum glu")
"""Their result changes visibly when padding takes part, so a dimension counted from the end is trusted."""
_PICKING = names_in("amax amin max min argmax argmin any all topk sort argsort prod")
"""They may ignore padding in one batch and not in the next."""
_BUILTINS = names_in(
    "len range zip enumerate isinstance tuple list dict int float bool getattr hasattr print super"
)
_PATTERN = "B ..."


def pads_invisibly(facts: Facts, call: ast.Call, derived: frozenset[str]) -> str | None:
    """The ``pad`` pattern that is right for the model called here, or None: a graph for each exact shape.

    ``derived`` are the names that hold parts of the batch.
    """
    if not call.args or call.keywords:
        return None
    if not all(isinstance(arg, ast.Name) and arg.id in derived for arg in call.args):
        return None
    found = _class_of(facts, call)
    if found is None or not _no_hooks(found):
        return None
    return _PATTERN if _Reader(_evaluated(facts, call)).model(found) else None


def _class_of(facts: Facts, call: ast.Call) -> ClassInfo | None:
    """The class of the model, by the annotation or the only assignment of its name."""
    origin = Project(facts.root).add(facts.source, facts.tree)
    function = enclosing_function(facts, call)
    if not isinstance(call.func, ast.Name):
        return None
    name = call.func.id
    scopes: list[ast.AST] = [*([function] if function is not None else []), facts.tree]
    for scope in scopes:
        arguments = [n for n in ast.walk(scope) if isinstance(n, ast.arg) and n.arg == name]
        stores = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id == name and not _loaded(n)]
        if len(arguments) + len(stores) > 1:
            return None
        if arguments and arguments[0].annotation is not None:
            return _as_class(origin.resolve(arguments[0].annotation))
        made = facts.parents.get(stores[0]) if stores else None
        if isinstance(made, ast.Assign) and isinstance(made.value, ast.Call):
            return _as_class(origin.resolve(made.value.func))
        if arguments or stores:
            return None
    return None


def _loaded(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _as_class(found: object) -> ClassInfo | None:
    return found if isinstance(found, ClassInfo) else None


def _evaluated(facts: Facts, call: ast.Call) -> bool:
    """Whether the model is put into evaluation mode in the function around the loop."""
    function = enclosing_function(facts, call)
    wanted = ast.unparse(call.func) + ".eval"
    loops = {n for n in ancestors(facts, call) if isinstance(n, ast.For)}
    scope = function if function is not None else facts.tree
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) == wanted
        for node in ast.walk(scope)
        if not loops & set(ancestors(facts, node))
    )


def _no_hooks(cls: ClassInfo) -> bool:
    return "hook" not in "".join(n.attr for n in ast.walk(cls.node) if isinstance(n, ast.Attribute))


class _Reader:
    """Reads what a model is made of; every class and function once."""

    def __init__(self, evaluated: bool) -> None:
        self.evaluated = evaluated
        self.seen: set[object] = set()

    def model(self, cls: ClassInfo) -> bool:
        """Whether the forward of a class keeps rows apart."""
        if cls in self.seen:
            return True
        self.seen.add(cls)
        bases = [base for base in cls.mro if base is not cls]
        if any(base != "torch.nn.Module" for base in bases):
            return False
        forward, init = cls.own.get("forward"), cls.own.get("__init__")
        if not isinstance(forward, FunctionInfo):
            return False
        made = self.parts(init, cls) if isinstance(init, FunctionInfo) else True
        return made and self.function(forward, cls)

    def parts(self, init: FunctionInfo, cls: ClassInfo) -> bool:
        """Whether everything built in ``__init__`` keeps rows apart."""
        for node in ast.walk(init.node):
            if not isinstance(node, ast.Call):
                continue
            target = init.module.resolve(node.func)
            if isinstance(target, ClassInfo):
                if target.is_module and not self.model(target):
                    return False
            elif (
                isinstance(target, str) and target.startswith("torch.nn.") and not self.layer(target, node)
            ) or (target is None and _may_be_module(node)):
                return False
        return True

    def layer(self, name: str, node: ast.Call) -> bool:
        last = name.rpartition(".")[2]
        if last in _BATCH_FIRST:
            first = keyword(node, "batch_first")
            return self.evaluated and isinstance(first, ast.Constant) and first.value is True
        return (
            last in _MODULES
            or (last in _EVAL_MODULES and self.evaluated)
            or name.startswith("torch.nn.init.")
        )

    def function(self, info: FunctionInfo, cls: ClassInfo | None) -> bool:
        """Whether the calls and subscripts of a body keep rows apart."""
        if info in self.seen:
            return True
        self.seen.add(info)
        for node in ast.walk(info.node):
            if isinstance(node, ast.Call) and not self.call(node, info, cls):
                return False
            if isinstance(node, ast.Subscript) and not _keeps_rows(node):
                return False
            if isinstance(node, ast.Attribute) and node.attr in ("T", "mT", "H", "training", "data"):
                return False
        return True

    def call(self, node: ast.Call, info: FunctionInfo, cls: ClassInfo | None) -> bool:
        """Whether one call keeps rows apart."""
        func = node.func
        if isinstance(func, ast.Name) and func.id in _BUILTINS:
            return True
        target = info.module.resolve(func)
        if isinstance(target, FunctionInfo):
            return self.function(target, None)
        name = torch_function(target) if isinstance(target, str) else None
        if isinstance(target, str) and name is None:
            return target.startswith("math.")
        if name is None and isinstance(func, ast.Attribute) and cls is not None and _is_self(func.value):
            own = cls.own.get(func.attr)
            return self.function(own, cls) if isinstance(own, FunctionInfo) else True
        if name is None and isinstance(func, ast.Attribute) and _is_self(func.value):
            return False
        if name is None and _is_submodule(func):
            return True
        last = name or (func.attr if isinstance(func, ast.Attribute) else "")
        if not last:
            return isinstance(func, ast.Name) and _iterates_modules(info, func.id)
        if last in _ELEMENTWISE:
            return not any(word.arg == "inplace" for word in node.keywords)
        return last in _REDUCING | _PICKING and _dims_spare_rows(node, last, function=name is not None)


def _may_be_module(node: ast.Call) -> bool:
    """A call in ``__init__`` of something unknown whose name looks like a class or a factory of modules."""
    func = node.func
    if isinstance(func, ast.Name):
        return func.id not in _BUILTINS
    return isinstance(func, ast.Attribute) and func.attr[:1].isupper()


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_submodule(func: ast.expr) -> bool:
    """``self.block(x)``, ``self.layers[i](x)``."""
    if isinstance(func, ast.Subscript):
        func = func.value
        return isinstance(func, ast.Attribute) and _is_self(func.value)
    return False


def _iterates_modules(info: FunctionInfo, name: str) -> bool:
    """A loop variable over attributes of the module: ``for layer in self.layers``."""
    for node in ast.walk(info.node):
        if isinstance(node, ast.For) and name in {
            n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)
        }:
            attributes = [
                n for n in ast.walk(node.iter) if isinstance(n, ast.Attribute) and _is_self(n.value)
            ]
            return bool(attributes)
    return False


def _keeps_rows(node: ast.Subscript) -> bool:
    """Indexing that takes all rows: ``x[:, 0]``, ``x[..., -1]``, ``x[:, None]``; also of containers."""
    if isinstance(node.value, ast.Attribute) and (node.value.attr == "shape" or _is_self(node.value.value)):
        return True
    first = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
    if isinstance(first, ast.Slice):
        return first.lower is None and first.upper is None and first.step is None
    if isinstance(first, ast.Constant):
        return first.value is ... or isinstance(first.value, str)
    return False


def _dims(node: ast.Call, function: bool) -> Iterator[ast.expr]:
    position = 1 if function else 0
    dim = keyword(node, "dim") or keyword(node, "axis")
    if dim is None and len(node.args) > position:
        dim = node.args[position]
    if isinstance(dim, ast.Tuple | ast.List):
        yield from dim.elts
    elif dim is not None:
        yield dim


def _dims_spare_rows(node: ast.Call, name: str, *, function: bool) -> bool:
    """Whether a reduction names its dimensions, and none of them can be the batch."""
    if name == "norm" and not keyword(node, "dim"):
        return False
    if name in ("topk", "sort", "argsort") and not keyword(node, "dim"):
        return False
    dims = list(_dims(node, function))
    if name == "normalize" and not dims:
        return True  # over dimension 1
    for dim in dims:
        try:
            value = ast.literal_eval(dim)
        except (ValueError, TypeError, SyntaxError):
            return False
        negative = isinstance(value, int) and value < 0 and name not in _PICKING
        if not (type(value) is int and (value > 0 or negative)):
            return False
    return bool(dims)
