# Vendored by cudagraph-refactor 0.1.0 (sha256 ac2f3041f0a07e40254023b8bc30802d5b02675a1ddb5d5763b68cf141e607d9) with graphed, segment only. Remove this line to keep changes of your own; `refactor apply` updates the file otherwise.
"""CUDA graphs for PyTorch code that stays ordinary PyTorch code.

``graphed(model)`` and ``@segment`` record what a callable launches, once for each kind of input, and replay
it afterwards. For anything that cannot be replayed faithfully the original code runs instead, and one warning
says why.

On a CPU, under autograd, ``torch.compile`` or a function transform all of it does what plain code does.

How to read this file, in its order:
1. the public functions;
2. wrappers: what ``graphed`` returns, and where graphs are kept (with their module or instance);
3. trees: a call taken apart into tensors and a hashable rest;
4. padding: the dimensions that grow to a bucket;
5. state: what the code that ran (``_Ran``) reads besides its arguments is watched (``_Watch``). A number
   that changes selects another graph, anything else that changes drops the graphs;
6. trial runs that leave no trace (``_Observer``, ``_Random``, ``_quiet``);
7. one graph (``_Graph``): copy in, replay, hand out; and the memory all graphs share (``_Pool``);
8. one callable (``_Runner``): a call becomes a key, and the key finds a graph. If there is none, the original
   code runs and its result is returned;
9. then, its effects undone, it is recorded (``_Recording``): run once watched, which finds what it reads and
   writes, some times more on a side stream, and once captured.
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
import os
import pickle
import random
import sys
import threading
import time
import traceback
import types
import warnings
import weakref
from collections import Counter, OrderedDict, UserDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

__all__ = ["graphed", "segment"]

_HOME = "_cuda_graphs"  # the private attribute under which an object keeps its graphs
_FIRST_WARMUP, _LATER_WARMUP = 11, 3  # runs before a capture; the first number is what autograd's hooks need
_MOST_VALUES = 8  # of one scalar or attribute, each with graphs of its own; then eager
_FRUITLESS = 8  # graphs dropped in a row without a replay; then eager, and another try ever more rarely
_CALLS_A_GRAPH = 64  # beyond max_graphs recordings, one more for every so many calls
_MOST_OBJECTS = 50_000  # looked at in search of state
_LARGE = 4096  # bytes of a constant, beyond which a digest stands for the content
_NUMBERS = frozenset((int, float, bool, complex))
_SCALARS = _NUMBERS | {str, bytes, type(None), range, torch.Size}
_SCALARS |= {torch.dtype, torch.device, torch.layout, torch.memory_format}
_TENSORS = (Tensor, nn.Parameter)


def _torch(name: str, fallback: Any) -> Any:
    """A private or recent part of torch, or what stands in for it where it is missing."""
    try:
        found = operator.attrgetter(name)(torch)
    except AttributeError:
        return fallback
    return fallback if isinstance(found, type) else found  # a class stands for what a build lacks


_compiling = torch.compiler.is_compiling
_transforms = _torch("_C._functorch.peek_interpreter_stack", lambda: None)
_transforming = _torch("_C._are_functorch_transforms_active", lambda: _transforms() is not None)
_tracing = _torch("_C._is_tracing", lambda: torch._C._get_tracing_state() is not None)
_symbolic = _torch("fx._symbolic_trace.is_fx_symbolic_tracing", lambda: False)
_capturing = _torch("_C._cuda_isCurrentStreamCapturing", lambda: torch.cuda.is_current_stream_capturing())
_current_stream = _torch("_C._cuda_getCurrentRawStream", lambda index: torch.cuda.current_stream(index))
_profiling = _torch("_C._autograd._profiler_enabled", lambda: False)
_deterministic = _torch("_C._get_deterministic_algorithms", torch.are_deterministic_algorithms_enabled)
_cudnn_deterministic = _torch("_C._get_cudnn_deterministic", lambda: torch.backends.cudnn.deterministic)
_cudnn_tf32 = _torch("_C._get_cudnn_allow_tf32", lambda: torch.backends.cudnn.allow_tf32)
_matmul_precision = _torch("_C._get_float32_matmul_precision", torch.get_float32_matmul_precision)
_function_modes = _torch("_C._len_torch_function_stack", lambda: 0)
_nsight = "NSYS_PROFILING_SESSION_ID" in os.environ  # Nsight Systems, which sees NVTX ranges only


def _uncompiled() -> Any:
    """A context in which what ``torch.compile`` made runs as the code it was made from."""
    stance = getattr(torch.compiler, "set_stance", None)  # torch >= 2.6
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    if stance is None:
        raise _Eager("what torch.compile has compiled can be watched from torch 2.6 on")
    return stance("force_eager")


class _Local(threading.local):
    inline = False  # run nested graphed callables as plain code


_local = _Local()


class _Eager(Exception):
    """Why a call cannot be served by a graph, in words for the user."""


class _Changing(_Eager):
    """The same, for code that changes host state: true whatever that state is."""


class _Unlike(_Eager):
    """The same, for an argument: others that have the same key may do."""


class _Unseen(Exception):
    """What a call reads cannot be told from the code that ran."""


class _Rebound(Exception):
    """Something that a graph holds by address was replaced; the message names it."""


class _Leak(Exception):
    """Padding changes a result; the message says which."""


# ------------------------------------------------------------------------------------ 1. public functions


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
    clone: False hands out the graph's own output memory, which the next replay of any graph may overwrite.
    max_graphs: the least recently used graph makes room for one more.
    max_bytes: of memory for graphs on the device, all callables together; beyond it all of them start anew.

    An argument that is written in place, such as a cache, is used where it is for as long as calls pass it
    there. The wrapper of a module is kept with the module: the same options give the same wrapper. What
    ``torch.compile`` returns can be wrapped, too: then the graph holds the compiled kernels.
    Raises ValueError for a ``pad`` or ``buckets`` that cannot be read, TypeError if ``fn`` cannot be called.
    """
    if not callable(fn):
        raise TypeError(f"graphed() takes a module or a function, not {type(fn).__name__}")
    padding = None if pad is None else _Padding(pad, fill, buckets)
    options = _Options(padding, _as_tuple(guard), clone, max_graphs, max_bytes)
    if isinstance(fn, Graphed):
        fn = fn._cg_runner.fn
    owner, name = (fn.__self__, fn.__name__) if isinstance(fn, types.MethodType) else (fn, "")
    home, key = _home(owner), (name, repr((pad, fill, buckets)), *options[1:])
    return (
        Graphed(_Runner(fn, options))
        if home is None
        else home.kept(key, lambda: Graphed(_Runner(fn, options)))
    )


def segment(method: Any = None, *, guard: str | Sequence[str] = ()) -> Any:
    """Decorate a method whose device work becomes one graph for each kind of input and each instance."""
    if method is None:
        return functools.partial(segment, guard=guard)
    options = _Options(None, _as_tuple(guard), True, 64, None)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        home = None if torch.compiler.is_compiling() or _symbolic() else _home(self)
        if home is None:
            return method(self, *args, **kwargs)
        runner = home.made.get(call)
        if runner is None:
            runner = home.kept(call, lambda: _Runner(types.MethodType(method, self), options, modular=True))
        return runner.call(args, kwargs)

    return call


# ---------------------------------------------------------------------- 2. wrappers and where they are kept


class _Options(NamedTuple):
    padding: _Padding | None
    guard: tuple[str, ...]
    clone: bool
    max_graphs: int
    max_bytes: int | None


def _as_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


class _Home:
    """The graphs and buffers of one object, under a private attribute; copies of the object start empty."""

    def __init__(self, owner: Any) -> None:
        self.owner = weakref.ref(owner)  # a shallow copy of the object has the same attributes
        self.lock = threading.RLock()
        self.made: dict[Hashable, Any] = {}  # what `graphed` returned, and a runner for each segment
        self.buffers: OrderedDict[Hashable, Tensor | None] = OrderedDict()

    def kept(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under this key, made now if it is the first time."""
        with self.lock:
            if key not in self.made:
                self.made[key] = make()
            return self.made[key]

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
        self.__dict__.update(_cg_runner=runner, __wrapped__=runner.fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _compiling():
            return self._cg_runner.fn(*args, **kwargs)
        return self._cg_runner.call(args, kwargs)

    def __getattr__(self, name: str) -> Any:
        fn = self.__dict__["_cg_runner"].fn
        value = getattr(fn, name)
        if not (isinstance(value, types.MethodType) and value.__self__ is fn and isinstance(fn, nn.Module)):
            return value

        @functools.wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            return self if result is fn else result  # graphed(model).eval() stays graphed

        return method

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cg_runner.fn, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._cg_runner.fn, name)

    def __repr__(self) -> str:
        return f"graphed({self._cg_runner.fn!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rewrap, (self._cg_runner.fn, tuple(self._cg_runner.options)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _rewrap(copy.deepcopy(self._cg_runner.fn, memo), self._cg_runner.options)

    def stats(self) -> dict[str, Any]:
        """What was recorded and replayed, and what ran as plain code, and why.

        graphs: how many there are; buckets: replays of each, by its sizes; replays: all, also of graphs that
        are gone; eager: calls that ran the code itself, by reason; bytes: memory that the graphs' recording
        took from the device; padding: the share of padding in all that was copied in, 0 to 1.
        """
        return self._cg_runner.stats()

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Record all buckets up to the sizes of this call, the largest first. The code runs for each.

        A tensor on the meta device stands for one of its shape and dtype, and where no argument is a tensor a
        tuple of sizes for one of the dtype of the first parameter; they are filled with random numbers, or
        with ones where they are whole. Sizes by name in front grow what follows to them, where a dtype stands
        for a tensor if ``pad`` names all its dimensions: ``prepare({"B": 32}, (1, 16))`` for all up to 32,
        ``prepare({"B": [1, 8]}, …)`` for these. After a call nothing need follow, and ``prepare()`` is for
        the ``buckets`` that were given. Raises ValueError for sizes alone before any call.
        """
        self._cg_runner.prepare(args, kwargs)

    def reset(self) -> None:
        """Drop all graphs and forget why calls ran eagerly."""
        self._cg_runner.reset()


def _rewrap(fn: Any, options: Iterable[Any]) -> Graphed:
    return Graphed(_Runner(fn, _Options(*options)))


# -------------------------------------------------------------------------------- 3. trees and calls


class _Same:
    """A key that is equal for one and the same object only, and by default does not keep it alive."""

    __slots__ = ("number", "refer")

    def __init__(self, value: Any, strong: bool = False) -> None:
        self.number = id(value)
        try:
            self.refer: Callable[[], Any] = (lambda: value) if strong else weakref.ref(value)
        except TypeError:  # no weak references
            self.refer = lambda: value

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        if type(other) is not _Same or self.number != other.number:
            return False
        value = self.refer()
        return value is not None and value is other.refer()


def _token(value: Any) -> Hashable:
    """Typed equality for scalars (1, 1.0 and True differ, 0.0 and -0.0 too), identity for everything else."""
    kind = type(value)
    if kind not in _SCALARS:
        return _Same(value)
    if kind is float and (value == 0 or value != value):
        return (kind, "nan" if value != value else str(value))
    return (kind, value)


def _children(value: Any) -> tuple[tuple[Any, Any], Iterable[Any]] | None:
    """What a container is made of: (its kind and names or length), its items; None if it is no container."""
    kind = type(value)
    if kind is tuple or kind is list or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return (kind, len(value)), value
    if kind is slice:
        return (kind, 3), (value.start, value.stop, value.step)
    if isinstance(value, (dict, UserDict)):
        table = value if isinstance(value, dict) else value.data
        return (kind, tuple(table)), table.values()
    if kind is types.MethodType:  # a new object at every access
        return (kind, (value.__func__,)), (value.__self__,)
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, nn.Module)):
        names = tuple(f.name for f in dataclasses.fields(value))
        return (kind, names), [getattr(value, name) for name in names]
    return None


def _flatten(values: Iterable[Any], leaves: list[Tensor], form: list[Any]) -> bool:
    """Append the tensors of trees to ``leaves``, all else to ``form``; return whether there are objects."""
    objects = False
    for value in values:
        kind = type(value)
        if kind in _TENSORS:
            leaves.append(value)
            form.append(kind)
        elif kind in _SCALARS:
            form.append(_token(value))
        elif isinstance(value, Tensor):
            raise _Eager(f"an argument is a {kind.__name__}, a tensor subclass")
        elif (inside := _children(value)) is not None:
            form.append(inside[0])
            objects |= _flatten(inside[1], leaves, form)
        elif isinstance(value, (Iterator, set, bytearray)) or kind.__module__ == "numpy":
            raise _Eager(f"an argument is a {kind.__name__}, whose contents cannot be watched")
        else:
            form.append(_Same(value))
            objects = True
    return objects


