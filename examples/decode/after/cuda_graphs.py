# Vendored by cudagraph-refactor 0.1.0 (sha256 04753f56368e20325fb4e4cacf2bfb6610eb26b4ee218a6864f15f50e0a72e17). Remove this line to keep changes of your own; `refactor apply` updates the file otherwise.
"""CUDA graphs for PyTorch code that stays ordinary PyTorch code.

``graphed(model)`` and ``@segment`` record what a callable launches, once for each kind of input, and replay
it afterwards; ``scratch`` and ``constant`` keep temporaries and constants out of the hot path. On a CPU,
under autograd, ``torch.compile`` or a function transform, and for anything that cannot be replayed
faithfully, the original code runs instead, and one warning says why.

How a call runs. The arguments make a key (shapes, strides, dtypes, scalars, modes). A key seen for the first
time runs the original code and returns its result; then, with every effect undone afterwards, the code runs
again on private copies: once watched, which finds what it reads and writes, some times more on a side
stream, and once recorded. Later calls copy the inputs in, replay, and copy the outputs out. What the code
reads besides its arguments (parameters, buffers, attributes, closures, optimizers) is watched: a change
means another graph.

One file, although long: it is copied into other projects, which must not get a package with it. To
read it in ten minutes, follow one call: ``_Runner.__call__`` takes the arguments apart and finds a graph,
``_Graph.__call__`` replays it; ``_Runner._first`` and ``_Trial.go`` make one; ``_Watch`` notices what changed
in between.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import inspect
import io
import itertools
import linecache
import math
import operator
import random
import sys
import threading
import traceback
import types
import warnings
import weakref
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

__all__ = ["constant", "graphed", "scratch", "segment"]

_F = TypeVar("_F", bound=Callable[..., Any])
_HOME = "_cuda_graphs"  # the private attribute under which an object keeps its graphs
_FIRST_WARMUP, _LATER_WARMUP = 11, 3  # runs before a capture; the first number is what autograd's hooks need
_MOST_VALUES = 8  # of one scalar or attribute, each with graphs of its own; then eager
_MOST_OBJECTS = 50_000  # looked at in search of state
_SCALARS = frozenset(
    {
        int,
        float,
        bool,
        str,
        bytes,
        complex,
        type(None),
        torch.dtype,
        torch.device,
        torch.layout,
        torch.memory_format,
    }
)
_TENSORS = (Tensor, nn.Parameter)
_active_transform: Callable[[], Any] = getattr(
    getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None
)
_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)  # type: ignore[attr-defined]
_current_stream: Callable[[int], Any] = getattr(
    torch._C, "_cuda_getCurrentRawStream", lambda index: torch.cuda.current_stream(index)
)
_profiling: Callable[[], bool] = getattr(torch._C._autograd, "_profiler_enabled", lambda: False)
_local = threading.local()  # .inline: run nested graphed callables as plain code


class _Eager(Exception):
    """Why a call cannot be served by a graph, in words for the user."""


class _Shared(_Eager):
    """The same, for arguments that share memory with what is written: other arguments need not."""

    def __init__(self) -> None:
        super().__init__("an argument shares memory with something that the code writes")


class _Changing(_Eager):
    """The same, for code that changes host state: true whatever that state is."""


# --------------------------------------------------------------------------------------- public functions


def graphed(
    fn: Any,
    *,
    pad: str | Mapping[Any, Any] | None = None,
    fill: float | Mapping[Any, Any] = 0,
    buckets: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    guard: str | Sequence[str] = (),
    clone: bool = True,
    max_graphs: int = 64,
    max_bytes: int | None = None,
) -> Any:
    """Wrap a module or function so that its calls replay CUDA graphs.

    pad: names the dimensions that vary, ``"B ..."`` for every tensor argument, or a dict from argument name,
        position or nested key to such a string. Named dimensions grow together to the next bucket, ``_`` is
        fixed, ``...`` is the rest. What comes back is cut to the real size. Padding that would change a
        result is noticed by running both; then every exact shape gets its own graph.
    fill: what the padding contains, a number or a dict like ``pad``. Written at every call.
    buckets: sizes to pad to (default: powers of two); a call above the largest, or of size 0, runs eagerly.
    guard: attributes (of the module, or of the instance a function is bound to) that select a graph by value.
    clone: False hands out the graph's own output memory, which the next call overwrites.
    max_graphs, max_bytes: the least recently used graphs are dropped beyond these.

    An argument that is written in place, such as a cache, is used where it is as long as all calls pass the
    same one. The wrapper of a module is kept with the module: the same options give the same wrapper.
    Raises ValueError for a ``pad`` or ``buckets`` that cannot be read, TypeError if ``fn`` cannot be called.
    """
    if not callable(fn):
        raise TypeError(f"graphed() takes a module or a function, not {type(fn).__name__}")
    options = _Options(
        _Padding(pad, fill, buckets) if pad is not None else None,
        (guard,) if isinstance(guard, str) else tuple(guard),
        clone,
        max_graphs,
        max_bytes,
    )
    if isinstance(fn, Graphed):
        fn = fn._cg_runner.fn
    owner, name = (fn.__self__, fn.__name__) if isinstance(fn, types.MethodType) else (fn, "")
    home = _home(owner)
    if home is None:
        return Graphed(_Runner(fn, None if owner is fn else owner, options))
    key = (name, repr((pad, fill, buckets)), options.guard, clone, max_graphs, max_bytes)
    with home.lock:
        wrapper = home.wrappers.get(key)
        if wrapper is None:
            wrapper = home.wrappers[key] = Graphed(_Runner(fn, None if owner is fn else owner, options))
    return wrapper


def segment(method: Any = None, *, guard: str | Sequence[str] = ()) -> Any:
    """Decorate a method whose device work becomes one graph for each kind of input and each instance."""
    if method is None:
        return functools.partial(segment, guard=guard)
    options = _Options(None, (guard,) if isinstance(guard, str) else tuple(guard), True, 64, None)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return method(self, *args, **kwargs)
        home = self.__dict__.get(_HOME) if hasattr(self, "__dict__") else None
        runner = home.runners.get(call) if type(home) is _Home else None
        if runner is None or runner.owner is not self:
            home = _home(self)
            if home is None:
                return method(self, *args, **kwargs)
            with home.lock:
                runner = home.runners.setdefault(
                    call, _Runner(types.MethodType(method, self), self, options, modular=True)
                )
        return runner(args, kwargs)

    return call


def scratch(owner: Any, name: str, *operands: Any) -> Tensor | None:
    """Return a buffer for ``out=`` of an elementwise operation on ``operands``, or None: allocate as usual.

    Shape and dtype are those of promotion and broadcasting. The buffer belongs to ``owner``, this thread and
    this stream, and is overwritten by the next call with the same name, so its contents must not escape.
    None where a buffer would change what the operation does: on a CPU, under autocast, ``torch.compile`` or a
    function transform, with gradients enabled (a later operation with a parameter would save the buffer for
    its backward, and the next call overwrite it), for tensor subclasses, for results that are not floating
    point (their dtype depends on the operation), and for a buffer not made yet while a graph is captured.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return None
    home = _home(owner)
    if home is None or _active_transform() is not None or _tracing() or torch.is_autocast_enabled("cuda"):
        return None
    tensors: list[Tensor] = []
    looks: list[Any] = []
    for x in operands:
        kind = type(x)
        if kind in _TENSORS and x.is_cuda and x.layout == torch.strided:
            tensors.append(x)
            looks.append((x.shape, x.stride(), x.dtype, x.device))
        elif kind is float or kind is int or kind is bool:
            looks.append(kind)
        else:
            return None
    if not tensors:
        return None
    device = tensors[0].device
    key = (name, threading.get_ident(), torch.cuda.current_stream(device), *looks)
    try:
        buffer = home.buffers[key]
    except KeyError:
        if torch.cuda.is_current_stream_capturing():
            return None
        buffer = _new_scratch(tensors, operands)
        with home.lock:
            home.buffers[key] = buffer
            while len(home.buffers) > 256:
                home.buffers.popitem(last=False)
    if buffer is None:
        return None
    address = _storage(buffer)
    return None if address and any(_storage(t) == address for t in tensors) else buffer


def _new_scratch(tensors: list[Tensor], operands: tuple[Any, ...]) -> Tensor | None:
    """Memory for the result of an elementwise operation, laid out as the operation would; None if unknown."""
    device = tensors[0].device
    if any(t.device != device for t in tensors):
        return None
    shape: torch.Size = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
    dtype = functools.reduce(_promoted, operands) if len(operands) > 1 else tensors[0].dtype
    if isinstance(dtype, Tensor):
        dtype = dtype.dtype
    if not dtype.is_floating_point or any(not (t.is_floating_point() or t.dtype == dtype) for t in tensors):
        return None
    like = next((t for t in tensors if t.shape == shape), None)
    with torch.inference_mode(False), torch.no_grad():
        if like is None:
            return torch.empty(shape, dtype=dtype, device=device)
        return torch.empty_like(like, dtype=dtype, requires_grad=False)


