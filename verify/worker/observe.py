"""What a call did, as plain data: every leaf of a result becomes a description, tensors go to one list.

No object of a user's class is ever pickled: the judge reads descriptions and tensors only.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import enum
import functools
import hashlib
import inspect
import random
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .trees import Subject

Leaf = list[Any]  # [kind, ...], JSON
Leaves = list[list[Any]]  # [[path, leaf], ...], in the order of the structure

DEPTH = 8
LIBRARIES = frozenset((*sys.stdlib_module_names, "torch", "numpy"))  # whose properties are nobody's results
NAN_BYTE = 0x7F
STATE_LIMIT = 4_000_000  # elements of state looked at after every call; larger state only at the end


class Recorder:
    """Collects tensors of one sequence; equal snapshots of the same name are stored once."""

    def __init__(self, inference: bool = False, starts: Mapping[str, Tensor] | None = None) -> None:
        self.tensors: list[Tensor] = []
        self.starts = starts or {}  # what state is at the start, by name: unchanged it is not copied
        self.inference = inference  # whether calls are made in inference mode, where all results are its own
        self._latest: dict[str, int] = {}

    def add(self, tensor: Tensor, name: str | None = None) -> int:
        """Index of a detached CPU copy; with a name, of the last copy under it if nothing changed since."""
        start = self.starts.get(name) if name is not None and name not in self._latest else None
        alike = start is not None and start.shape == tensor.shape and start.dtype == tensor.dtype
        if start is not None and alike and same_bits(start, tensor.detach().to("cpu")):
            self.tensors.append(start)
            return len(self.tensors) - 1
        copy = tensor.detach()
        copy = copy.to_dense() if copy.layout is not torch.strided else copy
        copy = plain(copy.resolve_conj().resolve_neg().to("cpu", copy=True))
        if name is not None and name in self._latest:
            index = self._latest[name]
            last = self.tensors[index]
            if last.shape == copy.shape and last.dtype == copy.dtype and same_bits(last, copy):
                return index
        self.tensors.append(copy)
        if name is not None:
            self._latest[name] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def leaves(self, value: Any, path: str, name: str | None = None) -> Leaves:
        """Flatten a value; ``name`` prefixes the names under which unchanged tensors are found again."""
        out: Leaves = []
        self._flatten(value, path, out, (), name)
        return out

    def _flatten(self, value: Any, path: str, out: Leaves, seen: tuple[int, ...], name: str | None) -> None:
        label = type(value).__qualname__
        if isinstance(value, Tensor):
            index = self.add(value, f"{name}{path}" if name is not None else None)
            strides = list(value.stride()) if value.layout is torch.strided else []
            facts = [
                index,
                str(value.dtype),
                list(value.shape),
                str(value.device),
                "on a leaf" if value.requires_grad and value.is_leaf else value.requires_grad,
                strides,
                str(value.layout),
                value.is_inference() and not self.inference,
            ]
            out.append([path, ["tensor", label, *facts]])
        elif value is None or isinstance(value, (bool, int, str, bytes, enum.Enum)):
            out.append([path, ["value", label, repr(value)]])
        elif isinstance(value, (float, complex)):
            out.append([path, ["number", label, repr(value)]])
        elif id(value) in seen or len(seen) > DEPTH:
            out.append([path, ["again", label]])
        else:
            self._container(value, path, out, (*seen, id(value)), name)

    def _container(self, value: Any, path: str, out: Leaves, seen: tuple[int, ...], name: str | None) -> None:
        label = type(value).__qualname__
        array = as_tensor(value)
        if array is not None:
            facts = [self.add(array), str(array.dtype), list(array.shape), "numpy", False]
            out.append([path, ["tensor", label, *facts, [], "torch.strided", False]])
            return
        if isinstance(value, Mapping):
            out.append([path, ["dict", label, [repr(k) for k in value]]])
            children = [(f"{path}[{k!r}]", v) for k, v in value.items()]
        elif isinstance(value, (list, tuple, collections.abc.Set, collections.deque, range)):
            items = sorted(value, key=repr) if isinstance(value, collections.abc.Set) else list(value)
            fields = getattr(value, "_fields", None)
            out.append([path, ["sequence", label, len(items)]])
            children = [(f"{path}.{fields[i]}" if fields else f"{path}[{i}]", v) for i, v in enumerate(items)]
        elif isinstance(value, types.GeneratorType):
            items = list(value)
            out.append([path, ["sequence", "generator", len(items)]])
            children = [(f"{path}[{i}]", v) for i, v in enumerate(items)]
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            children = [(f"{path}.{f.name}", getattr(value, f.name, None)) for f in dataclasses.fields(value)]
            out.append([path, ["object", label, [c for c, _ in children]]])
        elif isinstance(value, (torch.dtype, torch.device, torch.Size, slice, type)):
            out.append([path, ["value", label, repr(value)]])
            children = []
        else:
            public = public_items(value)
            label = "callable" if is_function(value) else label
            out.append([path, ["object", label, [k for k, _ in public]]])
            children = [(f"{path}.{k}", v) for k, v in public]
        for child_path, child in children:
            self._flatten(child, child_path, out, seen, name)


def plain(t: Tensor) -> Tensor:
    """Contiguous, with the strides of a fresh tensor; eight-bit floats as bytes, one for all NaNs and zeros.

    Of eight-bit floats each is a level, and the next level is another result, as with integers.
    """
    # a tensor of one element is contiguous whatever its strides are, and torch may refuse to view it as bytes
    t = t.contiguous() if t.numel() > 1 else t.clone(memory_format=torch.contiguous_format)
    if not t.is_floating_point() or t.dtype.itemsize > 1:
        return t
    values, data = t.float(), t.view(torch.uint8).clone()
    data[values.isnan()] = NAN_BYTE
    data[values == 0] = 0
    return data


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal in every bit, so that a NaN equals itself."""
    if a is b:
        return True
    if a.is_complex() and b.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if a.dtype.is_floating_point and a.dtype.itemsize in (2, 4, 8):
        size: dict[int, torch.dtype] = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        return torch.equal(a.view(size[a.dtype.itemsize]), b.view(size[b.dtype.itemsize]))
    return torch.equal(a, b)


