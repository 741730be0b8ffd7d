"""Names, attributes, classes and instances of the code base."""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from refactor.analysis import deferred
from refactor.analysis.annotations import from_annotation
from refactor.analysis.domain import (
    BOOL,
    DEVICE_TENSOR,
    HOST,
    INT,
    NO_VALUE,
    NONE,
    OPAQUE,
    TAINTED,
    Cls,
    Dict,
    Ext,
    ExtObj,
    Fn,
    Host,
    Method,
    Obj,
    Opaque,
    PyModule,
    Readback,
    Seq,
    Tensor,
    Val,
    is_tainted,
    join,
    replace,
)
from refactor.analysis.environment import Env
from refactor.analysis.model import Device
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo
from refactor.analysis.torchops import CONTAINER_MODULES, DTYPES, HOST_ATTRIBUTES, TENSOR_METHODS, names

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_BUILTINS = frozenset(dir(builtins))
DISTRIBUTION_TENSORS = names("mean mode variance stddev probs logits loc scale rate concentration")
"""Attributes of a distribution that are tensors."""
TORCH_PARAMETERS = {
    "weight": None, "bias": 1, "running_mean": 1, "running_var": 1, "in_proj_weight": 2, "in_proj_bias": 1,
}  # fmt: skip
"""Tensors of torch's modules and their ranks; None: it depends on the class."""
_RESULT_FIELDS = names(
    """
    solution residuals eigenvalues eigenvectors Q R U S Vh L LU pivots sign logabsdet mantissa exponent
    """
)
"""Fields of what several operations of ``torch.linalg`` return."""
INIT_DEPTH = 16
"""Depth at which constructors start, wherever they are needed first: what they give must not depend on it."""


@dataclass(eq=False)
class Attributes:
    """What interpreting the constructor of a class leaves on its instances."""

    values: dict[str, Any] = field(default_factory=dict)
    """Values, or `Deferred` ones."""
    buffers: set[str] = field(default_factory=set)


_NO_ATTRIBUTES = Attributes()


def builtin(name: str) -> Val:
    """A builtin, or something unknown."""
    return Ext(f"builtins.{name}") if name in _BUILTINS else OPAQUE


def as_value(it: Interpreter, found: Any) -> Val | None:
    """The value of what `ModuleInfo.lookup` found."""
    if found is None:
        return None
    if isinstance(found, FunctionInfo):
        return Fn((found,))
    if isinstance(found, ClassInfo):
        return Cls((found,))
    if isinstance(found, ModuleInfo):
        return PyModule(found)
    if isinstance(found, str):
        return external(found)
    module, expr = found
    frame = it.module_frame(module)
    return it.evaluate(frame, expr)


def external(name: str) -> Val:
    """A name from outside the code base; dtypes and constants of torch have values."""
    scope, _, leaf = name.rpartition(".")
    if scope == "torch" and leaf in DTYPES:
        return Host("dtype", owner=DTYPES[leaf])
    if scope in ("math", "numpy", "torch") and leaf in ("pi", "inf", "e", "nan", "tau"):
        return Host("float")
    if scope in ("numpy", "torch") and leaf == "newaxis":
        return NONE
    return Ext(name)


def attribute(it: Interpreter, frame: Frame, owner: Val, name: str) -> Val:
    """The value of ``owner.name``."""
    if isinstance(owner, Obj):
        return _object_attribute(it, frame, owner, name)
    if isinstance(owner, Tensor):
        return _tensor_attribute(owner, name)
    if isinstance(owner, Ext):
        return external(f"{owner.name}.{name}")
    if isinstance(owner, PyModule):
        return it.global_value(owner.info, name) or _submodule(it, owner.info, name)
    if isinstance(owner, Cls):
        return _class_attribute(it, frame, owner, name)
    if isinstance(owner, ExtObj):
        return _external_attribute(owner, name)
    if isinstance(owner, Seq) and (result := _named_result(owner, name)) is not None:
        return result
    if isinstance(owner, Host | Seq | Dict | Readback):
        return _host_attribute(owner, name)
    if isinstance(owner, Opaque):
        if owner.tainted and name in HOST_ATTRIBUTES:
            return Host(HOST_ATTRIBUTES[name], device=Device.DEVICE)
        if name in ("shape", "ndim"):
            return Host(HOST_ATTRIBUTES[name])  # of arrays and tensors alike
        return Method(owner, name)
    if isinstance(owner, Method) and owner.bound == TAINTED:
        return attribute(it, frame, TAINTED, name)  # batch.graph.x: the inner one was an attribute
    return Method(owner, name)