def constant(data: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Return ``torch.tensor(data)`` (for a tensor or array ``torch.as_tensor``), built once for each device.

    The result is shared by all callers with equal ``data``: it must not be written to. A tensor argument is
    recognised by identity and version, everything else by content. Raises what torch.tensor raises.
    """
    if torch.compiler.is_compiling() or _active_transform() is not None:
        return _make_constant(data, dtype, device)
    target = device if isinstance(device, torch.device) or device is None else torch.device(device)
    if target is None or target.type != "cuda":
        return _make_constant(data, dtype, device)
    if isinstance(data, Tensor) and data.is_cuda:
        return _make_constant(data, dtype, device)
    content = _content(data)
    if content is None:
        return _make_constant(data, dtype, device)
    if target.index is None:
        target = torch.device("cuda", torch.cuda.current_device())
    key = (content, dtype, torch.get_default_dtype() if dtype is None else None, target)
    with _constants_lock:
        made = _constants.get(key)
        if made is None:
            with torch.inference_mode(False), torch.no_grad():
                made = _make_constant(data, dtype, target)
            if torch.cuda.is_current_stream_capturing():
                return made
            _constants[key] = made
            while len(_constants) > 1024:
                _constants.popitem(last=False)
    return made


_NUMBERS = frozenset({int, float, bool, complex})
_constants: OrderedDict[Hashable, Tensor] = OrderedDict()
_constants_lock = threading.Lock()


def _make_constant(data: Any, dtype: torch.dtype | None, device: Any) -> Tensor:
    if isinstance(data, Tensor) or type(data).__module__ == "numpy":
        return torch.as_tensor(data, dtype=dtype, device=device)
    return torch.tensor(data, dtype=dtype, device=device)


def _content(data: Any) -> Hashable | None:
    """A key that is equal only for data that gives an equal tensor; None if there is none."""
    if isinstance(data, Tensor):
        if type(data) is not Tensor or data.requires_grad or data.is_inference():
            return None
        return (_Same(data), data._version)
    if type(data) in _NUMBERS:
        return (type(data), repr(data))
    if type(data) in (list, tuple):
        if all(type(item) in _NUMBERS for item in data):
            return ("flat", repr(data))  # tells 1 from 1.0 and True, and 0.0 from -0.0
        parts = [_content(item) for item in data]
        if any(part is None for part in parts) or any(isinstance(item, Tensor) for item in data):
            return None
        return ("sequence", *parts)
    if type(data).__module__ == "numpy" and hasattr(data, "tobytes") and data.nbytes <= 1 << 20:
        return ("numpy", str(data.dtype), tuple(data.shape), data.tobytes())
    return None


def _promoted(left: Any, right: Any) -> Any:
    """An empty tensor that promotes as the two operands together do."""
    dtype = torch.result_type(left, right)
    dims = max((x.dim() for x in (left, right) if isinstance(x, Tensor)), default=0)
    return torch.empty((0,) * dims if dims else (), dtype=dtype, device="meta")


# --------------------------------------------------------------------------- wrappers and where they live


class _Home:
    """The graphs and buffers of one object, under a private attribute; copies of the object start empty."""

    def __init__(self, owner: Any) -> None:
        self.owner = weakref.ref(owner)  # a shallow copy of the object has the same attributes
        self.lock = threading.RLock()
        self.wrappers: dict[Hashable, Graphed] = {}
        self.runners: dict[Any, _Runner] = {}
        self.buffers: OrderedDict[Hashable, Tensor | None] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, ())  # a pickle must not depend on this file


def _home(owner: Any) -> _Home | None:
    space = getattr(owner, "__dict__", None)
    if not isinstance(space, dict) or isinstance(owner, (type, types.ModuleType)):
        return None
    home = space.get(_HOME)
    if type(home) is not _Home or home.owner() is not owner:
        try:
            home = space[_HOME] = _Home(owner)
        except TypeError:  # no weak references
            return None
    return home


class Graphed:
    """What ``graphed`` returns: called like the original, with the attributes of the original."""

    _cg_runner: _Runner

    def __init__(self, runner: _Runner) -> None:
        self.__dict__["_cg_runner"] = runner
        self.__dict__["__wrapped__"] = runner.fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._cg_runner.fn(*args, **kwargs)
        return self._cg_runner(args, kwargs)

    def __getattr__(self, name: str) -> Any:
        fn = self.__dict__["_cg_runner"].fn
        value = getattr(fn, name)
        if isinstance(value, types.MethodType) and value.__self__ is fn and isinstance(fn, nn.Module):

            @functools.wraps(value)
            def method(*args: Any, **kwargs: Any) -> Any:
                result = value(*args, **kwargs)
                return self if result is fn else result  # graphed(model).eval() stays graphed

            return method
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cg_runner.fn, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._cg_runner.fn, name)

    def __repr__(self) -> str:
        return f"graphed({self._cg_runner.fn!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        runner = self._cg_runner
        return (_rewrap, (runner.fn, runner.options))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        runner = self._cg_runner
        return _rewrap(copy.deepcopy(runner.fn, memo), runner.options)

    def stats(self) -> dict[str, Any]:
        """Graphs, replays, eager calls with their reasons, bytes, the share of padding in replayed inputs."""
        return self._cg_runner.stats()

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Record all buckets up to the sizes of this call, the largest first. The code runs for each."""
        self._cg_runner.prepare(args, kwargs)

    def reset(self) -> None:
        """Drop all graphs and forget why calls ran eagerly."""
        self._cg_runner.reset()


def _rewrap(fn: Any, options: _Options) -> Graphed:
    owner = fn.__self__ if isinstance(fn, types.MethodType) else None
    return Graphed(_Runner(fn, owner, options))


@dataclasses.dataclass(frozen=True)
class _Options:
    padding: _Padding | None
    guard: tuple[str, ...]
    clone: bool
    max_graphs: int
    max_bytes: int | None


# ------------------------------------------------------------------------------------- trees of arguments


class _Same:
    """A key that is equal for one and the same object only, and keeps it alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Same and other.value is self.value


def _token(value: Any) -> Hashable:
    """Typed equality for scalars (1, 1.0 and True differ, 0.0 and -0.0 too), identity for everything else."""
    kind = type(value)
    if kind not in _SCALARS:
        return _Same(value)
    if kind is float and (value == 0 or value != value):
        return (kind, "nan" if value != value else str(value))
    return (kind, value)


def _children(value: Any) -> tuple[Hashable, Iterable[Any]] | None:
    """What a container is made of: (its kind and names, its items); None if it is no container."""
    kind = type(value)
    if kind is tuple or kind is list:
        return (kind, len(value)), value
    if isinstance(value, dict):
        return (kind, tuple(value)), value.values()
    if isinstance(value, UserDict):
        return (kind, tuple(value.data)), value.data.values()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (kind, len(value)), value
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, nn.Module)):
        names = tuple(f.name for f in dataclasses.fields(value))
        return (kind, names), [getattr(value, name) for name in names]
    return None


def _flatten(value: Any, leaves: list[Tensor], form: list[Hashable]) -> None:
    """Append the tensors of a tree to ``leaves`` and everything else about it to ``form``."""
    kind = type(value)
    if kind in _TENSORS:
        leaves.append(value)
        form.append(cast(Hashable, kind))
    elif kind in _SCALARS:
        form.append(_token(value))
    elif isinstance(value, Tensor):
        raise _Eager(f"an argument is a {kind.__name__}, a tensor subclass")
    else:
        inside = _children(value)
        if inside is None:
            if (
                isinstance(value, Iterator)
                or kind.__module__ == "numpy"
                or isinstance(value, (set, bytearray))
            ):
                raise _Eager(f"an argument is a {kind.__name__}, whose contents cannot be watched")
            form.append(_Same(value))
        else:
            form.append(inside[0])
            for item in inside[1]:
                _flatten(item, leaves, form)


def _rebuild(value: Any, leaves: Iterator[Any]) -> Any:
    """The same tree with its tensors replaced, in the order in which ``_flatten`` met them."""
    kind = type(value)
    if kind in _TENSORS:
        return next(leaves)
    inside = None if kind in _SCALARS else _children(value)
    if inside is None:
        return value
    items = [_rebuild(item, leaves) for item in inside[1]]
    if kind is tuple or kind is list:
        return kind(items)
    if isinstance(value, tuple):
        return kind(*items)
    if isinstance(value, (dict, UserDict)):
        new = copy.copy(value)
        for name, item in zip(tuple(value), items, strict=True):
            new[name] = item
        return new
    new = copy.copy(value)
    for field, item in zip(dataclasses.fields(value), items, strict=True):
        object.__setattr__(new, field.name, item)
    return new


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The path of every tensor of a tree, in the order of ``_flatten``."""
    if type(value) in _TENSORS:
        yield path
        return
    inside = None if type(value) in _SCALARS else _children(value)
    if inside is not None:
        names = inside[0][1] if isinstance(inside[0][1], tuple) else range(inside[0][1])  # type: ignore[index]
        for name, item in zip(names, inside[1], strict=True):
            yield from _paths(item, (*path, name))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# ------------------------------------------------------------------------------------------------ padding


class _Padding:
    """Which dimensions grow to which bucket, and what fills them."""

    def __init__(self, pad: Any, fill: Any, buckets: Any) -> None:
        self.pad, self.fill = pad, fill
        self.names: set[str] = set()
        self._check(pad)
        if isinstance(buckets, Mapping):
            unknown = set(buckets) - self.names
            if unknown:
                raise ValueError(f"buckets names {sorted(unknown)}, which pad does not")
        self.buckets = {n: self._sizes(buckets[n] if isinstance(buckets, Mapping) else buckets)
                        for n in self.names if not isinstance(buckets, Mapping) or n in buckets}  # fmt: skip

    def _check(self, pad: Any) -> None:
        if isinstance(pad, Mapping):
            for value in pad.values():
                self._check(value)
        elif isinstance(pad, str):
            parts = pad.split()
            names = [p for p in parts if p not in ("_", "...")]
            if (
                parts.count("...") > 1
                or not all(n.isidentifier() for n in names)
                or len(set(names)) < len(names)
            ):
                raise ValueError(f"pad={pad!r}: write names, '_' and at most one '...', as in 'B S ...'")
            self.names.update(names)
        elif pad is not None:
            raise ValueError(f"pad takes strings like 'B ...' or a dict of them, not {pad!r}")

    @staticmethod
    def _sizes(sizes: Any) -> tuple[int, ...]:
        if sizes is None:
            return ()
        result = tuple(sorted(set(sizes)))
        if not result or any(type(n) is not int or n < 1 for n in result):
            raise ValueError(f"buckets={sizes!r}: give positive whole numbers")
        return result

    def bucket(self, name: str, size: int) -> int:
        """The smallest bucket that holds ``size``."""
        if size == 0:
            raise _Eager(f"dimension {name} has size 0")
        sizes = self.buckets.get(name, ())
        if not sizes:
            return 1 << (size - 1).bit_length()
        found = next((n for n in sizes if n >= size), None)
        if found is None:
            raise _Eager(f"dimension {name} has size {size}, above the largest bucket {sizes[-1]}")
        return found

    @staticmethod
    def _lookup(table: Any, path: tuple[Any, ...], position: int | None) -> Any:
        """The entry for a path: by argument name or position, then by nested key; None if there is none."""
        if not isinstance(table, Mapping):
            return table
        rest: Any = None
        for key in (path[0], position):
            if key is not None and key in table:
                rest = table[key]
                break
        else:
            rest = next(
                (table[key] for key in reversed(path[1:]) if isinstance(key, str) and key in table), None
            )
        for key in path[1:]:
            if not isinstance(rest, Mapping):
                break
            rest = rest.get(key)
        return None if isinstance(rest, Mapping) else rest

    def plan(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[_LeafPlan]:
        """For every tensor of a call: its padded dimensions and its fill."""
        names = _argument_names(fn, len(args))
        plans: list[_LeafPlan] = []
        for position, (name, value) in enumerate([*zip(names, args, strict=False), *kwargs.items()]):
            found: list[Tensor] = []
            _flatten(value, found, [])
            for path, leaf in zip(_paths(value, (name,)), found, strict=True):
                where = position if position < len(args) else None
                pattern = self._lookup(self.pad, path, where)
                dims = _match(pattern, leaf.dim(), strict=isinstance(self.pad, Mapping), path=path)
                fill = self._lookup(self.fill, path, where)
                plans.append(_LeafPlan(dims, 0 if fill is None else fill, isinstance(self.fill, Mapping)
                                       and fill is not None))  # fmt: skip
        return plans


@dataclasses.dataclass(frozen=True)
class _LeafPlan:
    dims: tuple[tuple[int, str], ...]  # (dimension, its name) of those that are padded
    fill: Any
    explicit: bool  # the user chose this fill for this tensor


def _match(
    pattern: str | None, ndim: int, *, strict: bool, path: tuple[Any, ...]
) -> tuple[tuple[int, str], ...]:
    parts = pattern.split() if pattern else []
    if "..." in parts:
        at = parts.index("...")
        rest = ndim - len(parts) + 1
        parts = parts[:at] + ["_"] * rest + parts[at + 1 :] if rest >= 0 else []
        short = rest < 0
    else:
        short = bool(parts) and len(parts) != ndim
    if short and (strict or ndim):  # a 0-d tensor has nothing to pad under a pattern meant for all
        raise _Eager(f"argument {'.'.join(map(str, path))} has {ndim} dimensions, pad says {pattern!r}")
    return tuple((i, p) for i, p in enumerate(parts) if p != "_") if not short else ()


def _argument_names(fn: Any, count: int) -> list[str]:
    try:
        parameters = list(
            inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn).parameters.values()
        )
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return names + [f"_{i}" for i in range(len(names), count)]


# -------------------------------------------------------------- what the code reads besides its arguments


class _Rebound(Exception):
    """Something that a graph holds by address was replaced; the message names it."""


_PLUMBING = frozenset(nn.Module().__dict__) | {_HOME}
_WATCHED_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WATCHED_IN_CLASSES = (_SCALARS | {Tensor, nn.Parameter, list, dict, set, deque}) - {str}
_get_cell: Callable[[Any], Any] = operator.attrgetter("cell_contents")


def _is_library(kind: Any) -> bool:
    module = getattr(kind, "__module__", None) or ""
    if module.startswith(("torch.optim", "torch.amp", "torch.cuda.amp")):
        return False
    return module.partition(".")[0] in _LIBRARIES


_LIBRARIES = (sys.stdlib_module_names | {"torch", "numpy", "builtins"}) - {"__main__", "types", "argparse"}


def _equal(a: Any, b: Any) -> bool:
    """Interchangeable for code that was recorded: the same object, or equal scalars of one type."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in _SCALARS:
        return bool(_token(a) == _token(b))
    if kind is tuple or kind is torch.Size:
        return len(a) == len(b) and all(map(_equal, a, b))
    return False


_MISSING = object()


class _Watch:
    """The Python state within reach of a callable: what it holds now, and whether that has changed.

    The hot check compares objects by identity and tensors by address, in C loops. Scalars that change select
    another set of graphs; anything else that changes raises _Rebound.
    """

    def __init__(self, root: Any, name: str) -> None:
        self.seen: dict[int, Any] = {}
        self.containers: list[tuple[Any, str]] = []  # everything mutable, to notice and undo changes
        self.dicts: list[tuple[dict[Any, Any], str]] = []
        self.lists: list[tuple[Any, str]] = []
        self.cells: list[tuple[Any, str]] = []
        self.attributes: dict[tuple[str, ...], list[tuple[Mapping[str, Any], str]]] = {}
        self.sized: list[Any] = []  # watched for their size alone
        self.empty: list[Any] = []  # watched for staying empty
        self.hooks: list[Any] = []  # the same, but looked at only after a hook was registered somewhere
        self.found: dict[int, tuple[Tensor, str]] = {}
        self.generators: list[torch.Generator] = []
        self.variables: list[tuple[dict[str, Any], list[str]]] = []  # globals that the code names
        self.classes: list[tuple[type, list[str]]] = []  # and attributes of classes
        self.todo: deque[tuple[Any, str, int]] = deque([(root, name, 0)])
        while self.todo and len(self.seen) < _MOST_OBJECTS:
            self._visit(*self.todo.popleft())
        self.host: list[tuple[Tensor, int]] = []  # CPU tensors that were read, and their versions
        self.known: dict[Hashable, int] = {}
        self.history: dict[int, set[Hashable]] = {}
        self._compile()

    # -- finding things

    def _visit(self, value: Any, label: str, depth: int) -> None:
        kind = type(value)
        if kind in _SCALARS or isinstance(value, (types.ModuleType, _Home)) or id(value) in self.seen:
            return
        if isinstance(value, type):
            if not _is_library(value):
                self._visit_methods(value, label)
            return
        self.seen[id(value)] = value
        if isinstance(value, Tensor):
            if kind in _TENSORS and value.layout == torch.strided:
                self.found[id(value)] = (value, label)
        elif isinstance(value, torch.Generator):
            self.generators.append(value)
        elif isinstance(value, nn.Module):
            self._visit_module(value, label, depth)
        elif isinstance(value, dict):
            if kind.__len__ is dict.__len__:
                self.containers.append((value, label))
                self._watch_dict(value, label, depth)
        elif kind in (list, deque, set, frozenset) or isinstance(value, tuple):
            if not isinstance(value, (tuple, frozenset)):
                self.containers.append((value, label))
                if isinstance(value, set):
                    self.sized.append(value)
                else:
                    self.lists.append((value, label))
            if len(value) <= 4096:
                self.todo.extend((item, f"{label}[{i}]", depth) for i, item in enumerate(value))
        elif isinstance(value, functools.partial):
            self.todo.extend(
                ((value.func, label, depth), (value.args, label, depth), (value.keywords, label, depth))
            )
        elif isinstance(value, types.MethodType):
            self.todo.extend(
                ((value.__self__, label.rpartition(".")[0] or label, depth), (value.__func__, label, depth))
            )
        elif isinstance(value, types.FunctionType):
            self._visit_function(value, label, depth)
        elif kind is Graphed:
            self.todo.append((value._cg_runner.fn, label, depth))
        elif not _is_library(kind) and isinstance(getattr(value, "__dict__", None), dict):
            self.containers.append((value.__dict__, label))
            self._watch_dict(value.__dict__, label, depth, dotted=True)
            self._visit_methods(kind, label)

    def _watch_dict(self, table: dict[Any, Any], label: str, depth: int, *, dotted: bool = False) -> None:
        self.dicts.append((table, label))
        if len(table) <= 4096:
            for key, item in dict.items(table):  # a subclass may make things up in its own methods
                name = (
                    f"{label}.{key}"
                    if dotted
                    else f"{label}[{key!r}]"
                    if type(key) in _SCALARS
                    else f"{label}[…]"
                )
                self.todo.append((item, name, depth))

    def _visit_module(self, module: nn.Module, label: str, depth: int) -> None:
        space = module.__dict__
        ours = _is_library(type(module))
        self.containers.append((space, label))
        self.sized.append(space)
        for part in ("_parameters", "_buffers", "_modules"):
            table = space[part]
            if table or not ours:
                self._watch_table(table, label, self.empty)
            self.todo.extend((item, f"{label}.{name}", depth) for name, item in table.items())
        for part in _WATCHED_HOOKS:
            if part in space:
                self._watch_table(space[part], f"{label}.{part}", self.hooks)
        names = []
        for name, item in space.items():
            # of torch's own layers only what is meant to be changed, such as the p of a dropout
            if name not in _PLUMBING and (not ours or type(item) in (float, bool)):
                names.append(name)
                self.todo.append((item, f"{label}.{name}", depth))
        self.attributes.setdefault(("training", *names), []).append((space, label))
        if not ours:
            self._visit_methods(type(module), label)

    def _watch_table(self, table: dict[Any, Any], label: str, if_empty: list[Any]) -> None:
        self.containers.append((table, label))
        if table:
            self.dicts.append((table, label))
        else:
            if_empty.append(table)

    def _visit_methods(self, kind: type, label: str) -> None:
        if id(kind) in self.seen:
            return
        self.seen[id(kind)] = kind
        for klass in kind.__mro__:
            if not _is_library(klass):
                names = [
                    n for n, v in vars(klass).items() if type(v) in _WATCHED_IN_CLASSES and n[:2] != "__"
                ]
                if names:
                    self.attributes.setdefault(tuple(names), []).append((vars(klass), klass.__name__))
                    self.classes.append((klass, names))
                    self.todo.extend((vars(klass)[n], f"{klass.__name__}.{n}", 2) for n in names)
                for member in vars(klass).values():
                    member = inspect.unwrap(member) if isinstance(member, types.FunctionType) else member
                    if isinstance(member, types.FunctionType):
                        self.todo.append((member, member.__qualname__, 2))

    def _visit_function(self, fn: types.FunctionType, label: str, depth: int) -> None:
        if _is_library(fn) or fn.__module__ == __name__:
            return
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a variable without a value yet
                self.todo.append((cell.cell_contents, name, depth))
                self.cells.append((cell, name))
        names = set(fn.__code__.co_names)
        for code in fn.__code__.co_consts:
            names.update(code.co_names if isinstance(code, types.CodeType) else ())
        chosen = []
        for name in sorted(names & fn.__globals__.keys()):
            item = fn.__globals__[name]
            if isinstance(item, type) and depth < 2:
                self.todo.append((item, name, depth + 1))
            if isinstance(item, (type, types.ModuleType, types.BuiltinFunctionType)) or name.startswith("__"):
                continue
            if isinstance(item, types.FunctionType) and (depth >= 2 or _is_library(item)):
                continue
            chosen.append(name)
            self.todo.append((item, name, depth + 1))
        if chosen:
            self.attributes.setdefault(tuple(chosen), []).append((fn.__globals__, ""))
            self.variables.append((fn.__globals__, chosen))

    # -- the hot check

    def _compile(self) -> None:
        self._dicts = [d for d, _ in self.dicts]
        self._lists = [item for item, _ in self.lists]
        self._cells = [cell for cell, _ in self.cells]
        # the getter of one name gives a value, that of several a tuple
        self._singles: list[tuple[Callable[[Any], Any], list[Any]]] = [
            (operator.itemgetter(*n), [d for d, _ in sp]) for n, sp in self.attributes.items() if len(n) == 1
        ]
        self._groups: list[tuple[Callable[[Any], Any], list[Any]]] = [
            (operator.itemgetter(*n), [d for d, _ in sp]) for n, sp in self.attributes.items() if len(n) > 1
        ]
        self.tensors = [t for t, _ in self.found.values()]
        self.pointed: list[Tensor] = []  # the tensors that graphs read: compared by address
        self._expect(self.values())
        self.current = 0
        self.scalars = [i for i, v in enumerate(self.expected) if type(v) in _SCALARS]
        self.known[self._signature(self.expected)] = 0
        self.idle = not (self.sized or self.empty or self.expected or self.tensors)

    def _expect(self, values: list[Any]) -> None:
        self.expected = values
        self.sizes = [*map(len, self.sized)]
        self.registered = RemovableHandle.next_id
        self.lengths = [*map(len, self._dicts), *map(len, self._lists)]
        self.addresses = [*map(Tensor.data_ptr, self.pointed)]

    def use(self, addresses: Iterable[int]) -> None:
        """From now on compare the tensors at these addresses, too."""
        wanted, known = set(addresses), {*map(id, self.pointed)}
        self.pointed += [t for t in self.tensors if id(t) not in known and _storage(t) in wanted]
        self.addresses = [*map(Tensor.data_ptr, self.pointed)]

    def values(self) -> list[Any]:
        """Everything that is compared, in a fixed order."""
        chain = itertools.chain.from_iterable
        found = [*chain(map(dict.values, self._dicts)), *chain(self._lists), *map(_get_cell, self._cells)]
        for getter, spaces in self._singles:
            found += map(getter, spaces)
        for getter, spaces in self._groups:
            found += chain(map(getter, spaces))
        return found

    def _labels(self) -> list[str]:
        labels = [f"{label}.{key}" for table, label in self.dicts for key in table]
        labels += [f"{label}[{i}]" for items, label in self.lists for i in range(len(items))]
        labels += [name for _, name in self.cells]
        labels += [
            f"{label}.{n}".lstrip(".")
            for names, sp in sorted(self.attributes.items(), key=lambda item: len(item[0]) > 1)
            for _, label in sp
            for n in names
        ]
        return labels

    def state(self) -> int:
        """The number of the state that holds now; raises _Rebound or _Eager."""
        if self.idle:
            return self.current
        try:
            values = self.values()
            if (
                len(values) == len(self.expected)
                and all(map(operator.is_, values, self.expected))
                and self.registered == RemovableHandle.next_id
                and not any(self.empty)
                and [*map(len, self.sized)] == self.sizes
                and [*map(Tensor.data_ptr, self.pointed)] == self.addresses
                and all(t._version == v for t, v in self.host)
            ):
                return self.current
        except (KeyError, ValueError, RuntimeError):
            raise _Rebound("an attribute was removed") from None
        return self._moved(values)

    def _moved(self, values: list[Any]) -> int:
        watched = [*self.sized, *self._dicts, *self._lists, *self.empty, *self.hooks]
        sizes = [*self.sizes, *self.lengths, *[0] * (len(self.empty) + len(self.hooks))]
        for table, size in zip(watched, sizes, strict=True):
            if len(table) != size and not (_HOME in table and len(table) == size + 1):
                label = next((label for c, label in self.containers if c is table), "a container")
                raise _Rebound(f"the contents of {label}")
        for tensor, address in zip(self.pointed, self.addresses, strict=True):
            if tensor.data_ptr() != address:
                raise _Rebound(self.found[id(tensor)][1])
        if len(values) != len(self.expected):
            raise _Rebound("an attribute")
        if not all(t._version == v for t, v in self.host):
            raise _Rebound("a CPU tensor")
        scalars = set(self.scalars)
        differing = [
            i for i, (a, b) in enumerate(zip(values, self.expected, strict=False)) if not _equal(a, b)
        ]
        for i in differing:
            if i not in scalars or type(values[i]) not in _SCALARS:
                raise _Rebound(self._labels()[i] if len(self._labels()) > i else "an attribute")
        signature = self._signature(values)
        if signature not in self.known:
            for i in differing:
                past = self.history.setdefault(i, {_token(self.expected[i])})
                past.add(_token(values[i]))
                if len(past) > _MOST_VALUES:
                    raise _Eager(f"{self._labels()[i]} has taken more than {_MOST_VALUES} values")
        self.current = self.known.setdefault(signature, len(self.known))
        self._expect(values)
        return self.current

    def _signature(self, values: list[Any]) -> Hashable:
        return tuple(_token(values[i]) for i in self.scalars)

    # -- noticing and undoing changes

    def snapshot(self) -> list[Any]:
        """Shallow copies of everything mutable."""
        copies: list[Any] = [
            dict(dict.items(c)) if isinstance(c, dict) else list(c) for c, _ in self.containers
        ]
        variables = [(space, {n: space[n] for n in names}) for space, names in self.variables]
        classes = [(kind, {n: vars(kind)[n] for n in names}) for kind, names in self.classes]
        return [copies, variables, [(cell, cell.cell_contents) for cell in self._cells], classes]

    def undo(self, snapshot: list[Any]) -> str | None:
        """Put back what differs from the snapshot; return the name of the first difference."""
        first: str | None = None
        for space, old in snapshot[1]:
            for key, item in old.items():
                if not _equal(space.get(key), item):
                    first = first or key
                    space[key] = item
        for kind, old in snapshot[3]:
            for key, item in old.items():
                if not _equal(vars(kind).get(key), item):
                    first = first or f"{kind.__name__}.{key}"
                    setattr(kind, key, item)
        for i, (cell, item) in enumerate(snapshot[2]):
            if not _equal(cell.cell_contents, item):
                first = first or self.cells[i][1]
                cell.cell_contents = item
        for (container, label), old in zip(self.containers, snapshot[0], strict=True):
            name: str | None = None
            if isinstance(container, dict):
                for key in [k for k in dict.keys(container) if k not in old and k != _HOME]:
                    name = name or f"{label}.{key}"
                    del container[key]
                for key, item in old.items():
                    if not _equal(dict.get(container, key, _MISSING), item):
                        name = name or f"{label}.{key}"
                        container[key] = item
            elif len(container) != len(old) or not (
                container == set(old) if isinstance(container, set) else all(map(_equal, container, old))
            ):
                name = label
                container.clear()
                (container.update if isinstance(container, set) else container.extend)(old)
            first = first or name
        return first


# ------------------------------------------------------------------------ running without leaving a trace


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation: which memory from outside is read, which is written, with what it held before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: set[int] = set()
        self.read: dict[int, Tensor] = {}
        self.written: dict[int, tuple[Tensor, Tensor]] = {}  # address -> (all of the memory, a copy of it)
        self.host: dict[int, Tensor] = {}
        self.generators: dict[int, tuple[torch.Generator, Tensor]] = {}  # with their state before
        self.reason: str | None = None

    def see(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and note what it reads, writes and makes."""
        kwargs = kwargs or {}
        schema = getattr(func, "_schema", None)
        if schema is not None:
            fresh = schema.name == "aten::lift_fresh"
            for i, argument in enumerate(schema.arguments):
                value = args[i] if i < len(args) else kwargs.get(argument.name)
                if isinstance(value, Tensor):
                    value = (value,)
                elif isinstance(value, torch.Generator):
                    self.generators.setdefault(_identity(value), (value, value.get_state()))
                if isinstance(value, (list, tuple)):
                    alias = argument.alias_info
                    writes = alias is not None and alias.is_write
                    # batch norm updates its statistics without saying so in its schema
                    writes = writes or argument.name in ("running_mean", "running_var")
                    for tensor in value:
                        if isinstance(tensor, Tensor):
                            self._meet(tensor, writes, fresh)
        result = func(*args, **kwargs)
        for item in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(item, Tensor) and item.layout == torch.strided and type(item) in _TENSORS:
                address = _storage(item)
                if address not in self.read:
                    self.made.add(address)
        return result

    def _meet(self, tensor: Tensor, writes: bool, fresh: bool) -> None:
        if type(tensor) not in _TENSORS or tensor.layout != torch.strided:
            self.reason = self.reason or f"it uses a {type(tensor).__name__} with layout {tensor.layout}"
            return
        address = _storage(tensor)
        if address == 0 or address in self.made:
            return
        if fresh:
            self.made.add(address)
            return
        if not tensor.is_cuda:
            if writes:
                self.reason = (
                    self.reason or "it writes to a tensor in CPU memory, which a replay would not do"
                )
            elif tensor.is_inference():
                self.reason = (
                    self.reason or "it reads a CPU tensor made under inference mode, which cannot be watched"
                )
            else:
                self.host.setdefault(address, tensor)
        whole = self.read.get(address)
        if whole is None:
            whole = self.read[address] = _whole(tensor)
        if writes and address not in self.written:
            self.written[address] = (whole, whole.clone())


# Assigned here because a method of that name in the class body is wrapped so that it imports all of
# torch._dynamo, seconds of it, at its first call.
_Observer.__torch_dispatch__ = _Observer.see  # type: ignore[assignment, method-assign]


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor's memory, flat, without its autograd history and version counter."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def _identity(generator: torch.Generator) -> int:
    return getattr(generator, "_cdata", id(generator))  # torch may hand out several objects for one


class _Sandbox:
    """Runs code on the device and then undoes it: memory, random numbers, gradients, Python state, output."""

    def __init__(self, watches: Sequence[_Watch], device: torch.device) -> None:
        self.watches, self.device = watches, device
        self.observer = _Observer()
        self.snapshots = [watch.snapshot() for watch in watches]
        self.random = self._random()
        self.drew_on_host = self.drew_on_device = False
        self.own = {_identity(g): (g, g.get_state()) for watch in watches for g in watch.generators}

    def _random(self) -> list[Any]:
        numpy = sys.modules.get("numpy")
        return [
            torch.get_rng_state(),
            random.getstate(),
            repr(numpy.random.get_state()) if numpy is not None else None,
            numpy.random.get_state() if numpy is not None else None,
            torch.cuda.get_rng_state(self.device),
        ]

    @property
    def generators(self) -> list[tuple[torch.Generator, Tensor]]:
        """The generators in use, with their state at the beginning."""
        return list({**self.observer.generators, **self.own}.values())

    def host_randomness(self) -> bool:
        """Whether random numbers were drawn on the host since the beginning."""
        now = self._random()
        same = torch.equal(now[0], self.random[0]) and now[1] == self.random[1] and now[2] == self.random[2]
        return not same or any(
            g.device.type == "cpu" and not torch.equal(g.get_state(), state) for g, state in self.generators
        )

    def device_randomness(self) -> bool:
        """Whether random numbers were drawn on the device since the beginning."""
        return not torch.equal(torch.cuda.get_rng_state(self.device), self.random[4]) or any(
            not torch.equal(g.get_state(), state) for g, state in self.generators
        )

    def restore_random(self) -> None:
        """Put every random number generator back."""
        torch.set_rng_state(self.random[0])
        random.setstate(self.random[1])
        numpy = sys.modules.get("numpy")
        if numpy is not None and self.random[3] is not None:
            numpy.random.set_state(self.random[3])
        torch.cuda.set_rng_state(self.random[4], self.device)
        for generator, state in self.generators:
            generator.set_state(state)

    def restore_memory(self) -> None:
        """Put back the contents of all memory that was written."""
        with torch.inference_mode(False), torch.no_grad():
            for whole, before in self.observer.written.values():
                whole.copy_(before)

    def restore_python(self) -> str | None:
        """Put back Python state; return the name of what had changed."""
        found = [watch.undo(shot) for watch, shot in zip(self.watches, self.snapshots, strict=True)]
        return next((name for name in found if name), None)


class _Sink(io.TextIOBase):
    """Stands in for stdout or stderr: swallows what this thread writes, passes on what others write."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.thread, self.used = stream, threading.get_ident(), False

    def write(self, text: str) -> int:
        if threading.get_ident() != self.thread:
            return int(self.stream.write(text))
        self.used = True
        return len(text)

    def flush(self) -> None:
        if threading.get_ident() != self.thread:
            self.stream.flush()


@contextlib.contextmanager
def _quiet() -> Iterator[_Sink]:
    """Swallow what trial runs print; graphed callables inside run as plain code; no garbage collection."""
    sink = _Sink(sys.stdout)
    before, collecting = getattr(_local, "inline", False), gc.isenabled()
    _local.inline = True
    gc.disable()  # a collected tensor or graph would free device memory in the middle of a capture
    torch.clear_autocast_cache()
    try:
        with contextlib.redirect_stdout(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield sink
    finally:
        torch.clear_autocast_cache()
        _local.inline = before
        if collecting:
            gc.enable()


# ---------------------------------------------------------------------------------------------- one graph


class _Pool:
    """The memory that the graphs of one device share, the lock and the order that make sharing safe."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lock = threading.RLock()
        self.handle: Any = None
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # warmups and captures
        self.last = torch.cuda.current_stream(device)  # the stream of the latest replay
        self.last_raw = _current_stream(device.index or 0)
        self.clock = 0
        self.graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()  # those that live in the pool

    def recover(self, failed: Any, generators: Sequence[torch.Generator]) -> None:
        """After a failed capture: clean up, and turn graphs off for good if the device no longer works.

        `capture_end` raises before it tells the allocators that the capture is over: the device's goes on
        asking the graph about every allocation, the host's refuses the pool from then on. And generators may
        think that they are still being captured, until a capture succeeds (pytorch#171265).
        """
        _failed.append(failed)  # never freed: an allocator may hold its address
        with contextlib.suppress(RuntimeError, AttributeError, TypeError):
            torch._C._cuda_endAllocateToPool(self.device.index, self.handle)
            torch._C._cuda_releasePool(self.device.index, self.handle)
        self.graphs = weakref.WeakSet()  # go on with another pool
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        try:
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)
            with torch.cuda.stream(self.stream):
                graph.capture_begin(capture_error_mode="thread_local")
                torch.zeros(1, device=self.device)
                graph.capture_end()
            graph.reset()
            state = torch.cuda.get_rng_state(self.device)
            torch.rand(1, device=self.device)
            torch.cuda.set_rng_state(state, self.device)
            torch.cuda.synchronize(self.device)
        except Exception as error:
            _broken.append(f"graphs are off, a failed capture left the device unusable: {_first_line(error)}")
            warnings.warn(f"CUDA {_broken[0]}", RuntimeWarning, stacklevel=2)

    def memory(self) -> Any:
        """The handle to capture with: a new one when no graph is left, as the old pool is gone then."""
        if not self.graphs:
            self.handle = torch.cuda.graph_pool_handle()
        return self.handle

    def order(self) -> None:
        """Make the current stream wait for the latest replay, whichever stream it was on."""
        raw = _current_stream(self.device.index or 0)
        if raw != self.last_raw:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_stream(self.last)
            self.last, self.last_raw = stream, raw


