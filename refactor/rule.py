"""A rule: one member of a hazard family, with its detection and its documentation as data.

Tests, ``refactor rule`` and the table in the README are made from these values, so a rule is documented and
tested by being written. `refactor.transforms.RULES` lists all of them explicitly; nothing registers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from refactor.findings import Applicability, Severity

if TYPE_CHECKING:
    from refactor.analysis.model import Event, Facts
    from refactor.rewrite.model import Proposal, Refusal


@dataclass(frozen=True)
class Example:
    """A small file and what the rule makes of it."""

    code: str
    """Python source; a line that must be reported ends with ``# !`` in ``Rule.invalid`` examples."""
    note: str = ""


@dataclass(frozen=True)
class Rewritten:
    """A before/after pair for a rule with a rewrite: `apply --select CODE` turns one into the other."""

    before: str
    after: str


@dataclass(frozen=True)
class Hit:
    """One detection: an event of the analysis, and why it is a hazard here (one sentence, names the code)."""

    event: Event
    message: str
    severity: Severity | None = None  # None: the rule's own
    applicability: Applicability | None = None  # None: the rule's own


@dataclass(frozen=True)
class Rule:
    """One rule. Sections of its documentation follow the order of the fields."""

    code: str  # "CG301"
    name: str  # "tensor-branch": kebab-case, stable
    summary: str  # one line
    severity: Severity
    applicability: Applicability
    detect: Callable[[Facts], Iterable[Hit]]
    what: str  # what it does (Markdown)
    why: str  # why it is bad (Markdown)
    instead: str  # use instead (Markdown)
    error: str = ""  # what the error looks like at capture; empty: there is none
    valid: tuple[Example, ...] = ()
    """Code that looks like the hazard and must not be reported."""
    invalid: tuple[Example, ...] = ()
    rewritten: tuple[Rewritten, ...] = ()
    propose: Callable[[Facts, Hit], Proposal | Refusal] | None = field(default=None, compare=False)
    """The rewrite, or why there is none for this hit; None: the rule never edits."""
