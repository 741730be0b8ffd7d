"""Arguments in outline, so that what one out of a table of helpers comes to is found once for all files.

``ATTENTION[config.kind](module, query, key, value, mask, **options)``: which helper is called is decided
elsewhere, and for each of them most that the arguments tell is in vain. What counts is whether they are
tensors, where those are, and which are left out. An instance of a class of the file at hand, of which a
helper only reads attributes, is given as one with just these attributes: models whose modules are alike in
that share one answer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refactor.analysis.domain import HOST, Dict, Host, Method, Obj, Seq, Tensor, Val, element, mentions
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo
from refactor.source import Source

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_TEXT = "class Given:\n    pass\n"
_READERS = frozenset({"getattr", "hasattr"})


class StandIns:
    """The instances that stand in for others in one interpreter, one for each set of attributes."""

    def __init__(self, it: Interpreter) -> None:
        self._it = it
        tree = ast.parse(_TEXT)
        source = Source(Path("given.py"), _TEXT.encode(), _TEXT, "utf-8", b"")
        self.module = ModuleInfo(it.project, "given", it.project.root, source, tree)
        self._made: dict[tuple[object, ...], ClassInfo] = {}

    def call(
        self,
        frame: Frame,
        target: FunctionInfo,
        args: Sequence[Val],
        keywords: Mapping[str, Val],
        open_keywords: bool,
    ) -> Val | None:
        """The result of one of several functions of another file; None: the arguments count as they are."""
        if target.cls is not None or target.closure is not None or target.module is self._it.home:
            return None
        given = self._outlined(frame, target, args, keywords)
        if given is None:
            return None
        value = self._it.call_function(frame, target, *given, open_keywords)
        return None if mentions(value, self.module) else value

    def _outlined(
        self, frame: Frame, target: FunctionInfo, args: Sequence[Val], keywords: Mapping[str, Val]
    ) -> tuple[list[Val], dict[str, Val]] | None:
        """The arguments in outline; None: one of them counts as it is."""
        names = [arg.arg for arg, _, _ in target.parameters]
        given: list[Val] = []
        for index, value in enumerate(args):
            name = names[index] if index < len(names) else ""
            found = self._outline(frame, target, name, value)
            if found is None:
                return None
            given.append(found)
        named: dict[str, Val] = {}
        options = target.options
        for name, value in keywords.items():
            if options is not None and name not in options and name not in names:
                continue  # it makes no difference
            found = self._outline(frame, target, name, value)
            if found is None:
                return None
            named[name] = found
        return given, named

    def _outline(self, frame: Frame, target: FunctionInfo, name: str, value: Val) -> Val | None:
        if isinstance(value, Obj) and not value.fields and len(value.classes) == 1:
            made = self._for(frame, target, name, value)
            return made if made is not None or mentions(value, self._it.home) else value
        return None if mentions(value, self._it.home) else outline(value)

    def _for(self, frame: Frame, target: FunctionInfo, name: str, value: Obj) -> Obj | None:
        from refactor.analysis.instances import attribute

        cls = value.classes[0]
        wanted = attributes_read(target, name)
        if wanted is None or cls.given is not None:
            return None
        values: list[tuple[str, Val]] = []
        for read in sorted(wanted):
            found = cls.find(read)
            if found is not None and isinstance(found[1], FunctionInfo):
                return None  # a property, or a method that would be called on the stand-in
            known = attribute(self._it, frame, value, read)
            if isinstance(known, Method):
                continue  # nothing is known of it, as of any attribute that a class does not have
            if isinstance(known, Obj) and not any(base.is_module for base in known.classes):
                known = HOST  # a configuration
            if mentions(known, self._it.home):
                return None
            values.append((read, outline(known)))
        bases = tuple(base for base in cls.mro if isinstance(base, str))
        key = (bases, tuple(values))
        made = self._made.get(key)
        if made is None:
            node = self.module.tree.body[0]
            assert isinstance(node, ast.ClassDef)
            made = self._made[key] = ClassInfo(node, self.module, "Given", dict(values))
            made.__dict__["mro"] = (made, *bases)
        return Obj((made,))


def outline(value: Val) -> Val:
    """The value without ranks, lengths and literals other than flags."""
    if isinstance(value, Tensor):
        return Tensor(value.device, value.dtype, None, value.optional, value.maybe, hosted=value.hosted)
    if isinstance(value, Host) and value.type not in ("none", "bool"):
        return Host(value.type, device=value.device, owner=value.owner)
    if isinstance(value, Seq):
        common = element(value)
        return Seq(value.type, None, outline(common) if common is not None else None)
    if isinstance(value, Dict):
        rest = outline(value.element) if value.element is not None else None
        return Dict(tuple((name, outline(item)) for name, item in value.entries), rest, value.open)
    return value


def attributes_read(target: FunctionInfo, name: str) -> frozenset[str] | None:
    """Attributes of a parameter that a function and its helpers read; None: it is used in other ways too."""
    return _read(target, name, frozenset())


def _read(
    target: FunctionInfo, name: str, above: frozenset[tuple[FunctionInfo, str]]
) -> frozenset[str] | None:
    if (target, name) in above:
        return None
    if name not in target.read_only:
        target.read_only[name] = _uses(target, name, above | {(target, name)})
    found: frozenset[str] | None = target.read_only[name]
    return found


def _uses(
    target: FunctionInfo, name: str, above: frozenset[tuple[FunctionInfo, str]]
) -> frozenset[str] | None:
    attributes: set[str] = set()
    mentioned = understood = 0
    for node in target.nodes:
        kind = node.__class__
        if kind is ast.Name:
            mentioned += node.id == name
        elif kind is ast.Attribute:
            if isinstance(node.ctx, ast.Load) and _is(node.value, name):
                attributes.add(node.attr)
                understood += 1
        elif kind is ast.Compare:
            understood += _is(node.left, name) and _with_none(node)
        elif kind is ast.Call:
            for read in _handed_on(target, node, name, above):
                if read is None:
                    return None
                attributes |= read
                understood += 1
        elif kind is ast.arg and node.arg == name and node not in _parameters(target):
            return None  # of a function inside: another thing of the same name
    return frozenset(attributes) if mentioned == understood else None


def _parameters(target: FunctionInfo) -> list[ast.arg]:
    return [arg for arg, _, _ in target.parameters]


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _with_none(node: ast.Compare) -> bool:
    other = node.comparators[0]
    named = isinstance(other, ast.Constant) and other.value is None
    return named and len(node.ops) == 1 and isinstance(node.ops[0], ast.Is | ast.IsNot)


def _handed_on(
    target: FunctionInfo, call: ast.Call, name: str, above: frozenset[tuple[FunctionInfo, str]]
) -> Iterator[frozenset[str] | None]:
    """What each call argument that is the parameter itself is read for."""
    places: list[int | str] = [index for index, arg in enumerate(call.args) if _is(arg, name)]
    places += [keyword.arg or "" for keyword in call.keywords if _is(keyword.value, name)]
    if not places or not isinstance(call.func, ast.Name):
        return
    if call.func.id in _READERS and places == [0] and len(call.args) > 1:
        wanted = call.args[1]
        text = isinstance(wanted, ast.Constant) and isinstance(wanted.value, str)
        yield frozenset({wanted.value}) if text else None  # type: ignore[attr-defined]
        return
    called = target.module.lookup(call.func.id)
    plain = isinstance(called, FunctionInfo) and called.cls is None
    if not plain or any(isinstance(arg, ast.Starred) for arg in call.args) or _binds(target, call.func.id):
        yield None
        return
    given = [arg.arg for arg, _, by_position in called.parameters if by_position]
    every = {arg.arg for arg, _, _ in called.parameters}
    for place in places:
        key = place if isinstance(place, str) else given[place] if place < len(given) else ""
        yield _read(called, key, above) if key in every else None


def _binds(target: FunctionInfo, name: str) -> bool:
    """Whether a function has a local of that name."""
    if any(arg.arg == name for arg in _parameters(target)):
        return True
    return any(
        (node.__class__ is ast.Name and node.id == name and not isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.FunctionDef) and node.name == name and node is not target.node)
        for node in target.nodes
    )