_pools: dict[torch.device, _Pool] = {}
_pools_lock = threading.Lock()
_failed: list[Any] = []  # graphs whose capture failed
_broken: list[str] = []  # why graphs are off for the whole process


def _pool(device: torch.device) -> _Pool:
    with _pools_lock:
        if device not in _pools:
            _pools[device] = _Pool(device)
        return _pools[device]


class _Call:
    """One call, taken apart."""

    __slots__ = ("args", "buckets", "form", "kwargs", "leaves", "plans", "sizes")

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Tensor], form: tuple[Hashable, ...]
    ) -> None:
        self.args, self.kwargs, self.leaves, self.form = args, kwargs, leaves, form
        self.plans: Sequence[_LeafPlan] = ()
        self.sizes: dict[str, int] = {}
        self.buckets: dict[str, int] = {}

    @property
    def pattern(self) -> tuple[Hashable, ...]:
        """Which dimensions are really padded, and which in the same proportion: what cuts depend on."""
        padded = [(n, size / self.buckets[n]) for n, size in self.sizes.items() if self.buckets[n] != size]
        ratios = [ratio for _, ratio in padded]
        return tuple((name, ratios.index(ratio)) for name, ratio in padded)

    def shape(self, i: int) -> tuple[int, ...]:
        """The shape of leaf ``i`` with its named dimensions grown to their buckets."""
        shape = list(self.leaves[i].shape)
        for dim, name in self.plans[i].dims if self.plans else ():
            shape[dim] = self.buckets[name]
        return tuple(shape)