def _taken_apart(value: Any) -> tuple[list[Tensor], list[Hashable]]:
    leaves: list[Tensor] = []
    form: list[Hashable] = []
    _flatten((value,), leaves, form)
    return leaves, form


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The path of everything in a tree, containers first: in the order in which ``_flatten`` meets it."""
    yield path, value
    inside = None if type(value) in _SCALARS or isinstance(value, Tensor) else _children(value)
    if inside is not None:
        names = inside[0][1] if isinstance(inside[0][1], tuple) else range(inside[0][1])
        for name, item in zip(names, inside[1], strict=True):
            yield from _paths(item, (*path, name))


def _rebuild(value: Any, leaves: Iterator[Any], other: Callable[[Any], Any] | None = None) -> Any:
    """The same tree with its tensors replaced in the order of ``_flatten``, and objects by ``other``."""
    kind = type(value)
    if kind in _TENSORS:
        return next(leaves)
    inside = None if kind in _SCALARS else _children(value)
    if inside is None:
        return value if other is None else other(value)
    items = [_rebuild(item, leaves, other) for item in inside[1]]
    if kind is tuple or kind is list:
        return kind(items)
    if isinstance(value, tuple) or kind is slice:
        return kind(*items)
    if kind is types.MethodType:
        return value if items[0] is value.__self__ else types.MethodType(value.__func__, items[0])
    new = copy.copy(value)
    for name, item in zip(inside[0][1], items, strict=True):
        if isinstance(value, (dict, UserDict)):
            new[name] = item
        else:
            object.__setattr__(new, name, item)
    return new


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage().data_ptr()
    return address


class _Call:
    """One call, taken apart."""

    plans: Sequence[_LeafPlan] = ()  # how each tensor is padded
    sizes: Mapping[str, int] = types.MappingProxyType({})  # of the dimensions with a name
    buckets: Mapping[str, int] = types.MappingProxyType({})  # what they grow to
    at: tuple[int, ...] = ()  # the sizes alone

    def __init__(
        self, args: Any, kwargs: Any, leaves: list[Tensor], form: Sequence[Hashable], has_objects: bool
    ) -> None:
        self.args, self.kwargs, self.has_objects = args, kwargs, has_objects
        self.leaves, self.form = leaves, form

    def objects(self) -> list[Any]:
        """The objects among the arguments that are neither tensors, scalars nor containers."""
        return [t.refer() for t in self.form if type(t) is _Same]

    def owners(self) -> tuple[_Same, ...]:
        """Those objects as keys."""
        return tuple([t for t in self.form if type(t) is _Same]) if self.has_objects else ()

    def is_as_given(self) -> bool:
        """Whether the containers among the arguments still hold what they held."""
        leaves: list[Tensor] = []
        form: list[Hashable] = []
        _flatten(self.args, leaves, form)
        form += [tuple(self.kwargs)] if self.kwargs else []
        _flatten(self.kwargs.values(), leaves, form)
        same = len(leaves) == len(self.leaves) and all(map(operator.is_, leaves, self.leaves))
        return same and tuple(form) == self.form[: len(form)]

    def named(self, fn: Any) -> Iterator[tuple[int | None, tuple[Any, ...], Any]]:
        """Position, path and value of everything in ``form`` but the names of keywords, in order."""
        try:
            signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
            known = [p.name for p in signature.parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        except (TypeError, ValueError):
            known = []
        names = [*known, *(f"_{i}" for i in range(len(known), len(self.args)))]
        arguments = [
            *zip(itertools.count(), names, self.args),
            *((None, *item) for item in self.kwargs.items()),
        ]
        for position, name, argument in arguments:
            yield from ((position, path, value) for path, value in _paths(argument, (name,)))

    def shape(self, i: int) -> tuple[int, ...]:
        """The shape of leaf ``i`` with its named dimensions grown to their buckets."""
        shape = list(self.leaves[i].shape)
        for dim, name in self.plans[i].dims if self.plans else ():
            shape[dim] = self.buckets[name]
        return tuple(shape)

    def with_sizes(self, sizes: Mapping[str, int]) -> _Call:
        """The same call with the named dimensions of its tensors cut to these sizes."""
        dims = [[(d, name, 1) for d, name in plan.dims] for plan in self.plans]
        cut = {id(t): _cut(t, where, sizes).contiguous() for t, where in zip(self.leaves, dims, strict=True)}
        made = _Call(self.args, self.kwargs, [cut[id(t)] for t in self.leaves], self.form, self.has_objects)
        made.plans, made.sizes, made.buckets, made.at = self.plans, sizes, self.buckets, tuple(sizes.values())
        return made

    def smaller(self) -> _Call:
        """A call with padding in every named dimension, as far as there is room; this one if it has that."""
        sizes: dict[str, int] = {}
        ratios: set[float] = {1.0}  # each another one, to tell by its ratio which size a dimension follows
        for name, size in self.sizes.items():
            bucket = self.buckets[name]
            sizes[name] = next((n for n in range(size, 0, -1) if n / bucket not in ratios), size)
            ratios.add(sizes[name] / bucket)
        return self if sizes == self.sizes else self.with_sizes(sizes)


# ------------------------------------------------------------------------------------------ 4. padding


class _LeafPlan(NamedTuple):
    dims: tuple[tuple[int, str], ...]  # (dimension, its name) of those that are padded
    fill: Any
    explicit: bool  # the user chose this fill for this tensor


class _Padding:
    """Which dimensions grow to which bucket, and what fills them."""

    def __init__(self, pad: Any, fill: Any, buckets: Any) -> None:
        self.pad, self.fill = pad, fill
        self.names: set[str] = set()
        self._check(pad)
        table = buckets if isinstance(buckets, Mapping) else dict.fromkeys(self.names, buckets)
        if unknown := set(table) - self.names:
            raise ValueError(f"buckets names {sorted(unknown)}, which pad does not")
        self.buckets: dict[str, list[int]] = {
            name: sorted(set(sizes)) for name, sizes in table.items() if sizes is not None
        }
        for sizes in self.buckets.values():
            if not sizes or any(type(n) is not int or n < 1 for n in sizes):
                raise ValueError(f"buckets={sizes!r}: give positive whole numbers")

    def _check(self, pad: Any) -> None:
        if isinstance(pad, Mapping):
            for value in pad.values():
                self._check(value)
        elif isinstance(pad, str):
            parts = pad.split()
            names = [p for p in parts if p not in ("_", "...")]
            odd = not all(n.isidentifier() for n in names) or len(set(names)) < len(names)
            if odd or parts.count("...") > 1:
                raise ValueError(f"pad={pad!r}: write names, '_' and at most one '...', as in 'B S ...'")
            self.names.update(names)
        elif pad is not None:
            raise ValueError(f"pad takes strings like 'B ...' or a dict of them, not {pad!r}")

    def bucket(self, name: str, size: int) -> int:
        """The smallest bucket that holds ``size``."""
        if size == 0:
            raise _Eager(f"dimension {name} has size 0")
        sizes = self.buckets.get(name)
        if sizes is None:
            return 1 << (size - 1).bit_length()
        if size > sizes[-1]:
            raise _Eager(f"dimension {name} has size {size}, above the largest bucket {sizes[-1]}")
        return next(n for n in sizes if n >= size)

    def has_sizes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether these arguments begin with sizes by name, or are none, instead of those of a call."""
        if not args:
            return not kwargs
        values = args[0].values() if isinstance(args[0], Mapping) and self.names >= set(args[0]) else [None]
        return all(type(n) is int for v in values for n in (v if isinstance(v, (list, tuple)) else [v]))

    def plan(self, fn: Any, call: _Call) -> list[_LeafPlan]:
        """For every tensor of a call: its padded dimensions and its fill."""
        plans: list[_LeafPlan] = []
        for position, path, value in call.named(fn):
            if type(value) in _TENSORS:
                fill = self._lookup(self.fill, path, position)
                explicit = isinstance(self.fill, Mapping) and fill is not None
                dims = self._match(self.pattern(path, position), value.dim(), path)
                plans.append(_LeafPlan(dims, 0 if fill is None else fill, explicit))
        return plans

    def pattern(self, path: tuple[Any, ...], position: int | None) -> str | None:
        """What ``pad`` says about an argument or a part of one."""
        return cast("str | None", self._lookup(self.pad, path, position))

    @staticmethod
    def _lookup(table: Any, path: tuple[Any, ...], position: int | None) -> Any:
        """The entry for a path: by argument name or position, then by nested key; None if there is none."""
        if not isinstance(table, Mapping):
            return table
        inner = [key for key in reversed(path[1:]) if isinstance(key, str)]
        rest = next((table[k] for k in (path[0], position, *inner) if k is not None and k in table), None)
        for key in path[1:]:
            rest = rest.get(key) if isinstance(rest, Mapping) else rest
        return None if isinstance(rest, Mapping) else rest

    def _match(self, pattern: str | None, ndim: int, path: tuple[Any, ...]) -> tuple[tuple[int, str], ...]:
        parts = pattern.split() if pattern else ["..."]
        rest = ndim - len(parts) + 1
        if "..." in parts and rest >= 0:
            at = parts.index("...")
            parts[at : at + 1] = ["_"] * rest
        if len(parts) == ndim:
            return tuple((i, p) for i, p in enumerate(parts) if p != "_")
        if ndim == 0 and not isinstance(self.pad, Mapping):
            return ()  # nothing to pad, under a pattern meant for all
        raise _Eager(f"argument {'.'.join(map(str, path))} has {ndim} dimensions, pad says {pattern!r}")


_Cuts = list[tuple[tuple[int, str, int], ...]]  # for each output: dimension, name of its size, how many times


def _cut(tensor: Tensor, dims: Iterable[tuple[int, str, int]], sizes: Mapping[str, int]) -> Tensor:
    for dim, name, times in dims:
        if tensor.shape[dim] != sizes[name] * times:
            tensor = tensor.narrow(dim, 0, sizes[name] * times)
    return tensor


def _dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether every element has memory of its own."""
    reach = 0
    for step, size in sorted((k, n) for k, n in zip(stride, shape, strict=True) if n > 1):
        if step <= reach:
            return False
        reach += step * (size - 1)
    return True


def _order(tensor: Tensor) -> list[int]:
    """The dimensions of a tensor in the order of its memory, the innermost first."""
    stride = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda d: (stride[d], -d))


def _compact(shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
    """Strides without gaps for ``shape`` in the memory order of a tensor."""
    result, step = [0] * len(shape), 1
    for dim in _order(like):
        result[dim] = step
        step *= max(shape[dim], 1)
    return tuple(result)


def _zero_strides(tensor: Tensor) -> list[int]:
    """The dimensions along which a tensor repeats itself, as ``expand`` makes them."""
    return [d for d, step in enumerate(tensor.stride()) if not step and tensor.shape[d] > 1]


def _narrowed(tensor: Tensor, dims: Iterable[int]) -> Tensor:
    for dim in dims:
        tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _empty_like(leaf: Tensor) -> Tensor:
    """Memory of its own for a tensor, with the same strides."""
    small = _narrowed(leaf, _zero_strides(leaf)).shape
    if not _dense(small, leaf.stride()):
        raise _Eager("the elements of an argument share memory")
    made = torch.empty_strided(small, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
    return made.as_strided(leaf.shape, leaf.stride())


# ------------------------------------------------------- 5. state: what the code reads besides its arguments


_ADDED_BESIDE = {_HOME, "__slotnames__"}  # by this file, and by copying
_PLUMBING = frozenset(nn.Module().__dict__) | {_HOME}
_TABLES = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_ALL = tuple("_global" + name for name in _HOOKS)
_HOOKS_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_LIBRARIES = (sys.stdlib_module_names | {"torch", "numpy", "builtins"}) - {"__main__"}
_LIBRARIES -= {"types", "argparse", "collections"}  # whose objects hold what is the user's
_MAKING = frozenset(  # and showing, comparing and copying: not what runs in a call
    {"__init__", "__new__", "__init_subclass__", "__setstate__", "__getstate__", "__reduce__", "__deepcopy__"}
    | {"__repr__", "__str__", "__eq__", "__hash__"}
)
_BY_OTHER_MEANS = frozenset(  # than its name code may ask for an attribute
    {"getattr", "vars", "attrgetter", "__dict__", "__getattribute__", "eval", "exec", "locals"}
)
_TO_SUBMODULES = frozenset(  # the same, for submodules
    {"modules", "named_modules", "children", "named_children", "_modules", "get_submodule", "apply"}
    | {"parameters", "named_parameters", "_parameters", "get_parameter", "state_dict"}
    | {"buffers", "named_buffers", "_buffers", "get_buffer"}
)
_LIVE: tuple[Any, ...] = (dict.values, iter)  # ways to read a space that need not be repeated to see changes
_END = (object(),)  # behind the last value: one more or one less is seen, too
_chain = itertools.chain.from_iterable
_CACHED: Any = type(functools.lru_cache(int))
_LOCK = type(threading.Lock())
_ELSEWHERE = frozenset({"threading", "queue", "concurrent", "asyncio", "multiprocessing"})
_STARTS_OTHERS = frozenset({"run_backward", "start_new_thread", "start_joinable_thread"})
_SYSTEM = ("posix", "nt", "io", "_io")
_OUTSIDE = frozenset(  # names of functions, see `_asks_outside`
    {"now", "utcnow", "today", "urandom", "open", "random", "getrandbits"} | (set(dir(time)) - {"sleep"})
)
_SEEDS = frozenset({"manual_seed", "seed", "set_state", "set_offset", "graphsafe_set_state"})  # a generator
_get_cell: Callable[[Any], Any] = operator.attrgetter("cell_contents", "cell_contents")
_MEMBERS = (staticmethod, classmethod, property, functools.cached_property, functools.partialmethod)
_get_code: Callable[[Any], Any] = operator.attrgetter("__code__", "__defaults__")
_CODE = (types.FunctionType, types.BuiltinFunctionType, type, *_MEMBERS, str, type(None))


class _Contents:
    """Reads an array as one value, the same object for as long as the contents are."""

    def __init__(self) -> None:
        self.last = b""

    def __call__(self, array: Any) -> tuple[bytes]:
        now = bytes(array) if isinstance(array, bytearray) else array.tobytes()
        if now != self.last:
            self.last = now
        return (self.last,)


def _is_library(kind: Any) -> bool:
    module: str = getattr(kind, "__module__", None) or getattr(kind, "__name__", None) or ""
    if isinstance(kind, types.FunctionType):
        module = kind.__globals__.get(
            "__name__", ""
        )  # a decorator of a library claims the module it is used in
    return module.partition(".")[0] in _LIBRARIES and not module.startswith("torch.optim")


@functools.cache
def _entries(*names: str) -> Callable[[Any], Any]:
    return operator.itemgetter(*names, *names[: len(names) == 1])  # a tuple also for one name


@functools.cache
def _attributes(*names: str) -> Callable[[Any], Any]:
    return operator.attrgetter(*names, *names[: len(names) == 1])


def _names_in(code: types.CodeType) -> set[str]:
    """Every name and word in the code of a function, those of functions nested in it as well."""
    names = {*code.co_names, *code.co_freevars}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _names_in(const)
        names.update(word for word in (const if type(const) is tuple else (const,)) if type(word) is str)
    return names


def _functions_in(member: Any) -> list[types.FunctionType]:
    """The functions behind a member of a class: a property, a static or wrapped method."""
    parts = [getattr(member, n, None) for n in ("__func__", "fget", "fset", "func")]
    return [f for f in parts if isinstance(f, types.FunctionType)]


@functools.cache
def _names_used_by(kind: type) -> frozenset[str]:
    """What the forward of a library's module names, and the methods that it calls."""
    names, todo = {"training"}, ["forward"]
    while todo:
        if isinstance(fn := getattr(kind, todo.pop(), None), types.FunctionType):
            fresh = _names_in(fn.__code__) - names
            names |= fresh
            todo += fresh
    return frozenset(names)


def _settings(value: Any) -> list[str]:
    """Of a library's own object what decides what it does, such as the p of a dropout."""
    used: Any = _names_used_by(type(value)) if isinstance(value, nn.Module) else vars(value)  # type: ignore[arg-type]
    known, kinds = _PLUMBING - {"training"}, (*_SCALARS, *_TENSORS, tuple)
    return [n for n, v in vars(value).items() if n in used and type(v) in kinds and n not in known]