def _named_result(owner: Seq, name: str) -> Val | None:
    """``x.topk(2).indices``, ``x.max(-1).values``."""
    if name in _RESULT_FIELDS and isinstance(owner.element, Tensor):
        return owner.element
    pair = owner.items if owner.items is not None and len(owner.items) == 2 else ()
    if name not in ("values", "indices") or not pair or not all(isinstance(v, Tensor) for v in pair):
        return None
    return pair[name == "indices"]


def _submodule(it: Interpreter, info: ModuleInfo, name: str) -> Val:
    found = it.project.module(f"{info.name}.{name}", info)
    return PyModule(found) if found is not None else OPAQUE


def _tensor_attribute(owner: Tensor, name: str) -> Val:
    if name == "is_cuda" and owner.device is not Device.UNKNOWN:
        return Host("bool", owner.device is Device.DEVICE)
    if name in ("is_mps", "is_xpu"):
        return Host("bool", False)
    if name in HOST_ATTRIBUTES:
        return Host(
            HOST_ATTRIBUTES[name], device=owner.device, owner=owner.dtype if name == "dtype" else None
        )
    if name in ("T", "mT", "data", "real", "imag", "H", "mH"):
        return owner
    if name == "grad":
        return Tensor(owner.device, "float", owner.rank, optional=True)
    return Method(owner, name)


def _host_attribute(owner: Val, name: str) -> Val:
    if isinstance(owner, Host) and owner.type in (None, "object"):
        return HOST  # configuration: config.hidden_size
    if isinstance(owner, Host) and owner.type == "device" and name in ("type", "index"):
        if owner.device is Device.DEVICE and name == "type":
            return Host("str", "cuda")
        return Host("str", owner="device type") if name == "type" else INT
    return Method(owner, name)


def _external_attribute(owner: ExtObj, name: str) -> Val:
    if owner.name.startswith("torch.nn.") and name in TORCH_PARAMETERS:
        return Tensor(Device.DEVICE, "float", TORCH_PARAMETERS[name])
    if owner.made is not None and name in DISTRIBUTION_TENSORS:
        return owner.made
    if name == "training":
        return BOOL
    return Method(owner, name)


def _class_attribute(it: Interpreter, frame: Frame, owner: Cls, name: str) -> Val:
    found = owner.classes[0].find(name)
    if found is None:
        return Method(owner, name)
    base, item = found
    if isinstance(item, FunctionInfo):
        return Fn((item,), owner if "classmethod" in item.decorators else None)
    if isinstance(item, ClassInfo):
        return Cls((item,))
    return it.evaluate(it.module_frame(base.module), item)


def _object_attribute(it: Interpreter, frame: Frame, owner: Obj, name: str) -> Val:
    for field_name, value in owner.fields:
        if field_name == name:
            return value
    result: Val | None = None
    for cls in owner.classes[:8]:
        value = _instance_attribute(it, frame, owner, cls, name)
        if isinstance(value, Method) and len(owner.classes) > 1:
            continue  # this class has no such attribute: asked for it, the instance is one of the others
        result = value if result is None else join(result, value)
    return result if result is not None else Method(owner, name)


