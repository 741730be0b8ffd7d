"""What comes of calling what a call has handed out: functions, partials, methods, modules, callable objects.

A function that comes back is a promise about later calls, and what it closes over may be memory that the next
replay writes over. It is called twice with what the call itself was given, where its parameters can be filled
from that, and once more at the end of the sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from .observe import DEPTH, LIBRARIES, is_function, tensors_of

MOST = 4  # callables of one result that are called
_FILLED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def called(
    result: Any, arguments: Mapping[str, Any], label: str, owner: nn.Module | None = None, times: int = 1
) -> dict[str, Any]:
    """By path, a list of what each callable of a result gave; ``raised NAME`` for an exception.

    Args:
        result: of the target's call.
        arguments: of the target's call. Callables get copies of its tensors, changed after the first time.
        label: of the result.
        owner: the target, which is not called again.
        times: how often.
    """
    own = {id(m) for m in owner.modules()} if owner is not None else set()
    found: dict[str, Any] = {}
    for path, function in _callables(result, label):
        if id(function) in own or id(getattr(function, "__self__", None)) in own or len(found) >= MOST:
            continue
        answers = [_once(function, arguments, number) for number in range(times)]
        if None not in answers:
            found[f"{path}()"] = [answer for (answer,) in answers]  # type: ignore[misc]
    return found


def _once(function: Any, arguments: Mapping[str, Any], number: int) -> tuple[Any] | None:
    given = _given(function, arguments, number)
    if given is None:
        return None
    try:
        return (function(*given[0], **given[1]),)
    except Exception as error:  # whatever it raises is what both sides are compared by
        return (f"raised {type(error).__qualname__}",)


def _callables(value: Any, path: str, depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    if depth and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _callables(inner, f"{path}[{key!r}]", depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _callables(inner, f"{path}[{i}]", depth - 1)
    elif is_callable(value):
        yield path, value


def is_callable(value: Any) -> bool:
    """Whether a value is a function, a module, or an object of a user's class that can be called."""
    if is_function(value) or isinstance(value, nn.Module):
        return True
    if isinstance(value, (type, Tensor)) or not callable(value):
        return False
    return type(value).__module__.partition(".")[0] not in LIBRARIES


def _given(
    function: Any, arguments: Mapping[str, Any], number: int
) -> tuple[list[Any], dict[str, Any]] | None:
    """Positional and keyword arguments for its parameters without defaults; None where they cannot be had."""
    try:
        found = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):
        return None
    wanted = [p for p in found.parameters.values() if p.default is p.empty and p.kind in _FILLED]
    keywords = [
        p.name for p in found.parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    ]
    if any(name not in arguments for name in keywords):
        return None
    named = {name: _copy(arguments[name], number) for name in keywords}
    if all(p.name in arguments for p in wanted):
        return [_copy(arguments[p.name], number) for p in wanted], named
    tensors = [t for value in arguments.values() for _, t in tensors_of(value)]
    if len(wanted) > len(tensors):
        return None
    return [_copy(t, number) for t in tensors[: len(wanted)]], named


def _copy(value: Any, number: int) -> Any:
    """A copy of a tensor, halved if it is not for the first time and has halves; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().clone()
    return copy * 0.5 if number and copy.is_floating_point() else copy
