"""Arguments of torch's operations that must be numbers on the host: a tensor given there is read back.

Seen on an H100 with torch 2.11: ``F.pad`` and ``F.interpolate`` with sizes taken from tensors,
``multinomial`` with a tensor as the number of samples, ``masked_fill`` with a value on the device.
``torch.where`` does the opposite: a CPU scalar among its sides is copied to the device.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis.domain import Tensor, Val, read_back, spread
from refactor.analysis.model import Device, EventKind
from refactor.analysis.torchops import names

if TYPE_CHECKING:
    from refactor.analysis.calls import Arguments
    from refactor.analysis.interpreter import Frame, Interpreter

_SHAPING = names(
    "view reshape expand repeat unflatten tile broadcast_to new_zeros new_ones new_empty new_full"
)
"""Every argument is a size."""

_NUMBERS: dict[str, tuple[tuple[int, str], ...]] = {
    "narrow": ((1, "start"), (2, "length")),
    "pad": ((0, "pad"), (2, "value")),
    "interpolate": ((0, "size"), (1, "scale_factor")),
    "upsample": ((0, "size"), (1, "scale_factor")),
    "adaptive_avg_pool1d": ((0, "output_size"),),
    "adaptive_avg_pool2d": ((0, "output_size"),),
    "adaptive_max_pool2d": ((0, "output_size"),),
    "topk": ((0, "k"),),
    "kthvalue": ((0, "k"),),
    "multinomial": ((0, "num_samples"),),
    "roll": ((0, "shifts"),),
    "select": ((1, "index"),),
    "tril": ((0, "diagonal"),),
    "triu": ((0, "diagonal"),),
    "diagonal": ((0, "offset"),),
    "diag": ((0, "diagonal"),),
    "masked_fill": ((1, "value"),),
    "index_fill": ((2, "value"),),
    "one_hot": ((0, "num_classes"),),
    "chunk": ((0, "chunks"),),
    "split": ((0, "split_size_or_sections"),),
    "split_with_sizes": ((0, "split_sizes"),),
    "tensor_split": ((0, "indices_or_sections"),),
    "glu": ((0, "dim"),),
    "dropout": ((0, "p"),),
    "fold": ((0, "output_size"),),
    "cumsum": ((0, "dim"),),
}  # fmt: skip
"""Positions after the tensor, and names."""


def host_arguments(
    it: Interpreter, frame: Frame, name: str, values: list[Val], args: Arguments, offset: int
) -> None:
    """Report tensors on the device where an operation needs numbers.

    ``values`` starts with the tensor; ``offset`` is how many of them come before the call's own arguments.
    """
    bare = name[:-1] if name.endswith("_") else name
    if bare in _SHAPING:
        for index, value in enumerate(values[1:], 1):
            if _number(value):
                _report(it, frame, args, index - offset, "size")
                return
        return
    for position, keyword in _NUMBERS.get(bare, ()):
        given = args.keywords.get(keyword)
        if given is None and position + 1 < len(values):
            given = values[position + 1]
        if given is not None and _number(given):
            node = args.nodes.get(keyword)
            where = position + 1 - offset
            _report(it, frame, args, where if node is None else -1, f"{bare}: {keyword}", node)
            return


def _number(value: Val | None) -> bool:
    found = [item for item in spread(value) if isinstance(item, Tensor) and read_back(item)]
    return any(item.rank in (0, None) for item in found)


def _report(
    it: Interpreter, frame: Frame, args: Arguments, index: int, detail: str, node: ast.expr | None = None
) -> None:
    subject = node or (args.node.args[index] if 0 <= index < len(args.node.args) else args.node)
    it.readback(frame, EventKind.DEVICE_SIZE, args.node, subject, detail)


def copied_sides(it: Interpreter, frame: Frame, name: str, values: list[Val], args: Arguments) -> None:
    """``torch.where`` with a CPU scalar as one of its sides: it is copied to the device."""
    if name != "where":
        return
    sides = [*values[1:], *(args.keywords[k] for k in ("self", "other") if k in args.keywords)]
    for side in sides:
        if isinstance(side, Tensor) and side.device is Device.HOST:
            index = values.index(side) if side in values else -1
            given = len(args.node.args) - len(values)
            place = index + given
            subject = args.node.args[place] if 0 <= place < len(args.node.args) else args.node
            it.readback(frame, EventKind.HOST_TO_DEVICE, args.node, subject, "where")
            return