def _instance_attribute(it: Interpreter, frame: Frame, owner: Obj, cls: ClassInfo, name: str) -> Val:
    if cls.given is not None:
        given: Val | None = cls.given.get(name)
        return given if given is not None else _unknown_attribute(owner, cls, name)
    found = cls.find(name)
    bound: Val = owner if len(owner.classes) == 1 else Obj((cls,), owner.fields)
    if found is not None and isinstance(found[1], FunctionInfo):
        known = overrides(cls, name)
        if known is not None and not found[1].decorators & {"property", "staticmethod", "classmethod"}:
            return _object_attribute(it, frame, Obj(known.classes), name)
        return _method(it, frame, found[1], bound)
    known_values = attributes(it, cls).values
    if name in known_values or (cls, name) in it.overlay:
        later = it.overlay.get((cls, name))
        first = deferred.settled(it, known_values.get(name))
        kept = isinstance(first, Host) and first.value is not NO_VALUE
        if kept and isinstance(first, Host) and (name in cls.reassigned or cls.rewrites_itself):
            # Another call may have left another value.
            first = Host(first.type) if first.type != "none" else OPAQUE
        return join(first, later) if later is not None else first or OPAQUE
    if found is not None:
        base, item = found
        if isinstance(item, ClassInfo):
            return Cls((item,))
        value = it.evaluate(it.module_frame(base.module), item)
        annotation = base.annotations.get(name)
        if value == NONE and annotation is not None:
            return join(from_annotation(it, base.module, annotation), NONE)
        return Host(value.type) if isinstance(value, Host) and annotation is not None else value
    for parent in cls.mro:
        if isinstance(parent, ClassInfo) and name in parent.annotations:
            return from_annotation(it, parent.module, parent.annotations[name]) or OPAQUE
    return _unknown_attribute(owner, cls, name)


def _unknown_attribute(owner: Obj, cls: ClassInfo, name: str) -> Val:
    if cls.is_module:
        if name == "training":
            return BOOL
        if name == "device":
            return Host("device", device=Device.DEVICE)
        if name == "dtype":
            return Host("dtype", owner="float")
        if name in ("config", "cfg", "args", "hparams", "opt", "options"):
            return HOST
        if name in TORCH_PARAMETERS and any(b.startswith("torch.nn.") for b in cls.mro if isinstance(b, str)):
            return Tensor(Device.DEVICE, "float", TORCH_PARAMETERS[name])
    return Method(owner, name)


def _method(it: Interpreter, frame: Frame, info: FunctionInfo, bound: Val) -> Val:
    if info.decorators & {"property", "cached_property"}:
        return it.call_function(frame, info, [bound], {})
    if "staticmethod" in info.decorators:
        return Fn((info,))
    if "classmethod" in info.decorators:
        return Fn((info,), Cls(bound.classes) if isinstance(bound, Obj) else bound)
    return Fn((info,), bound)


def attributes(it: Interpreter, cls: ClassInfo) -> Attributes:
    """What its ``__init__`` leaves on an instance, with arguments as their annotations say."""
    found = cls.find("__init__")
    if found is None or not isinstance(found[1], FunctionInfo):
        return _NO_ATTRIBUTES
    known: Attributes | None = it.ask(("class", cls), cls.module, lambda: _initialised(it, cls, found[1]))
    return known if known is not None else it.partial.get(cls, _NO_ATTRIBUTES)


def _initialised(it: Interpreter, cls: ClassInfo, info: FunctionInfo) -> Attributes:
    from refactor.analysis.interpreter import Frame as NewFrame

    outer = it.partial.get(cls)
    made = it.partial[cls] = Attributes()
    env = _constructor_environment(it, info, Obj((cls,)))
    it.run(NewFrame(info.module, info, Env(env), depth=INIT_DEPTH, init_of=cls, parent=info.closure))
    if outer is None:
        del it.partial[cls]
    else:
        it.partial[cls] = outer
    return made


def items_of(it: Interpreter, cls: ClassInfo) -> Val | None:
    """The modules that a subclass of ``nn.Sequential`` or ``nn.ModuleList`` hands to its base class."""
    if not any(base in ("torch.nn.Sequential", "torch.nn.ModuleList") for base in cls.mro):
        return None
    items: Val | None = attributes(it, cls).values.get("*items")
    return items


