"""What `check` reports and `apply` acts on: frozen values, ordered by place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class Severity(str, Enum):
    """What a hazard does to a CUDA graph."""

    BREAKS = "breaks"  # capture raises
    WRONG = "wrong"  # capture works, a replay gives wrong results
    SHAPE = "shape"  # capture works, but the shape varies between calls
    COST = "cost"  # capture works, or it is outside the graph: only slow


class Applicability(str, Enum):
    """How far a rewrite can be trusted before it has been verified."""

    SAFE = "safe"  # same results by construction
    VERIFY = "verify"  # applied by default, unverified until `refactor verify` passes
    MANUAL = "manual"  # explained, never edited


@dataclass(frozen=True, order=True)
class Finding:
    """One hazard at one place.

    Lines and columns count from 1, columns in code points; ``end_line`` is inclusive and ``end_column``
    exclusive. The span is one expression or one statement header.
    """

    file: str  # relative to the working directory, with forward slashes
    line: int
    column: int
    end_line: int
    end_column: int
    code: str
    name: str
    severity: Severity
    applicability: Applicability
    message: str
    region: str  # module:qualname
    chain: tuple[
        str, ...
    ] = ()  # how the region reaches the place: ("Model.forward", "Block.forward", "rope")
    start: int = 0  # byte range in the file
    end: int = 0


Status = Literal["applied", "refused", "suppressed"]


@dataclass(frozen=True)
class Outcome:
    """What `apply` did about a finding, and why if it did nothing."""

    finding: Finding
    status: Status
    reason: str = ""
    note: str = ""  # for an applied rewrite: what was done, and what has to be verified
    cut: bool = False  # applied by segments around it: the place itself still waits for the device


@dataclass(frozen=True, order=True)
class FileError:
    """A file that could not be read, decoded or parsed, or whose analysis failed."""

    file: str
    line: int
    message: str
