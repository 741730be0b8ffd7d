"""Abstract values of the interpreter and how two of them join where control flow meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from refactor.analysis.model import UNKNOWN, Device, Kind, Value

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo

    _T = TypeVar("_T")

    @dataclass_transform(frozen_default=True)
    def value(cls: type[_T]) -> type[_T]:
        """A frozen dataclass."""

else:
    # Frozen for the type checker alone: making a frozen dataclass takes three times as long, and most of what
    # an interpretation makes are these.
    value = dataclass(slots=True, unsafe_hash=True)

NO_VALUE: Any = type("NoValue", (), {"__repr__": lambda self: "?"})()
_MANY = 16


@value
class Tensor:
    """A tensor; ``optional`` says it may be None instead.

    ``dtype`` is a family: "bool", "int", "float", or "number" for one of the last two.
    """

    device: Device = Device.UNKNOWN
    dtype: str | None = None
    rank: int | None = None
    optional: bool = False
    maybe: bool = False  # on some path it is a host value instead
    shape: tuple[int | str | None, ...] | None = None
    hosted: bool = False  # of unknown device: on some path the code made it on the host


@value
class Host:
    """A host value fixed by shapes, configuration or constants."""

    type: str | None = None  # "int", "float", "bool", "str", "none", "device", "dtype", "shape" …
    value: Any = NO_VALUE  # a literal
    device: Device = Device.UNKNOWN  # of a "device", or of the tensor a "shape" belongs to
    literal: bool = False
    owner: str | None = None  # of a "dtype": its family; of a "size": its symbolic name
    optional: bool = False  # it may be None instead


@value
class Readback:
    """A host value that was read back from the device."""

    type: str | None = None


@value
class Seq:
    """A list, tuple, set or module list: ``items`` where each is known, else what all have in common.

    ``prefix`` are the first items of a sequence whose length is not known.
    """

    type: str = "list"
    items: tuple[Val, ...] | None = None
    element: Val | None = None
    prefix: tuple[Val, ...] = ()


@value
class Dict:
    """A dict with the values of its literal keys, and what all values have in common."""

    entries: tuple[tuple[Any, Val], ...] = ()
    element: Val | None = None
    open: bool = False  # it may have more keys

    def get(self, key: Any) -> Val | None:
        """The value of a literal key."""
        for name, value in self.entries:
            if name == key and type(name) is type(key):
                return value
        return None


@value
class Obj:
    """An instance of one of some classes of the code base; ``fields`` are those given at its construction."""

    classes: tuple[ClassInfo, ...]
    fields: tuple[tuple[str, Val], ...] = ()


@value
class ExtObj:
    """An instance of a class from outside the code base, by its dotted name."""

    name: str
    items: tuple[Val, ...] | None = None  # of torch.nn.Sequential
    made: Val | None = None  # of a distribution: the tensors that it gives
    checked: bool = False  # of a distribution: it looks at the values it is given


@value
class Fn:
    """One of some functions of the code base, perhaps bound to an instance."""

    targets: tuple[FunctionInfo, ...]
    bound: Val | None = None
    keywords: tuple[tuple[str, Val], ...] = ()  # of functools.partial


@value
class Cls:
    """One of some classes of the code base."""

    classes: tuple[ClassInfo, ...]


@value
class Ext:
    """A module, class, function or constant from outside the code base, by its dotted name."""

    name: str


@value
class Method:
    """A method of a value that is no instance of a class of the code base: ``x.mean``."""

    bound: Val
    name: str


@value
class PyModule:
    """A module of the code base."""

    info: ModuleInfo


@value
class Opaque:
    """Nothing is known; ``tainted``: it was computed from device tensors."""

    tainted: bool = False


Val = (
    Tensor | Host | Readback | Seq | Dict | Obj | ExtObj | Fn | Cls | Ext | Method | PyModule | Opaque
)  # fmt: skip
OPAQUE = Opaque()
TAINTED = Opaque(True)
NONE = Host("none", None, literal=True)
HOST = Host()
INT = Host("int")
BOOL = Host("bool")
DEVICE_TENSOR = Tensor(Device.DEVICE)
HOST_TENSOR = Tensor(Device.HOST)


_V = TypeVar("_V", bound=Val)


def replace(value: _V, **changes: Any) -> _V:
    """The value with other fields; ``dataclasses.replace`` looks at the fields' definitions each time."""
    cls: Any = value.__class__
    made: _V = cls(**{name: getattr(value, name) for name in cls.__slots__} | changes)
    return made


