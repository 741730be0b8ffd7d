"""Failing sequences kept from one run to the next: they are replayed before anything is drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .recipes import Json
from .report import Report
from .targets import Target


@dataclass(frozen=True)
class Failing:
    """A sequence that failed the last time, under the check of that name."""

    check: str
    steps: tuple[Json, ...]


def recall(text: str, targets: Iterable[Target]) -> dict[str, Failing]:
    """What ``remember`` has written, for targets that have not changed; unreadable text is no memory."""
    kept = _read(text)
    found = {}
    for target in targets:
        row = kept.get(target.name)
        if isinstance(row, Mapping) and row.get("target") == _digest(target) and row.get("steps"):
            found[target.name] = Failing(str(row.get("check")), tuple(row["steps"]))
    return found


def remember(text: str, report: Report, targets: Iterable[Target]) -> str:
    """The memory after a run: targets that failed are added, those with another verdict dropped."""
    kept = _read(text)
    known = {t.name: t for t in targets}
    for result in report.targets:
        kept.pop(result.name, None)
        failed = [c.name for c in result.checks if c.status == "fail"]
        if result.counterexample is not None and failed and result.name in known:
            kept[result.name] = {
                "target": _digest(known[result.name]),
                "check": failed[-1],
                "steps": list(result.counterexample.calls),
            }
    return json.dumps(kept, indent=1) + "\n"


def _read(text: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _digest(target: Target) -> str:
    """Of what a sequence depends on: other inputs would make it one the target does not declare."""
    said = (target.entry, target.inputs, target.dims, target.factory, target.init, target.mode, target.vary)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]