def _refuse_graphs_of(attributes: Mapping[str, Any]) -> None:
    """Raise _Eager if these are attributes of something compiled that makes graphs of its own."""
    config = attributes.get("get_compiler_config", dict)() or {}
    if config.get("triton.cudagraphs"):
        raise _Eager("torch.compile makes graphs of its own in it: compile with the default mode instead")


def _looks(tensors: Iterable[Tensor]) -> list[Any]:
    return [(t.shape, t.stride(), t.dtype, t.is_conj(), t.is_neg(), t.requires_grad) for t in tensors]


def _looking_alike(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """A check of what is in ``_looks``, in C where torch has one that works in the mode of autograd here."""
    sizes, strides = [[*t.shape] for t in tensors], [[*t.stride()] for t in tensors]
    try:
        make: Any = torch._C._dynamo.guards.TensorGuards
        check: Callable[..., bool] = make(
            *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
        ).check
        if check(*tensors):
            return check
    except (AttributeError, TypeError):
        pass
    if torch.is_inference_mode_enabled():  # in some releases it fails there whatever the tensors are
        with torch.inference_mode(False):
            outside = _looking_alike(tensors)
        return lambda *now: torch.inference_mode(False)(outside)(*now)
    expected = _looks(tensors)
    return lambda *now: _looks(now) == expected


def _number_of(tensor: Tensor) -> Any:
    """What a CPU tensor holds, if it may be the operand of a kernel; else how often it was written."""
    return repr(tensor.tolist()) if tensor.numel() == 1 else tensor._version


def _asks_outside(function: Any) -> bool:
    """Whether a function of C gives what no code of ours decides: the time, noise of the system, a file."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, (types.ModuleType, type)):
        return (getattr(owner, "__module__", None) or owner.__name__) in ("time", "datetime", *_SYSTEM)
    return isinstance(owner, random.Random)


_UNLIKE: dict[str, Callable[[Tensor], bool]] = {  # what code may ask of an argument, and how a copy differs
    "requires_grad": lambda t: t.requires_grad,
    "is_leaf": lambda t: not t.is_leaf,
    "grad": lambda t: t.is_leaf and t.grad is not None,
    "grad_fn": lambda t: t.grad_fn is not None,
    "_base": lambda t: True,
    "is_inference": lambda t: t.is_inference(),
    "storage_offset": lambda t: t.storage_offset() != 0,
}


def _plainly(value: Any) -> Any:
    """An argument of an operation without its tensors."""
    if isinstance(value, (list, tuple)):
        return [_plainly(item) for item in value]
    return value if type(value) in _SCALARS else type(value)


class _Ran:
    """The code that runs on this thread, as a context: what a call does follows from what that code reads."""

    def __init__(self) -> None:
        self.codes: dict[int, tuple[types.CodeType, dict[str, Any]]] = {}  # with its globals
        self.partly = False  # whether code may have run that was not seen
        self.seeds = False  # whether it has set a random number generator
        self.asked = ""  # what it has asked that only a call can answer

    def __enter__(self) -> None:
        if sys.getprofile() is None:
            sys.setprofile(self._note)

    def __exit__(self, *error: Any) -> None:
        if sys.getprofile() == self._note:
            sys.setprofile(None)
        else:  # a profiler is at work, or the code has started one
            self.partly = True

    def _note(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if event == "call":
            if id(code := frame.f_code) not in self.codes:
                self.codes[id(code)] = code, frame.f_globals
                module = str(frame.f_globals.get("__name__"))
                elsewhere = module.startswith("torch._dynamo") or module.partition(".")[0] in _ELSEWHERE
                self.partly = self.partly or elsewhere
        elif event == "c_call":
            kind = type(getattr(arg, "__self__", None))
            if arg.__name__ in _STARTS_OTHERS or kind.__module__ == "_queue" or kind is _LOCK:
                self.partly = True
            if arg.__name__ in _SEEDS:
                self.seeds = self.seeds or issubclass(kind, torch.Generator)
            elif arg.__name__ in _OUTSIDE and not self.asked and _asks_outside(arg):
                module = str(frame.f_globals.get("__name__"))
                self.asked = "" if module.partition(".")[0] == "torch" else arg.__qualname__

    def asks(self) -> set[str]:
        """What it asks that a copy of an argument may answer otherwise."""
        names: set[str] = set()
        for code, scope in self.codes.values():
            if str(scope.get("__name__")).partition(".")[0] not in _LIBRARIES and scope is not globals():
                names.update(code.co_names)
        return names & _UNLIKE.keys()

    def __or__(self, other: _Ran) -> _Ran:
        both = _Ran()
        both.codes, both.partly = self.codes | other.codes, self.partly or other.partly
        return both


class _Watch:
    """The Python state within reach of a callable: what it holds now, and whether that has changed.

    Within reach is what the code names: globals, closures, defaults, members of classes, and of the instance
    of a method the attributes; of all other objects everything. Code within reach is followed to its end; if
    it is known which code ran, only that is: other code cannot run before something that is watched has
    changed. The hot check compares objects by identity and tensors by address and look, in C loops. Scalars
    that change select another set of graphs; anything else that changes raises _Rebound.
    """

    def __init__(
        self, root: Any, name: str, ran: _Ran | None = None, wide: _Watch | None = None, only: bool = False
    ) -> None:
        self.name, self.ran, self.only = name, ran, only  # whether to follow only what ran
        self.followed: set[int] = set()
        self.root, self.kind = _Same(root), type(root)
        self.owner: Any = root.__self__ if isinstance(root, types.MethodType) else None
        self.seen: dict[int, Any] = {}
        self.names: set[str] = set()  # that code within reach uses
        self.offers: dict[str, list[tuple[Any, str]]] = {}  # spaces with a name that no code uses yet
        self.taken: dict[int, tuple[Any, str, dict[str, None]]] = {}  # spaces, and what counts of them
        self.classes: dict[type, Any] = {}
        self.groups: dict[Callable[[Any], Any], tuple[list[Any], list[str]]] = {}  # how to read what
        # the same for what may be compared by value: functions and classes, settings of a library's modules
        self.settings: dict[Callable[[Any], Any], tuple[list[Any], list[str]]] = {}
        self.sized: list[tuple[Any, str]] = []  # watched for their size alone
        self.instances: list[Any] = []  # watched for their class
        self.hookable: list[tuple[Callable[..., Any], Sequence[str]]] = []
        self.found: list[tuple[Tensor, str]] = []
        self.generators: list[torch.Generator] = []
        self.on_host: list[Any] = []  # generators of random numbers there
        self.todo: deque[tuple[Any, str]] = deque([(root, name)])
        self._visit_hooks(vars(nn.modules.module).get, _HOOKS_OF_ALL, "all modules")
        for ran_code, scope in ran.codes.values() if ran is not None else ():
            if scope is not globals():
                used = _names_in(ran_code) - _BY_OTHER_MEANS - _TO_SUBMODULES
                self._learn(used)
                if wide is not None and id(scope) in wide.taken:  # no library's, nor what runs around us
                    self._visit_globals(scope, used)
        while self.todo or self._by_other_means():
            if len(self.seen) > _MOST_OBJECTS:
                raise _Eager(f"it can reach more than {_MOST_OBJECTS} objects, too many to watch")
            value, label = self.todo.popleft()
            if type(value) not in _SCALARS and id(value) not in self.seen:
                self.seen[id(value)] = value
                self._visit(value, label)
        for space, label, names in self.taken.values():
            code = [name for name in names if isinstance(space[name], _CODE)]
            for some, groups in ((code, self.settings), (names.keys() - code, self.groups)):
                if some:
                    self._read(_entries(*some), space, label, groups)
        self.seen[id(root)] = None  # all others are kept alive
        self.pointed: list[tuple[Tensor, str]] = []  # the tensors that graphs read: compared by address
        self.host: list[Tensor] = []  # CPU tensors that were read
        self.groups = dict(sorted(self.groups.items(), key=lambda group: group[0] in _LIVE))
        self.getters = [getter for getter in self.groups if getter not in _LIVE]
        self.spaces = [self.groups[getter][0] for getter in self.getters]
        tables, others = (self.groups.get(getter, ((), ()))[0] for getter in _LIVE)
        self.live = [*map(dict.values, tables), *others]  # goes with what it shows
        self.setters, self.set = [*self.settings], [spaces for spaces, _ in self.settings.values()]
        self.hooked = [*map(id, self._hooks(self.hookable))]
        self.held = [holder.keys() - _ADDED_BESIDE for holder, _ in self.sized]
        self.current, self.differing = 0, ""  # the number of the state, and what changed last
        self.count = itertools.count(1)  # of states
        self._expect(self.values())
        flat = _flat(self.values())
        self.scalars = [i for i, v in enumerate(flat) if type(v) in _SCALARS]
        self.known: dict[Hashable, int] = {self._signature(flat): 0}
        self.history: dict[int, set[Hashable]] = {}

    def again(self, ran: _Ran | None, only: bool = False) -> _Watch:
        """A watch over the same at this moment, which goes on with the numbers of this one."""
        other = _Watch(self.root.refer(), self.name, ran, self, only)
        other.known, other.current = dict.fromkeys(other.known, self.current), self.current
        other.count = self.count
        return other

    def settled(self, ran: _Ran, addresses: set[int], before: _Watch) -> _Watch:
        """A watch over what that code reads, and, unless that is known to be all of it, over all else.

        This watch is of all that is within reach, ``before`` the one so far, which stays if that will do.
        """
        if before.ran is not None:
            fresh = {i: code for i, code in ran.codes.items() if i not in before.ran.codes}
            ours = any(i in self.followed or id(scope) in self.taken for i, (_, scope) in fresh.items())
            names = set().union(*(_names_in(code) for code, _ in fresh.values()))
            same, ran = before.ran.partly >= ran.partly, before.ran | ran
            if same and not ours and names.isdisjoint(before.offers):
                before.ran = ran
                return before
        with contextlib.suppress(_Unseen):
            other = self if ran.partly else self.again(ran, only=True)
            found = {id(t) for t, _ in other.found}
            missed = any(id(t) not in found and _storage(t) in addresses for t, _ in self.found)
            if not ran.partly and not missed and self.followed & ran.codes.keys() <= other.followed:
                return other
        return self.again(ran)

    # -- finding things

    def _read(self, getter: Callable[[Any], Any], space: Any, label: str, groups: Any = None) -> None:
        spaces, labels = (self.groups if groups is None else groups).setdefault(getter, ([], []))
        spaces.append(space)
        labels.append(label)

    def _take(self, space: Any, name: str, label: str, follow: bool = True) -> None:
        """An entry of a namespace counts."""
        self.taken.setdefault(id(space), (space, label, {}))[2][name] = None
        if follow:
            self.todo.append((space[name], f"{label}.{name}".lstrip(".")))

    def _offer(self, space: Any, names: Iterable[str], label: str) -> None:
        """Entries count if code within reach names them."""
        for name in names:
            if name in self.names:
                self._take(space, name, label)
            else:
                self.offers.setdefault(name, []).append((space, label))

    def _learn(self, names: set[str]) -> None:
        """Code within reach uses these names."""
        for name in sorted(names - self.names):
            self.names.add(name)
            for space, label in self.offers.pop(name, ()):
                self._take(space, name, label)

    def _by_other_means(self) -> bool:
        """Code that asks for attributes by other means may read them all, or those with part of a name."""
        dynamic = not self.names.isdisjoint(_BY_OTHER_MEANS)
        owner = getattr(self.owner, "__dict__", None)
        spaces = [owner] if dynamic else []
        if isinstance(self.owner, nn.Module) and (spaces or self.names & _TO_SUBMODULES):
            spaces += [vars(self.owner)[table] for table in _TABLES]
        parts = [name for name in self.names if len(name) > 2] if dynamic else []
        first, last = tuple(p for p in parts if p[-1] == "_"), tuple(p for p in parts if p[0] == "_")
        for name, offers in list(self.offers.items()):
            named = name.startswith(first) or name.endswith(last)
            for space, label in [o for o in offers if named or any(o[0] is s for s in spaces)]:
                offers.remove((space, label))
                self._take(space, name, label)
        return bool(self.todo)

    def _read_all(self, table: dict[Any, Any], label: str, named: bool = False) -> None:
        self._read(dict.values, table, label)
        if not named:
            self._read(iter, table, label)  # the keys
        for key, item in itertools.islice(dict.items(table), 4096):  # not what a subclass makes up
            self.todo.append((item, f"{label}.{key}" if named else f"{label}[{key!r}]"))

    def _visit(self, value: Any, label: str) -> None:
        """Read what a value holds and follow it. Long, because every kind of value has its own way."""
        kind = type(value)
        if isinstance(value, type):
            self._visit_class(value, made=True)
        elif isinstance(value, Tensor):
            if kind in _TENSORS and value.layout == torch.strided and not value.is_nested:
                self.found.append((value, label))
                self._visit_hooks(functools.partial(getattr, value), _HOOKS_OF_TENSORS, label)
        elif isinstance(value, torch.Generator):
            self.generators.append(value)
        elif isinstance(value, random.Random) or _draws_with_numpy(kind):
            self.on_host.append(value)
        elif isinstance(value, dict):
            if kind.__len__ is dict.__len__:
                self._read_all(value, label)
        elif isinstance(value, (list, deque, tuple, set, frozenset)):
            if not isinstance(value, (tuple, frozenset)):
                self._read(iter, value, label)
            self.todo.extend((item, f"{label}[{i}]") for i, item in enumerate(itertools.islice(value, 4096)))
        elif isinstance(value, functools.partial):
            self.todo += [(part, label) for part in (value.func, value.args, value.keywords)]
        elif isinstance(value, types.MethodType):
            owner = label.rpartition(".")[0] or label
            self.todo += [(value.__self__, owner), (value.__func__, label)]
        elif isinstance(value, types.FunctionType):
            self._visit_function(value, label)
        elif kind is Graphed:
            self.todo.append((value._cg_runner.fn, label))
        elif self.only and kind is _CACHED and not _is_library(value.__wrapped__):
            if value.cache_info().currsize:  # hides code from us that runs again when it is cleared
                raise _Unseen
            self._visit_object(value, label)
        elif isinstance(value, ContextVar):
            self._read(_value_in_context, value, label)
        elif isinstance(value, threading.local):
            self._read(_of_this_thread, value, label)
        elif isinstance(value, bytearray) or (
            kind.__module__ in ("numpy", "array", "builtins") and hasattr(value, "tobytes")
        ):
            if len(_Contents()(value)[0]) > _LARGE * 16:
                raise _Eager(f"{label} is an array, too large to be watched: make it a tensor")
            self._read(_Contents(), value, label)
        elif isinstance(value, types.MappingProxyType):
            self._read(operator.methodcaller("values"), value, label)
            self.todo += [(item, f"{label}[{key!r}]") for key, item in value.items()]
        elif isinstance(value, weakref.ref):
            self.todo.append((value(), label))
        elif isinstance(value, Iterator) and _is_library(kind) and not isinstance(value, io.IOBase):
            raise _Eager(f"{label} is an iterator, which a replay would not move on")
        elif isinstance(value, _MEMBERS):
            self.todo.extend((fn, label) for fn in _functions_in(value))
        elif isinstance(value, types.ModuleType):
            if not _is_library(value) and value.__name__ != __name__:
                self._offer(vars(value), [n for n in vars(value) if n[:2] != "__"], value.__name__)
        elif kind is not _Home:
            slots = [n for k in kind.__mro__ if not _is_library(k) for n in vars(k).get("__slots__", ())]
            if names := [n for n in slots if n[:2] != "__" and hasattr(value, n)]:
                self._read(_attributes(*names), value, label)
                self.todo.extend((getattr(value, n), f"{label}.{n}") for n in names)
                self._visit_class(kind)
            if isinstance(getattr(value, "__dict__", None), dict):
                self._visit_object(value, label)

    def _visit_object(self, value: Any, label: str) -> None:
        """What an instance holds, and its class; of a library's own only what is meant to be changed."""
        space, kind, module = value.__dict__, type(value), isinstance(value, nn.Module)
        _refuse_graphs_of(space)
        if module and isinstance(value, nn.DataParallel) and len(value.device_ids) > 1:
            raise _Eager("its work is spread over several devices")
        ours = _is_library(kind)
        take = self._offer if value is self.owner else self._take_all
        if self.root.number != id(value):  # which it must not keep alive
            self.instances.append(value)
        if module or not ours:
            self.sized.append((space, label))
        if module:
            for table in map(space.__getitem__, _TABLES):
                if table and value is not self.owner:
                    self._read_all(table, label, named=True)
                elif table or not ours:
                    self.sized.append((table, label))
                    take(table, [*table], label)
            self._visit_hooks(space.get, _HOOKS, label)
        if ours and module:
            settings = _settings(value)
            if names := [n for n in settings if type(space[n]) not in _TENSORS]:
                self._read(_entries(*names), space, label, self.settings)
            self._take_all(space, [n for n in settings if type(space[n]) in _TENSORS], label)
        elif ours:
            self._take_all(space, _settings(value), label)
            self.todo.append((space.get("__wrapped__"), label))
        else:
            take(space, [n for n in space if n not in (_PLUMBING if module else (_HOME,))], label)
            self._take_all(space, ["training"] if module and "training" in space else [], label)
            self._visit_class(kind)
        if module and value is not self.owner:
            holder = next((k for k in kind.__mro__ if "forward" in vars(k)), nn.Module)
            self._take(self.classes.setdefault(holder, vars(holder)), "forward", holder.__name__)

    def _take_all(self, space: Any, names: Iterable[str], label: str) -> None:
        for name in names:
            self._take(space, name, label)

    def _visit_hooks(self, get: Callable[..., Any], names: Sequence[str], label: str) -> None:
        self.hookable.append((get, names))
        for table in self._hooks(self.hookable[-1:]):
            self._read_all(table, label)

    def _hooks(self, holders: Iterable[tuple[Callable[..., Any], Sequence[str]]]) -> list[Any]:
        """The tables of hooks that are not empty."""
        return [*filter(None, (get(name, None) for get, names in holders for name in names))]

    def _visit_class(self, kind: type, made: bool = False) -> None:
        """Members that are named, and those that run unnamed, such as ``__call__``."""
        for klass in kind.__mro__:
            if _is_library(klass):
                continue
            table = self.classes.setdefault(klass, vars(klass))
            if id(table) not in self.seen:
                self.seen[id(table)] = table
                self.sized.append((table, klass.__name__))
                special = [n for n, v in table.items() if n[:2] == "__" and isinstance(v, types.FunctionType)]
                self._take_all(table, [n for n in special if n not in _MAKING], klass.__name__)
                self._offer(table, [n for n in table if n[:2] != "__"], klass.__name__)
                if not issubclass(kind, nn.Module):  # what a library calls by itself, such as a `backward`
                    theirs = {n for k in kind.__mro__ if _is_library(k) for n in vars(k) if n[:2] != "__"}
                    self._take_all(table, sorted(theirs & table.keys()), klass.__name__)
            if made:
                self._take_all(table, [n for n in ("__init__", "__new__") if n in table], klass.__name__)

    def _visit_function(self, fn: types.FunctionType, label: str) -> None:
        """Attributes, closure, defaults, and the globals that it names, also in modules that it names."""
        own = vars(fn)
        _refuse_graphs_of(own)
        compiled = own.get("_torchdynamo_orig_callable")
        if compiled is not None or _is_library(fn) or fn.__globals__ is globals():
            self.todo.append((compiled or own.get("__wrapped__"), label))
        elif self.ran is None or not self.only or id(fn.__code__) in self.ran.codes:
            self.followed.add(id(fn.__code__))
            if "-packages" not in fn.__code__.co_filename:  # a notebook loads changed functions in place
                self._read(_get_code, fn, label, self.settings)
            if own.keys() - {_HOME}:
                self._read_all(own, label)
            elif own:
                self.sized.append((own, label))
            self.todo += [(given, f"a default of {label}") for given in (fn.__defaults__, fn.__kwdefaults__)]
            for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
                with contextlib.suppress(ValueError):  # a variable without a value yet
                    self.todo.append((cell.cell_contents, name))
                    self._read(_get_cell, cell, name)
            names = _names_in(fn.__code__)
            self._learn(names)
            self._visit_globals(fn.__globals__, names)
        elif own:
            self._read_all(own, label)

    def _visit_globals(self, space: dict[str, Any], names: set[str]) -> None:
        spaces = [space]
        for space in spaces:
            torchs = space is vars(torch) or space is vars(nn.functional)
            for name in sorted(names & space.keys()):
                item = space[name]
                if isinstance(item, types.ModuleType):
                    known = item in (torch, nn.functional) or not _is_library(item)
                    if known and item.__name__ != __name__ and all(vars(item) is not s for s in spaces):
                        spaces.append(vars(item))
                elif isinstance(item, (types.FunctionType, types.BuiltinFunctionType)) or not (
                    torchs or name[:2] == "__" or (isinstance(item, type) and _is_library(item))
                ):
                    self._take(space, name, "", follow=not torchs)

    # -- the hot check

    def values(self) -> tuple[list[Any], list[Any]]:
        """Everything that is compared, in a fixed order: by identity, and by value."""
        read = _chain(map(map, self.getters, self.spaces))
        return [*_chain(itertools.chain(read, self.live))], [*_chain(map(map, self.setters, self.set))]

    def _expect(self, values: tuple[list[Any], list[Any]]) -> None:
        self.expected, self.expected_settings = values
        self.ended = [*self.expected, *_END]
        self.sizes = [len(holder) for holder, _ in self.sized]
        self.holders = [holder for holder, _ in self.sized]
        self.kinds = [*map(type, self.instances)]
        self.registered = RemovableHandle.next_id
        self.requiring = [t.requires_grad for t, _ in self.found]
        self.tensors = tuple([t for t, _ in self.pointed])
        self.addresses = [*map(Tensor.data_ptr, self.tensors)]
        self.looks = _looks(self.tensors)
        self.alike: dict[Hashable, Callable[..., bool]] = {}  # for each mode of autograd
        self.latest: Callable[..., bool] = lambda *now: False
        self.numbers = [*map(_number_of, self.host)]
        self.idle = not (any(values) or self.sizes or self.tensors or self.host or self.found)

    def use(self, addresses: Iterable[int], host: Iterable[Tensor]) -> None:
        """From now on compare the tensors at these addresses, too, and these CPU tensors by content."""
        wanted, known = set(addresses), {*map(id, self.tensors)}
        self.pointed += [(t, n) for t, n in self.found if id(t) not in known and _storage(t) in wanted]
        self.host = [*{id(t): t for t in (*self.host, *host)}.values()]
        self._expect((self.expected, self.expected_settings))

    def _look_alike(self) -> bool:
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cuda")
        check = self.alike.get(mode)
        if check is None or not check(*self.tensors):
            if _looks(self.tensors) != self.looks:
                return False
            check = self.alike[mode] = _looking_alike(self.tensors)
        self.latest = check
        return True

    def state(self, thorough: bool = False) -> int:
        """The number of the state that holds now; raises _Rebound or _Eager."""
        if self.idle:
            return self.current
        try:
            read = _chain(map(map, self.getters, self.spaces)) if self.getters else ()
            now = _chain(itertools.chain(read, self.live, (_END,))) if read or self.live else _END
            if (
                not thorough
                and all(map(operator.is_, now, self.ended))
                and [*_chain(map(map, self.setters, self.set))] == self.expected_settings
                and self.registered == RemovableHandle.next_id
                and [*map(len, self.holders)] == self.sizes
                and (not self.instances or [*map(type, self.instances)] == self.kinds)
                and type(self.root.refer()) is self.kind
                and (not self.tensors or [*map(Tensor.data_ptr, self.tensors)] == self.addresses)
                and (not self.tensors or self.latest(*self.tensors) or self._look_alike())
                and (not self.host or [*map(_number_of, self.host)] == self.numbers)
            ):
                return self.current
            values = self.values()
        except (AttributeError, KeyError, ValueError, RuntimeError):
            raise _Rebound("an attribute") from None
        return self._moved(values)

    def _moved(self, found: tuple[list[Any], list[Any]]) -> int:
        """Something differs: the number of the new state, if only scalars do."""
        for (holder, label), held in zip(self.sized, self.held, strict=True):
            if holder.keys() - _ADDED_BESIDE != held:
                raise _Rebound(f"what {label} holds")
        instances = [*self.instances, self.root.refer()]
        for holder, kind in zip(instances, [*self.kinds, self.kind], strict=True):
            if type(holder) is not kind:
                raise _Rebound(f"the class of a {kind.__name__}")
        if [*map(id, self._hooks(self.hookable))] != self.hooked:
            raise _Rebound("a hook")
        pointed = zip(self.pointed, self.addresses, self.looks, _looks(self.tensors), strict=True)
        for (tensor, label), address, look, now in pointed:
            if tensor.data_ptr() != address or now[:-1] != look[:-1]:
                raise _Rebound(label)
        if [*map(_number_of, self.host)] != self.numbers:
            raise _Rebound("a CPU tensor")
        values, expected = _flat(found), _flat((self.expected, self.expected_settings))
        if len(values) != len(expected):
            raise _Rebound("a container")
        pairs = enumerate(zip(values, expected, strict=True))
        differing = [i for i, (a, b) in pairs if a is not b and _token(a) != _token(b)]
        labels = self._labels() if differing else []
        for i in differing:
            if type(values[i]) not in _SCALARS or type(expected[i]) not in _SCALARS:
                raise _Rebound(labels[i])
        requiring = [t.requires_grad for t, _ in self.found]
        if requiring != self.requiring:
            differing.append(-1)
            labels.append("which tensors require a gradient")
        signature = self._signature(values)
        for i in differing if signature not in self.known else ():
            now, was = (values[i], expected[i]) if i >= 0 else (str(requiring), str(self.requiring))
            past = self.history.setdefault(i, {_token(was)})
            past.add(_token(now))
            if len(past) > _MOST_VALUES:
                raise _Eager(f"{labels[i]} has taken more than {_MOST_VALUES} values")
        if signature not in self.known:
            self.known[signature] = next(self.count)
        self.current = self.known[signature]
        self.differing = labels[differing[0]] if differing else self.differing
        self._expect(found)
        return self.current

    def _signature(self, values: list[Any]) -> Hashable:
        return (*[_token(values[i]) for i in self.scalars], *[t.requires_grad for t, _ in self.found])

    def _labels(self) -> list[str]:
        """A name for each of ``values``."""
        found = []
        for getter, (spaces, labels) in (*self.groups.items(), *self.settings.items()):
            for space, label in zip(spaces, labels, strict=True):
                names: Any = range(len([*getter(space)]))
                if isinstance(getter, (operator.itemgetter, operator.attrgetter)):
                    names = getter.__reduce__()[1]
                elif getter is dict.values:
                    names = space
                found += [label if getter is _get_cell else f"{label}.{n}".lstrip(".") for n in names]
        return found

    # -- undoing changes

    def snapshot(self) -> list[tuple[Any, Any, bool]]:
        """Shallow copies of what is compared, and whether they are of the whole."""
        saved: list[tuple[Any, Any, bool]] = []
        for getter, (spaces, _) in (*self.groups.items(), *self.settings.items()):
            for space in spaces:
                if isinstance(getter, (operator.itemgetter, operator.attrgetter)):
                    saved.append(
                        (space, dict(zip(getter.__reduce__()[1], getter(space), strict=True)), False)
                    )
                elif getter is dict.values:
                    saved.append((space, dict(dict.items(space)), True))
                elif isinstance(space, (list, deque, set)):
                    saved.append((space, dict(enumerate(space)), True))
        return saved + [(h, dict(h), True) for h, _ in self.sized if isinstance(h, dict)]

    @staticmethod
    def put_back(saved: list[tuple[Any, Any, bool]]) -> None:
        """Undo what differs from a snapshot; attributes of classes are left alone."""
        for space, old, whole in saved:
            if isinstance(space, dict):
                for key in [k for k in dict.keys(space) if k not in old and k != _HOME] if whole else ():
                    del space[key]
                for key, item in old.items():
                    if dict.get(space, key, saved) is not item:
                        space[key] = item
            elif isinstance(space, (list, deque, set)):
                if any(map(operator.is_not, space, old.values())) or len(space) != len(old):
                    space.clear()
                    (space.update if isinstance(space, set) else space.extend)(old.values())
            elif not isinstance(space, types.MappingProxyType):
                for name, item in old.items():
                    if getattr(space, name) is not item:
                        object.__setattr__(space, name, item)


def _flat(values: tuple[list[Any], list[Any]]) -> list[Any]:
    return [*values[0], *itertools.chain.from_iterable(values[1])]


def _draws_with_numpy(kind: type) -> bool:
    names = {"get_state", "bit_generator", "state"}
    return kind.__module__.startswith("numpy.random") and any(hasattr(kind, name) for name in names)


def _value_in_context(variable: Any) -> tuple[Any]:
    return (variable.get(None),)


def _of_this_thread(local: Any) -> Any:
    return (*local.__dict__, *local.__dict__.values())


# --------------------------------------------------------------------- 6. trial runs that leave no trace


# in names of operations
_BLAS = ("mm", "mv", "dot", "linear", "attention", "transformer", "lstm", "gru", "rnn")


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation: which memory from outside is read, which is written, with what it held before.

    It also knows the random number generators of host and device, and can put back all that it has seen.
    """

    def __init__(self, device: torch.device, on_host: Iterable[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.default = torch.cuda.default_generators[device.index or 0]
        self.made: set[int] = set()
        self.read: dict[int, Any] = {}  # address -> the storage there
        self.written: dict[int, tuple[Tensor, Tensor]] = {}  # address -> (all of the memory, a copy of it)
        self.host: dict[int, Tensor] = {}
        self.generators: dict[int, tuple[torch.Generator, Tensor]] = {}  # with their state before
        self.reason = ""
        self.blas = False  # whether cuBLAS may be at work
        self.random = False  # whether what this thread runs may draw from torch's own generators
        self.trace: list[str] = []  # the operations of a run with all that is no tensor
        self.add(torch.default_generator)
        self.add(self.default)
        numpy = [sys.modules["numpy.random"]] if "numpy.random" in sys.modules else []
        self.on_host = [(value, *_host_state(value)) for value in (random, *numpy, *on_host)]

    def see(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and note what it reads, writes and makes."""
        kwargs = kwargs or {}
        schema: Any = getattr(func, "_schema", None)
        if schema is not None and "c10d" in schema.name:  # before it runs: the others would wait for ever
            raise _Eager("it exchanges data with other processes, which would have to record it as well")
        for i, argument in enumerate(schema.arguments if schema is not None else ()):
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            if isinstance(value, torch.Generator):
                self.add(value)
            elif isinstance(value, (Tensor, list, tuple)):
                alias = argument.alias_info
                # batch norm updates its statistics without saying so in its schema
                writes = alias is not None and alias.is_write
                writes = writes or argument.name in ("running_mean", "running_var")
                for tensor in (value,) if isinstance(value, Tensor) else value:
                    if isinstance(tensor, Tensor):
                        self._meet(tensor, writes, schema.name == "aten::lift_fresh")
        self.trace.append(f"{func} {_plainly(args)} {_plainly([*kwargs.values()])}")
        self.blas = self.blas or (schema is not None and any(part in schema.name for part in _BLAS))
        known = schema is not None and schema.name.startswith(("aten::", "prims::"))
        self.random = self.random or not known or torch.Tag.nondeterministic_seeded in func.tags
        result = func(*args, **kwargs)
        for item in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(item, Tensor) and item.layout == torch.strided and type(item) in _TENSORS:
                self.made |= {_storage(item)} - self.read.keys()
        return result

    def add(self, generator: torch.Generator) -> None:
        """Note a generator that may be drawn from. Torch may hand out several objects for one."""
        number = getattr(generator, "_cdata", id(generator))
        self.generators.setdefault(number, (generator, generator.get_state()))

    def _meet(self, tensor: Tensor, writes: bool, fresh: bool) -> None:
        if type(tensor) not in _TENSORS or tensor.layout != torch.strided:
            self.reason = self.reason or f"it uses a {type(tensor).__name__} with layout {tensor.layout}"
            return
        address = _storage(tensor)
        if fresh:
            self.made.add(address)
        if address == 0 or address in self.made:
            return
        if not tensor.is_cuda:
            if writes:
                text = "it writes to a tensor in CPU memory, which a replay would not do"
                self.reason = self.reason or text
            elif tensor.is_inference() and address not in self.host:  # `view(dtype)` makes one of any tensor
                text = "it reads a CPU tensor made under inference mode, which cannot be watched"
                self.reason = self.reason or text
            else:
                self.host.setdefault(address, tensor)
        self.read.setdefault(address, tensor.untyped_storage())
        if writes and address not in self.written:
            with torch.inference_mode(False), torch.no_grad():  # without autograd history and version
                whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(self.read[address])
                self.written[address] = (whole, whole.clone())

    def _ours(self) -> list[tuple[torch.Generator, Tensor]]:
        """The generators that this thread may have drawn from: torch's own may have moved for others."""
        shared = () if self.random else (torch.default_generator, self.default)
        return [pair for pair in self.generators.values() if all(pair[0] is not g for g in shared)]

    def drawn(self) -> set[str]:
        """Where random numbers were drawn, "cpu" or "cuda"."""
        moved = {g.device.type for g, s in self._ours() if not torch.equal(g.get_state(), s)}
        same = all(pickle.dumps(_host_state(g)[0]) == pickle.dumps(state) for g, state, _ in self.on_host)
        return moved if same else moved | {"cpu"}

    def restore(self) -> None:
        """Put back every generator and the contents of all memory that was written."""
        with torch.inference_mode(False), torch.no_grad():
            for whole, before in self.written.values():
                whole.copy_(before)
        for generator, state in self._ours():
            generator.set_state(state)
        for _, state, put_back in self.on_host:
            put_back(state)


# Assigned here because a method of that name in the class body is wrapped so that it imports all of
# torch._dynamo, seconds of it, at its first call.
_Observer.__torch_dispatch__ = _Observer.see  # type: ignore[assignment, method-assign]


def _host_state(generator: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The state of a generator of Python or NumPy, and what puts one back."""
    if hasattr(generator, "getstate"):
        return generator.getstate(), generator.setstate
    if hasattr(generator, "get_state"):
        return generator.get_state(), generator.set_state
    bits = getattr(generator, "bit_generator", generator)
    return bits.state, functools.partial(setattr, bits, "state")


class _Sink(io.StringIO):
    """Stands in for stdout: keeps what this thread writes to itself, passes on what others write."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        ours = threading.get_ident() == self.thread
        return super().write(text) if ours else cast(int, self.stream.write(text))


@contextlib.contextmanager
def _quiet() -> Iterator[_Sink]:
    """Swallow what trial runs print; graphed callables inside run as plain code; no garbage collection."""
    sink = _Sink(sys.stdout)
    before, collecting = _local.inline, gc.isenabled()
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


# ---------------------------------------------------------------------------------------- 7. one graph


class _Pool:
    """The memory that the graphs of one device share, the lock and the order that make sharing safe."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.index = device, device.index or 0
        self.lock = threading.RLock()
        self.handle: Any = None
        self.warm, self.stream = (torch.cuda.Stream(device) for _ in "ab")  # type: ignore[no-untyped-call]
        self.last = torch.cuda.current_stream(device)  # the stream of the latest replay
        self.last_raw = _current_stream(self.index)
        self.clock = 0
        self.graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()  # those that live in the pool
        self.anchors = torch.cuda.graph_pool_handle()  # memory for the workspaces of cuBLAS alone
        self.anchor: Any = None  # the graph that owns it

    @property
    def bytes(self) -> int:
        """What recording the graphs of the pool took from the device."""
        return sum(graph.bytes for graph in self.graphs)

    def drop(self, graphs: Iterable[_Graph]) -> None:
        """Give up graphs and their memory, once no replay is under way."""
        gone = list(graphs)
        with self.lock:
            if gone:
                torch.cuda.synchronize(self.device)
            for graph in gone:
                self.graphs.discard(graph)
                graph.drop()

    def order(self) -> None:
        """Make the current stream wait for the latest replay, whichever stream it was on."""
        raw = _current_stream(self.index)
        if raw != self.last_raw:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_stream(self.last)
            self.last, self.last_raw = stream, raw

    @contextlib.contextmanager
    def capture(self, graph: Any, handle: Any, draws: bool = False) -> Iterator[None]:
        """Record what is launched inside, into the memory that the handle names.

        In many releases a capture takes the default generator, and whoever draws from it in another thread
        gets an error until the end. If nothing inside draws, the capture gets another state in its place.
        """
        generator, shared = torch.cuda.default_generators[self.index], None
        with torch.cuda.stream(self.stream):
            if not draws and hasattr(generator, "clone_state"):
                shared = generator.graphsafe_get_state()
                generator.graphsafe_set_state(generator.clone_state())
            try:
                graph.capture_begin(pool=handle, capture_error_mode="thread_local")
            finally:
                if shared is not None:
                    generator.graphsafe_set_state(shared)
            try:
                yield
            except BaseException:
                with contextlib.suppress(Exception):
                    graph.capture_end()
                graph.reset()
                raise
            graph.capture_end()

    def memory(self, blas: bool) -> Any:
        """The handle to capture with: a new one when no graph is left, as the old pool is gone then.

        Before that the workspaces that cuBLAS will want are made where they stay: graphs go on writing to
        theirs when torch has freed it (all of them, whenever `torch.compile` records), and the pool of the
        graph whose capture made it may be gone by then. So a graph that is never given up owns them.
        """
        if blas:
            x, anchor = torch.zeros(16, 16, device=self.device), torch.cuda.CUDAGraph()
            nn.functional.linear(x @ x, x, x[0])  # with a bias it is cuBLASLt that works
            torch.cuda.synchronize(self.device)
            with self.capture(anchor, self.anchors):
                nn.functional.linear(x @ x, x, x[0])
            self.anchor = self.anchor or anchor
        if not self.graphs:
            self.handle = torch.cuda.graph_pool_handle()
        return self.handle

    def recover(self, failed: Any, generators: Iterable[torch.Generator]) -> None:
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
            with self.capture(graph, None, draws=True):
                torch.zeros(1, device=self.device)
            graph.reset()
            state = torch.cuda.get_rng_state(self.device)
            torch.rand(1, device=self.device)
            torch.cuda.set_rng_state(state, self.device)
            torch.cuda.synchronize(self.device)
        except Exception as error:
            _broken.append(f"graphs are off, a failed capture left the device unusable: {_first_line(error)}")
            warnings.warn(f"CUDA {_broken[0]}", RuntimeWarning, stacklevel=2)


_pools: dict[torch.device, _Pool] = {}
_pools_lock = threading.Lock()
_failed: list[Any] = []  # graphs whose capture failed
_broken: list[str] = []  # why graphs are off for the whole process


def _pool(device: torch.device) -> _Pool:
    with _pools_lock:
        if device not in _pools:
            _pools[device] = _Pool(device)
        return _pools[device]


_Delivery = Callable[["_Call", list[Tensor], dict[int, Tensor]], Tensor]


class _Graph:
    """One captured call: static inputs, graph, outputs, and what has to be copied around a replay."""

    def __init__(self, pool: _Pool, call: _Call, inputs: list[Tensor], placed: Sequence[int] = ()) -> None:
        self.pool, self.inputs, self.plans = pool, inputs, call.plans
        self.placed = placed  # these inputs are the caller's own memory
        first = {id(t): i for i, t in reversed(list(enumerate(call.leaves)))}
        own = [i for i, t in enumerate(call.leaves) if first[id(t)] == i and t.numel()]
        self.copied = [i for i in own if i not in placed]
        self.expanded = {
            i: dims for i in own if (dims := _zero_strides(inputs[i]))
        }  # written once, read often
        self.whole = self.copied == [*range(len(call.leaves))] and not self.expanded  # all is copied as it is
        self.mutated: list[int] = []  # of the copied, those to copy back
        self.writes: set[int] = set()  # addresses outside that the graph writes
        self.reads: set[int] = set()  # and that it reads
        self.keep: list[Any] = []  # the memory that it reads
        self.views: dict[tuple[int, ...], tuple[list[Tensor], list[tuple[Tensor, Any]], int]] = {}
        self.graph: Any = None
        self.grad = torch.is_grad_enabled()
        self.template: Any = None  # the result, with tensors of the graph
        self.outputs: list[Tensor] = []
        self.cuts: _Cuts = []  # of each output, if there is padding
        self.deliveries: list[_Delivery | None] = []  # how each output reaches the caller; none: as copies
        self.grads_in: list[tuple[Tensor, Tensor]] = []
        # the parameter, the gradient that the graph leaves, whether it was there before
        self.grads_out: list[tuple[Tensor, Tensor | None, bool]] = []
        self.bytes = self.replays = self.used = self.real = 0
        sizes = [f"{name}={size}" for name, size in call.buckets.items()]
        self.name = " ".join(sizes or [str(list(t.shape)) for t in call.leaves])
        self.slots = sum(inputs[i].numel() for i in self.copied)

    def drop(self) -> None:
        """Let go of the graph and of all memory."""
        if self.graph is not None:
            self.graph.reset()
        empty: dict[str, Any] = {name: [] for name in ("inputs", "outputs", "keep", "deliveries", "grads_in")}
        self.__dict__.update(empty, graph=None, template=None, views={}, grads_out=[])

    def real_part(self, i: int, tensor: Tensor, call: _Call) -> Tensor:
        """Input ``i`` without its padding."""
        return _cut(tensor, [(d, n, 1) for d, n in self.plans[i].dims] if self.plans else (), call.sizes)

    def load(self, call: _Call) -> list[Tensor]:
        """Copy the arguments into the static inputs and fill the padding; return what was copied into."""
        heads, tails, real = self.views.get(call.at) or self._split(call)
        leaves = call.leaves
        given = (
            leaves if self.whole else [_narrowed(leaves[i], self.expanded.get(i, ())) for i in self.copied]
        )
        if len(heads) == 1:
            heads[0].copy_(given[0])
        elif heads:
            torch._foreach_copy_(heads, given)
        for tail, fill in tails:
            tail.fill_(fill)
        self.real += real
        return heads

    def _split(self, call: _Call) -> tuple[list[Tensor], list[tuple[Tensor, Any]], int]:
        """For these sizes: the parts of the inputs that are copied into, those that are filled, elements."""
        parts = {i: self.real_part(i, self.inputs[i], call) for i in self.copied}
        tails = []
        for i in self.copied if self.plans else ():
            for dim, name in self.plans[i].dims:
                if rest := call.buckets[name] - call.sizes[name]:
                    tails.append((self.inputs[i].narrow(dim, call.sizes[name], rest), self.plans[i].fill))
        heads = [_narrowed(part, self.expanded.get(i, ())) for i, part in parts.items()]
        if len(self.views) >= 256:
            self.views.clear()
        found = self.views[call.at] = heads, tails, sum(call.leaves[i].numel() for i in self.copied)
        return found

    def conflicts(self, call: _Call) -> bool:
        """Whether memory that is written is shared with an argument, which a copy of it would hide."""
        addresses = [_storage(call.leaves[i]) for i in self.copied]
        written = [_storage(call.leaves[i]) for i in self.mutated]
        twice = bool(written) and len(set(addresses)) < len(addresses)
        return twice or not self.writes.isdisjoint(addresses) or not self.reads.isdisjoint(written)

    def play(self, call: _Call) -> Any:
        """Copy in, replay, hand out."""
        pool = self.pool
        with pool.lock:
            if _current_stream(pool.index) != pool.last_raw:
                pool.order()
            if self.grad:
                torch.set_grad_enabled(False)
            try:
                heads = self.load(call)
                if self.grads_in:
                    gradients = cast("list[Tensor]", [p.grad for p, _ in self.grads_in])
                    torch._foreach_copy_([static for _, static in self.grads_in], gradients)
                self.graph.replay()
                if self.mutated:
                    left = [heads[self.copied.index(i)] for i in self.mutated]
                    torch._foreach_copy_([call.leaves[i] for i in self.mutated], left)
                if self.grads_out:
                    self._give_gradients()
                if not self.deliveries:
                    results = [output.clone() for output in self.outputs]
                else:
                    results = []
                    bases: dict[int, Tensor] = {}
                    for output, deliver in zip(self.outputs, self.deliveries, strict=True):
                        results.append(output.clone() if deliver is None else deliver(call, results, bases))
            finally:
                if self.grad:
                    torch.set_grad_enabled(True)
            pool.clock = self.used = pool.clock + 1
            self.replays += 1
        if self.template is None and len(results) == 1:
            return results[0]
        return _rebuild(self.template, iter(results), lambda v: v.refer() if type(v) is _Same else v)

    def _give_gradients(self) -> None:
        """Copies of what the graph leaves as gradients; its own memory is never handed out."""
        pairs: list[tuple[Any, Tensor]] = []
        for parameter, static, in_place in self.grads_out:
            if static is None or not in_place:
                parameter.grad = None if static is None else torch.empty_like(static)
            if static is not None:
                pairs.append((parameter.grad, static))
        if pairs:
            torch._foreach_copy_([kept for kept, _ in pairs], [static for _, static in pairs])

    def delivery(
        self, i: int, leaves: list[Tensor], call: _Call, state: set[int], clone: bool
    ) -> _Delivery | None:
        """How output ``i`` reaches the caller: as a copy (None), or as what it is to the code.

        That may be an argument, a view of one, state of the module, or a part of memory that outputs share.
        """
        t, output, address = leaves[i], self.outputs[i], _storage(leaves[i])
        cuts = self.cuts[i] if self.cuts else ()
        for j, given in enumerate(self.inputs):
            if given is t:
                return lambda call, results, bases: call.leaves[j]
        for j, given in enumerate(self.inputs):
            if t.numel() and address == _storage(given):
                if call.leaves[j].stride() != given.stride():
                    raise _Eager("it returns a view of a padded argument")
                offset = int(t.storage_offset() - given.storage_offset())
                return lambda call, results, bases: _view(
                    call.leaves[j], _cut(output, cuts, call.sizes), offset
                )
        for j, other in enumerate(leaves[:i]):
            if other is t:
                return lambda call, results, bases: results[j]
        if (t.numel() and address in state) or not clone:
            return lambda call, results, bases: _cut(output, cuts, call.sizes)
        family = [s for s in leaves if _storage(s) == address] if t.numel() else [t]
        if len(family) == 1 and (t.numel() == 0 or t.is_contiguous() or _compact(t.shape, t) == t.stride()):
            if not cuts:
                return None
            return lambda call, results, bases: _cut(output, cuts, call.sizes).clone()
        if any(s.dtype != t.dtype for s in family):
            raise _Eager("it returns views of one tensor with different dtypes")
        reach = [sum((n - 1) * k for n, k in zip(s.shape, s.stride(), strict=True)) for s in family]
        low = min(s.storage_offset() for s in family)
        size = max(s.storage_offset() + n for s, n in zip(family, reach, strict=True)) + 1 - low

        def part(call: _Call, results: list[Tensor], bases: dict[int, Tensor]) -> Tensor:
            if address not in bases:
                bases[address] = output.as_strided((size,), (1,), low).clone()
            value = _cut(output, cuts, call.sizes)
            return bases[address].as_strided(value.shape, value.stride(), value.storage_offset() - low)

        return part


def _view(tensor: Tensor, like: Tensor, offset: int) -> Tensor:
    return tensor.as_strided(like.shape, like.stride(), tensor.storage_offset() + offset)


# ------------------------------------------------------------------------------------- 8. one callable


def _precision() -> tuple[Hashable, Hashable]:
    """How float32 is multiplied by cuBLAS, and by cuDNN."""
    try:
        return _matmul_precision(), _cudnn_tf32()
    except RuntimeError:  # torch >= 2.9 with precisions set through its new interface
        cudnn: Any = torch.backends.cudnn
        return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision


def _modes() -> tuple[Hashable, ...]:
    """Everything global that decides which kernels run."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        _deterministic(),
        _cudnn_deterministic(),
        torch.is_autocast_enabled()  # of "cuda", which to name takes longer
        and (torch.get_autocast_dtype("cuda"), torch.is_autocast_cache_enabled()),
        _precision(),
        _function_modes() and torch.get_default_device(),
    )


def _check(leaves: Iterable[Tensor]) -> None:
    """Raise _Eager for a tensor that no graph can take."""
    for leaf in leaves:
        if not leaf.is_cuda:
            raise _Eager("an argument is in CPU memory")
        if leaf.layout is not torch.strided:
            raise _Eager(f"an argument has layout {leaf.layout}")


class _Runner:
    """A callable with its graphs: decides for every call whether to replay, to record or to run the code."""

    def __init__(self, fn: Any, options: _Options, modular: bool = False) -> None:
        self.fn, self.options = fn, options
        self.modular = modular or isinstance(fn, nn.Module)  # under autograd always plain code
        self.name = (getattr(fn, "__qualname__", None) or type(fn).__name__).replace("<locals>.", "")
        self.lock = threading.RLock()
        self.graphs: dict[tuple[Any, ...], _Graph] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        with self.lock:
            self._drop(list(self.graphs))
            self.refused: dict[Hashable, str] = {}
            self.changing: dict[Hashable, str] = {}  # refused for now, whatever the state
            self.unsettled: Counter[Hashable] = Counter()  # calls that changed state
            self.values: dict[Hashable, list[set[Hashable]]] = {}
            self.placed: dict[Hashable, Sequence[int]] = {}  # arguments used where they are, see `_at`
            self.fruitless, self.replaced = 0, ""  # rebindings before which no graph was replayed
            self.eager: Counter[str] = Counter()
            self.warned: set[str] = set()
            self.plans: dict[Hashable, list[_LeafPlan]] = {}
            self.latest: tuple[Any, _Graph | None] = None, None  # the last to be found, with its key
            self.flat: dict[Hashable, Tensor] = {}  # the memory of the static inputs that buckets share
            self.watches: dict[int, _Watch] = {}
            self.barred = ""  # why there are none
            # those whose gradients the code finds and uses, for each set of objects among the arguments
            self.parameters: dict[tuple[_Same, ...], list[Tensor]] = {}
            self.asked: set[str] = set()  # of arguments, see `_UNLIKE`
            self.exact = self.options.padding is None
            self.proven: set[str] = set()  # dimensions padded with other data and other contents, too
            self.example: Any = None  # the latest arguments that were recorded, without their data
            self.recorded = self.replays = 0  # replays of graphs that are gone

    # -- the hot path

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the code returns, from a graph if there is one, else from the code itself."""
        if _local.inline or _transforming() or _tracing() or _symbolic():
            return self.fn(*args, **kwargs)
        try:
            call = self._take_apart(args, kwargs)
            if _capturing():
                return self.fn(*args, **kwargs)
            with self.lock:
                graph, key = self._find(call)
                if graph is not None:
                    if (graph.writes or graph.mutated) and graph.conflicts(call):
                        raise _Eager("an argument shares memory with something that the code writes")
                    return self._ranged(graph, call) if _nsight or _profiling() else graph.play(call)
                self._worth_it(call)
            return self._first(call, key)
        except _Eager as reason:
            why = str(reason)
        self.eager[why if len(self.eager) < 64 else "other"] += 1
        return self.fn(*args, **kwargs)

    def _take_apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        leaves: list[Tensor] = []
        form: list[Hashable] = []
        objects = _flatten(args, leaves, form)
        if kwargs:
            form.append(tuple(kwargs))
            objects |= _flatten(kwargs.values(), leaves, form)
        if _broken or not (leaves[0].is_cuda if leaves else torch.cuda.is_available()):
            _check(leaves)
            raise _Eager(_broken[0] if _broken else "there is no GPU")
        if len(leaves) > 1:
            try:
                addresses = [*map(_storage, leaves)]
            except RuntimeError:
                _check(leaves)
                raise
            if len({*addresses}) < len(addresses):
                ids = [*map(id, leaves)]
                form += [tuple(map(ids.index, ids)), tuple(map(addresses.index, addresses))]
        return _Call(args, kwargs, leaves, tuple(form), objects)

    def _find(self, call: _Call) -> tuple[_Graph | None, Any]:
        """The graph for a call, or None and the key to make one under; raises _Eager."""
        modes = _modes()
        if modes[0] and any(leaf.requires_grad for leaf in call.leaves):
            raise _Eager("autograd records: an argument requires a gradient")
        if self.asked:
            self._refuse_unlike(call)
        if not self.watches:
            _check(call.leaves)
            self._look()
        if modes[0] and self.modular:
            for watch in self.watches.values():
                if any(t.requires_grad for t, _ in watch.found):
                    raise _Eager("autograd records: a parameter requires a gradient")
        try:
            if self.exact:
                looks = [(t.shape, t.stride(), t.dtype, t.device) for t in call.leaves]
            else:
                looks = self._pad(call)
        except RuntimeError:
            _check(call.leaves)
            raise _Eager("an argument is a nested tensor, which has no one shape") from None
        base: tuple[Hashable, ...] = (call.form, tuple(looks), modes)
        if self.options.guard:
            target = self.fn.__self__ if isinstance(self.fn, types.MethodType) else self.fn
            base += tuple(_token(operator.attrgetter(name)(target)) for name in self.options.guard)
        if self.changing and base in self.changing:  # it may have settled: look again, ever more rarely
            self.unsettled[base] += 1
            if self.unsettled[base] & (self.unsettled[base] - 1):
                raise _Eager(self.changing[base])
        if self.fruitless >= _FRUITLESS:  # the same, twice in a row: the first look only sees what holds now
            n = self.fruitless = self.fruitless + 1
            if n & (n - 1) and (n - 1) & (n - 2):
                raise _Eager(f"{self.replaced} is replaced at every call, and the graphs with it")
        key = (base, self._state(call), self._missing(call) if self.parameters else ())
        if self.placed and key in self.placed:
            here = self._at(key, call)
            graph = self.graphs.get(here)
            if graph is not None and graph.graph is not None:
                self.fruitless = 0
                return graph, here
        known, graph = self.latest
        if graph is None or graph.graph is None or known != key:  # to hash it takes longer than to compare
            graph = self.graphs.get(key)
        if graph is not None and graph.graph is not None:
            self.fruitless, self.latest = 0, (key, graph)
            return graph, key
        _check(call.leaves)
        if self.refused and key in self.refused:
            raise _Eager(self.refused[key])
        return None, key

    def _refuse_unlike(self, call: _Call) -> None:
        for name in sorted(self.asked):
            if any(map(_UNLIKE[name], call.leaves)):
                raise _Unlike(
                    f"it asks for {name} of tensors, which is another of an argument than of its copy"
                )

    def _missing(self, call: _Call) -> tuple[bool, ...]:
        """Which of the gradients that the code uses are not there."""
        return tuple([p.grad is None for p in self.parameters.get(call.owners(), ())])

    def _at(self, key: tuple[Any, ...], call: _Call) -> tuple[Any, ...]:
        """The key of a graph that uses arguments where they are: with their addresses.

        That saves copying a cache that is written in place. The first one gets it; calls that pass one at
        another address use a graph that copies, since a graph for every address would never end.
        """
        return (*key, *[call.leaves[i].data_ptr() for i in self.placed[key]])

    def _pad(self, call: _Call) -> list[Any]:
        """Fill in sizes and buckets of a call; return the shape part of its key."""
        padding = cast(_Padding, self.options.padding)
        form = (call.form, tuple(t.dim() for t in call.leaves), len(call.args))
        plans = self.plans.get(form)
        if plans is None:
            plans = self.plans[form] = padding.plan(self.fn, call)
        sizes: dict[str, int] = {}
        for leaf, plan in zip(call.leaves, plans, strict=True):
            for dim, name in plan.dims:
                size = leaf.shape[dim]
                if sizes.setdefault(name, size) != size:
                    raise _Eager(f"two arguments differ in dimension {name}: {sizes[name]} and {size}")
        call.plans, call.sizes, call.at = plans, sizes, tuple(sizes.values())
        call.buckets = {name: padding.bucket(name, size) for name, size in sizes.items()}
        looks: list[Any] = []
        for i, (leaf, plan) in enumerate(zip(call.leaves, plans, strict=True)):
            order: Any = leaf.stride()
            if plan.dims and not (order := leaf.is_contiguous()):
                order = tuple(_order(leaf))
            looks.append((call.shape(i), order, leaf.dtype, leaf.device))
        return looks

    def _ranged(self, graph: _Graph, call: _Call) -> Any:
        """A replay that shows in a profile, under emit_nvtx also as an NVTX range."""
        if _profiling():
            with torch.autograd.profiler.record_function(f"cuda_graph:{self.name}"):
                return graph.play(call)
        with torch.cuda.nvtx.range(f"cuda_graph:{self.name} {graph.name}"):
            return graph.play(call)

    # -- keeping up with changes

    def _look(self) -> None:
        """Find out anew what state is within reach."""
        if self.barred:
            raise _Eager(self.barred)
        try:
            self.watches = {id(self.fn): _Watch(self.fn, "self" if self.modular else self.name)}
        except _Eager as why:  # not to be looked for again at every call
            self.barred = str(why)
            self._warn(f"runs eagerly: {why}")
            raise

    def watching(self, call: _Call) -> list[_Watch]:
        """The watches over the code and over the objects among its arguments."""
        for value in call.objects():
            if id(value) not in self.watches:
                self.watches[id(value)] = _Watch(value, "an argument")
        return [self.watches[id(value)] for value in (self.fn, *call.objects())]

    def _state(self, call: _Call) -> tuple[int, ...]:
        """The state of everything within reach of the code and of the objects among its arguments."""
        try:
            if call.has_objects:
                return tuple([watch.state() for watch in self.watching(call)])
            watch = self.watches[id(self.fn)]
            return (watch.current if watch.idle else watch.state(),)
        except _Rebound as what:
            self.replaced = str(what)
            self.fruitless += self.fruitless < _FRUITLESS
            self._rebind()
            return self._state(call)

    def _rebind(self) -> None:
        """Something was replaced: every graph may read memory that is no longer in use."""
        self._drop(list(self.graphs))
        self.refused.clear()
        self.placed.clear()
        self.parameters.clear()
        self._look()

    def settle(self, call: _Call, wide: list[_Watch], ran: _Ran, addresses: set[int], host: Any) -> None:
        """From now on watch what a graph that was recorded depends on, too."""
        for i, (hot, watch) in enumerate(zip(self.watching(call), wide, strict=True)):
            new = watch.settled(ran, addresses, hot)
            new.use(addresses.union(_storage(t) for t, _ in hot.pointed), (*hot.host, *(() if i else host)))
            if new is not hot:
                self.watches[new.root.number] = new
                self._drop([key for key in self.graphs if key[1][i : i + 1] != (new.current,) and not i])

    def changed(self, watches: list[_Watch], key: Any) -> str:
        """What the code itself has changed since the key was made, if anything."""
        try:
            same = tuple([watch.state(thorough=True) for watch in watches]) == key[1]
            return "" if same else next((w.differing for w in watches if w.differing), "a number")
        except _Rebound as what:
            return str(what)

    def _drop(self, keys: Iterable[tuple[Any, ...]]) -> None:
        gone = [self.graphs.pop(key) for key in keys]
        self.replays = getattr(self, "replays", 0) + sum(graph.replays for graph in gone)
        if gone:
            gone[0].pool.drop(gone)

    # -- what is worth a graph

    def _worth_it(self, call: _Call) -> None:
        """Refuse to record for ever: for every value of a number, or more often than graphs are used."""
        named = [(path[0], value) for _, path, value in call.named(self.fn) if type(value) in _SCALARS]
        seen = self.values.setdefault(len(call.form), [set() for _ in named])
        for (name, value), past in zip(named, seen, strict=False):
            if _token(value) not in past and len(past) >= _MOST_VALUES:
                text = f"argument {name} has had more than {_MOST_VALUES} values"
                self._warn(
                    f"{text}; calls with new ones run eagerly. Pass a tensor to keep them in one graph"
                )
                raise _Eager(text)
            past.add(_token(value))
        if len(self.refused) >= _MOST_VALUES > self._replays():
            raise _Eager(next(reversed(self.refused.values())))
        if self.recorded >= _MOST_VALUES + self._replays() and call.has_objects:
            raise _Eager("an argument is a new object at every call: no graph could be used again")
        calls, limit = sum(self.eager.values()) + self._replays(), self.options.max_bytes
        full = limit is not None and _pool(self._device(call, self.watching(call))).bytes > limit
        if self.recorded >= (0 if full else self.options.max_graphs) + calls // _CALLS_A_GRAPH:
            raise _Eager(f"{self.recorded} graphs were recorded in {calls} calls: more would not pay")

    def _make_room(self, pool: _Pool) -> None:
        if self.options.max_bytes is not None and pool.bytes > self.options.max_bytes:
            pool.drop(list(pool.graphs))  # of all callables: only an empty pool gives memory back
        self.watches = {i: watch for i, watch in self.watches.items() if watch.root.refer() is not None}
        lost = [owners for owners in self.parameters if any(t.refer() is None for t in owners)]
        for owners in lost:
            del self.parameters[owners]
        gone = [key for key, graph in self.graphs.items() if graph.graph is None or _dead(key)]
        left = sorted(self.graphs.keys() - gone, key=lambda k: self.graphs[k].used)
        self._drop([*gone, *left[: max(0, len(left) - self.options.max_graphs + 1)]])

    def _device(self, call: _Call, watches: list[_Watch]) -> torch.device:
        tensors = call.leaves or [t for watch in watches for t, _ in watch.found if t.is_cuda]
        if not tensors:
            raise _Eager("it has no tensor on a GPU to work on")
        device = tensors[0].device
        if any(t.device != device for t in call.leaves):
            raise _Eager("the arguments are on two devices")
        if device.index not in (None, torch.cuda.current_device()):
            raise _Eager("the arguments are not on the current device")
        if any(leaf.is_quantized for leaf in call.leaves):
            raise _Eager("an argument is quantised")
        return device

    # -- the first call of its kind

    def _first(self, call: _Call, key: Any) -> Any:
        """Run the code for real; then, its effects undone, record it."""
        with self.lock:
            hot = self.watching(call)
            watches = [watch.again(watch.ran) if watch.only else watch for watch in hot]
        device = self._device(call, watches)
        reachable = {id(t): t for watch in watches for t, _ in watch.found}
        parameters = [t for t in reachable.values() if t.requires_grad and t.is_leaf and t.is_cuda]
        before = [_versions(p) for p in parameters]
        inline, _local.inline = _local.inline, True
        ran = _Ran()
        try:
            with ran:
                result = self.fn(*call.args, **call.kwargs)
        finally:
            _local.inline = inline
        why = "recording"
        try:
            self.asked |= ran.asks()
            self._refuse_unlike(call)
            if not call.is_as_given():
                raise _Eager("it changes a list or dict that is an argument, which a replay would not do")
            pairs = zip(map(_versions, parameters), before, strict=True)
            trains = any(now[0] is not was[0] or now[1:] != was[1:] for now, was in pairs)
            leaves, _ = _taken_apart(result)
            if torch.is_grad_enabled() and any(t.grad_fn is not None for t in leaves):
                if not trains:
                    raise _Eager("autograd records: a result requires a gradient")
                result = _rebuild(result, iter([t.detach() if t.grad_fn is not None else t for t in leaves]))
            del leaves
            had = [(p, grad is not None) for p, (grad, *_) in zip(parameters, before, strict=True)]
            with self.lock, _pool(device).lock:
                if changed := self.changed(watches, key):
                    why = "setting up"
                    self._rebind()
                    self.unsettled[key[0]] += 1
                    if self.unsettled[key[0]] >= 3:
                        raise _Changing(f"{changed} changes at every call, which a replay would not do")
                elif hot == self.watching(call):  # else another thread was faster
                    watches = [watch.again(ran) for watch in watches]  # what only a variable names, too
                    self._record(call, key, watches, _pool(device), had, trains, result)
        except _Leak as leak:
            self.exact = True
            self._drop(list(self.graphs))
            self._warn(f"{leak}, so every exact shape gets a graph of its own")
        except Exception as error:  # the result is there already: nothing that goes wrong here may lose it
            why = str(error) if isinstance(error, _Eager) else f"recording failed: {error!r}"
            if isinstance(error, _Changing):
                self.changing[key[0]] = why
            elif not isinstance(error, _Unlike):
                self.refused[key] = why
            if not why.startswith("autograd"):
                self._warn(f"runs eagerly: {why}")
        self.eager[why] += 1
        return result

    def _record(
        self, call: _Call, key: Any, watches: Any, pool: _Pool, had: Any, trains: bool, result: Any
    ) -> None:
        self._make_room(pool)
        graph = _Recording(self, call, key, watches, pool, had).run(trains, result)
        self.recorded += 1
        used = call.owners() in self.parameters
        key = (*key[:2], tuple([not was for _, was in had]) if used else ())
        if graph.placed:
            self.placed[key] = graph.placed
            key = self._at(key, call)
        self.graphs[key] = graph
        self.changing.pop(key[0], None)
        shapes = [torch.empty_like(leaf, device="meta") for leaf in call.leaves]
        self.example = _rebuild((call.args, call.kwargs), iter(shapes), _weakly)

    def _warn(self, text: str) -> None:
        if text not in self.warned and len(self.warned) < 4:
            self.warned.add(text)
            stack = traceback.extract_stack()
            level = next((n for n, f in enumerate(reversed(stack)) if f.filename != __file__), 0)
            warnings.warn(f"{self.name}: {text}", RuntimeWarning, stacklevel=level + 1)

    # -- introspection

    def _replays(self) -> int:
        return self.replays + sum(graph.replays for graph in self.graphs.values())

    def stats(self) -> dict[str, Any]:
        """See ``Graphed.stats``."""
        graphs = [graph for graph in self.graphs.values() if graph.graph is not None]
        slots = sum(g.slots * g.replays for g in graphs)
        buckets: Counter[str] = Counter()
        for graph in graphs:
            buckets[graph.name] += graph.replays
        return {
            "graphs": len(graphs),
            "buckets": dict(buckets),
            "replays": self._replays(),
            "eager": dict(self.eager),
            "bytes": sum(g.bytes for g in graphs),
            "padding": 1 - sum(g.real for g in graphs) / slots if slots else 0.0,
        }

    def prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the code with its arguments cut to every bucket, the largest first."""
        padding, sizes = self.options.padding, dict[str, int]()
        listed: dict[str, Any] = {}
        if padding is not None and padding.has_sizes(args, kwargs):
            listed = dict(args[0]) if args else dict(padding.buckets)
            sizes = {name: size if type(size) is int else max(size) for name, size in listed.items()}
            args = args[1:]
            if not args and not kwargs:
                if self.example is None:
                    raise ValueError(
                        "prepare() by sizes alone follows a call. Before one, add what calls pass: "
                        'prepare({"B": 32}, torch.empty(1, 16, device="meta"))'
                    )
                args, kwargs = self.example
        call = self._take_apart(*self._examples(args, kwargs, sizes))
        if padding is None or self.exact or not self._pad(call) or not call.sizes:
            self.call(call.args, call.kwargs)
            return
        steps: list[set[int]] = []
        for name, size in call.sizes.items():
            up_to = {min(padding.bucket(name, n), size) for n in range(1, size + 1)}
            steps.append(up_to if type(listed.get(name, size)) is int else set(listed[name]))
        for some in sorted(itertools.product(*steps), key=math.prod, reverse=True):
            cut = call.with_sizes(dict(zip(call.sizes, some, strict=True)))
            self.call(*_rebuild((call.args, call.kwargs), iter(cut.leaves)))

    def _examples(self, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: Mapping[str, int]) -> Any:
        """The arguments with tensors of these sizes for shapes, dtypes and what is on the meta device."""
        padding = self.options.padding if sizes else None
        form = _taken_apart((args, kwargs))
        named = _Call(args, kwargs, *form, False).named(self.fn)
        made: list[Any] = []
        for value, pattern in (
            (value, padding.pattern(path, position)) if padding is not None else (value, None)
            for position, path, value in named
            if len(path) == 1
        ):
            kind, names = type(value), pattern.split() if pattern else []
            if kind is torch.dtype and names:
                if not sizes.keys() >= set(names):
                    raise ValueError(f"prepare(): a dtype leaves sizes of {pattern!r} open, give a shape")
                value = torch.empty([sizes[name] for name in names], dtype=value, device="meta")
            elif (
                not form[0] and kind in (tuple, list, torch.Size) and value and set(map(type, value)) == {int}
            ):
                value = torch.empty(value, dtype=self._dtype(), device="meta")
            made.append(value)
        args, kwargs = tuple(made[: len(args)]), dict(zip(kwargs, made[len(args) :], strict=True))
        leaves, now = _taken_apart((args, kwargs))
        plans = padding.plan(self.fn, _Call(args, kwargs, leaves, now, False)) if padding is not None else []
        for i, leaf in enumerate(leaves):
            if padding is not None:
                known = dict(plans[i].dims)
                shape = [sizes.get(known.get(dim, ""), size) for dim, size in enumerate(leaf.shape)]
                leaf = torch.empty_strided(shape, _compact(shape, leaf), dtype=leaf.dtype, device="meta")
            leaves[i] = _example(leaf) if leaf.is_meta else leaf
        return _rebuild((args, kwargs), iter(leaves), lambda v: v.refer() if type(v) is _Same else v)

    def _dtype(self) -> torch.dtype:
        """That of the first parameter."""
        if not self.watches:
            self._look()
        found = [t.dtype for watch in self.watches.values() for t, _ in watch.found if t.is_floating_point()]
        return found[0] if found else torch.get_default_dtype()


def _example(like: Tensor) -> Tensor:
    """A tensor on the device with the look of one on the meta device."""
    made = torch.ones(like.shape, dtype=like.dtype)
    if like.is_floating_point() or like.is_complex():
        made = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like.dtype)
    device = torch.device("cuda", torch.cuda.current_device())
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device).copy_(made)