def join_device(a: Device, b: Device) -> Device:
    """Where control flow meets: known only if both agree."""
    return a if a is b else Device.UNKNOWN


def join(a: Val | None, b: Val | None) -> Val:
    """What is known of a value that is one of two."""
    if a is None or b is None:
        return a if a is not None else b if b is not None else OPAQUE
    if a is b or a == b:
        return a
    if isinstance(b, Tensor) and not isinstance(a, Tensor):
        a, b = b, a
    if isinstance(a, Tensor):
        return _join_tensor(a, b)
    if isinstance(a, Host) and isinstance(b, Host):
        return _join_host(a, b)
    if a == NONE:
        return b
    if b == NONE:
        return a
    if isinstance(a, Seq) and isinstance(b, Seq):
        return _join_seq(a, b)
    return _join_objects(a, b)


def _join_tensor(a: Tensor, b: Val) -> Val:
    if isinstance(b, Tensor):
        return Tensor(
            join_device(a.device, b.device),
            a.dtype if a.dtype == b.dtype else None,
            a.rank if a.rank == b.rank else None,
            a.optional or b.optional,
            a.maybe or b.maybe,
            a.shape if a.shape == b.shape else None,
            a.device is not b.device and (is_hosted(a) or is_hosted(b)),
        )
    if b == NONE:
        return a if a.optional else replace(a, optional=True)
    if isinstance(b, Host | Readback):
        return replace(a, maybe=True)
    if isinstance(b, Opaque):
        return replace(a, maybe=True, rank=None, dtype=None)
    return TAINTED


def is_hosted(value: Tensor) -> bool:
    """Whether on some path the tensor was made on the host."""
    return value.device is Device.HOST or value.hosted


def _join_host(a: Host, b: Host) -> Host:
    none = a.type == "none" or b.type == "none" or a.optional or b.optional
    if a.type == "none" or b.type == "none":
        other = b if a.type == "none" else a
        return Host(other.type, NO_VALUE, other.device, owner=other.owner, optional=True)
    same = a.type == b.type and a.value is not NO_VALUE and a.value == b.value
    return Host(
        a.type if a.type == b.type else None,
        a.value if same else NO_VALUE,
        join_device(a.device, b.device),
        owner=a.owner if a.owner == b.owner else None,
        optional=none,
    )


def _join_seq(a: Seq, b: Seq) -> Val:
    kind = a.type if a.type == b.type else "list"
    if a.items is not None and b.items is not None and len(a.items) == len(b.items):
        return Seq(kind, tuple(join(x, y) for x, y in zip(a.items, b.items, strict=True)))
    prefix = tuple(join(x, y) for x, y in zip(known_items(a), known_items(b), strict=False))
    return Seq(kind, None, join(element(a), element(b)) if element(a) or element(b) else None, prefix)


def known_items(value: Seq) -> tuple[Val, ...]:
    """The items of a sequence from its start on, as far as they are known."""
    return value.items if value.items is not None else value.prefix