def as_tensor(value: Any) -> Tensor | None:
    """A NumPy array or scalar as a tensor; None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
        return None
    if value.dtype.kind not in "biufc":
        return None
    return torch.from_numpy(numpy.array(value))


def public_items(value: Any) -> list[tuple[str, Any]]:
    """Public data of an object in order of its names: attributes, slots, properties of the user's classes.

    Code objects and modules have none.
    """
    if isinstance(value, (nn.Module, type, types.FunctionType, types.MethodType, types.ModuleType)):
        return []
    attributes = getattr(value, "__dict__", None)
    found = dict(attributes) if isinstance(attributes, dict) else {}
    kind = type(value)
    for name in shown_names(kind):  # type: ignore[arg-type]  # classes are hashable
        with contextlib.suppress(Exception), torch.no_grad():
            found[name] = getattr(value, name)
    public = ((k, v) for k, v in found.items() if isinstance(k, str) and not k.startswith("_"))
    return sorted(((k, v) for k, v in public if is_data(v) or _is_plain(v)), key=lambda pair: pair[0])


@functools.lru_cache(maxsize=1024)
def shown_names(kind: type) -> tuple[str, ...]:
    """Public slots and properties of a class; of the classes of torch and of the standard library none."""
    if kind.__module__.partition(".")[0] in LIBRARIES:
        return ()
    looked = (property, functools.cached_property, types.MemberDescriptorType)
    return tuple(
        name
        for name in sorted({n for base in kind.__mro__ for n in vars(base)})
        if not name.startswith("_") and isinstance(inspect.getattr_static(kind, name), looked)
    )


def is_function(value: Any) -> bool:
    """Whether a value is a function in any of its forms: which of them it is, its caller does not see."""
    return isinstance(
        value,
        (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial),
    )


def _is_plain(value: Any) -> bool:
    """Whether a value is an object of a user's class, which is looked into."""
    kind = type(value)
    if isinstance(value, (nn.Module, type, torch.optim.Optimizer)) or callable(value):
        return False
    return kind.__module__.partition(".")[0] not in LIBRARIES


def is_data(value: Any, depth: int = 3) -> bool:
    """Whether a value is plain data: numbers, text, tensors, and containers of them."""
    if value is None or isinstance(
        value, (bool, int, float, complex, str, bytes, enum.Enum, Tensor, torch.dtype, torch.device)
    ):
        return True
    if depth and isinstance(value, Mapping):
        return all(is_data(v, depth - 1) for v in value.values())
    if depth and isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return all(is_data(v, depth - 1) for v in value)
    if depth and dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(is_data(getattr(value, f.name, None), depth - 1) for f in dataclasses.fields(value))
    return as_tensor(value) is not None


