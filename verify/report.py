"""What a verification found: frozen values, and the JSON of the contract."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
EXIT = {"pass": 0, "fail": 1, "error": 2, "inconclusive": 3}
PRECEDENCE = ("fail", "error", "inconclusive", "pass")


@dataclass(frozen=True)
class Check:
    """One way a target was driven, and how that ended."""

    name: str
    status: str  # pass, fail, error, inconclusive, skipped
    examples: int

    def json(self) -> dict[str, Any]:
        """As the contract names it."""
        return {"name": self.name, "status": self.status, "examples": self.examples}


@dataclass(frozen=True)
class Counterexample:
    """The shortest failing sequence, and a program that shows it."""

    calls: tuple[dict[str, Any], ...]
    script: str

    def json(self) -> dict[str, Any]:
        """As the contract names it."""
        return {"calls": list(self.calls), "script": self.script}


@dataclass(frozen=True)
class Capture:
    """Who captured, how many graphs, how many replays; ``blocked_by`` starts with the user's FILE:LINE."""

    by: str | None = None
    graphs: int = 0
    replays: int = 0
    blocked_by: str | None = None

    def json(self) -> dict[str, Any]:
        """As the contract names it."""
        return {"by": self.by, "graphs": self.graphs, "replays": self.replays, "blocked_by": self.blocked_by}


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds of whole calls; ``interval`` is a 95 % bootstrap interval of the speedup."""

    before_ms: float
    after_ms: float
    speedup: float | None
    interval: tuple[float, float]
    break_even_calls: int | None
    kernel_ms: float | None
    control: tuple[float, float] | None = None
    label: str = ""

    def json(self) -> dict[str, Any]:
        """As the contract names it."""
        return {
            "before_ms": self.before_ms,
            "after_ms": self.after_ms,
            "speedup": self.speedup,
            "interval": list(self.interval),
            "break_even_calls": self.break_even_calls,
            "kernel_ms": self.kernel_ms,
        }


@dataclass(frozen=True)
class TargetReport:
    """The verdict on one target, with its evidence."""

    name: str
    verdict: str
    reason: str
    checks: tuple[Check, ...] = ()
    counterexample: Counterexample | None = None
    capture: Capture = Capture()
    timing: Timing | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    group: str = ""  # of a failure: which observation differed (result, aliasing, state, …)
    seconds: float = 0.0
    before: tuple[tuple[str, str | None], ...] = ()  # files that were compared, with their SHA-256
    after: tuple[tuple[str, str | None], ...] = ()

    def json(self) -> dict[str, Any]:
        """As the contract names it."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "checks": [c.json() for c in self.checks],
            "counterexample": self.counterexample.json() if self.counterexample else None,
            "capture": self.capture.json(),
            "timing": self.timing.json() if self.timing else None,
            "memory": self.memory,
        }


@dataclass(frozen=True)
class Report:
    """All verdicts of one run."""

    device: str
    torch: str
    targets: tuple[TargetReport, ...]

    @property
    def verdict(self) -> str:
        """The worst verdict, in the order fail, error, inconclusive, pass."""
        return next((v for v in PRECEDENCE if any(t.verdict == v for t in self.targets)), "error")

    @property
    def exit_code(self) -> int:
        """0 all pass, 1 any fail, 2 error, 3 inconclusive, in that order of precedence after fail."""
        return EXIT[self.verdict]

    def json(self) -> dict[str, Any]:
        """As the contract names it."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "torch": self.torch,
            "targets": [t.json() for t in self.targets],
        }
