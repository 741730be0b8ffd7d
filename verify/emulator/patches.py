"""Attributes replaced while the emulator is installed, and put back by `undo`."""

from __future__ import annotations

from typing import Any

_ABSENT = object()


class Patches:
    """A log of replaced attributes."""

    def __init__(self) -> None:
        self._log: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace `owner.name`; an attribute the owner only inherits is removed again by `undo`."""
        self._log.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def set_all(self, owner: Any, values: dict[str, Any]) -> None:
        """Replace several attributes of one owner."""
        for name, value in values.items():
            self.set(owner, name, value)

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._log:
            owner, name, value = self._log.pop()
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
