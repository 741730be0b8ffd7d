"""The abstract interpreter: frames, calls with memoised summaries, and what it records on the way."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from refactor.analysis import calls, decorators, expressions, instances, statements
from refactor.analysis.binding import as_annotated, bind_call, bind_region
from refactor.analysis.conditions import Leaf
from refactor.analysis.domain import (
    NONE,
    OPAQUE,
    TAINTED,
    Obj,
    Seq,
    Tensor,
    Val,
    is_tainted,
    join,
    mentions,
    widen,
)
from refactor.analysis.drivers import Driver, computed, names_device
from refactor.analysis.environment import Env
from refactor.analysis.feeding import is_data
from refactor.analysis.isolation import Answers
from refactor.analysis.liveness import target_names
from refactor.analysis.loops import drives_batches
from refactor.analysis.model import Event, EventKind, Region
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, Project
from refactor.analysis.standins import StandIns
from refactor.analysis.trees import walk

_HANDLERS = expressions.HANDLERS
MAX_DEPTH = 28
"""Calls followed below a region."""
SUMMARY_DEPTH = 10
"""Depth at which a function of another file starts, wherever it is called from: its summary serves all."""
_LOGGED = frozenset(
    {EventKind.READBACK, EventKind.TO_HOST, EventKind.SHOW, EventKind.HOST_STATE, EventKind.SYNCHRONIZE}
)
"""What a loop does to log or time its progress: no part of a step that does not compute with it."""
_UPLOADS = frozenset({EventKind.HOST_TO_DEVICE, EventKind.HOST_CONSTANT})
MAX_CONTEXTS = 3
"""Different argument values for which one function is interpreted."""


@dataclass(eq=False)
class Frame:
    """The state of one function being interpreted."""

    module: ModuleInfo
    function: FunctionInfo | None
    env: Env
    region: Region | None = None
    chain: tuple[str, ...] = ()
    depth: int = 0
    emit: bool = False
    parent: Frame | None = None
    returned: Val | None = None
    yielded: Val | None = None
    statement: ast.stmt | None = None
    header: int = 0  # inside the test of a branch or loop, which reports its own readbacks
    leaves: list[Leaf] = field(default_factory=list)  # what the test at hand reads back
    init_of: ClassInfo | None = None
    only: ast.expr | None = None  # a test of the precision around the statement at hand
    placeless: bool = False  # a script that names no device: what it makes is where its models are
    values: dict[ast.expr, Val] | None = None  # where the values of its expressions are recorded

    @property
    def self_name(self) -> str | None:
        """The name of the instance in a method."""
        info = self.function
        if info is None or info.cls is None or isinstance(info.node, ast.Lambda):
            return None
        args = [*info.node.args.posonlyargs, *info.node.args.args]
        return args[0].arg if args and "staticmethod" not in info.decorators else None


@dataclass(eq=False)
class Records:
    """What was seen in one module."""

    module: ModuleInfo
    events: dict[tuple[int, EventKind], Event] = field(default_factory=dict)
    values: dict[ast.expr, Val] = field(default_factory=dict)
    reached: dict[FunctionInfo, tuple[Region, tuple[str, ...]]] = field(default_factory=dict)
    """Functions interpreted as part of a region, with the first region and chain."""

    def add(self, other: Records) -> None:
        """Take over events and values that are recorded elsewhere for the same module."""
        for key, event in other.events.items():
            self.events.setdefault(key, event)
        values = self.values
        for node, value in other.values.items():
            old = values.setdefault(node, value)
            if old is not value:
                values[node] = join(old, value)


@dataclass(frozen=True, eq=False, slots=True)
class Summary:
    """What calling a function comes to, whoever calls it; chains of its events start with the function."""

    result: Val
    records: dict[ModuleInfo, Records]
    overlay: dict[tuple[ClassInfo, str], Val]


_ANY_REGION = Region("summary", "", "", ast.Pass())
"""Stands for the caller's region in the events of a `Summary`."""


