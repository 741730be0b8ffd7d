"""Changes of single calls, and of sequences of them, that certain sequences are made of."""

from __future__ import annotations

from collections.abc import Iterator

from .recipes import Json

Steps = list[Json]
Path = tuple[str | int, ...]
LENGTH = 48  # steps of one sequence; a longer walk is cut


def held(step: Json, path: Path) -> Json:
    """The recipe at a path of a call's arguments."""
    found = step["a"][path[0]]
    for part in path[1:]:
        found = found["dict"][part] if isinstance(part, str) else found["list"][part]
    return dict(found)


def changed(step: Json, path: Path, recipe: Json) -> Json:
    """The call with another recipe at a path."""

    def inside(found: Json, rest: Path) -> Json:
        if not rest:
            return recipe
        part = rest[0]
        if isinstance(part, str):
            return {"dict": {**found["dict"], part: inside(found["dict"][part], rest[1:])}}
        items = list(found["list"])
        items[part] = inside(items[part], rest[1:])
        return {"list": items}

    name = path[0]
    return {**step, "a": {**step["a"], name: inside(step["a"][name], path[1:])}}


def reordered(recipe: Json) -> Json:
    """The recipe with the keys of every dict in the other order."""
    if "dict" in recipe:
        return {"dict": {key: reordered(inner) for key, inner in reversed(recipe["dict"].items())}}
    return {"list": [reordered(inner) for inner in recipe["list"]]} if "list" in recipe else recipe


def cut(steps: Steps, keep: int = 0) -> Iterator[Steps]:
    """Pieces of a length that can be shown; each starts with the first ``keep`` steps."""
    head, rest = steps[:keep], steps[keep:]
    for start in range(0, len(rest), LENGTH):
        yield [*head, *rest[start : start + LENGTH]]


def once_more(name: str, recipe: Json) -> Json:
    """The object that the last call got, where it is a tensor."""
    return {"again": name, "else": recipe} if "t" in recipe else recipe


def shares(step: Json) -> bool:
    """Whether two arguments of a call are one tensor, or share its memory."""
    return any("same" in r or "view" in r for r in step["a"].values())


def switch(train: bool) -> Json:
    """Into training or evaluation."""
    return {"op": "mode_switch", "train": train}


def spread(count: int, most: int) -> list[int]:
    """Up to ``most`` numbers below ``count``, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({k * (count - 1) // (most - 1) for k in range(most)})
