"""The values of names along control flow: branches are tried, taken back, and joined by what they changed."""

from __future__ import annotations

from collections.abc import Mapping

from refactor.analysis.domain import Val, join

Changes = dict[str, Val | None]
"""Names and their new values; None: gone."""


class Env(dict[str, Val]):
    """Values of names and of attributes of names (``"a.b"``).

    A branch costs what it assigns, not what is known before it: a function of n branches is linear in n.
    """

    __slots__ = ("_places", "_trail")

    def __init__(self, values: Mapping[str, Val]) -> None:
        super().__init__(values)
        self._trail: Changes | None = None  # what names were before the branch at hand
        self._places: dict[str, set[str]] = {}  # attributes by their owner's name

    def __setitem__(self, name: str, value: Val) -> None:
        trail = self._trail
        if trail is not None and name not in trail:
            trail[name] = self.get(name)
        self._put(name, value)

    def __delitem__(self, name: str) -> None:
        trail = self._trail
        if trail is not None and name not in trail:
            trail[name] = self[name]
        super().__delitem__(name)

    def _put(self, name: str, value: Val) -> None:
        if "." in name:
            self._places.setdefault(name.partition(".")[0], set()).add(name)
        super().__setitem__(name, value)

    def drop(self, name: str) -> None:
        """Forget a name if it is known."""
        if name in self:
            del self[name]

    def forget(self, owner: str) -> None:
        """Forget what is known of the attributes of a name."""
        for name in self._places.pop(owner, ()):
            self.drop(name)

    def assign(self, changes: Changes) -> None:
        """Make these changes."""
        for name, value in changes.items():
            if value is None:
                self.drop(name)
            else:
                self[name] = value

    def tried(self) -> Branch:
        """A branch: what it changes is taken back at its end, and then stands in the mapping given here."""
        return Branch(self)

    def enter(self) -> Changes | None:
        """Begin a branch; the trail of the one around it."""
        outer, self._trail = self._trail, {}
        return outer

    def leave(self, outer: Changes | None, changes: Changes) -> None:
        """End a branch: its changes are taken back and noted."""
        trail, self._trail = self._trail, outer
        for name, old in (trail or {}).items():
            changes[name] = self.get(name)
            if old is not None:
                self._put(name, old)
            elif name in self:
                super().__delitem__(name)

    def met(self, a: Changes, b: Changes) -> Changes:
        """Changes where two paths meet; an attribute is kept only if both know it."""
        merged: Changes = {}
        for name in (*a, *(name for name in b if name not in a)):
            one = a[name] if name in a else self.get(name)
            two = b[name] if name in b else self.get(name)
            if one is not None and two is not None:
                merged[name] = join(one, two)
            else:
                merged[name] = None if "." in name else one if one is not None else two
        return merged


class Branch:
    """A branch being tried, as a context manager: the generator of `contextlib` takes three times as long."""

    __slots__ = ("_changes", "_env", "_outer")

    def __init__(self, env: Env) -> None:
        self._env = env
        self._changes: Changes = {}

    def __enter__(self) -> Changes:
        self._outer = self._env.enter()
        return self._changes

    def __exit__(self, *failed: object) -> None:
        self._env.leave(self._outer, self._changes)
