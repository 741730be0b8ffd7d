"""Values of the reading with named dimensions that are no tensors: shapes, modules, methods, iterables."""

from __future__ import annotations

from collections.abc import Sequence

from refactor.analysis.project import ClassInfo, FunctionInfo
from refactor.rewrite import axes
from refactor.rewrite.axes import Arr, Const, Mixed, Rank, Size, Weight


class Method:
    """A method of the module, or a function of the code base."""

    def __init__(self, info: FunctionInfo, owner: object = None) -> None:
        self.info, self.owner = info, owner


class Instance:
    """A module of the code base, and how the caller reaches it."""

    def __init__(self, cls: ClassInfo, path: str) -> None:
        self.cls, self.path = cls, path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and other.cls is self.cls

    def __hash__(self) -> int:
        return hash(self.cls)


class Shape:
    """``x.shape``."""

    def __init__(self, of: Arr | Weight) -> None:
        self.of = of

    def size(self, index: object) -> object:
        """One of its numbers."""
        if isinstance(self.of, Weight):
            return Const()
        if not isinstance(index, Const) or not isinstance(index.value, int):
            raise Mixed
        place = index.value
        if self.of.open:
            if 0 <= place < len(self.of.axes):
                return Size(self.of.axes[place])
            if place >= len(self.of.axes) or (place == -1 and axes.PROVEN in self.of.open):
                return Size("_")
            raise Mixed
        if not -len(self.of.axes) <= place < len(self.of.axes):
            raise Rank
        return Size(self.of.axes[place])

    def sizes(self, count: int) -> Sequence[object]:
        """All of them, where their number is known or follows from the code."""
        if isinstance(self.of, Weight):
            return [Const()] * count
        if self.of.open:
            if count <= len(self.of.axes):
                raise Mixed
            return [Size(a) for a in self.of.axes] + [Size("_")] * (count - len(self.of.axes))
        if count != len(self.of.axes):
            raise Rank
        return [Size(a) for a in self.of.axes]


class Items:
    """Something to iterate over, by what each step gives."""

    def __init__(self, item: object) -> None:
        self.item = item