def _versions(parameter: Tensor) -> tuple[Any, int, int]:
    """Its gradient, and how often both were written."""
    grad = parameter.grad
    return grad, _version(parameter), 0 if grad is None else _version(grad)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _weakly(value: Any) -> Any:
    return value if type(value) in _SCALARS else _Same(value)


def _dead(key: Any) -> bool:
    """Whether an object that was an argument is gone."""
    return any(type(token) is _Same and token.refer() is None for token in key[0][0])


# -------------------------------------------------------------------------------------- 9. recording


class _Result(NamedTuple):
    """What one run gave: outputs, inputs afterwards, memory written elsewhere, gradients."""

    leaves: list[Tensor]
    form: list[Hashable]
    inputs: list[Tensor]
    written: dict[int, Tensor]
    gradients: list[Tensor | None]


class _Recording:
    """The runs of the code on private inputs that end in a capture; afterwards everything is as before."""

    def __init__(
        self, runner: _Runner, call: _Call, key: Any, watches: list[_Watch], pool: _Pool, had: list[Any]
    ) -> None:
        self.runner, self.call, self.key, self.pool, self.had = runner, call, key, pool, had
        self.watches, self.ran = watches, _Ran()
        self.saved = [watch.snapshot() for watch in self.watches]
        self.observer = _Observer(pool.device, [g for watch in self.watches for g in watch.on_host])
        for generator in itertools.chain.from_iterable(watch.generators for watch in self.watches):
            self.observer.add(generator)
        self.drew = False  # random numbers on the device
        self.gradients: list[tuple[Tensor, Any]] = []  # what each parameter starts a run with
        self.runs = 0
        self.capturing: Any = None  # the graph whose capture has begun

    def run(self, trains: bool, result: Any) -> _Graph:
        """Record on the pool's stream, and put everything back; raises _Eager or _Leak."""
        if _capturing():
            raise _Eager("another capture is under way")
        now = [(p, p.grad) for p, _ in self.had]
        side, current = self.pool.warm, torch.cuda.current_stream(self.pool.device)
        self.pool.order()
        side.wait_stream(current)
        try:
            with _quiet() as sink, torch.cuda.stream(side):
                try:
                    return self._go(sink, trains, result)
                except (_Eager, _Leak):
                    raise
                except Exception as error:  # nothing may keep it: it holds memory of the pool
                    failure = self._explained(error)
                finally:
                    self.observer.restore()
                    self._set(now)
        finally:
            current.wait_stream(side)
        raise _Eager(failure)

    def _go(self, sink: _Sink, trains: bool, result: Any) -> _Graph:
        """Watch a run, settle how outputs are cut, warm up, capture."""
        call, observer, runner = self.call, self.observer, self.runner
        graph = _Graph(self.pool, call, self._inputs())
        first = self._watched(graph, trains)
        if places := self._places(graph):
            twins = {id(call.leaves[i]): call.leaves[i].detach() for i in places}
            inputs = [twins.get(id(leaf), t) for leaf, t in zip(call.leaves, graph.inputs, strict=True)]
            graph = _Graph(self.pool, call, inputs, places)
            first = self._watched(graph, trains)
        if not runner.graphs:
            self._settle(graph)
        if sink.getvalue():
            raise _Changing("it prints, which a replay would not do")
        if graph.conflicts(call):
            raise _Eager("an argument shares memory with something that the code writes")
        if call.sizes:
            graph.cuts = self._proven(graph, first, result)
            graph.load(call)
        while self.runs < (_LATER_WARMUP if runner.graphs else _FIRST_WARMUP):
            self._body(graph.inputs)
            observer.restore()
        self._capture(graph, first)
        addresses = {*observer.read, *map(_storage, graph.inputs)}
        runner.settle(call, self.watches, self.ran, addresses, observer.host.values())
        for i in graph.placed:  # nor does a graph keep the caller's memory
            graph.inputs[i] = graph.inputs[i].new_empty(0)
        self.pool.graphs.add(graph)
        graph.real = 0
        return graph

    def _settle(self, graph: _Graph) -> None:
        """See that the code does the same in every run; the first may have made what later ones use."""
        pairs: list[tuple[str, str]] = []
        for _ in range(2):
            before = self.observer.trace
            self._run(graph.inputs)
            pairs = [*itertools.zip_longest(before, self.observer.trace, fillvalue="nothing")]
            pairs = [(a, b) for a, b in pairs if a != b]
            if not pairs:
                return
        was, now = (text.partition(" ")[0] for text in pairs[0])
        what = f"{now} is called with something else" if was == now else f"it calls {now} in place of {was}"
        raise _Changing(f"{what} at every call, which a replay would not do")

    # -- inputs

    def _inputs(self) -> list[Tensor]:
        made: dict[int, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            for i, leaf in enumerate(self.call.leaves):
                if id(leaf) not in made:
                    made[id(leaf)] = self._input(i, leaf)
        return [made[id(leaf)] for leaf in self.call.leaves]

    def _input(self, i: int, leaf: Tensor) -> Tensor:
        if not self.call.plans or not self.call.plans[i].dims:
            return _empty_like(leaf)
        if not _dense(leaf.shape, leaf.stride()):
            raise _Eager("the elements of a padded argument share memory")
        shape = self.call.shape(i)
        size = math.prod(shape)
        slot = (i, leaf.dtype, leaf.device)
        flat = self.runner.flat.get(slot)
        if flat is None or flat.numel() < size:  # buckets share their inputs: each call fills them anew
            flat = self.runner.flat[slot] = torch.empty(size, dtype=leaf.dtype, device=leaf.device)
        return flat.as_strided(shape, _compact(shape, leaf))

    def _places(self, graph: _Graph) -> Sequence[int]:
        """The arguments to use where they are: those that are written, if these are the first."""
        if not graph.mutated or self.call.plans or self.key in self.runner.placed:
            return ()
        leaves = self.call.leaves
        written = {_storage(leaves[i]) for i in graph.mutated}
        return [i for i, leaf in enumerate(leaves) if leaf.numel() and _storage(leaf) in written]

    # -- runs

    def _set(self, gradients: list[tuple[Tensor, Any]]) -> None:
        for parameter, gradient in gradients:
            parameter.grad = gradient

    def _body(self, inputs: list[Tensor]) -> Any:
        self.runs += 1
        self._set(self.gradients)
        args, kwargs = _rebuild((self.call.args, self.call.kwargs), iter(inputs))
        if not torch.is_autocast_enabled("cuda"):
            return self.runner.fn(*args, **kwargs)
        # casts of weights that autocast keeps would be made in one graph and used by another
        with torch.autocast("cuda", dtype=torch.get_autocast_dtype("cuda"), cache_enabled=False):
            return self.runner.fn(*args, **kwargs)

    def _run(self, inputs: list[Tensor]) -> _Result:
        """One watched run and its results; afterwards memory and random numbers are as before."""
        observer = self.observer
        observer.made.clear()
        observer.trace = []
        for t in inputs:
            observer.written.pop(_storage(t), None)  # to be put back to what they hold now
        with _uncompiled(), observer, self.ran:
            out = self._body(inputs)
        self._check_state()
        observer.random = observer.random or self.ran.partly
        if self.ran.seeds and observer.random:
            raise _Changing("it sets a random number generator, which a replay would not do")
        if self.ran.asked:
            raise _Changing(f"it calls {self.ran.asked}(), which a replay would not do")
        drawn = observer.drawn()
        if "cpu" in drawn:
            raise _Changing("it draws random numbers on the host (random, NumPy or a CPU generator)")
        self.drew = self.drew or bool(drawn)
        leaves, form = _taken_apart(out)
        known = {id(value) for value in self.call.objects()}.union(*(watch.seen for watch in self.watches))
        if any(type(t) is _Same and t.number not in known for t in form):
            raise _Eager("it returns an object that cannot be taken apart into tensors")
        padded = bool(self.call.plans)
        with torch.no_grad():
            result = _Result(
                [t.detach().clone() for t in leaves],
                form,
                [t.clone() for t in inputs if padded],
                {a: whole.clone() for a, (whole, _) in observer.written.items() if padded},
                [None if p.grad is None else p.grad.clone() for p, _ in self.gradients],
            )
        observer.restore()
        return result

    def _check_state(self) -> None:
        """Refuse code that has changed Python state in a run, and take the change back."""
        if changed := self.runner.changed(self.watches, self.key):
            for watch, saved in zip(self.watches, self.saved, strict=True):
                watch.put_back(saved)
            raise _Changing(f"{changed} changes at every call, which a replay would not do")

    def _watched(self, graph: _Graph, trains: bool) -> _Result:
        """One run that shows what is read and written, and whether a replay could stand for the code."""
        inputs, observer = graph.inputs, self.observer
        graph.load(self.call)
        # with gradients in place, to see if they matter
        self.gradients = [
            (p, torch.zeros_like(p) if p.grad is None and trains else p.grad) for p, _ in self.had
        ]
        result = self._run(inputs)
        gradients = {_storage(g) for _, g in self.gradients if g is not None}
        if not gradients.isdisjoint(observer.read):  # then as at the real call: some had one, others not
            self.runner.parameters[self.call.owners()] = [p for p, _ in self.had]
            self.gradients = [(p, torch.zeros_like(p) if had else None) for p, had in self.had]
            gradients.update(_storage(g) for _, g in self.gradients if g is not None)
            result = self._run(inputs)
        elif not trains:
            self.gradients, result = [], result._replace(gradients=[])
        static = {_storage(t) for t in inputs if t.numel()}
        graph.reads = observer.read.keys() - static - gradients
        graph.keep = [observer.read[address] for address in graph.reads]
        placed = {_storage(inputs[i]) for i in graph.placed}
        graph.writes = observer.written.keys() - (static - placed) - gradients
        if observer.reason:
            raise _Eager(observer.reason)
        for t, leaf in zip(inputs, self.call.leaves, strict=True):
            if t.dim() != leaf.dim() or (_storage(t) not in static and leaf.numel()):
                raise _Eager("it gives an argument another shape or other memory in place")
        graph.mutated = [i for i in graph.copied if _storage(inputs[i]) in observer.written]
        if not graph.expanded.keys().isdisjoint(graph.mutated):
            raise _Eager("it writes to an argument whose elements share memory")
        return result

    # -- padding

    def _proven(self, graph: _Graph, first: _Result, result: Any) -> _Cuts:
        """Find the dimensions to cut by runs with and without padding; raise _Leak if it changes a result."""
        if self.drew:
            raise _Leak("it draws random numbers, and how many depends on the padding")
        call = self.call.smaller()
        pure = not (graph.writes or graph.mutated or self.gradients)
        proven = self.runner.proven.issuperset(call.sizes) and not call.has_objects
        if call is self.call and pure and proven:
            exact, padded = _Result(*_taken_apart(result), call.leaves, {}, []), first  # both ran already
        else:  # other data than the padding: a maximum or a sum may agree by luck
            graph.load(call)
            twins = {id(t): t.detach().clone() if t.numel() else t for t in call.leaves}
            for i in graph.copied:
                if graph.plans[i].dims and _is_data(call.leaves[i]):
                    if not graph.plans[i].explicit:
                        self._repeat(graph, i, call)
                    graph.real_part(i, graph.inputs[i], call).mul_(0.5)
                    twins[id(call.leaves[i])].mul_(0.5)
            padded = self._run(graph.inputs)
            exact = self._run([twins[id(t)] for t in call.leaves])
        if exact.form != padded.form:
            raise _Leak("what it returns depends on the size beyond the shapes of tensors")
        pairs = enumerate(zip(exact.leaves, padded.leaves, strict=True))
        cuts = [_following(i, a, b, call) for i, (a, b) in pairs]
        compared: list[tuple[str, Any, Any]] = [
            *((f"output {i}", a, _cut(b, cuts[i], call.sizes))
              for i, (a, b) in enumerate(zip(exact.leaves, padded.leaves, strict=True))),
            *(("what is written to an argument", exact.inputs[i], graph.real_part(i, padded.inputs[i], call))
              for i in graph.mutated),
            *(("the state that is written", exact.written[a], padded.written[a]) for a in graph.writes),
            *(("a gradient", g, h) for g, h in zip(exact.gradients, padded.gradients, strict=True)),
        ]  # fmt: skip
        for what, a, b in compared:
            if (a is None) != (b is None) or (a is not None and not _close(a, b)):
                raise _Leak(f"padding changes {what}")
        self.runner.proven.update(call.sizes)
        return cuts

    def _repeat(self, graph: _Graph, i: int, call: _Call) -> None:
        """Fill the padding of input ``i`` with real data of the same call."""
        for dim, name in graph.plans[i].dims:
            size, bucket = call.sizes[name], call.buckets[name]
            if size != bucket:
                index = torch.arange(size, bucket, device=graph.inputs[i].device) % size
                rows = graph.inputs[i].index_select(dim, index)
                graph.inputs[i].narrow(dim, size, bucket - size).copy_(rows)

    # -- capture

    def _capture(self, graph: _Graph, first: _Result) -> None:
        device, observer, pool = self.pool.device, self.observer, self.pool
        made = graph.graph = torch.cuda.CUDAGraph()
        for generator, _ in observer.generators.values():
            if generator.device.type == "cuda" and generator is not observer.default:
                made.register_generator_state(generator)
        handle = pool.memory(observer.blas)
        torch.cuda.synchronize(device)
        reserved = torch.cuda.memory_reserved(device)
        self.capturing = made
        with pool.capture(made, handle, self.drew), self.ran:
            out = self._body(graph.inputs)
        self.capturing = None
        graph.bytes = max(torch.cuda.memory_reserved(device) - reserved, 0)
        leaves, form = _taken_apart(out)
        try:
            self._check_state()
            if form != first.form or [t.shape for t in leaves] != [t.shape for t in first.leaves]:
                raise _Changing("what it returns changes at every call, which a replay would not do")
        except _Changing:
            made.reset()
            raise
        graph.outputs = [t.detach() if t.requires_grad and not t.is_leaf else t for t in leaves]
        if type(out) not in _TENSORS:
            given = {*map(id, self.call.objects())}  # a graph does not keep its arguments alive
            refer = lambda v: _Same(v) if id(v) in given else v  # noqa: E731
            graph.template = _rebuild(out, iter(graph.outputs), refer)
        state = graph.reads.union(_storage(t) for watch in self.watches for t, _ in watch.found)
        clone = self.runner.options.clone
        deliveries = [graph.delivery(i, leaves, self.call, state, clone) for i in range(len(leaves))]
        graph.deliveries = deliveries if any(deliveries) else []
        for parameter, before in self.gradients:
            after = parameter.grad
            if before is not None and _storage(before) in observer.read:
                graph.grads_in.append((parameter, before))
            if after is not before or (after is not None and _storage(after) in observer.written):
                graph.grads_out.append((parameter, after, after is not None and after is before))

    # -- failure

    def _explained(self, error: BaseException) -> str:
        """Clean up, and name the user's line that stopped the recording, and why."""
        root = error
        while root.__context__ is not None:
            root = root.__context__
        place, message = _user_line(traceback.extract_tb(root.__traceback__)), _first_line(root)
        found: list[str] = []

        def note(text: Any, *args: Any, **kwargs: Any) -> None:
            if "synchroniz" in str(text):
                found.append(_user_line(traceback.extract_stack()))

        if self.capturing is not None:
            drawn = [g for g, _ in self.observer.generators.values() if g.device.type == "cuda"]
            self.pool.recover(self.capturing, drawn)
        with contextlib.suppress(Exception), warnings.catch_warnings():
            mode = torch.cuda.get_sync_debug_mode()
            warnings.simplefilter("always")
            warnings.showwarning = note  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self._run([t.detach().clone() for t in self.call.leaves])
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        if found:
            return f"{found[0]} waits for the GPU, which a graph cannot ({message})"
        return f"{place}: {message}"


def _following(i: int, exact: Tensor, padded: Tensor, call: _Call) -> tuple[tuple[int, str, int], ...]:
    """The dimensions of output ``i`` that follow the padded sizes, and how many times they do."""
    if exact.dim() != padded.dim() or exact.dtype != padded.dtype:
        raise _Leak(f"padding changes the kind of output {i}")
    dims = []
    for dim, (small, large) in enumerate(zip(exact.shape, padded.shape, strict=True)):
        sizes = [(n, size, call.buckets[n]) for n, size in call.sizes.items() if size != call.buckets[n]]
        fits = [(n, small // s) for n, s, full in sizes if small * full == large * s and small % s == 0]
        if small != large:
            if not fits:
                raise _Leak(f"dimension {dim} of output {i} does not follow the padded sizes")
            if len({times for _, times in fits}) < len(fits):
                raise _Eager(f"dimension {dim} of output {i} may follow {fits[0][0]} or {fits[1][0]}")
            dims.append((dim, *fits[0]))
    return tuple(dims)


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
    if exact.dtype == torch.float32 and _precision()[0] not in ("highest", "ieee", "none"):
        tolerance = 1e-2
    a, b = (exact, padded) if exact.dtype == torch.float64 else (exact.float(), padded.float())
    finite = a.isfinite() & b.isfinite()
    same = (a == b) | (a.isnan() & b.isnan())
    size = torch.where(finite, a.abs(), 0)
    scale = size + (size.mean() if size.numel() else 0)
    near = torch.where(finite, a - b, 0).abs() <= tolerance * scale
    return bool((same | (finite & near)).all())