def _expanded(tensor: Tensor) -> list[int]:
    return [d for d, (n, s) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)) if n > 1 and not s]


def _dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether every element has memory of its own."""
    reach = 0
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1:
            if step <= reach:
                return False
            reach += step * (size - 1)
    return True


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    stride = tensor.stride()
    return tuple(sorted(range(tensor.dim()), key=lambda d: (stride[d], -d)))


def _ordered_strides(shape: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Compact strides for ``shape`` in the memory order of ``stride``."""
    result, step = [0] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda d: (stride[d], -d)):
        result[dim] = step
        step *= max(shape[dim], 1)
    return result


_Cuts = list[
    tuple[tuple[int, str, int], ...]
]  # for each output: dimension, name of its size, how many times that


def _cut(tensor: Tensor, dims: Iterable[tuple[int, str, int]], sizes: Mapping[str, int]) -> Tensor:
    for dim, name, times in dims:
        if tensor.shape[dim] != sizes[name] * times:
            tensor = tensor.narrow(dim, 0, sizes[name] * times)
    return tensor


class _Graph:
    """One captured call: static inputs, graph, outputs, and what has to be copied around a replay."""

    def __init__(self, pool: _Pool, call: _Call, inputs: list[Tensor], bound: Sequence[int] = ()) -> None:
        self.pool = pool
        self.inputs = inputs
        self.bound = [(i, inputs[i].data_ptr()) for i in bound]  # these are the caller's own memory
        self.fixed = {_storage(inputs[i]) for i in bound}
        first = {id(t): i for i, t in reversed(list(enumerate(call.leaves)))}
        own = [i for i, t in enumerate(call.leaves) if first[id(t)] == i and t.numel()]
        self.copied = [i for i in own if i not in bound]
        self.expanded = {i: _expanded(inputs[i]) for i in self.copied}
        self.plain = not call.plans and not any(self.expanded.values())
        self.targets = [self._narrow(inputs[i], i) for i in self.copied]
        self.all_copied = self.copied == list(range(len(call.leaves)))
        self.plans = call.plans
        self.size = sum(inputs[i].numel() for i in self.copied)
        self.mutated: list[int] = []
        self.cuts: dict[Hashable, _Cuts | None] = {}
        self.views: dict[Any, tuple[list[Tensor], list[tuple[Tensor, Any]], int]] = {}
        self.graph: Any = None
        self.keep: list[Any] = []  # memory the graph reads
        self.outer: set[int] = set()  # addresses of memory outside that the graph writes
        self.reads: set[int] = set()  # and of memory outside that it reads
        self.template: Any = None
        self.outputs: list[Tensor] = []
        self.kinds: list[Any] = []
        self.compact = False  # every output is memory of its own, without gaps
        self.grads_in: list[tuple[Tensor, Tensor]] = []
        # the parameter, the gradient that the graph leaves, whether it was there before
        self.grads_out: list[tuple[Tensor, Tensor | None, bool]] = []
        self.bytes = self.replays = self.used = self.real = self.slots = 0

    def _narrow(self, tensor: Tensor, i: int) -> Tensor:
        for dim in self.expanded[i]:
            tensor = tensor.narrow(dim, 0, 1)
        return tensor

    def real_part(self, i: int, tensor: Tensor, call: _Call) -> Tensor:
        """Input ``i`` without its padding."""
        return _cut(tensor, [(d, n, 1) for d, n in self.plans[i].dims] if self.plans else (), call.sizes)

    # -- copying in

    def load(self, call: _Call) -> None:
        """Copy the arguments into the static inputs, and fill the padding."""
        if self.plain:
            sources = call.leaves if self.all_copied else [call.leaves[i] for i in self.copied]
            if len(sources) == 1:
                self.targets[0].copy_(sources[0])
            elif sources:
                torch._foreach_copy_(self.targets, sources)
            return
        heads, tails, real = self._split(call)
        self.real += real
        self.slots += self.size
        if heads:
            torch._foreach_copy_(heads, [self._narrow(call.leaves[i], i) for i in self.copied])
        for tail, fill in tails:
            tail.fill_(fill)

    def _split(self, call: _Call) -> tuple[list[Tensor], list[tuple[Tensor, Any]], int]:
        key = tuple(call.sizes.values())
        known = self.views.get(key)
        if known is None:
            tails = []
            real = sum(call.leaves[i].numel() for i in self.copied)
            for i in self.copied:
                for dim, name in self.plans[i].dims if self.plans else ():
                    rest = call.buckets[name] - call.sizes[name]
                    if rest:
                        tails.append((self.inputs[i].narrow(dim, call.sizes[name], rest), self.plans[i].fill))
            heads = [
                self.real_part(i, target, call) for i, target in zip(self.copied, self.targets, strict=True)
            ]
            if len(self.views) >= 256:
                self.views.clear()
            known = self.views[key] = (heads, tails, real)
        return known

    # -- replaying

    def moved(self, call: _Call) -> bool:
        """Whether an argument that is used in place is elsewhere now."""
        return any(call.leaves[i].data_ptr() != address for i, address in self.bound)

    def conflicts(self, call: _Call) -> bool:
        """Whether memory that is written is shared with an argument, which a copy of it would hide."""
        if not self.outer and not self.mutated and not self.bound:
            return False
        taken = self.outer | self.fixed
        addresses = [_storage(call.leaves[i]) for i in self.copied]
        if not taken.isdisjoint(addresses):
            return True
        written = [_storage(call.leaves[i]) for i in self.mutated]
        return bool(written) and (len(set(addresses)) < len(addresses) or not self.reads.isdisjoint(written))

    def __call__(self, call: _Call, clone: bool) -> Any:
        pool = self.pool
        with pool.lock:
            pool.order()
            grad = torch.is_grad_enabled()
            if grad:
                torch.set_grad_enabled(False)
            try:
                self.load(call)
                if self.grads_in:
                    gradients = cast("list[Tensor]", [p.grad for p, _ in self.grads_in])
                    torch._foreach_copy_([s for _, s in self.grads_in], gradients)
                self.graph.replay()
                if self.mutated:
                    heads = self.targets if self.plain else self._split(call)[0]
                    torch._foreach_copy_(
                        [call.leaves[i] for i in self.mutated],
                        [heads[self.copied.index(i)] for i in self.mutated],
                    )
                if self.grads_out:
                    self._give_gradients()
                results = self._results(call, clone)
            finally:
                if grad:
                    torch.set_grad_enabled(True)
            pool.clock += 1
            self.used = pool.clock
            self.replays += 1
        kind = type(self.template)
        if kind in _TENSORS:
            return results[0]
        return _rebuild(self.template, iter(results))

    def _give_gradients(self) -> None:
        old: list[Any] = []
        new: list[Tensor] = []
        for parameter, static, in_place in self.grads_out:
            if static is None:
                parameter.grad = None
                continue
            if not in_place:
                parameter.grad = torch.empty_like(static)
            old.append(parameter.grad)
            new.append(static)
        if old:
            torch._foreach_copy_(old, new)

    def _results(self, call: _Call, clone: bool) -> list[Any]:
        if self.compact and clone and not call.plans:
            return [tensor.clone() for tensor in self.outputs]
        cuts = self.cuts.get(call.pattern) if call.plans else None
        results: list[Any] = []
        groups: dict[int, Tensor] = {}
        for i, (tensor, kind) in enumerate(zip(self.outputs, self.kinds, strict=True)):
            how, detail = kind
            if how == "own" and clone:
                part = _cut(tensor, cuts[i], call.sizes) if cuts else tensor
                if detail:  # memory with gaps: the caller sees the strides that the code gave it
                    fresh = torch.empty_strided(
                        part.shape, part.stride(), dtype=part.dtype, device=part.device
                    )
                    results.append(fresh.copy_(part))
                else:
                    results.append(part.clone())
                continue
            if how == "own":
                value = tensor
            elif how == "same":
                value = results[detail]
                results.append(value)
                continue
            elif how == "group":
                address, low, high = detail
                base = groups.get(address)
                if base is None:
                    flat = tensor.as_strided((high - low,), (1,), low)
                    base = groups[address] = flat.clone() if clone else flat
                value = base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - low)
            elif how == "input":
                results.append(call.leaves[detail])
                continue
            elif how == "view":
                j, offset = detail
                leaf = call.leaves[j]
                part = _cut(tensor, cuts[i], call.sizes) if cuts else tensor
                results.append(leaf.as_strided(part.shape, part.stride(), leaf.storage_offset() + offset))
                continue
            else:
                value = detail
            results.append(_cut(value, cuts[i], call.sizes) if cuts else value)
        return results


