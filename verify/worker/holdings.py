"""What callers can look at beside results and `state_dict`: attributes, properties, books, optimizers.

Public names of the user's own classes and modules only. A rewrite may keep what it likes under private names.
"""

from __future__ import annotations

import contextlib
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .observe import Leaves, Recorder, is_data, public_attributes, public_items
from .trees import Subject, under

PLAIN = (bool, int, float, str)
# What a rewrite may have in another form, or not at all: compared only where both sides have it.
CLASS, FUNCTION, UNSAVED = "class ", "function ", "unsaved buffer "
IF_BOTH = (CLASS, FUNCTION, UNSAVED)
SETTINGS = ("lr", "momentum", "weight_decay", "betas", "eps")


def attributes(subject: Subject, recorder: Recorder, index: int, root: Path) -> Leaves:
    """Public attributes and properties of the owner and of its parts; public names of their modules."""
    out: Leaves = []

    def add(path: str, value: Any) -> None:
        out.extend(recorder.leaves(value, path, f"{index}:"))

    for prefix, holder in holders(subject):
        for name, value in _owned(holder, root):
            add(f"{prefix}.{name}", value)
        for path, value in _besides(prefix, holder, root):
            add(path, value)
    if isinstance(subject.call, types.FunctionType):
        for name, value in sorted(vars(subject.call).items()):
            if not name.startswith("_") and is_data(value):
                add(f"{FUNCTION}{subject.call.__name__}.{name}", value)
    for module in modules(subject, root):
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and (_is_book(value) or _is_object(value, root)):
                add(f"{module.__name__}.{name}", value)
    return out


def optimizers(
    subject: Subject, recorder: Recorder, index: int, beside: Iterable[tuple[str, Any]] = ()
) -> Leaves:
    """State and settings of public optimizers by names of parameters; where schedules and scalers stand.

    ``beside`` are paths and values that the target does not own: what a closure or a file holds.
    """
    named = {} if subject.network is None else {id(p): n for n, p in subject.network.named_parameters()}
    out: Leaves = []
    held = [
        (f"{prefix}.{name}", value)
        for prefix, holder in holders(subject)
        for name, value in (sorted(vars(holder).items()) if hasattr(holder, "__dict__") else ())
        if not name.startswith("_")
    ]
    for place, value in (*held, *beside):
        for path, found in _kept(value):
            out += recorder.leaves(found, f"{place}{path}", f"{index}:")
        if isinstance(value, torch.optim.Optimizer):
            for path, found in _of_optimizer(value, named):
                out += recorder.leaves(found, f"{place}: {path}", f"{index}:")
    return out


def shown(subject: Subject, recorder: Recorder, index: int, look: Callable[[Any], Any] | None) -> Leaves:
    """What the harness's ``observed`` returns for the target: plain data, tensors, optimizers, schedules.

    A dict's optimizers and schedules are looked at as public ones are; what it raises is compared as well.
    """
    if look is None:
        return []
    try:
        found = look(subject.owner if subject.owner is not None else subject.call)
    except Exception as error:  # of the user's own function, on a side that lacks what it asks for
        return [["observed", ["value", "raised", type(error).__qualname__]]]
    named = {} if subject.network is None else {id(p): n for n, p in subject.network.named_parameters()}
    out: Leaves = []
    for key, value in found.items() if isinstance(found, Mapping) else [("", found)]:
        path = f"observed[{key!r}]" if key != "" else "observed"
        parts = [(f"{path}{inner}", v) for inner, v in _kept(value)]
        if isinstance(value, torch.optim.Optimizer):
            parts += [(f"{path}: {inner}", v) for inner, v in _of_optimizer(value, named)]
        for place, part in parts or [(path, value)]:
            out += recorder.leaves(part, place, f"{index}:")
    return out


def holders(subject: Subject) -> Iterator[tuple[str, Any]]:
    """The owner and, of a module, its submodules, with the prefix of their attributes."""
    if subject.network is not None:
        for name, module in subject.network.named_modules():
            yield (f"self.{name}" if name else "self"), module
    elif subject.owner is not None and not isinstance(subject.owner, types.FunctionType):
        yield "self", subject.owner


def modules(subject: Subject, root: Path) -> list[types.ModuleType]:
    """The module of the target, then those of the user's classes in it."""
    found = {subject.module.__name__: subject.module}
    for _, holder in holders(subject):
        module = sys.modules.get(type(holder).__module__)
        if module is not None and under(getattr(module, "__file__", None), root):
            found[module.__name__] = module
    return list(found.values())