def set_items(it: Interpreter, frame: Frame, cls: ClassInfo, items: Val) -> None:
    """``super().__init__(*modules)`` in the constructor of such a class."""
    if frame.init_of is cls and cls in it.partial:
        it.partial[cls].values["*items"] = items


def _constructor_environment(it: Interpreter, info: FunctionInfo, bound: Val) -> dict[str, Val]:
    from refactor.analysis.binding import bind_region

    env = bind_region(it, info, bound)
    spec = info.node.args
    for arg in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs):
        value = env.get(arg.arg)
        if value is not bound and (
            isinstance(value, Opaque) or (isinstance(value, Tensor) and not arg.annotation)
        ):
            # A constructor's arguments are configuration, modules or classes, unless it says otherwise.
            env[arg.arg] = HOST
        elif isinstance(value, Tensor) and isinstance(bound, Obj) and bound.classes[0].is_module:
            # A module is made on the host and moved later: what it does not register stays there.
            env[arg.arg] = replace(value, device=Device.HOST)
    return env


def set_attribute(it: Interpreter, frame: Frame, owner: Obj, name: str, value: Val) -> None:
    """``owner.name = value``: joined with what other places assign."""
    if owner.fields and name in dict(owner.fields):
        return
    for cls in owner.classes:
        if cls in it.building and frame.init_of is not cls:
            continue
        if isinstance(value, Method):
            value = OPAQUE
        own = it.partial.get(cls) if frame.init_of is cls else None
        known = own or attributes(it, cls)
        if cls.is_module and isinstance(value, Tensor) and name in known.buffers:
            value = Tensor(Device.DEVICE, value.dtype, value.rank)
        # What methods assign holds for the analysis of one file only: results must not depend on others.
        table: dict[Any, Any] = it.overlay if own is None else own.values
        key: Any = (cls, name) if own is None else name
        old = table.get(key)
        table[key] = deferred.joined(old, value)


def register_buffer(it: Interpreter, frame: Frame, owner: Obj, name: str, value: Val) -> None:
    """``self.register_buffer(name, value)``: it moves with the module."""
    if isinstance(value, Tensor):
        made: Val = Tensor(Device.DEVICE, value.dtype, value.rank, value.optional)
    else:
        made = join(DEVICE_TENSOR, NONE) if value == NONE else DEVICE_TENSOR
    for cls in owner.classes:
        own = it.partial.get(cls) if frame.init_of is cls else None
        if own is None:
            it.overlay[cls, name] = made
        else:
            own.buffers.add(name)
            own.values[name] = made


def takes_tensor(it: Interpreter, owner: Obj, name: str) -> bool:
    """Whether ``owner.name`` is a module of torch that is called with a tensor."""
    frame = it.module_frame(owner.classes[0].module)
    value = attribute(it, frame, owner, name)
    if isinstance(value, ExtObj):
        return value.name.startswith("torch.nn.") and value.name not in CONTAINER_MODULES
    return False


def construct(it: Interpreter, frame: Frame, cls: Cls, args: list[Val], keywords: dict[str, Val]) -> Val:
    """An instance of a class: fields of a dataclass or output class are those given."""
    info = cls.classes[0]
    if any(
        isinstance(base, str) and base.rsplit(".", 1)[-1] in ("Enum", "IntEnum", "StrEnum")
        for base in info.mro
    ):
        return HOST
    if "torch.Tensor" in info.mro:
        return Tensor(Device.DEVICE if any(map(is_tainted, args)) else Device.UNKNOWN)
    if info.find("__init__") is None and not info.is_module and len(cls.classes) == 1:
        names = [
            name for base in reversed(info.mro) if isinstance(base, ClassInfo) for name in base.annotations
        ]
        ordered = list(dict.fromkeys(names))
        fields = {**dict(zip(ordered, args, strict=False)), **keywords}
        kept = tuple((k, v) for k, v in fields.items() if k in ordered or not ordered)
        return Obj(cls.classes, kept)
    if frame.emit and not info.is_module and len(cls.classes) == 1:
        _built_inside(it, frame, info, args, keywords)
    return Obj(cls.classes)


