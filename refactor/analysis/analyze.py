"""From one source file to its facts: prefilter, regions, interpretation, events by place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from refactor.analysis.discipline import discipline
from refactor.analysis.domain import Obj, public
from refactor.analysis.drivers import drivers, functions
from refactor.analysis.interpreter import Interpreter, Records
from refactor.analysis.loops import batch_loops
from refactor.analysis.model import Event, EventKind, Facts, Region
from refactor.analysis.project import FunctionInfo, ModuleInfo, Project
from refactor.analysis.regions import entrances, forwards, hooks, left_out
from refactor.analysis.remarks import is_test, remark
from refactor.analysis.repeats import RepeatedCall, repeated_calls
from refactor.analysis.rounds import round_reads
from refactor.analysis.steps import training_steps
from refactor.analysis.temporaries import temporaries
from refactor.analysis.trees import Viewed
from refactor.source import Source, parse

_WORDS = re.compile(
    rb"def forward\b|no_grad|inference_mode|\.eval\(\)|\.backward\(|cuda\.graph|\bCUDAGraph\b"
    rb"|Module\):|refactor:\s*region"
)
_LITERALS = (
    b"def forward",
    b"no_grad",
    b"inference_mode",
    b".eval()",
    b".backward(",
    b"cuda.graph",
    b"CUDAGraph",
    b"Module):",
    b"refactor:",
)
"""What the pattern above contains, found much faster than by the pattern itself."""


def may_matter(data: bytes) -> bool:
    """Whether a file can hold a region: decided on its bytes, before anything is parsed."""
    return b"torch" in data and any(word in data for word in _LITERALS) and _WORDS.search(data) is not None


def analyze(
    source: Source, project: Project, regions: Sequence[str] = (), entries: Sequence[str] = ()
) -> Facts | None:
    """The facts of a file; None: nothing can be here.

    ``regions`` are patterns ``module:qualname`` of functions that are regions besides those found.
    ``entries`` are dotted names of other modules whose regions reach into this file: their hazards here are
    among the facts. Hazards that this file's regions have in other files are in ``Facts.foreign``.

    Raises:
        SourceError: the file does not parse.
        RecursionError: it is nested more deeply than the interpreter's limit allows; nothing half done stays.
    """
    if not entries and not may_matter(source.data) and not _named(source, project, regions):
        return None
    module = project.known(source) or project.add(source, parse(source))
    try:
        interpreter = shared(project)
        reaching = [*_reaching(interpreter, module, entries, regions)]
        interpreter.start(module)
        found = interpret(interpreter, module, regions)
        for other in reaching:
            interpreter.recorded(module).add(other)
        repeats = tuple(repeated_calls(module))
        batches = _loop_events(module, repeats)
        again = _repeat_events(module, repeats, batches)
        reads = _read_events(module, repeats, interpreter.recorded(module))
        loops = (*batches, *again, *reads, *_step_events(module), *discipline(module))
    except RecursionError:
        project.interpreter = None  # what it was answering is half done
        raise
    records = interpreter.recorded(module)
    own = _facts(records, found, (*loops, *_temporaries(records)))
    others = [r for m, r in interpreter.records.items() if m is not module and r.events]
    foreign = tuple(_facts(r, (), ()) for r in sorted(others, key=lambda r: str(r.module.source.path)))
    return replace(own, foreign=foreign)


def _reaching(
    interpreter: Interpreter, module: ModuleInfo, entries: Sequence[str], regions: Sequence[str]
) -> Iterator[Records]:
    """What the regions of other modules lead to in a module."""
    for name in entries:
        other = interpreter.project.module(name, module)
        if other is not None and other is not module:
            interpreter.start(other)
            interpret(interpreter, other, regions)
            if module in interpreter.records:
                yield interpreter.records[module]


def _named(source: Source, project: Project, regions: Sequence[str]) -> bool:
    """Whether a pattern may name a function of the file."""
    if not any(not pattern.startswith("!") for pattern in regions):
        return False
    _, name = project.place(source.path)
    return any(fnmatchcase(name, pattern.partition(":")[0]) for pattern in regions)


def shared(project: Project) -> Interpreter:
    """The interpreter whose summaries serve all files that a process analyses."""
    if project.interpreter is None:
        project.interpreter = Interpreter(project)
    found: Interpreter = project.interpreter
    return found


def interpret(
    interpreter: Interpreter, module: ModuleInfo, widened: Sequence[str] = ()
) -> tuple[Region, ...]:
    """Interpret every region of a module; those that others reach already are not started again.

    ``widened``: patterns ``module:qualname`` of further functions that are regions (``!`` ones are not ours).
    """
    regions: list[Region] = []
    found = forwards(module)  # as they are written, before decorators replace them
    for cls, info in found:
        if info.remark == "host":
            continue
        region = Region("forward", f"{cls.qualname}.forward", module.name, info.node)
        inherited = info.cls is not cls
        if not inherited:
            regions.append(region)
        if inherited or info not in interpreter.recorded(module).reached:
            called = cls.find("__call__")
            if called is not None and isinstance(called[1], FunctionInfo):
                interpreter.run_region(region, called[1], Obj((cls,)))
            if inherited or info not in interpreter.recorded(module).reached:
                interpreter.run_region(region, info, Obj((cls,)))
    for cls, info in found:
        records = interpreter.recorded(module)
        own = info.cls is cls and info.remark != "host" and info in records.reached
        if own and left_out(module, info, records.values):
            region = Region("forward", f"{cls.qualname}.forward", module.name, info.node)
            interpreter.run_region(region, info, Obj((cls,)))
    for cls, info in entrances(module):
        if info.remark != "host" and info not in interpreter.recorded(module).reached:
            region = Region("method", info.qualname, module.name, info.node)
            regions.append(region)
            interpreter.run_region(region, info, Obj((cls,)))
    for cls, info in hooks(module):
        if info.remark != "host" and info not in interpreter.recorded(module).reached:
            region = Region("method", info.qualname, module.name, info.node)
            regions.append(region)
            interpreter.run_region(region, info, Obj((cls,)) if info.cls is not None else None)
    for info, owner in functions(module) if widened or module.remarks else ():
        named = any(fnmatchcase(f"{module.name}:{info.qualname}", pattern) for pattern in widened)
        if named or info.remark == "region":
            region = Region("named", info.qualname, module.name, info.node)
            regions.append(region)
            interpreter.run_region(region, info, Obj((owner,)) if owner is not None else None)
    for driver in drivers(module):
        if driver.info is None or not _on_host(module, driver.info.node):
            interpreter.run_driver(module, driver)
    return tuple(sorted(regions, key=lambda r: (r.node.lineno, r.qualname)))  # type: ignore[attr-defined]


def _loop_events(module: ModuleInfo, repeats: Sequence[RepeatedCall]) -> tuple[Event, ...]:
    events: list[Event] = []
    parents = module.parents
    fed_back = {id(call) for repeat in repeats if repeat.leads for call in repeat.calls}
    for found in batch_loops(module):
        call = found.calls[0]
        if _on_host(module, found.function) or id(call) in fed_back:
            continue
        name = qualified(parents, found.function) if found.function is not None else "<module>"
        region = Region("loop", name, module.name, found.loop)
        extra: dict[str, object] = {"loop": found.loop, "calls": found.calls, "target": found.target}
        extra["derived"] = found.derived
        extra["guard"] = found.guard
        events.append(
            Event(
                EventKind.BATCH_LOOP, call, statement_of(parents, call), found.function, region, (name,),
                ast.unparse(found.callee), found.callee, extra,
            )
        )  # fmt: skip
    return tuple(events)


def _repeat_events(
    module: ModuleInfo, repeats: Sequence[RepeatedCall], batches: tuple[Event, ...]
) -> Iterator[Event]:
    parents = module.parents
    taken = {id(call) for event in batches for call in event.extra["calls"]}  # type: ignore[attr-defined]
    for found in repeats:
        call = found.calls[0]
        if id(call) in taken or _on_host(module, found.function):
            continue
        name = qualified(parents, found.function) if found.function is not None else "<module>"
        region = Region("loop", name, module.name, found.loop)
        extra = {"loop": found.loop, "calls": found.calls, "guard": found.guard, "varies": found.varies}
        yield Event(
            EventKind.REPEATED_CALL, call, statement_of(parents, call), found.function, region, (name,),
            ast.unparse(found.callee), found.callee, {**extra, "raw": found.raw},
        )  # fmt: skip


def _read_events(module: ModuleInfo, repeats: Sequence[RepeatedCall], records: Records) -> Iterator[Event]:
    parents = module.parents
    inside = {info.node for info in records.reached}
    driven = [repeat for repeat in repeats if not _on_host(module, repeat.function)]
    for found in round_reads(module, driven, inside):
        repeat = found.repeat
        name = qualified(parents, repeat.function) if repeat.function is not None else "<module>"
        region = Region("loop", name, module.name, repeat.loop)
        extra = {"as": found.kind, "place": found.place}
        yield Event(
            EventKind.ROUND_READ, found.node, statement_of(parents, found.node), repeat.function, region,
            (name,), ast.unparse(repeat.callee), found.node, extra,
        )  # fmt: skip


def _step_events(module: ModuleInfo) -> Iterator[Event]:
    parents = module.parents
    for found in training_steps(module):
        if _on_host(module, found.function):
            continue
        name = qualified(parents, found.function) if found.function is not None else "<module>"
        region = Region("step", name, module.name, found.owner)
        extra = {
            "owner": found.owner, "block": found.block, "index": found.index, "passes": found.passes
        }  # fmt: skip
        yield Event(
            EventKind.TRAINING_STEP, found.call, found.block[found.index], found.function, region, (name,),
            "backward", found.call, extra,
        )  # fmt: skip


def _on_host(module: ModuleInfo, function: ast.AST | None) -> bool:
    """Whether a comment keeps a function out of every region."""
    return function is not None and (
        remark(module.remarks, function) == "host" or is_test(module.source.path, function, module.parents)
    )


def _temporaries(records: Records) -> Iterator[Event]:
    parents = records.module.parents
    for info, (region, chain) in records.reached.items():
        yield from temporaries(info, records.values, parents, region, chain)


def statement_of(parents: Mapping[ast.AST, ast.AST], node: ast.AST) -> ast.stmt:
    """The innermost statement around a node."""
    while not isinstance(node, ast.stmt):
        node = parents[node]
    return node


def qualified(parents: Mapping[ast.AST, ast.AST], node: ast.AST) -> str:
    """The qualified name of a function in its file."""
    names: list[str] = []
    current: ast.AST | None = node
    while current is not None:
        if isinstance(current, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(current.name)
        current = parents.get(current)
    return ".".join(reversed(names))


def _facts(records: Records, regions: tuple[Region, ...], more: Sequence[Event]) -> Facts:
    module = records.module
    events = [*records.events.values(), *more]
    seen = {id(event.region): event.region for event in events}
    every = [*regions, *(r for r in seen.values() if r not in regions and r.module == module.name)]
    return Facts(
        module.source,
        module.tree,
        module.name,
        module.root,
        tuple(every),
        tuple(sorted(events, key=_place)),
        Viewed(records.values, public),
        module.parents,
        info=module,
    )


def _place(event: Event) -> tuple[int, int, str]:
    node: Any = event.node
    return node.lineno, node.col_offset, event.kind.value