def _owned(holder: Any, root: Path) -> Iterator[tuple[str, Any]]:
    if isinstance(holder, nn.Module):
        if type(holder).__module__.startswith("torch."):
            yield "training", holder.training
            return
        yield from public_attributes(holder)
        known = sorted(vars(holder).items())
        yield from ((k, v) for k, v in known if not k.startswith("_") and _is_object(v, root))
    else:
        yield from public_items(holder)
    yield from _properties(holder, root)


def _besides(prefix: str, holder: Any, root: Path) -> Iterator[tuple[str, Any]]:
    """Books kept on the user's classes, and public buffers that are not saved with the model."""
    for kind in type(holder).__mro__:
        if not under(getattr(sys.modules.get(kind.__module__), "__file__", None), root):
            continue
        for name, value in sorted(vars(kind).items()):
            if not name.startswith("_") and _is_book(value):
                yield f"{CLASS}{kind.__qualname__}.{name}", value
    if isinstance(holder, nn.Module) and not type(holder).__module__.startswith("torch."):
        for name in sorted(holder._non_persistent_buffers_set):
            if not name.startswith("_"):
                yield f"{UNSAVED}{prefix}.{name}", holder._buffers.get(name)


def _properties(holder: Any, root: Path) -> Iterator[tuple[str, Any]]:
    """Values of the public properties of the user's classes; one that raises has none."""
    seen = set()
    for kind in type(holder).__mro__:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if not under(file, root):
            continue
        for name, found in sorted(vars(kind).items()):
            if isinstance(found, property) and not name.startswith("_") and name not in seen:
                seen.add(name)
                with contextlib.suppress(Exception), torch.no_grad():
                    value = getattr(holder, name)
                    if is_data(value):
                        yield name, value


def _is_object(value: Any, root: Path) -> bool:
    """Whether a value is a plain object of a class of the user's tree: its public data is looked at."""
    if isinstance(value, (nn.Module, type, types.FunctionType, types.ModuleType, types.MethodType)):
        return False
    file = getattr(sys.modules.get(type(value).__module__), "__file__", None)
    return under(file, root) and isinstance(getattr(value, "__dict__", None), dict)


def _is_book(value: Any) -> bool:
    """Whether a name of a module keeps numbers or words; tensors by some key are a memo, not a book."""
    if isinstance(value, (*PLAIN, Tensor)):
        return True
    if isinstance(value, Mapping):
        return is_data(value) and not any(_has_tensor(v) for v in value.values())
    return isinstance(value, (list, set)) and is_data(value)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensor, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(map(_has_tensor, value)))


def _kept(value: Any) -> Iterator[tuple[str, Any]]:
    """Where a schedule, a gradient scaler or a generator stands."""
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        yield ".last_epoch", value.last_epoch
        yield ".get_last_lr()", [float(n) for n in value.get_last_lr()]
    elif isinstance(value, torch.amp.GradScaler):
        with contextlib.suppress(Exception):
            yield ".state_dict()", value.state_dict()
    elif isinstance(value, torch.Generator):
        yield ".get_state()", value.get_state()
    elif isinstance(value, random.Random):
        _, words, following = value.getstate()
        yield ".getstate()", repr((hash(words), following))
    elif type(value).__module__.startswith("numpy.random"):
        drawn = getattr(value, "bit_generator", None)
        if drawn is not None:
            yield ".bit_generator.state", repr(drawn.state)


def _of_optimizer(optimizer: torch.optim.Optimizer, named: Mapping[int, str]) -> Iterator[tuple[str, Any]]:
    for number, group in enumerate(optimizer.param_groups):
        for place, p in enumerate(group["params"]):
            name = named.get(id(p), f"{number}.{place}")
            for key in SETTINGS:
                found = group.get(key)
                if isinstance(found, (int, float, Tensor)) and not isinstance(found, bool):
                    yield f"{key} of {name}", float(found)
            for key, value in sorted(optimizer.state.get(p, {}).items(), key=lambda kv: str(kv[0])):
                single = isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex()
                if key == "step" or single:  # on the host or on the device, a number or a tensor
                    yield f"{key} of {name}", float(value)
                elif isinstance(value, Tensor):
                    yield f"{key} of {name}", value


def owned_by_optimizer(network: nn.Module) -> bool:
    """Whether some optimizer, wherever it is kept, has a parameter of the module."""
    mine = {id(p) for p in network.parameters()}
    groups = [group for optimizer in list(_optimizers) for group in optimizer.param_groups]
    return any(id(p) in mine for group in groups for p in group["params"])


def watch_optimizers() -> None:
    """Remember every optimizer made from now on for as long as it lives."""
    make = torch.optim.Optimizer.__init__

    def made(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _optimizers.add(self)

    torch.optim.Optimizer.__init__ = made  # type: ignore[method-assign]


_optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