class Interpreter:
    """Interprets regions and all they reach; results are in ``records``, by module."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.answers = Answers()
        self.partial: dict[ClassInfo, instances.Attributes] = {}
        self.replaced: dict[ClassInfo, dict[str, FunctionInfo]] = {}
        project.decorated = lambda cls: decorators.decorated(self, cls)
        self.drivers: dict[int, bool] = {}
        self.visible: dict[ModuleInfo, tuple[ClassInfo, ...]] = {}
        self.standins = StandIns(self)
        self.below = 0  # functions being interpreted outside the state at hand
        self.stack: list[FunctionInfo] = []
        self._begin(None)

    def _begin(self, home: ModuleInfo | None) -> None:
        """The state of an interpretation that starts in a module."""
        self.home = home
        self.records: dict[ModuleInfo, Records] = {}
        self.memo: dict[tuple[Any, ...], Val] = {}
        self.merged: set[Records] = set()
        self.contexts: dict[tuple[int, bool], int] = {}
        self.stack = []
        self.nested: dict[tuple[int, int], FunctionInfo] = {}
        self.overlay: dict[tuple[ClassInfo, str], Val] = {}
        self.windows: dict[ast.stmt, Region] = {}
        self.needed: dict[Region, frozenset[str]] = {}  # by step: names that it computes with
        self.building: set[ClassInfo] = set()
        self.wrapped: set[tuple[FunctionInfo, ClassInfo | None]] = set()
        self.tensorless: set[Region] = set()  # no argument of theirs is known to be a tensor: images, records

    def start(self, root: ModuleInfo) -> None:
        """Begin with a file. What is kept from files before are answers that depend on the code alone."""
        self._begin(root)
        self.answers.trim()

    def isolated(self, home: ModuleInfo, below: int, find: Callable[[], Any]) -> Any:
        """What ``find`` returns, run in a state of its own that starts in a module."""
        state = (self.home, self.records, self.memo, self.contexts, self.stack)
        more = (self.nested, self.overlay, self.windows, self.below, self.building, self.merged)
        wrapped = self.wrapped
        self.below = below
        self._begin(home)
        try:
            return find()
        finally:
            self.home, self.records, self.memo, self.contexts, self.stack = state
            self.nested, self.overlay, self.windows, self.below, self.building, self.merged = more
            self.wrapped = wrapped

    def ask(self, question: tuple[Any, ...], home: ModuleInfo, find: Callable[[], Any]) -> Any:
        """The answer to a question, found in a state of its own; None while it is open (see `isolation`)."""
        depth = self.below + len(self.stack) if self.answers.busy else 0
        return self.answers.ask(question, depth, lambda: self.isolated(home, depth, find))

    # -- recording -------------------------------------------------------------------------------------------

    def recorded(self, module: ModuleInfo) -> Records:
        """The records of a module, made at first use."""
        if module not in self.records:
            self.records[module] = Records(module)
        return self.records[module]

    def emit(
        self,
        frame: Frame,
        kind: EventKind,
        node: ast.AST,
        subject: ast.expr | None = None,
        detail: str = "",
        **extra: object,
    ) -> None:
        """Record what happens at a place, once for each kind."""
        if not frame.emit or frame.region is None or frame.statement is None:
            return
        if (
            frame.region.kind == "step"
            and frame.depth == 0
            and kind in _LOGGED
            and not self.feeds(frame, kind)
        ):
            return
        if kind in _UPLOADS and frame.region.kind == "step" and frame.depth == 0:
            moved = subject if subject is not None else node
            if isinstance(moved, ast.expr) and is_data(frame.region, moved):
                return
        if kind is EventKind.HOST_STATE and detail == "random" and frame.region in self.tensorless:
            return
        if frame.only is not None:
            extra.setdefault("only", frame.only)
        events = self.recorded(frame.module).events
        key = (id(node), kind)
        if key not in events:
            function = frame.function.node if frame.function is not None else None
            events[key] = Event(
                kind, node, frame.statement, function, frame.region, frame.chain, detail, subject, extra
            )

    def feeds(self, frame: Frame, kind: EventKind) -> bool:
        """Whether the step itself computes with what the statement at hand reads back."""
        stmt, region = frame.statement, frame.region
        if region is None or kind not in (EventKind.READBACK, EventKind.TO_HOST):
            return False
        if region not in self.needed:
            self.needed[region] = computed(region.node)
        targets = stmt.targets if isinstance(stmt, ast.Assign) else [getattr(stmt, "target", None)]
        stores = isinstance(stmt, ast.Assign | ast.AnnAssign | ast.AugAssign)
        return stores and any(n in self.needed[region] for t in targets if t for n in target_names(t))

    def readback(self, frame: Frame, kind: EventKind, node: ast.expr, subject: ast.expr, detail: str) -> None:
        """Record a value read back, or leave it to the branch or loop in whose header it stands."""
        if frame.header:
            frame.leaves.append(Leaf(kind, node, subject, detail))
        else:
            self.emit(frame, kind, node, subject, detail)

    # -- evaluation ------------------------------------------------------------------------------------------

    def evaluate(self, frame: Frame, node: ast.expr) -> Val:
        """The value of an expression; what happens in it is recorded."""
        value = _HANDLERS.get(node.__class__, expressions.other)(self, frame, node)
        if frame.emit:
            values = frame.values
            if values is None:
                values = frame.values = self.recorded(frame.module).values
            old = values.setdefault(node, value)
            if old is not value:
                values[node] = join(old, value)
        return value

    def block(self, frame: Frame, stmts: list[ast.stmt]) -> bool:
        """Interpret statements; False: control does not reach their end."""
        return statements.block(self, frame, stmts)

    def module_frame(self, module: ModuleInfo) -> Frame:
        """A frame for expressions at the top level of a module."""
        return Frame(module, None, Env({}), depth=MAX_DEPTH - 6)

    def global_value(self, module: ModuleInfo, name: str) -> Val | None:
        """The value of a top-level name; None: not defined there."""
        if name in module.values:
            value: Val = module.values[name]
            return value
        found = module.lookup(name)
        if not isinstance(found, tuple):
            plain = instances.as_value(self, found)
            if plain is not None:
                module.values[name] = plain
            return plain
        scope, expr = found
        known = self.ask(("value", expr), scope, lambda: instances.as_value(self, found))
        return known if known is not None else OPAQUE

    def known_classes(self, module: ModuleInfo) -> tuple[ClassInfo, ...]:
        """Classes that a module defines or imports by name from the code base."""
        if module not in self.visible:
            found = [module.lookup(name) for name in module.table if name.lstrip("_")[:1].isupper()]
            self.visible[module] = tuple(item for item in found if isinstance(item, ClassInfo))
        return self.visible[module]

    # -- calls -----------------------------------------------------------------------------------------------

    def call_function(
        self,
        frame: Frame,
        target: FunctionInfo,
        args: list[Val],
        keywords: dict[str, Val],
        open_keywords: bool = False,
    ) -> Val:
        """The result of calling a function of the code base, its body interpreted at most once a context."""
        if target.decorators and not decorators.fits(target, args, keywords):
            wrapped = decorators.through_wrappers(self, frame, target, args, keywords, open_keywords)
            if wrapped is not None:
                return wrapped
        result = self._called(frame, target, args, keywords, open_keywords)
        if frame.emit and decorators.wrappers(target):
            decorators.run_wrappers(self, frame, target, args, keywords, open_keywords)
        return result

    def _called(
        self,
        frame: Frame,
        target: FunctionInfo,
        args: list[Val],
        keywords: dict[str, Val],
        open_keywords: bool,
    ) -> Val:
        tainted = any(is_tainted(v) for v in (*args, *keywords.values()))
        unknown: Val = TAINTED if tainted else OPAQUE
        if frame.depth >= MAX_DEPTH or self.stack.count(target) >= 2:
            return unknown
        if not self.answers.reached(self.below + len(self.stack)):
            return unknown
        emit = frame.emit and not self.drives(target)
        env = bind_call(self, frame, target, args, keywords, open_keywords)
        try:
            key = (target.node, target.closure, emit, tuple(env.items()))
            known = self.memo.get(key)
        except TypeError:  # an unhashable literal among the arguments
            return unknown
        if known is not None:
            return known
        count = self.contexts.get((id(target.node), emit), 0)
        self.contexts[id(target.node), emit] = count + 1
        if count >= MAX_CONTEXTS:
            env = {name: widen(value) for name, value in env.items()}
            key = (target.node, target.closure, emit, tuple(env.items()))
            known = self.memo.get(key)
            if known is not None or count >= 4 * MAX_CONTEXTS:
                return known if known is not None else unknown
        self.memo[key] = unknown
        if target.closure is None and self.independent(frame, target, env):
            result = self.summarised(frame, target, env, emit, unknown)
            self.memo[key] = result
            return result
        inner = Frame(
            target.module,
            target,
            Env(env),
            frame.region,
            frame.chain if is_wrapper(target) else (*frame.chain, display(target, env)),
            frame.depth + 1,
            emit,
            target.closure,
            statement=target.statement,
            init_of=frame.init_of if target.node.__class__ is ast.Lambda or target.cls else None,
        )
        result = self.run(inner)
        returns = getattr(target.node, "returns", None)
        if returns is not None:
            result = as_annotated(self, target, result, returns)
        self.memo[key] = result
        return result

    def independent(self, frame: Frame, target: FunctionInfo, env: dict[str, Val]) -> bool:
        """Whether a call takes nothing along whose state only the interpretation at hand knows.

        That is an instance of a class of the file it started in: its methods may have assigned attributes. A
        constructor knows more than others of its own class alone, and where a question is being answered and
        nothing has been assigned yet, the file itself is known no better than others.
        """
        fresh = self.answers.busy and not self.overlay and frame.init_of is None
        if target.module is self.home and not fresh:
            return False
        what = frame.init_of if self.answers.busy and not frame.emit else None if fresh else self.home
        return not any(mentions(value, what) for value in env.values())

    def summarised(
        self, frame: Frame, target: FunctionInfo, env: dict[str, Val], emit: bool, unknown: Val
    ) -> Val:
        """The result of a call that depends on nothing but its arguments; what happens in it is recorded."""

        def find() -> Summary:
            self.building.update(built)
            region = _ANY_REGION if emit else None
            chain = (display(target, env),)
            result = self.run(
                Frame(
                    target.module, target, Env(env), region, chain, SUMMARY_DEPTH, emit,
                    statement=target.statement,
                )
            )  # fmt: skip
            return Summary(result, self.records, self.overlay)

        # Arguments that its code does not mention make no difference: `**options` for other helpers, say.
        given = tuple((name, value) for name, value in env.items() if name in target.mentioned)
        # Nor do classes being made, unless an instance is among them: its attributes stay as they are.
        built = frozenset(cls for cls in self.building if any(mentions(value, cls) for _, value in given))
        question = ("call", target.node, emit, given, built)
        if self.answers.recurs(target.node):
            return unknown
        found: Summary | None = self.ask(question, target.module, find)
        if found is None:
            return unknown
        for place, value in found.overlay.items():
            if place[0] not in self.building:
                old = self.overlay.get(place)
                self.overlay[place] = value if old is None else join(old, value)
        if frame.region is not None:
            for records in found.records.values():
                self.merge(records, frame.region, frame.chain)
        return found.result

    def merge(self, found: Records, region: Region, chain: tuple[str, ...]) -> None:
        """Take over what was recorded in a module by a `Summary`; a second time nothing is new."""
        if found in self.merged:
            return
        self.merged.add(found)
        if not found.events and found.module is not self.home:
            return
        records = self.recorded(found.module)
        for key, event in found.events.items():
            if key not in records.events:
                records.events[key] = replace(event, region=region, chain=(*chain, *event.chain))
        records.add(found)
        for info, (_, inner) in found.reached.items():
            records.reached.setdefault(info, (region, (*chain, *inner)))

    def drives(self, target: FunctionInfo) -> bool:
        """Whether a function is a loop around regions, never part of one."""
        key = id(target.node)
        if key not in self.drivers:
            self.drivers[key] = target.remark == "host" or drives_batches(target.module, target.node)
        return self.drivers[key]

    def run(self, frame: Frame) -> Val:
        """Interpret the body of the frame's function; the value it returns."""
        target = frame.function
        assert target is not None
        if frame.emit and frame.region is not None:
            self.recorded(frame.module).reached.setdefault(target, (frame.region, frame.chain))
        self.stack.append(target)
        try:
            if isinstance(target.node, ast.Lambda):
                return self.evaluate(frame, target.node.body)
            through = self.block(frame, target.node.body)
        finally:
            self.stack.pop()
        if frame.yielded is not None:
            return Seq("generator", None, frame.yielded)
        if through:
            frame.returned = NONE if frame.returned is None else join(frame.returned, NONE)
        return frame.returned if frame.returned is not None else OPAQUE

    def run_region(self, region: Region, target: FunctionInfo, bound: Val | None) -> Val:
        """Interpret a function as a region of its own, with arguments as its signature suggests."""
        env = bind_region(self, target, bound)
        if not any(isinstance(value, Tensor) for value in env.values()):
            self.tensorless.add(region)
        frame = Frame(
            target.module, target, Env(env), region, (display(target, env),), 0, True, target.closure,
            statement=target.statement,
        )  # fmt: skip
        result = self.run(frame)
        if decorators.wrappers(target):
            self.memo.setdefault((target.node, target.closure, True, tuple(env.items())), result)
            decorators.wrap_region(self, frame, target, env)
        return result

    def run_driver(self, module: ModuleInfo, driver: Driver) -> None:
        """Interpret a function that has regions inside: only what happens in those is recorded."""
        self.windows = driver.windows
        info = driver.info
        if info is None:
            own = [s for s in module.tree.body if not isinstance(s, ast.FunctionDef | ast.ClassDef)]
            placeless = not any(names_device(node) for stmt in own for node in walk(stmt))
            self.block(Frame(module, None, Env({}), chain=("<module>",), placeless=placeless), own)
        else:
            env = bind_region(self, info, Obj((driver.owner,)) if driver.owner is not None else None)
            placeless = not any(map(names_device, info.nodes))
            chain = (display(info, env),)
            self.run(Frame(module, info, Env(env), chain=chain, parent=info.closure, placeless=placeless))
        self.windows = {}

    def call(self, frame: Frame, node: ast.Call) -> Val:
        """The value of a call expression."""
        return calls.call(self, frame, node)


def is_wrapper(target: FunctionInfo) -> bool:
    """``__call__`` of a module: what the reader sees called is its ``forward``."""
    return target.cls is not None and target.cls.is_module and target.qualname.endswith(".__call__")


def display(target: FunctionInfo, env: dict[str, Val]) -> str:
    """The name of a function in a chain: with the class of the instance it is called on."""
    node = target.node
    if target.cls is not None and isinstance(node, ast.FunctionDef) and node.args.args:
        owner = env.get(node.args.args[0].arg)
        if isinstance(owner, Obj):
            return f"{owner.classes[0].name}.{node.name}"
    return target.qualname
