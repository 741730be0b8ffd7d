"""Methods of lists, dicts and module lists; changes in place are seen through the name they are called on."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis import indexing, instances
from refactor.analysis.conditions import place
from refactor.analysis.domain import (
    INT,
    NO_VALUE,
    NONE,
    OPAQUE,
    Dict,
    Host,
    Obj,
    Seq,
    Val,
    element,
    join,
    replace,
)

if TYPE_CHECKING:
    from refactor.analysis.calls import Arguments
    from refactor.analysis.interpreter import Frame, Interpreter


def method(it: Interpreter, frame: Frame, owner: Seq | Dict, name: str, args: Arguments) -> Val:
    """The value of ``owner.name(...)``."""
    return (
        _sequence(it, frame, owner, name, args)
        if isinstance(owner, Seq)
        else _dict(it, frame, owner, name, args)
    )


def _rebind(it: Interpreter, frame: Frame, args: Arguments, value: Val) -> None:
    func = args.node.func
    target = func.value if isinstance(func, ast.Attribute) else None
    key = place(target) if target is not None else None
    if key is None:
        return
    if isinstance(target, ast.Attribute):
        owner = it.evaluate(frame, target.value)
        if isinstance(owner, Obj):
            instances.set_attribute(it, frame, owner, target.attr, value)
    frame.env[key] = value


def _sequence(it: Interpreter, frame: Frame, owner: Seq, name: str, args: Arguments) -> Val:
    if name in ("append", "add", "insert", "appendleft"):
        added = args.values[-1] if args.values else OPAQUE
        known = (
            owner.items is not None and owner.element is None and len(owner.items) < 8 and name == "append"
        )
        inside = frame.statement is not None and known and _straight(frame)
        if inside and owner.items is not None:
            _rebind(it, frame, args, Seq(owner.type, (*owner.items, added)))
        else:
            _rebind(it, frame, args, Seq(owner.type, None, join(element(owner), added)))
        return NONE
    if name in ("extend", "update"):
        added = indexing.element_of(args.get(0, "iterable")) or OPAQUE
        _rebind(it, frame, args, Seq(owner.type, None, join(element(owner), added)))
        return NONE
    if name in ("pop", "popleft"):
        return element(owner) or OPAQUE
    if name in ("index", "count"):
        return INT
    if name in ("copy", "to", "cuda", "eval", "train"):
        return owner
    if name in ("parameters", "buffers"):
        from refactor.analysis.domain import DEVICE_TENSOR

        return Seq("generator", None, DEVICE_TENSOR)
    return NONE if name in ("sort", "reverse", "clear", "remove") else OPAQUE


def _straight(frame: Frame) -> bool:
    """Whether the statement at hand runs once: no loop of this function is around it."""
    node = frame.function.node if frame.function is not None else None
    if node is None or isinstance(node, ast.Lambda):
        return False
    return frame.statement in node.body


def _dict(it: Interpreter, frame: Frame, owner: Dict, name: str, args: Arguments) -> Val:
    key = args.get(0, "key")
    literal = key.value if isinstance(key, Host) else NO_VALUE
    if name in ("get", "pop", "setdefault"):
        found = owner.get(literal) if literal is not NO_VALUE else indexing.element_of(owner)
        default = args.get(1, "default")
        if found is None and not owner.open:
            return default if default is not None else NONE
        if found is None:
            inner = indexing.element_of(owner) if not owner.entries else None
            return join(inner, default) if inner is not None and default is not None else inner or OPAQUE
        return found
    if name == "items":
        if owner.entries and owner.element is None and not owner.open and len(owner.entries) <= 8:
            pairs = tuple(Seq("tuple", (Host("str", k), v)) for k, v in owner.entries)
            return Seq("list", pairs)
        return Seq("generator", None, Seq("tuple", (Host("str"), indexing.element_of(owner) or OPAQUE)))
    if name == "values":
        return Seq("generator", None, indexing.element_of(owner) or OPAQUE)
    if name == "keys":
        return Seq("generator", None, Host("str"))
    if name == "copy":
        return owner
    if name == "update":
        other = args.get(0, "other")
        extra = other.entries if isinstance(other, Dict) else ()
        merged = dict((*owner.entries, *extra, *args.keywords.items()))
        rest = other.element if isinstance(other, Dict) else None
        joined = join(owner.element, rest) if rest is not None else owner.element
        unknown = (
            owner.open
            or not isinstance(other, Dict | type(None))
            or bool(isinstance(other, Dict) and other.open)
        )
        _rebind(it, frame, args, replace(owner, entries=tuple(merged.items()), element=joined, open=unknown))
        return NONE
    return OPAQUE
