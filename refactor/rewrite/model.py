"""From hits to bytes: proposals say what should change, a plan settles conflicts, a patch is the result."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from refactor.findings import Outcome
from refactor.rewrite.lazily import libcst as cst
from refactor.source import Source

if TYPE_CHECKING:
    from refactor.rule import Hit

Build = Callable[[Any], "cst.CSTNode | cst.FlattenSentinel[Any] | cst.RemovalSentinel | Refusal"]
"""Gets the libcst node of `Change.node` with all inner changes already made, returns its replacement, or why
there is none after all (then the whole proposal is dropped and the rest is made without it)."""


@dataclass(frozen=True, eq=False)
class Change:
    """One node to replace. ``build`` runs when libcst leaves the node, so inner changes come first."""

    node: ast.AST
    build: Build
    line: bool = False  # the node is a simple statement: `build` gets the line it stands on
    moves: bool = False  # it only takes the node elsewhere, and another change of the node is made before
    late: bool = False  # it needs what changes of later top-level statements make, and is made after them


@dataclass(frozen=True, eq=False)
class Proposal:
    """One rewrite: its changes are made together or not at all."""

    changes: tuple[Change, ...]
    note: str  # what is done and what has to be verified, one sentence
    runtime: frozenset[str] = frozenset()  # names used from the vendored cuda_graphs: {"graphed", "segment"}
    imports: frozenset[str] = frozenset()  # modules that must be imported: {"torch"}
    group: str = ""  # rewrites with the same non-empty group stand or fall together
    joint: Joint | None = None  # not None: the changes depend on which hits are accepted together
    plans: tuple[CutPlan, ...] = ()  # of the functions it cuts
    otherwise: Refusal | None = None  # what to say where a joint rewrite has no place for the hit


@dataclass(frozen=True)
class CutPlan:
    """What becomes of one function that is cut: one line for each graph and for what splits them."""

    function: str  # "Router.forward"
    line: int
    steps: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Joint:
    """A rewrite planned for several hits at once, as when the branches of a function share segments."""

    owner: Hashable  # hits whose proposals have equal owners are planned together
    plan: Callable[[Sequence[Hit], Collection[ast.AST]], Mapping[Hit, Proposal | Refusal]]
    """Gets the accepted hits by place and the event nodes that other rewrites take care of. A proposal that
    several hits share is one object."""


@dataclass(frozen=True)
class Refusal:
    """Why a hit is left alone: one sentence that a user can act on."""

    reason: str


@dataclass(frozen=True, eq=False)
class Edit:
    """One replaced byte range of the original file."""

    start: int
    end: int
    new: bytes


@dataclass(frozen=True, eq=False)
class Patch:
    """What one file becomes, and what was done about each of its findings."""

    source: Source
    edits: tuple[Edit, ...]
    new: bytes
    outcomes: tuple[Outcome, ...]
    runtime: frozenset[str] = frozenset()  # not empty: the file needs the vendored runtime
    regions: tuple[str, ...] = field(default=())  # qualnames that were edited
    plans: tuple[CutPlan, ...] = field(default=())  # of the functions that were cut


@dataclass(frozen=True)
class RuntimeImport:
    """How the edited file imports the vendored runtime: ``from {module} import graphed``."""

    module: str  # "cuda_graphs", "package.cuda_graphs", or relative: "...cuda_graphs"