# ------------------------------------------------------------------------------------------- one callable


class _Leak(Exception):
    """Padding changes a result; the message says which."""


_cudnn_tf32: Callable[[], Any] = getattr(
    torch._C, "_get_cudnn_allow_tf32", lambda: torch.backends.cudnn.allow_tf32
)
_cudnn_deterministic: Callable[[], Any] = getattr(
    torch._C, "_get_cudnn_deterministic", lambda: torch.backends.cudnn.deterministic
)


def _precisions() -> tuple[Hashable, ...]:
    try:
        return torch.get_float32_matmul_precision(), _cudnn_tf32()
    except RuntimeError:  # torch >= 2.9 with precisions set through its new interface
        cudnn: Any = torch.backends.cudnn
        return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision


def _modes() -> tuple[Hashable, ...]:
    """Everything global that decides which kernels run."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        _cudnn_deterministic(),
        (torch.get_autocast_dtype("cuda"), torch.is_autocast_cache_enabled())
        if torch.is_autocast_enabled("cuda")
        else None,
        *_precisions(),
    )


class _Runner:
    """A callable with its graphs: decides for every call whether to replay, to record or to run the code."""

    def __init__(self, fn: Any, owner: Any, options: _Options, modular: bool = False) -> None:
        self.fn, self.owner, self.options = fn, owner, options
        self.modular = modular or isinstance(fn, nn.Module)  # under autograd always plain code
        name = getattr(fn, "__qualname__", None) or type(fn).__name__
        self.name = name.replace("<locals>.", "")
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        with self.lock:
            self.replays = 0
            self._drop(list(getattr(self, "graphs", {}).values()))
            self.graphs: dict[Hashable, _Graph] = {}
            self.refused: dict[Hashable, str] = {}
            self.changing: dict[Hashable, str] = {}  # refused whatever the state
            self.values: dict[Hashable, list[set[Hashable]]] = {}
            self.asked: dict[Hashable, int] = {}
            self.unbound: set[Hashable] = set()  # keys whose written arguments are not always the same memory
            self.eager: dict[str, int] = {}
            self.warned: set[str] = set()
            self.plans: dict[Hashable, list[_LeafPlan]] = {}
            self.flat: dict[Hashable, Tensor] = {}
            self.watches: dict[int, _Watch] = {}
            self.parameters: list[Tensor] = []  # those whose gradients the code touches
            self.exact = self.options.padding is None
            self.proven: set[str] = set()  # dimensions padded with other data and other contents, too
            self.off: str | None = None
            self.rebound = self.shared = self.replays = 0  # replays of graphs that are gone

    # -- the hot path

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if getattr(_local, "inline", False) or _active_transform() is not None or _tracing():
            return self.fn(*args, **kwargs)
        try:
            call = self._take_apart(args, kwargs)
            if torch.cuda.is_current_stream_capturing():
                return self.fn(*args, **kwargs)
            with self.lock:
                graph, key = self._find(call)
                if graph is not None:
                    return self._replay(graph, call)
                self._count_values(call, key)
                device = self._device(call)
            return self._first(call, key, device)
        except _Eager as reason:
            why = str(reason)
        self.eager[why if len(self.eager) < 64 else "other"] = self.eager.get(why, 0) + 1
        return self.fn(*args, **kwargs)

    def _replay(self, graph: _Graph, call: _Call) -> Any:
        if graph.conflicts(call):
            raise _Shared
        if _profiling():
            with torch.autograd.profiler.record_function(f"cuda_graph:{self.name}"):
                return graph(call, self.options.clone)
        return graph(call, self.options.clone)

    def _take_apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        if self.off or _broken:
            raise _Eager(self.off or _broken[0])
        leaves: list[Tensor] = []
        form: list[Hashable] = []
        for value in args:
            _flatten(value, leaves, form)
        if kwargs:
            form.append(tuple(kwargs))
            for value in kwargs.values():
                _flatten(value, leaves, form)
        for leaf in leaves:
            if not leaf.is_cuda:
                raise _Eager("an argument is in CPU memory")
        if not leaves and not torch.cuda.is_available():
            raise _Eager("there is no GPU")
        if len(leaves) > 1:
            addresses = [*map(_storage, leaves)]
            if len({*addresses}) < len(addresses):
                ids = [*map(id, leaves)]
                form += [tuple(map(ids.index, ids)), tuple(map(addresses.index, addresses))]
        return _Call(args, kwargs, leaves, tuple(form))

    def _find(self, call: _Call) -> tuple[_Graph | None, Hashable]:
        """The graph for a call, or None and the key to make one under; raises _Eager."""
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in call.leaves):
            raise _Eager("autograd records: an argument requires a gradient")
        if not self.watches:
            self._look()
        if self.modular and torch.is_grad_enabled():
            for watch in self.watches.values():
                if any(t.requires_grad for t in watch.tensors):
                    raise _Eager("autograd records: a parameter requires a gradient")
        if self.exact:
            leaves = [(t.shape, t.stride(), t.dtype, t.device) for t in call.leaves]
        else:
            leaves = self._pad(call)
        base = (call.form, *leaves, *_modes())
        if self.options.guard:
            base += tuple(self._guard())
        if self.changing and base in self.changing:
            raise _Eager(self.changing[base])
        state = self._state(call)
        key = (base, state, tuple([p.grad is None for p in self.parameters]))
        graph = self.graphs.get(key)
        if graph is not None and (self.exact or call.pattern in graph.cuts):
            if not graph.bound or not graph.moved(call):
                return graph, key
            self._drop([self.graphs.pop(key)])
            self.unbound.add(key)
        if self.refused and key in self.refused:
            raise _Eager(self.refused[key])
        return None, key

    def _guard(self) -> list[Hashable]:
        target = self.fn if self.owner is None else self.owner
        return [_token(operator.attrgetter(name)(target)) for name in self.options.guard]

    def _pad(self, call: _Call) -> list[Any]:
        """Fill in sizes and buckets of a call; return the shape part of its key."""
        padding = cast(_Padding, self.options.padding)
        form = (call.form, tuple(t.dim() for t in call.leaves), len(call.args))
        plans = self.plans.get(form)
        if plans is None:
            plans = self.plans[form] = padding.plan(self.fn, call.args, call.kwargs)
        call.plans = plans
        for leaf, plan in zip(call.leaves, plans, strict=True):
            for dim, name in plan.dims:
                size = leaf.shape[dim]
                if call.sizes.setdefault(name, size) != size:
                    raise _Eager(f"two arguments differ in dimension {name}: {call.sizes[name]} and {size}")
        for name, size in call.sizes.items():
            call.buckets[name] = padding.bucket(name, size)
        result: list[Any] = []
        for i, (leaf, plan) in enumerate(zip(call.leaves, plans, strict=True)):
            order: Any = leaf.stride()
            if plan.dims:
                order = leaf.is_contiguous() or _memory_order(leaf)
            result.append((call.shape(i), order, leaf.dtype, leaf.device))
        return result

    def stats(self) -> dict[str, Any]:
        """What has been recorded, replayed and run as plain code, and why."""
        graphs = list(self.graphs.values())
        slots = sum(g.slots for g in graphs)
        return {
            "graphs": len(graphs),
            "replays": self.replays + sum(g.replays for g in graphs),
            "eager": dict(self.eager),
            "bytes": sum(g.bytes for g in graphs),
            "padding": 1 - sum(g.real for g in graphs) / slots if slots else 0.0,
        }

    def prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the code with this call's arguments cut to every bucket, and once with padding in it."""
        call = self._take_apart(args, kwargs)
        if not self.exact:
            self._pad(call)
        if not call.plans:
            self(args, kwargs)
            return
        padding = self.options.padding
        ladders = []
        for name, size in call.sizes.items():
            steps = {cast(_Padding, padding).bucket(name, n) for n in range(1, size + 1)}
            ladders.append(sorted({min(n, size) for n in steps}, reverse=True))
        chosen = sorted(itertools.product(*ladders), key=math.prod, reverse=True)
        for sizes in chosen:
            for less in (0, 1):
                named = {n: max(1, size - less) for n, size in zip(call.sizes, sizes, strict=True)}
                leaves = [
                    _cut(t, [(d, n, 1) for d, n in plan.dims], named).contiguous()
                    for t, plan in zip(call.leaves, call.plans, strict=True)
                ]
                self(*_rebuild((args, kwargs), iter(leaves)))

    # -- keeping up with changes

    def _look(self) -> None:
        """Find out anew what state is within reach."""
        self.watches = {id(self.fn): _Watch(self.fn, "self" if self.modular else self.name)}

    def _state(self, call: _Call) -> tuple[int, ...]:
        """The state of everything within reach of the code and of the objects among its arguments."""
        try:
            state = self.watches[id(self.fn)].state()
            if _Same not in map(type, call.form):
                return (state,)
            return (state, *(self._watch_argument(t.value) for t in call.form if type(t) is _Same))
        except _Rebound as what:
            self._rebind(str(what))
            return self._state(call)

    def _watch_argument(self, value: Any) -> int:
        watch = self.watches.get(id(value))
        if watch is None:
            if len(self.watches) > 4 * _MOST_VALUES:
                raise _Eager("an argument is another object in every call")
            watch = self.watches[id(value)] = _Watch(value, "an argument")
        return watch.state()

    def _watching(self, call: _Call) -> list[_Watch]:
        objects = [id(token.value) for token in call.form if type(token) is _Same]
        return [self.watches[i] for i in (id(self.fn), *objects)]

    def _rebind(self, what: str) -> None:
        """Something was replaced: every graph may read memory that is no longer in use."""
        replays = sum(g.replays for g in self.graphs.values())
        if replays < 4 * max(1, len(self.graphs)):
            self.rebound += 1
        self._drop(list(self.graphs.values()))
        self.graphs.clear()
        self.refused.clear()
        self.unbound.clear()
        if self.rebound > _MOST_VALUES:
            self.off = f"{what} is replaced again and again"
            self._warn(f"runs eagerly: {self.off}")
            raise _Eager(self.off)
        self._look()

    def _drop(self, graphs: list[_Graph]) -> None:
        if graphs:
            torch.cuda.synchronize(graphs[0].pool.device)  # replays may still be under way
            for graph in graphs:
                self.replays += graph.replays
                with graph.pool.lock:
                    graph.graph.reset()
                    graph.pool.graphs.discard(graph)

    def _make_room(self) -> None:
        used = sum(g.bytes for g in self.graphs.values())
        if self.options.max_bytes is not None and used > self.options.max_bytes:
            self._drop(list(self.graphs.values()))
            self.graphs.clear()
            self.flat.clear()
        while len(self.graphs) >= self.options.max_graphs:
            oldest = min(self.graphs, key=lambda k: self.graphs[k].used)
            self._drop([self.graphs.pop(oldest)])

    def _count_values(self, call: _Call, key: Any) -> None:
        """Refuse to record a graph for every value of an argument that never settles."""
        if key in self.graphs:
            return
        kinds = tuple(
            t[0] if type(t) is tuple and len(t) == 2 and t[0] in _SCALARS else type(t) for t in call.form
        )
        seen = self.values.setdefault(kinds, [set() for _ in call.form])
        for i, (token, past) in enumerate(zip(call.form, seen, strict=True)):
            scalar = type(token) is tuple and len(token) == 2 and token[0] in _SCALARS
            if not scalar and (type(token) is not _Same or isinstance(token.value, nn.Module)):
                continue  # a graph for each layer that is passed: max_graphs bounds them
            if token not in past and len(past) >= _MOST_VALUES:
                name = self._name_of(call, i)
                text = f"argument {name} has had more than {_MOST_VALUES} values"
                self._warn(
                    text + "; calls with new ones run eagerly. Pass a tensor to keep them in one graph"
                )
                raise _Eager(text)
            past.add(token)
        if len(self.graphs) >= self.options.max_graphs:  # full: record only what comes back often enough
            self.asked[key] = self.asked.get(key, 0) + 1
            if len(self.asked) > 4096:
                self.asked.clear()
            if self.asked.get(key, 0) & 7 or self.asked.get(key, 0) & (self.asked.get(key, 0) - 1):
                raise _Eager(f"there are max_graphs={self.options.max_graphs} graphs already")

    def _name_of(self, call: _Call, index: int) -> str:
        at = 0
        names = _argument_names(self.fn, len(call.args))
        for name, value in zip(names, call.args, strict=True):
            form: list[Hashable] = []
            _flatten(value, [], form)
            at += len(form)
            if index < at:
                return name
        at += 1
        for name, value in call.kwargs.items():
            form = []
            _flatten(value, [], form)
            at += len(form)
            if index < at:
                return name
        return "?"

    # -- the first call of its kind

    def _first(self, call: _Call, key: Any, device: torch.device) -> Any:
        """Run the code for real; then, its effects undone, record it."""
        why = "recording"
        tensors = {id(t): t for watch in self._watching(call) for t in watch.tensors}
        parameters = [t for t in tensors.values() if t.requires_grad and t.is_leaf and t.is_cuda]
        before = [p.grad for p in parameters]
        touched: list[bool] = []
        hooks = []
        if torch.is_grad_enabled():

            def note(_: Tensor) -> None:
                touched.append(True)

            hooks = [cast(Any, p).register_post_accumulate_grad_hook(note) for p in parameters]
        inline, _local.inline = getattr(_local, "inline", False), True
        try:
            result = self.fn(*call.args, **call.kwargs)
        finally:
            _local.inline = inline
            for hook in hooks:
                hook.remove()
        touched.extend(True for p, g in zip(parameters, before, strict=True) if p.grad is not g)
        try:
            leaves: list[Tensor] = []
            _flatten(result, leaves, [])
            if any(t.grad_fn is not None for t in leaves) and torch.is_grad_enabled():
                if not touched:
                    raise _Eager("autograd records: a result requires a gradient")
                result = _rebuild(result, iter([t.detach() if t.grad_fn is not None else t for t in leaves]))
            del leaves
            with self.lock, _pool(device).lock:
                had = [g is not None for g in before]
                self._record(call, key, device, parameters, had, bool(touched), result)
        except _Leak as leak:
            self.exact = True
            self._drop(list(self.graphs.values()))
            self.graphs.clear()
            self._warn(f"{leak}, so every exact shape gets a graph of its own")
        except Exception as error:  # the result is there already: nothing that goes wrong here may lose it
            reason = error if isinstance(error, _Eager) else _Eager(f"recording failed: {error!r}")
            why = str(reason)
            self.shared += isinstance(reason, _Shared)
            if isinstance(reason, _Changing):
                self.changing[key[0]] = why
            elif not isinstance(reason, _Shared) or self.shared > _MOST_VALUES:
                self.refused[key] = why
            if not why.startswith("autograd"):
                self._warn(f"runs eagerly: {why}")
        self.eager[why] = self.eager.get(why, 0) + 1
        return result

    def _device(self, call: _Call) -> torch.device:
        tensors = call.leaves or [t for watch in self._watching(call) for t in watch.tensors if t.is_cuda]
        if not tensors:
            raise _Eager("it has no tensor on a GPU to work on")
        device = tensors[0].device
        if any(t.device != device for t in call.leaves):
            raise _Eager("the arguments are on two devices")
        if device.index not in (None, torch.cuda.current_device()):
            raise _Eager("the arguments are not on the current device")
        for leaf in call.leaves:
            if leaf.layout != torch.strided or leaf.is_quantized:
                raise _Eager(f"an argument has layout {leaf.layout} and dtype {leaf.dtype}")
        return device

    def _warn(self, text: str) -> None:
        if text not in self.warned and len(self.warned) < 4:
            self.warned.add(text)
            stack = traceback.extract_stack()
            level = next((n for n, f in enumerate(reversed(stack)) if f.filename != __file__), 0)
            warnings.warn(f"{self.name}: {text}", RuntimeWarning, stacklevel=level + 1)

    # -- recording

    def _record(
        self,
        call: _Call,
        key: Any,
        device: torch.device,
        parameters: list[Tensor],
        had: list[bool],
        touched: bool,
        result: Any,
    ) -> None:
        """Make the graph for a call, or find out why there can be none; the runs it takes leave no trace."""
        if torch.cuda.is_current_stream_capturing():
            raise _Eager("another capture is under way")
        if not self.graphs:
            self._look()  # what the first run created belongs to the state
        state = self._state(call)
        graph = self.graphs.get((key[0], state, key[2]))
        if graph is None:
            self._make_room()
        pool = _pool(device)
        sandbox = _Sandbox(self._watching(call), device)
        now = [p.grad for p in parameters]
        trial = _Trial(self, call, pool, sandbox, list(zip(parameters, had, strict=True)), result)
        side, current = pool.stream, torch.cuda.current_stream(device)
        pool.order()
        side.wait_stream(current)
        reason = ""
        try:
            with _quiet() as sink, torch.cuda.stream(side):
                try:
                    made = trial.go(graph, sink, touched, bind=key not in self.unbound)
                except (_Eager, _Leak):
                    raise
                except Exception as error:
                    reason = trial.explain(error)  # nothing may keep the error: it holds memory of the pool
                finally:
                    sandbox.restore_memory()
                    sandbox.restore_random()
                    sandbox.restore_python()
                    for p, g in zip(parameters, now, strict=True):
                        p.grad = g
        finally:
            current.wait_stream(side)
        if reason:
            if trial.capturing is not None:
                pool.recover(trial.capturing, [g for g, _ in sandbox.generators if g.device.type == "cuda"])
            raise _Eager(reason)
        if graph is None:
            if trial.depends and not self.parameters:
                self.parameters = parameters
            grads = tuple(not h for h in had) if self.parameters else ()
            self.graphs[(key[0], state, grads)] = made
            pool.graphs.add(made)