def _built_inside(
    it: Interpreter, frame: Frame, cls: ClassInfo, args: list[Val], keywords: dict[str, Val]
) -> None:
    """A region that makes an object runs its constructor: what happens there counts, attributes stay."""
    found = cls.find("__init__")
    if found is None or not isinstance(found[1], FunctionInfo) or cls in it.building or cls.generated:
        return
    it.building.add(cls)
    it.call_function(frame, found[1], [Obj((cls,)), *args], keywords)
    it.building.discard(cls)


def invoke(
    it: Interpreter,
    frame: Frame,
    function: Fn,
    args: list[Val],
    keywords: dict[str, Val],
    open_keywords: bool = False,
) -> Val:
    """Call one of some functions; the results join."""
    result: Val | None = None
    full = dict(function.keywords) | keywords
    for target in function.targets:
        values = list(args)
        if function.bound is not None:
            values.insert(0, _narrowed(function.bound, target))
        value = None
        if len(function.targets) > 1:
            value = it.standins.call(frame, target, values, full, open_keywords)
        if value is None:
            value = it.call_function(frame, target, values, full, open_keywords)
        result = value if result is None else join(result, value)
    if isinstance(result, Tensor) and result.hosted and len(function.targets) > 1:
        return replace(result, hosted=False)  # which function is called need not be a matter of paths
    return result if result is not None else OPAQUE


def _narrowed(bound: Val, target: FunctionInfo) -> Val:
    """The instances among those bound that define this very method."""
    if not isinstance(bound, Obj) or len(bound.classes) < 2 or isinstance(target.node, ast.Lambda):
        return bound
    name = target.node.name
    kept = tuple(cls for cls in bound.classes if (found := cls.find(name)) is not None and found[1] is target)
    return Obj(kept, bound.fields) if kept else bound


def overrides(cls: ClassInfo, name: str) -> Cls | None:
    """The classes of the same file that define a method which this one only declares."""
    found = cls.find(name)
    if found is None or not isinstance(found[1], FunctionInfo) or not is_abstract(found[1]):
        return None
    others = tuple(
        other
        for other in cls.module.table.values()
        if isinstance(other, ClassInfo) and name in other.own and other is not cls and cls in other.mro
    )
    return Cls(others[:12]) if others else None


def is_abstract(info: FunctionInfo) -> bool:
    """A method without a body of its own, or one that only raises ``NotImplementedError``."""
    if "abstractmethod" in info.decorators:
        return True
    body = [
        stmt
        for stmt in getattr(info.node, "body", ())
        if not (isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Constant))
    ]
    if not body:
        return True
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplemented" in ast.dump(body[0])


def call_object(
    it: Interpreter, frame: Frame, owner: Obj, args: list[Val], keywords: dict[str, Val], open_keywords: bool
) -> Val:
    """Call an instance: ``forward`` of a module, else ``__call__``."""
    result: Val | None = None
    for cls in owner.classes[:4]:
        found = cls.find("__call__") or (cls.find("forward") if cls.is_module else None)
        if found is None or not isinstance(found[1], FunctionInfo):
            value: Val = TAINTED if any(map(is_tainted, (*args, *keywords.values()))) else OPAQUE
        else:
            bound = Obj((cls,), owner.fields)
            value = it.call_function(frame, found[1], [bound, *args], keywords, open_keywords)
        result = value if result is None else join(result, value)
    return result if result is not None else OPAQUE


def promote(value: Val, name: str) -> Val:
    """An unknown value computed from tensors whose tensor method is called is a tensor."""
    if isinstance(value, Opaque) and value.tainted and name in TENSOR_METHODS:
        return DEVICE_TENSOR
    return value
