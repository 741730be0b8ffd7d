"""From hits to bytes: proposals say what should change, a plan settles conflicts, a patch is the result."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import libcst as cst

from refactor.findings import Outcome
from refactor.source import Source

Build = Callable[[Any], "cst.CSTNode | cst.FlattenSentinel[Any] | cst.RemovalSentinel"]
"""Gets the libcst node of `Change.node` with all inner changes already made, returns its replacement."""


@dataclass(frozen=True, eq=False)
class Change:
    """One node to replace. ``build`` runs when libcst leaves the node, so inner changes come first."""

    node: ast.AST
    build: Build


@dataclass(frozen=True, eq=False)
class Proposal:
    """One rewrite: its changes are made together or not at all."""

    changes: tuple[Change, ...]
    note: str  # what is done and what has to be verified, one sentence
    runtime: frozenset[str] = frozenset()  # names used from the vendored cuda_graphs: {"graphed", "segment"}
    imports: frozenset[str] = frozenset()  # other statements needed at the top: {"import torch"}
    group: str = ""  # rewrites with the same non-empty group stand or fall together


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