def _join_objects(a: Val, b: Val) -> Val:
    if isinstance(a, Obj) and isinstance(b, Obj):
        return Obj(_union(a.classes, b.classes)) if len(a.classes) + len(b.classes) <= _MANY else OPAQUE
    if isinstance(a, Fn) and isinstance(b, Fn) and a.bound == b.bound:
        return Fn(_union(a.targets, b.targets)[:_MANY], a.bound)
    if isinstance(a, Cls) and isinstance(b, Cls):
        return Cls(_union(a.classes, b.classes)[:_MANY])
    if isinstance(a, Dict) and isinstance(b, Dict):
        keys = [*(k for k, _ in a.entries), *(k for k, _ in b.entries if a.get(k) is None)]
        entries = tuple((k, join(a.get(k), b.get(k))) for k in keys)
        return Dict(entries, join(a.element, b.element) if a.element or b.element else None, True)
    if isinstance(a, Readback) and isinstance(b, Host | Readback):
        return a
    if isinstance(b, Readback) and isinstance(a, Host):
        return b
    if isinstance(a, Fn) and isinstance(b, Fn) and isinstance(a.bound, Obj) and isinstance(b.bound, Obj):
        owners = Obj(_union(a.bound.classes, b.bound.classes)[:_MANY])
        return Fn(_union(a.targets, b.targets)[:_MANY], owners)
    # An annotation that says no more than "a module" adds nothing to what is known.
    for known, other in ((a, b), (b, a)):
        if (
            isinstance(other, ExtObj)
            and other.name == "torch.nn.Module"
            and isinstance(known, Obj | ExtObj | Seq)
        ):
            return known
    # A module made in the code or given by the caller, a helper or None: keep what can be followed.
    for known, other in ((a, b), (b, a)):
        followed = isinstance(known, Obj | Fn | Cls | ExtObj)
        if (
            followed
            and isinstance(other, Host | Opaque)
            and not (isinstance(other, Opaque) and other.tainted)
        ):
            return known
    return TAINTED if is_tainted(a) or is_tainted(b) else OPAQUE


def _union(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*a, *(item for item in b if item not in a))


def element(value: Val | None) -> Val | None:
    """What the elements of a sequence have in common."""
    if not isinstance(value, Seq):
        return None
    found = value.element
    for item in known_items(value):
        found = item if found is None else join(found, item)
    return found


def is_tainted(value: Val | None) -> bool:
    """Whether a value was computed from device tensors, as far as known."""
    if isinstance(value, Tensor):
        return value.device is not Device.HOST
    if isinstance(value, Opaque):
        return value.tainted
    if isinstance(value, Seq):
        return is_tainted(element(value))
    if isinstance(value, Dict):
        return is_tainted(value.element) or any(is_tainted(v) for _, v in value.entries)
    if isinstance(value, Obj):
        return any(is_tainted(v) for _, v in value.fields)
    if isinstance(value, Method):
        return value.bound == TAINTED  # an attribute of something unknown that came from the device
    return isinstance(value, Readback)


def plain(value: Val) -> Val:
    """The value when it is handed on: an attribute of something unknown is unknown itself."""
    return TAINTED if isinstance(value, Method) and value.bound == TAINTED else value


def spread(value: Val | None) -> tuple[Val, ...]:
    """The items of a sequence, or what they have in common where they are not known; else the value."""
    if not isinstance(value, Seq):
        return (value,) if value is not None else ()
    if value.items is not None:
        return value.items
    common = element(value)
    return (common,) if common is not None else ()


def mentions(value: Val | None, what: ModuleInfo | ClassInfo | None) -> bool:
    """Whether a value holds a class, or a class or function of a module, or a function inside another."""
    if isinstance(value, Tensor | Host | Opaque | Ext | Readback):
        return False
    if isinstance(value, Obj | Cls):
        if any(cls is what or cls.module is what for cls in value.classes):
            return True
        return isinstance(value, Obj) and any(mentions(v, what) for _, v in value.fields)
    if isinstance(value, Seq):
        return mentions(value.element, what) or any(mentions(v, what) for v in value.items or ())
    if isinstance(value, Dict):
        return mentions(value.element, what) or any(mentions(v, what) for _, v in value.entries)
    if isinstance(value, Fn):
        return (
            any(t.module is what or t.closure is not None for t in value.targets)
            or mentions(value.bound, what)
            or any(mentions(v, what) for _, v in value.keywords)
        )
    if isinstance(value, Method):
        return mentions(value.bound, what)
    if isinstance(value, ExtObj):
        return any(mentions(v, what) for v in value.items or ())
    return isinstance(value, PyModule) and value.info is what


