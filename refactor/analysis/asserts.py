"""Functions of torch that raise where a condition does not hold: of a tensor, the host reads the value."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from refactor.analysis.domain import Val, on_device
from refactor.analysis.model import EventKind

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_CONDITION = {
    "_assert": 0,
    "_check": 0,
    "_check_index": 0,
    "_check_value": 0,
    "_check_type": 0,
    "_check_not_implemented": 0,
    "_check_tensor_all": 0,
    "_check_with": 1,
    "_check_tensor_all_with": 1,
}
"""Where the condition stands. ``torch._assert_async`` is none of them: it raises on the device."""


def checked(it: Interpreter, frame: Frame, name: str, values: Sequence[Val], call: ast.Call) -> None:
    """``torch._check(t.sum() == n)``, ``torch._assert(mask.any(), "…")``."""
    place = _CONDITION.get(name)
    if place is None or len(values) <= place:
        return
    if on_device(values[place]):
        subject = call.args[place] if len(call.args) > place else call
        it.emit(frame, EventKind.ASSERT, call, subject, f"torch.{name}")
