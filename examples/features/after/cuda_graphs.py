# Vendored by cudagraph-refactor 0.1.0 (sha256 ff12c387e73f098e66d7d663333f2070b2bfa3e77128a0f024d69ee2f534be90) with constant, scratch only. Remove this line to keep changes of your own; `refactor apply` updates the file otherwise.
"""CUDA graphs for PyTorch code that stays ordinary PyTorch code.

``constant`` builds a constant once for each device.

``scratch`` keeps temporaries in buffers.

On a CPU, under autograd, ``torch.compile`` or a function transform all of it does what plain code does.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["constant", "scratch"]

_HOME = "_cuda_graphs"  # the private attribute under which an object keeps its graphs
_LARGE = 4096  # bytes of a constant, beyond which a digest stands for the content
_NUMBERS = frozenset((int, float, bool, complex))
_TENSORS = (Tensor, nn.Parameter)


def _torch(name: str, fallback: Any) -> Any:
    """A private or recent part of torch, or what stands in for it where it is missing."""
    try:
        found = operator.attrgetter(name)(torch)
    except AttributeError:
        return fallback
    return fallback if isinstance(found, type) else found  # a class stands for what a build lacks


_transforms = _torch("_C._functorch.peek_interpreter_stack", lambda: None)
_transforming = _torch("_C._are_functorch_transforms_active", lambda: _transforms() is not None)
_tracing = _torch("_C._is_tracing", lambda: torch._C._get_tracing_state() is not None)
_symbolic = _torch("fx._symbolic_trace.is_fx_symbolic_tracing", lambda: False)
_capturing = _torch("_C._cuda_isCurrentStreamCapturing", lambda: torch.cuda.is_current_stream_capturing())


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
    if home is None or _transforming() or _tracing() or torch.is_autocast_enabled("cuda"):
        return None
    if _symbolic():
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
    key = (name, threading.get_ident(), torch.cuda.current_stream(tensors[0].device), *looks)
    try:
        buffer = home.buffers[key]
    except KeyError:
        if _capturing():
            return None
        with home.lock:
            buffer = home.buffers[key] = _new_scratch(tensors, operands)
            while len(home.buffers) > 256:
                home.buffers.popitem(last=False)
    if buffer is None:
        return None
    address = _storage(buffer)
    return None if address and address in map(_storage, tensors) else buffer


def _new_scratch(tensors: list[Tensor], operands: tuple[Any, ...]) -> Tensor | None:
    """Memory for the result of an elementwise operation, laid out as the operation would; None if unknown."""
    device = tensors[0].device
    with torch.inference_mode(False), torch.no_grad():
        sketches = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
            if isinstance(x, Tensor)
            else x
            for x in operands
        ]
        result = (
            functools.reduce(operator.add, sketches) if len(sketches) > 1 else torch.empty_like(sketches[0])
        )
        plain = all(t.is_floating_point() or t.dtype == result.dtype for t in tensors)
        if not result.is_floating_point() or not plain or any(t.device != device for t in tensors):
            return None
        return torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device=device)


def constant(data: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Return ``torch.tensor(data)`` (for a tensor or array ``torch.as_tensor``), built once for each device.

    The result is shared by all callers with equal ``data``: it must not be written to. A tensor of more than
    64 MiB is recognised by identity and version, everything else by content. Raises what torch.tensor raises.
    """
    if _symbolic():
        proxy = next((p for p in (data, dtype, device) if isinstance(p, torch.fx.Proxy)), None)
        if proxy is not None:
            create: Any = cast(Any, proxy).tracer.create_proxy
            return cast(Tensor, create("call_function", _make_constant, (data, dtype, device), {}))
    target = device if isinstance(device, torch.device) or device is None else torch.device(device)
    plain = target is None or target.type != "cuda" or (isinstance(data, Tensor) and data.is_cuda)
    plain = plain or torch.compiler.is_compiling() or _transforming()
    content = None if plain else _content(data)
    if content is None or target is None:
        return _make_constant(data, dtype, device)
    if target.index is None:
        target = torch.device("cuda", torch.cuda.current_device())
    key = (content, dtype, torch.get_default_dtype() if dtype is None else None, target)
    with _constants_lock:
        made = _constants.get(key)
        if made is None:
            with torch.inference_mode(False), torch.no_grad():
                made = _make_constant(data, dtype, target)
            if _capturing():
                return made
            _constants[key] = made
            size = sum(t.nbytes for t in _constants.values()) if made.nbytes > _LARGE else 0
            while len(_constants) > 1024 or (size > 1 << 28 and len(_constants) > 1):
                size -= _constants.popitem(last=False)[1].nbytes
        elif _capturing():
            _captured[id(made)] = made
    return made


_constants: OrderedDict[Hashable, Tensor] = OrderedDict()
_captured: dict[int, Tensor] = {}  # constants that a graph, whoever made it, has by address
_constants_lock = threading.Lock()


def _make_constant(data: Any, dtype: torch.dtype | None, device: Any) -> Tensor:
    make = torch.as_tensor if isinstance(data, Tensor) or type(data).__module__ == "numpy" else torch.tensor
    return make(data, dtype=dtype, device=device)


def _content(data: Any) -> Hashable | None:
    """A key that is equal only for data that gives an equal tensor; None if there is none."""
    if type(data) in _NUMBERS:
        return (type(data), repr(data))  # tells 1 from 1.0 and True, and 0.0 from -0.0
    if type(data) in (list, tuple):
        if all(type(item) in _NUMBERS for item in data):
            return ("flat", repr(data))
        parts = [None if isinstance(item, Tensor) else _content(item) for item in data]
        return None if None in parts else ("sequence", *parts)
    if type(data).__module__ == "numpy" and hasattr(data, "tobytes") and data.nbytes <= 1 << 20:
        return ("numpy", str(data.dtype), tuple(data.shape), data.tobytes())
    if type(data) is not Tensor or data.requires_grad or data.layout != torch.strided:
        return None
    if data.nbytes > 1 << 26 or data.is_conj() or data.is_neg():
        return None if data.is_inference() else (_Same(data, strong=True), data._version)
    content = data.reshape(-1).view(torch.uint8).numpy().data
    seen = bytes(content) if data.nbytes <= _LARGE else hashlib.blake2b(content, digest_size=32).digest()
    return ("tensor", data.dtype, tuple(data.shape), data.stride(), seen)


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


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage().data_ptr()
    return address
