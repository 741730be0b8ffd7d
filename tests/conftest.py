"""What several parts of the suite share.

The frame (command line, engine, journal, reports) is tested with an analysis that is easy to see through:
every call of ``hazard(…)`` is a finding, and the rewrite turns it into ``safe(…)``. What the real analysis
and the real rules find is tested in their own folders.
"""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
import pytest
import refactor.transforms
from click.testing import CliRunner, Result

import refactor.analysis
import refactor.rewrite.patch  # loaded here once, not in every worker process
from refactor.analysis.model import Event, EventKind, Facts, Region
from refactor.cli import main
from refactor.findings import Applicability, Severity
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rule import Example, Hit, Rewritten, Rule
from refactor.source import Source, parse
from refactor.tracing import Trace


class FakeProject:
    def __init__(self, root: Path, src: tuple[str, ...] = ()) -> None:
        self.root = root

    def traced(self) -> Trace:
        return Trace()

    def known(self, source: Source) -> None:
        return None


def fake_analyze(
    source: Source, project: FakeProject, regions: object = (), entries: object = ()
) -> Facts | None:
    if b"hazard" not in source.data:
        return None
    tree = parse(source)
    if b"crash the tool" in source.data:
        raise KeyError("an error of the tool")
    if b"kill the process" in source.data:
        os.kill(os.getpid(), signal.SIGKILL)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    events = []
    regions: dict[ast.AST | None, Region] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith("hazard"):
            function: Any = _up(node, parents, ast.FunctionDef)
            cls: Any = _up(function, parents, ast.ClassDef)
            name = ".".join(part.name for part in (cls, function) if part) or "<module>"
            region = regions.setdefault(function, Region("forward", name, source.path.stem, function or tree))
            statement: Any = _up(node, parents, ast.stmt)
            chain = (name,)
            events.append(
                Event(EventKind.READBACK, node, statement, function, region, chain, detail=node.func.id)
            )
    events.sort(key=lambda event: (event.node.lineno, event.node.col_offset))
    return Facts(
        source,
        tree,
        source.path.stem,
        source.path.parent,
        tuple(regions.values()),
        tuple(events),
        {},
        parents,
    )


def _up(node: Any, parents: dict[Any, Any], kind: type[ast.AST]) -> Any:
    while node is not None and not isinstance(node, kind):
        node = parents.get(node)
    return node


def _detect(code: str) -> Callable[[Facts], Iterable[Hit]]:
    wanted = {"CG101": "hazard", "CG102": "hazard_runtime", "CG103": "hazard_manual", "CG104": "hazard_safe"}[
        code
    ]

    def detect(facts: Facts) -> Iterator[Hit]:
        for event in facts.events:
            if event.detail == wanted:
                yield Hit(event, f"`{wanted}` is called here")

    return detect


def _propose(runtime: frozenset[str]) -> Callable[[Facts, Hit], Proposal | Refusal]:
    def propose(facts: Facts, hit: Hit) -> Proposal | Refusal:
        call: Any = hit.event.node
        if call.keywords:
            return Refusal("keywords are not understood: pass the value by position")

        def build(node: cst.Call) -> cst.Call:
            return node.with_changes(func=cst.Name("safe"))

        return Proposal((Change(call, build),), "calls `safe` instead", runtime)

    return propose


def _rule(code: str, name: str, applicability: Applicability, propose: Any) -> Rule:
    return Rule(
        code=code,
        name=name,
        summary=f"a call of {name}",
        severity=Severity.COST if code == "CG104" else Severity.BREAKS,
        applicability=applicability,
        detect=_detect(code),
        what="Reports calls.",
        why="They are hazards.",
        instead="Call `safe`.",
        error="capture failed",
        valid=(Example("safe(1)\n", "calls of others are fine"),),
        invalid=(Example("hazard(1)  # !\n"),),
        rewritten=(Rewritten("hazard(1)\n", "safe(1)\n"),) if propose else (),
        propose=propose,
    )


FAKE_RULES = (
    _rule("CG101", "plain-call", Applicability.VERIFY, _propose(frozenset())),
    _rule("CG102", "runtime-call", Applicability.VERIFY, _propose(frozenset({"graphed"}))),
    _rule("CG103", "manual-call", Applicability.MANUAL, None),
    _rule("CG104", "safe-call", Applicability.SAFE, _propose(frozenset())),
)


@dataclass
class Command:
    """Runs the command line in a folder of its own, with the fake rules."""

    root: Path

    def __call__(self, *args: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(main, args, input=input, catch_exceptions=False)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def tree(self) -> dict[str, bytes]:
        """All files but those of the tool's memory."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and ".refactor" not in path.parts
        }


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line with the fake rules, in an empty folder."""
    monkeypatch.setattr(refactor.analysis, "Project", FakeProject, raising=False)
    monkeypatch.setattr(refactor.analysis, "analyze", fake_analyze, raising=False)
    monkeypatch.setattr(refactor.transforms, "RULES", FAKE_RULES)
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path)
