"""The report as text: one table of verdicts, then the evidence and the counterexamples."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from .report import Report, TargetReport

_STYLE = {"pass": "green", "fail": "red", "error": "magenta", "inconclusive": "yellow"}


def lines(report: Report, colour: bool) -> Iterator[str]:
    """Text for standard output."""
    from rich.console import Console
    from rich.table import Table

    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=colour, width=None if colour else 120, highlight=False)
    table = Table(title=f"{report.device}, torch {report.torch}")
    for column in ("target", "verdict", "graphs", "before → after", "evidence"):
        table.add_column(column, overflow="fold")
    for target in report.targets:
        style = _STYLE[target.verdict]
        verdict = target.verdict
        if verdict == "pass" and report.device == "emulated":
            verdict = "pass (emulated)"
        table.add_row(
            target.name,
            f"[{style}]{verdict}[/{style}]",
            _graphs(target),
            _speed(target),
            _plain(target.reason),
        )
    console.print(table)
    yield buffer.getvalue()
    for target in report.targets:
        if target.counterexample is not None:
            yield f"\n{target.name} fails: {target.reason}\nshortest sequence found:\n"
            for number, call in enumerate(target.counterexample.calls):
                yield f"  {number}: {json.dumps(call)}\n"
            yield f"as a program:\n\n{target.counterexample.script}\n"
        for note in target.notes[:5]:
            yield f"{target.name}: note: {note}\n"


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _graphs(target: TargetReport) -> str:
    capture = target.capture
    if capture.blocked_by and not capture.replays:
        return _plain(f"blocked by {capture.blocked_by}")
    return f"{capture.graphs} captured, {capture.replays} replays ({capture.by})" if capture.by else "none"


def _speed(target: TargetReport) -> str:
    timing = target.timing
    if timing is None:
        return "not timed"
    low, high = timing.interval
    claim = f"{timing.speedup:.2f}x" if timing.speedup is not None else "no difference shown"
    return _plain(
        f"{timing.before_ms:.3f} → {timing.after_ms:.3f} ms, {claim} [{low:.2f}, {high:.2f}] {timing.label}"
    )
