"""Decorators of the code base: of classes, that replace methods, and of functions, that wrap them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from refactor.analysis.domain import Cls, Dict, Fn, Obj, Seq, Val
from refactor.analysis.environment import Env
from refactor.analysis.instances import invoke
from refactor.analysis.project import ClassInfo, FunctionInfo
from refactor.analysis.torchops import CONSTANTS, DYNAMIC, READBACKS, SYNC_OPS, TO_HOST, names

if TYPE_CHECKING:
    from refactor.analysis.interpreter import Frame, Interpreter

_HAZARDS = (
    READBACKS | TO_HOST | CONSTANTS | DYNAMIC.keys() | SYNC_OPS.keys()
    | names("any all max min amax amin sum mean argmax cuda synchronize")
)  # fmt: skip
"""Attributes without one of which a wrapper does nothing to a capture."""
_DEPTH = 24
"""Depth below which wrappers are not followed any more."""
_HELPERS = 2
"""Calls of helpers by name that are followed to find out."""


def decorated(it: Interpreter, cls: ClassInfo) -> Mapping[str, FunctionInfo]:
    """Methods of a class that its decorators replace: ``cls.forward = wrapped``."""
    nodes = []
    for node in reversed(cls.node.decorator_list):
        info = cls.module.resolve(node.func if isinstance(node, ast.Call) else node)
        if isinstance(info, FunctionInfo) and info.assigned & {"forward", "__call__", *cls.own}:
            nodes.append(node)
    if not nodes:
        return {}
    found: Mapping[str, FunctionInfo] | None = it.ask(
        ("decorators", cls), cls.module, lambda: _decorated(it, cls, nodes)
    )
    return found if found is not None else it.replaced.get(cls, {})


def _decorated(it: Interpreter, cls: ClassInfo, nodes: Sequence[ast.expr]) -> Mapping[str, FunctionInfo]:
    made = it.replaced[cls] = {}
    for node in nodes:
        frame = it.module_frame(cls.module)
        decorator = it.evaluate(frame, node)
        if isinstance(decorator, Fn):
            invoke(it, frame, decorator, [Cls((cls,))], {})
    return made


def replace_method(it: Interpreter, cls: ClassInfo, name: str, function: Fn) -> None:
    """``cls.name = function`` in a decorator of the class; elsewhere it may never run."""
    if ("decorators", cls) in it.answers:
        it.replaced[cls][name] = function.targets[0]


# -- functions -----------------------------------------------------------------------------------------------


def wrappers(info: FunctionInfo) -> tuple[ast.expr, ...]:
    """Decorators of a function, innermost first, that the code base defines and that may hold hazards."""
    known: tuple[ast.expr, ...] | None = info.wrapping.get("by")
    if known is None:
        nodes = reversed(getattr(info.node, "decorator_list", ()))
        known = info.wrapping["by"] = tuple(node for node in nodes if _matters(info, node))
    return known


def _matters(info: FunctionInfo, node: ast.expr) -> bool:
    found = info.module.resolve(node.func if isinstance(node, ast.Call) else node)
    if not isinstance(found, FunctionInfo) or "contextmanager" in found.decorators:
        return False
    known: bool | None = found.wrapping.get("waits")
    if known is None:
        known = found.wrapping["waits"] = _may_wait(found, _HELPERS)
    return known


def _may_wait(info: FunctionInfo, depth: int) -> bool:
    """Whether a function, or one of its file that it calls by name, holds a word that stands for a hazard."""
    for node in info.uses:
        if isinstance(node, ast.Attribute) and node.attr in _HAZARDS:
            return True
        if depth and isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            helper = info.module.table.get(node.func.id)
            if isinstance(helper, FunctionInfo) and helper is not info and _may_wait(helper, depth - 1):
                return True
    return False


def fits(target: FunctionInfo, args: list[Val], keywords: Mapping[str, Val]) -> bool:
    """Whether a function takes such arguments; if not, a decorator gives it another signature."""
    spec = target.node.args
    places = [*spec.posonlyargs, *spec.args]
    if args and isinstance(args[-1], Seq) and args[-1].type == "*":
        return True
    if len(args) > len(places) and spec.vararg is None:
        return False
    taken = {arg.arg for arg in places[: len(args)]}
    known = {arg.arg for arg in (*places, *spec.kwonlyargs)}
    return not taken & keywords.keys() and (spec.kwarg is not None or keywords.keys() <= known)


def through_wrappers(
    it: Interpreter,
    frame: Frame,
    target: FunctionInfo,
    args: list[Val],
    keywords: dict[str, Val],
    open_keywords: bool,
) -> Val | None:
    """What a call gives whose arguments only the decorators take; None: they cannot be followed."""
    if frame.depth > _DEPTH:
        return None
    inner: Val = Fn((target,))
    for node in reversed(getattr(target.node, "decorator_list", ())):
        decorator = it.evaluate(it.module_frame(target.module), node)
        made = invoke(it, frame, decorator, [inner], {}) if isinstance(decorator, Fn) else None
        inner = made if isinstance(made, Fn) else inner
    if not isinstance(inner, Fn) or target in inner.targets:
        return None
    return invoke(it, frame, inner, list(args), keywords, open_keywords)


def run_wrappers(
    it: Interpreter,
    frame: Frame,
    target: FunctionInfo,
    args: list[Val],
    keywords: dict[str, Val],
    open_keywords: bool,
) -> None:
    """Record what the decorators of a function do around its first call on instances of a class.

    What the call gives stays what the function itself returns.
    """
    owner = args[0].classes[0] if args and isinstance(args[0], Obj) else None
    if (target, owner) in it.wrapped or frame.depth > _DEPTH or it.drives(target):
        return
    it.wrapped.add((target, owner))
    inner: Val = Fn((target,))
    for node in wrappers(target):
        decorator = it.evaluate(it.module_frame(target.module), node)
        if not isinstance(decorator, Fn):
            return
        inner = invoke(it, frame, decorator, [inner], {})
        if not isinstance(inner, Fn) or target in inner.targets:
            return
        invoke(it, frame, inner, list(args), keywords, open_keywords)


def wrap_region(it: Interpreter, frame: Frame, target: FunctionInfo, env: Mapping[str, Val]) -> None:
    """Record what the decorators of a region's function do, with the values its parameters have."""
    args = [env[arg.arg] for arg, _, by_position in target.parameters if by_position]
    keywords = {arg.arg: env[arg.arg] for arg, _, by_position in target.parameters if not by_position}
    rest, options = target.node.args.vararg, target.node.args.kwarg
    extra = env.get(rest.arg) if rest is not None else None
    if isinstance(extra, Seq):
        args.extend(extra.items if extra.items is not None else (Seq("*", None, extra.element),))
    given = env.get(options.arg) if options is not None else None
    if isinstance(given, Dict):
        keywords.update({name: value for name, value in given.entries if isinstance(name, str)})
    outside = frame.__class__(
        target.module, None, Env({}), frame.region, frame.chain[:-1], 0, True, statement=frame.statement
    )
    run_wrappers(it, outside, target, args, keywords, isinstance(given, Dict) and given.open)