class _Trial:
    """The runs of the code on private inputs that end in a capture."""

    def __init__(
        self,
        runner: _Runner,
        call: _Call,
        pool: _Pool,
        sandbox: _Sandbox,
        gradients: list[tuple[Tensor, bool]],
        result: Any,
    ) -> None:
        self.runner, self.call, self.pool, self.sandbox = runner, call, pool, sandbox
        self.had = gradients
        self.result = result  # of the real call
        self.gradients: list[tuple[Tensor, Tensor | None]] = []  # what each parameter starts a run with
        self.depends = False  # on the gradients that it finds
        self.capturing: Any = None  # the graph whose capture has begun

    def go(self, graph: _Graph | None, sink: _Sink, touched: bool, bind: bool) -> _Graph:
        """Watch one run; settle how outputs are cut; warm up and capture unless there is a graph already."""
        new = graph is None
        inputs = self._make_inputs() if graph is None else graph.inputs
        graph = graph or _Graph(self.pool, self.call, inputs)
        first, grads, static = self._watch_run(graph, sink, touched)
        if new and bind and graph.mutated and not self.call.plans:
            graph = self._bind(graph)
            inputs = graph.inputs
            first, grads, static = self._watch_run(graph, sink, touched)
        observer = self.sandbox.observer
        pattern = self.call.pattern
        graph.cuts[pattern] = self._observe(graph, first) if pattern else [()] * len(first.leaves)
        if not new:
            return graph
        graph.keep = [t for a, t in observer.read.items() if a not in static and a not in grads]
        graph.reads = {_storage(t) for t in graph.keep}
        if graph.conflicts(self.call):
            raise _Shared
        external = graph.reads | {_storage(t) for watch in self.sandbox.watches for t in watch.tensors}
        count = _LATER_WARMUP if self.runner.graphs else _FIRST_WARMUP
        for _ in range(count - 1):
            self._set_gradients()
            self._body(inputs)
        self.sandbox.restore_memory()
        self.sandbox.restore_random()
        self._capture(graph, inputs, first, static, external)
        for watch in self.sandbox.watches:
            watch.use({*observer.read, *static})
        watch = self.sandbox.watches[0]
        watch.host.extend((t, t._version) for t in observer.host.values())
        watch.idle = watch.idle and not watch.host
        return graph

    def _watch_run(
        self, graph: _Graph, sink: _Sink, touched: bool
    ) -> tuple[_Result, set[int], dict[int, int]]:
        """One run that shows what is written, and whether a replay could stand for the code at all."""
        inputs, observer = graph.inputs, self.sandbox.observer
        graph.load(self.call)
        first, grads = self._probe(inputs, touched)
        static = {_storage(t): i for i, t in reversed(list(enumerate(inputs))) if t.numel()}
        graph.outer = set(observer.written) - set(static) - grads
        if sink.used:
            raise _Changing("it prints, which a replay would not do")
        if self.sandbox.drew_on_host:
            raise _Changing("it draws random numbers on the host (random, NumPy or a CPU generator)")
        if observer.reason:
            raise _Eager(observer.reason)
        for t, leaf in zip(inputs, self.call.leaves, strict=True):
            if t.dim() != leaf.dim() or (_storage(t) not in static and leaf.numel()):
                raise _Eager("it gives an argument another shape or other memory in place")
        graph.mutated = [i for i in graph.copied if _storage(inputs[i]) in observer.written]
        if any(graph.expanded[i] for i in graph.mutated):
            raise _Eager("it writes to an argument whose elements share memory")
        return first, grads, static

    def _bind(self, graph: _Graph) -> _Graph:
        """Use arguments that are written in place where they are: a cache is not copied in and out."""
        leaves = self.call.leaves
        written = {_storage(leaves[i]) for i in graph.mutated}
        bound = [i for i, leaf in enumerate(leaves) if leaf.numel() and _storage(leaf) in written]
        twins = {id(leaves[i]): leaves[i].detach() for i in bound}
        inputs = [twins.get(id(leaf), t) for leaf, t in zip(leaves, graph.inputs, strict=True)]
        return _Graph(self.pool, self.call, inputs, bound)

    def _probe(self, inputs: list[Tensor], touched: bool) -> tuple[_Result, set[int]]:
        """Run with gradients in place to see if they matter; give the run that counts and their addresses."""
        self.gradients = [
            (p, torch.zeros_like(p) if p.grad is None and touched else p.grad) for p, _ in self.had
        ]
        result = self._run(inputs)
        addresses = {_storage(g) for _, g in self.gradients if g is not None}
        self.depends = not addresses.isdisjoint(self.sandbox.observer.read)
        if self.depends:  # then as at the real call: some parameters had a gradient, others none
            self.gradients = [(p, torch.zeros_like(p) if had else None) for p, had in self.had]
            addresses.update(_storage(g) for _, g in self.gradients if g is not None)
            result = self._run(inputs)
        elif not touched:
            self.gradients, result.gradients = [], []
        return result, addresses

    # -- inputs

    def _make_inputs(self) -> list[Tensor]:
        made: dict[int, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            for i, leaf in enumerate(self.call.leaves):
                if id(leaf) not in made:
                    made[id(leaf)] = self._make_input(i, leaf)
        return [made[id(leaf)] for leaf in self.call.leaves]

    def _make_input(self, i: int, leaf: Tensor) -> Tensor:
        shape = self.call.shape(i)
        if not self.call.plans or not self.call.plans[i].dims:
            return _empty_like(leaf)
        if not _dense(leaf.shape, leaf.stride()):
            raise _Eager("the elements of a padded argument share memory")
        strides = _ordered_strides(shape, leaf.stride())
        size = math.prod(shape)
        slot = (i, leaf.dtype, leaf.device)
        flat = self.runner.flat.get(slot)
        if flat is None or flat.numel() < size:  # buckets share their inputs: each call fills them anew
            flat = self.runner.flat[slot] = torch.empty(size, dtype=leaf.dtype, device=leaf.device)
        return flat.as_strided(shape, strides)

    # -- runs

    def _set_gradients(self) -> None:
        for parameter, static in self.gradients:
            parameter.grad = static

    def _body(self, inputs: list[Tensor]) -> Any:
        args, kwargs = _rebuild((self.call.args, self.call.kwargs), iter(inputs))
        if not torch.is_autocast_enabled("cuda"):
            return self.runner.fn(*args, **kwargs)
        # casts of weights that autocast keeps would be made in one graph and used by another
        with torch.autocast("cuda", dtype=torch.get_autocast_dtype("cuda"), cache_enabled=False):
            return self.runner.fn(*args, **kwargs)

    def _run(self, inputs: list[Tensor]) -> _Result:
        """One watched run and its results; afterwards everything is as before."""
        sandbox = self.sandbox
        self._set_gradients()
        sandbox.observer.made.clear()
        for t in inputs:
            sandbox.observer.written.pop(_storage(t), None)  # to be put back to what they hold now
        with sandbox.observer:
            out = self._body(inputs)
        changed = sandbox.restore_python()
        if changed:
            raise _Changing(f"{changed} changes at every call, which a replay would not do")
        leaves: list[Tensor] = []
        form: list[Hashable] = []
        _flatten(out, leaves, form)
        known = {id(t.value) for t in self.call.form if type(t) is _Same}
        known = known.union(*(watch.seen for watch in sandbox.watches))
        if any(type(t) is _Same and id(t.value) not in known for t in form):
            raise _Eager("it returns an object that cannot be taken apart into tensors")
        with torch.no_grad():
            result = _Result(
                [t.detach().clone() for t in leaves],
                form,
                [t.clone() for t in inputs],
                {a: whole.clone() for a, (whole, _) in sandbox.observer.written.items()},
                [None if p.grad is None else p.grad.clone() for p, _ in self.gradients],
            )
        sandbox.drew_on_host = sandbox.drew_on_host or sandbox.host_randomness()
        sandbox.drew_on_device = sandbox.drew_on_device or sandbox.device_randomness()
        sandbox.restore_random()
        sandbox.restore_memory()
        return result

    # -- padding

    def _observe(self, graph: _Graph, padded: _Result) -> _Cuts:
        """Find the dimensions to cut by runs with and without padding; raise _Leak if it changes a result."""
        if self.sandbox.drew_on_device:
            raise _Leak("it draws random numbers, and how many depends on the padding")
        exact_inputs = self._exact()
        exact = self._real(graph) or self._run(exact_inputs)
        cuts = self._cuts(exact, padded)
        self._compare(graph, exact, padded, cuts)
        names = {name for name, size in self.call.sizes.items() if size != self.call.buckets[name]}
        if names <= self.runner.proven:
            return cuts
        floats = [i for i in graph.copied if graph.plans[i].dims and _is_data(self.call.leaves[i])]
        if floats:  # other data, then other padding: a maximum or a sum may agree by luck
            for i in floats:
                exact_inputs[i].mul_(0.5)
            exact = self._run(exact_inputs)
            for repeated in (False, True):
                graph.load(self.call)
                for i in floats:
                    if repeated and not graph.plans[i].explicit:
                        self._repeat(graph, i)
                    graph.real_part(i, graph.inputs[i], self.call).mul_(0.5)
                self._compare(graph, exact, self._run(graph.inputs), cuts)
            graph.load(self.call)
        self.runner.proven |= names
        return cuts

    def _real(self, graph: _Graph) -> _Result | None:
        """The real call as a run without padding, if the code changes nothing."""
        if graph.outer or graph.mutated or self.gradients:
            return None
        leaves: list[Tensor] = []
        form: list[Hashable] = []
        _flatten(self.result, leaves, form)
        return _Result(leaves, form, self.call.leaves, {}, [])

    def _exact(self) -> list[Tensor]:
        made: dict[int, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            for leaf in self.call.leaves:
                if id(leaf) not in made:
                    made[id(leaf)] = _empty_like(leaf)
                    if leaf.numel():
                        made[id(leaf)] = leaf.detach().clone()
        return [made[id(leaf)] for leaf in self.call.leaves]

    def _repeat(self, graph: _Graph, i: int) -> None:
        """Fill the padding of input ``i`` with real data of the same call."""
        for dim, name in graph.plans[i].dims:
            size, bucket = self.call.sizes[name], self.call.buckets[name]
            if size != bucket:
                index = torch.arange(size, bucket, device=graph.inputs[i].device) % size
                rows = graph.inputs[i].index_select(dim, index)
                graph.inputs[i].narrow(dim, size, bucket - size).copy_(rows)

    def _cuts(self, exact: _Result, grown: _Result) -> _Cuts:
        if exact.form != grown.form or len(exact.leaves) != len(grown.leaves):
            raise _Leak("what it returns depends on the size beyond the shapes of tensors")
        padded = [n for n, size in self.call.sizes.items() if size != self.call.buckets[n]]
        sizes = {name: (self.call.sizes[name], self.call.buckets[name]) for name in padded}
        cuts: _Cuts = []
        for i, (a, b) in enumerate(zip(exact.leaves, grown.leaves, strict=True)):
            dims = []
            if a.dim() != b.dim() or a.dtype != b.dtype:
                raise _Leak(f"padding changes the kind of output {i}")
            for dim, (small, large) in enumerate(zip(a.shape, b.shape, strict=True)):
                if small == large:
                    continue
                fits = [
                    n
                    for n, (size, bucket) in sizes.items()
                    if small * bucket == large * size and not small % size
                ]
                if not fits:
                    raise _Leak(f"dimension {dim} of output {i} does not follow the padded sizes")
                dims.append((dim, fits[0], small // sizes[fits[0]][0]))
            cuts.append(tuple(dims))
        return cuts

    def _compare(self, graph: _Graph, exact: _Result, padded: _Result, cuts: _Cuts) -> None:
        for i, (a, b) in enumerate(zip(exact.leaves, padded.leaves, strict=True)):
            if not _close(a, _cut(b, cuts[i], self.call.sizes)):
                raise _Leak(f"padding changes output {i}")
        for i in graph.copied:
            if not _close(exact.inputs[i], graph.real_part(i, padded.inputs[i], self.call)):
                raise _Leak("padding changes what is written to an argument")
        for address in graph.outer:
            if not _close(exact.written[address], padded.written[address]):
                raise _Leak("padding changes the state that is written")
        for g, h in zip(exact.gradients, padded.gradients, strict=True):
            if (g is None) != (h is None) or (g is not None and h is not None and not _close(g, h)):
                raise _Leak("padding changes a gradient")

    # -- capture

    def _capture(
        self, graph: _Graph, inputs: list[Tensor], first: _Result, static: dict[int, int], external: set[int]
    ) -> None:
        device = self.pool.device
        graph.graph = torch.cuda.CUDAGraph()
        for generator, _ in self.sandbox.generators:
            if generator.device.type == "cuda":
                graph.graph.register_generator_state(generator)
        self._set_gradients()
        torch.cuda.synchronize(device)
        reserved = torch.cuda.memory_reserved(device)
        self.capturing = graph.graph
        graph.graph.capture_begin(pool=self.pool.memory(), capture_error_mode="thread_local")
        try:
            out = self._body(inputs)
        except BaseException:
            with contextlib.suppress(Exception):
                graph.graph.capture_end()
            graph.graph.reset()
            raise
        graph.graph.capture_end()
        graph.bytes = max(torch.cuda.memory_reserved(device) - reserved, 0)
        changed = self.sandbox.restore_python()
        leaves: list[Tensor] = []
        form: list[Hashable] = []
        _flatten(out, leaves, form)
        if changed or form != first.form or [t.shape for t in leaves] != [t.shape for t in first.leaves]:
            graph.graph.reset()
            raise _Changing(
                f"{changed or 'what it returns'} changes at every call, which a replay would not do"
            )
        graph.template = out
        self._classify(graph, inputs, leaves, static, external)
        written = self.sandbox.observer.written
        for parameter, before in self.gradients:
            after = parameter.grad
            used = before is not None and _storage(before) in self.sandbox.observer.read
            if before is not None and used:
                graph.grads_in.append((parameter, before))
            if after is None:
                graph.grads_out.extend([(parameter, None, False)] if before is not None else [])
            elif after is not before:
                graph.grads_out.append((parameter, after, False))
            elif _storage(after) in written:
                graph.grads_out.append((parameter, after, True))

    def _classify(
        self,
        graph: _Graph,
        inputs: list[Tensor],
        leaves: list[Tensor],
        static: dict[int, int],
        external: set[int],
    ) -> None:
        """Decide for every output whether it is copied, shares memory, or is the caller's own."""
        detached = [t.detach() if t.requires_grad and not t.is_leaf else t for t in leaves]
        graph.template = _rebuild(graph.template, iter(detached))
        graph.outputs = detached
        spans: dict[int, list[Tensor]] = {}
        for t in {id(t): t for t in leaves}.values():
            spans.setdefault(_storage(t), []).append(t)
        for i, t in enumerate(leaves):
            address = _storage(t)
            twin = next((j for j in range(i) if leaves[j] is t), None)
            own = next((j for j, s in enumerate(inputs) if s is t), None)
            if own is not None:
                graph.kinds.append(("input", own))
            elif t.numel() == 0:
                graph.kinds.append(("own", False))
            elif address in static:
                j = static[address]
                leaf = self.call.leaves[j]
                if leaf.stride() != inputs[j].stride():
                    raise _Eager("it returns a view of a padded argument")
                graph.kinds.append(("view", (j, t.storage_offset() - inputs[j].storage_offset())))
            elif address in external:
                graph.kinds.append(("state", t))
            elif twin is not None:
                graph.kinds.append(("same", twin))
            elif len(spans[address]) > 1:
                low = min(s.storage_offset() for s in spans[address])
                reach = [
                    sum((n - 1) * k for n, k in zip(s.shape, s.stride(), strict=True)) for s in spans[address]
                ]
                high = max(s.storage_offset() + r + 1 for s, r in zip(spans[address], reach, strict=True))
                if len({s.dtype for s in spans[address]}) > 1:
                    raise _Eager("it returns views of one tensor with different dtypes")
                graph.kinds.append(("group", (address, low, high)))
            else:
                compact = t.is_contiguous() or _ordered_strides(t.shape, t.stride()) == list(t.stride())
                graph.kinds.append(("own", not compact and _dense(t.shape, t.stride())))

        graph.compact = all(kind == ("own", False) for kind in graph.kinds)

    # -- failure

    def explain(self, error: BaseException) -> str:
        """Name the user's line that stopped the capture, and why."""
        root = error
        while root.__context__ is not None:
            root = root.__context__
        place = _user_line(traceback.extract_tb(root.__traceback__))
        message = _first_line(root)
        found: list[str] = []

        def note(text: Any, *args: Any, **kwargs: Any) -> None:
            if "synchroniz" in str(text):
                found.append(_user_line(traceback.extract_stack()))

        with contextlib.suppress(Exception):
            torch.cuda.synchronize(self.pool.device)
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("always")
                    warnings.showwarning = note  # type: ignore[assignment]
                    self._set_gradients()
                    with self.sandbox.observer:
                        self._body(self._exact())
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        if found:
            return f"{found[0]} waits for the GPU, which a graph cannot ({message})"
        return f"{place}: {message}"


@dataclasses.dataclass
class _Result:
    """What one run gave: outputs, inputs afterwards, memory written elsewhere, gradients."""

    leaves: list[Tensor]
    form: list[Hashable]
    inputs: list[Tensor]
    written: dict[int, Tensor]
    gradients: list[Tensor | None]


def _user_line(stack: Iterable[traceback.FrameSummary]) -> str:
    """The innermost line that is neither torch's nor ours."""
    device = inspect.getfile(torch.cuda.CUDAGraph.replay).rpartition("graphs.py")[0]  # elsewhere if emulated
    library = (torch.__file__.rpartition("__init__")[0], device, contextlib.__file__, warnings.__file__, "<")
    frames = [f for f in stack if not f.filename.startswith(library) and f.filename != __file__]
    if not frames:
        return "the code"
    frame = frames[-1]
    source = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
    return f"{frame.filename}:{frame.lineno} `{source}`"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _empty_like(leaf: Tensor) -> Tensor:
    """Memory of its own for a tensor, with the same strides."""
    steps = [0 if size > 1 and step == 0 else 1 for size, step in zip(leaf.shape, leaf.stride(), strict=True)]
    small = [size if keep else 1 for size, keep in zip(leaf.shape, steps, strict=True)]
    if not _dense(small, leaf.stride()):
        raise _Eager("the elements of an argument share memory")
    made = torch.empty_strided(small, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
    return made.as_strided(leaf.shape, leaf.stride())


def _is_data(leaf: Tensor) -> bool:
    """Floating point and no mask: other values than those of this call are as good."""
    if not leaf.is_floating_point() or not leaf.numel():
        return False
    return not bool(((leaf == 0) | (leaf == 1) | (leaf.abs() > 1e4)).all())


_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def _close(exact: Tensor, padded: Tensor) -> bool:
    """Equal up to the rounding of other kernels; NaN and infinities in the same places."""
    if exact.shape != padded.shape or exact.dtype != padded.dtype:
        return False
    if exact.is_complex():
        exact, padded = torch.view_as_real(exact.resolve_conj()), torch.view_as_real(padded.resolve_conj())
    if not exact.is_floating_point():
        return torch.equal(exact, padded)
    tolerance = _TOLERANCE.get(exact.dtype, 0.2)
    if exact.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        tolerance = 1e-2
    a, b = (exact, padded) if exact.dtype == torch.float64 else (exact.float(), padded.float())
    finite = a.isfinite() & b.isfinite()
    same = (a == b) | (a.isnan() & b.isnan())
    size = torch.where(finite, a.abs(), 0)
    scale = size + (size.mean() if size.numel() else 0)
    near = torch.where(finite, a - b, 0).abs() <= tolerance * scale
    return bool((same | (finite & near)).all())