def tensors_of(value: Any, path: str = "result", depth: int = DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a value, with its path."""
    if isinstance(value, Tensor):
        yield path, value
    elif depth and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from tensors_of(inner, f"{path}[{key!r}]", depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from tensors_of(inner, f"{path}[{i}]", depth - 1)
    elif depth and dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name, None), f"{path}.{field.name}", depth - 1)
    elif depth and not isinstance(value, (str, bytes, int, float, enum.Enum, type(None))):
        for key, inner in public_items(value):
            yield from tensors_of(inner, f"{path}.{key}", depth - 1)


def state_tensors(subject: Subject) -> dict[str, Tensor]:
    """Everything ``state_dict`` names; for a plain object its public tensors."""
    if subject.network is not None:
        return {k: v for k, v in subject.network.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    return {}


def state_size(subject: Subject) -> int:
    """Elements of the state."""
    return sum(t.numel() for t in state_tensors(subject).values())


def state(subject: Subject, recorder: Recorder, index: int) -> Leaves:
    """Keys and values of ``state_dict``, the extra state of modules included."""
    if subject.network is None:
        return []
    held = {
        k: v.detach() if isinstance(v, Tensor) else v
        for k, v in subject.network.state_dict(keep_vars=True).items()
    }
    return recorder.leaves(held, "state_dict", f"{index}:") if held else []


def gradients(subject: Subject, recorder: Recorder, index: int) -> Leaves:
    """``grad`` of every parameter, None included."""
    if subject.network is None:
        return []
    grads = {name: p.grad for name, p in subject.network.named_parameters()}
    return recorder.leaves(grads, "grad", f"{index}:") if grads else []


def public_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Plain data among the public attributes of a module."""
    known = {"dump_patches", "call_super_init"}
    return [
        (k, v)
        for k, v in sorted(vars(module).items())
        if not k.startswith("_") and k not in known and is_data(v)
    ]


def containers(arguments: Mapping[str, Any], given: list[tuple[str, Tensor]], result: Any) -> Leaves:
    """Dicts and lists among the arguments after a call: keys, lengths, whose tensors; which the result is."""
    known = {id(t): path for path, t in given}

    def outline(value: Any) -> str:
        if isinstance(value, Tensor):
            return known.get(id(value), "another tensor")
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{k!r}: {outline(v)}" for k, v in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(outline, value)) + "]"
        plain = value is None or isinstance(value, (bool, int, float, str))
        return repr(value) if plain else type(value).__qualname__

    held = [(n, v) for n, v in arguments.items() if isinstance(v, (Mapping, list))]
    found = [[f"argument {name}", ["value", type(v).__qualname__, outline(v)]] for name, v in held]
    same = next((name for name, v in held if v is result), "")
    return [*found, ["argument handed back", ["value", "argument", same]]] if held else found


def random_state(device: str) -> str:
    """A digest of every generator a program may draw from."""
    digest = hashlib.sha1(torch.get_rng_state().numpy().tobytes())
    if device.startswith("cuda"):
        digest.update(torch.cuda.get_rng_state().numpy().tobytes())
    _, words, following = random.getstate()
    digest.update(repr((hash(words), following)).encode())
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        drawn = numpy.random.get_state(legacy=False)["state"]
        digest.update(drawn["key"].tobytes() + repr(drawn["pos"]).encode())
    return digest.hexdigest()


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether writing into one tensor can change the other; exact for strided tensors."""
    if a is b:
        return a.numel() > 0
    try:
        same = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return False
    if not same or not a.numel() or not b.numel() or a.untyped_storage().data_ptr() == 0:
        return False
    (a_low, a_high), (b_low, b_high) = _reach(a), _reach(b)
    if a_high <= b_low or b_high <= a_low:
        return False
    if (a.is_contiguous() and b.is_contiguous()) or a.numel() * b.numel() > 1 << 32 or a.dtype != b.dtype:
        return True
    return bool(_addresses(a) & _addresses(b))


def _reach(t: Tensor) -> tuple[int, int]:
    last = sum((int(n) - 1) * int(s) for n, s in zip(t.shape, t.stride(), strict=True))
    start = int(t.storage_offset()) * t.element_size()
    return start, start + (last + 1) * t.element_size()


def _addresses(t: Tensor) -> set[int]:
    found = {int(t.storage_offset())}
    for n, s in zip(t.shape, t.stride(), strict=True):
        found = {a + i * int(s) for a in found for i in range(n)} if s else found
    return found


def aliases(result: Any, others: list[tuple[str, Tensor]]) -> list[list[Any]]:
    """For every tensor of a result, the labels of the tensors it shares memory with.

    Of an input it says whether the result is that very object: its caller may ask for that, or write to it.
    """
    mine = list(tensors_of(result))
    out = []
    for i, (path, tensor) in enumerate(mine):
        shared = [
            f"{label} itself" if tensor is other and label.startswith("input ") else label
            for label, other in (*mine[:i], *others)
            if overlap(tensor, other)
        ]
        if shared:
            out.append([path, sorted(set(shared))])
    return out