def widen(value: Val) -> Val:
    """The value without literals, ranks and lengths, so that few contexts are left."""
    if isinstance(value, Host) and value.type != "none":
        return Host(value.type, device=value.device, owner=value.owner, optional=value.optional)
    if isinstance(value, Tensor):
        return Tensor(value.device, value.dtype, None, value.optional, value.maybe, hosted=value.hosted)
    if isinstance(value, Seq):
        inner = element(value)
        return Seq(value.type, None, widen(inner) if inner is not None else None)
    if isinstance(value, Obj):
        return Obj(value.classes)
    return value


def on_device(value: Val | None) -> bool:
    """A tensor that may live on the device: reading it makes the host wait."""
    return isinstance(value, Tensor) and value.device is not Device.HOST


def settled(value: Val | None) -> bool:
    """A tensor on every path."""
    return isinstance(value, Tensor) and not value.maybe


def read_back(value: Val | None) -> bool:
    """A tensor on every path, and one that may live on the device: asking for its value waits for it."""
    return on_device(value) and settled(value)


def truth(value: Val) -> bool | None:
    """The truth of a host value, where it is known."""
    if isinstance(value, Host) and value.value is not NO_VALUE:
        return bool(value.value)
    if isinstance(value, Seq) and value.items is not None and value.type in ("list", "tuple"):
        return bool(value.items)
    if isinstance(value, Fn | Cls | PyModule):
        return True
    return None


def not_none(value: Val) -> Val:
    """The value after a test that it is not None."""
    if isinstance(value, Tensor | Host) and value.optional:
        return replace(value, optional=False)
    return value


def may_be_none(value: Val) -> bool | None:
    """True: it is None; False: it is not; None: not known."""
    if isinstance(value, Host):
        if value.type == "none":
            return True
        return False if value.value is not NO_VALUE and not value.optional else None
    if isinstance(value, Tensor):
        return None if value.optional else False
    # Containers, classes and functions keep no trace of having been joined with None.
    return False if isinstance(value, PyModule | Readback) else None


def public(value: Val) -> Value:
    """The value as rules and rewrites see it."""
    if isinstance(value, Tensor):
        dtype = value.dtype if value.dtype != "number" else None
        return Value(Kind.TENSOR, value.device, dtype, value.rank, value.shape)
    if isinstance(value, Host):
        return Value(Kind.HOST, value.device, constant=value.literal, dtype=value.type)
    if isinstance(value, Readback):
        return Value(Kind.READBACK, Device.HOST, value.type)
    if isinstance(value, Seq):
        if value.type == "modules":
            return Value(Kind.MODULE, qualname="torch.nn:ModuleList")
        items = tuple(public(item) for item in value.items) if value.items is not None else None
        return Value(Kind.CONTAINER, items=items)
    if isinstance(value, Dict):
        return Value(Kind.CONTAINER)
    if isinstance(value, Obj):
        cls = value.classes[0]
        return Value(Kind.MODULE if cls.is_module else Kind.UNKNOWN, qualname=f"{cls.module.name}:{cls.name}")
    if isinstance(value, ExtObj):
        scope, _, name = value.name.rpartition(".")
        kind = Kind.MODULE if value.name.startswith("torch.nn.") else Kind.UNKNOWN
        inner = tuple(public(item) for item in value.items) if value.items is not None else None
        return Value(kind, items=inner, qualname=f"{scope}:{name}")
    if isinstance(value, Fn):
        target = value.targets[0]
        if len(value.targets) > 1 and value.bound is None:
            return Value(Kind.FUNCTION)  # out of a table: which one is decided elsewhere
        return Value(Kind.FUNCTION, qualname=f"{target.module.name}:{target.qualname}")
    if isinstance(value, Ext):
        scope, _, name = value.name.rpartition(".")
        return Value(Kind.FUNCTION, qualname=f"{scope}:{name}")
    return UNKNOWN
