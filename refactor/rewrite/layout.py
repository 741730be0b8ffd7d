"""How lines that are made from scratch are broken: as a formatter with lines of 88 columns does."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 88  # of a line without its indentation


def wrapped(head: str, items: Sequence[str], tail: str) -> str:
    """A call or a header on one line, with its items on a line of their own, or each on its own line."""
    targets, equal, call = head.rpartition(" = ")
    if equal and len(head) > WIDTH and ", " in targets:
        return f"{displayed(targets.split(', '))} = {wrapped(call, items, tail)}"
    text = f"{head}{', '.join(items)}{tail}"
    if len(text) <= WIDTH:
        return text
    line = ", ".join(items)
    if len(line) > WIDTH - 4:
        line = ",\n    ".join(items) + ","
    return f"{head}\n    {line}\n{tail}"


def displayed(items: Sequence[str]) -> str:
    """A tuple as after ``return`` or before ``=``: on one line, or in brackets with an item a line."""
    text = ", ".join(items)
    return text if len(text) <= WIDTH - 8 else "(\n    " + ",\n    ".join(items) + ",\n)"
