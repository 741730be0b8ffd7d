"""Findings for people: one line each, or with the source they point at."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from refactor.findings import Finding, Outcome
from refactor.report import Listing
from refactor.source import Source, SourceError, load

_MOST = 4
"""Lines of source shown for one finding."""


def to_text(listing: Listing, *, full: bool) -> str:
    """One line for each finding or outcome; ``full`` adds the source, the way there and what was done."""
    rows: list[tuple[Finding, Outcome | None]] = [(finding, None) for finding in listing.findings]
    if listing.outcomes is not None:
        rows = [(outcome.finding, outcome) for outcome in listing.outcomes]
    parts: list[str] = []
    for finding, outcome in rows:
        lines = [_line(finding, outcome)]
        if full:
            lines += _details(finding, outcome, listing.sources.get(finding.file))
            lines.append("")
        parts += lines
    return "".join(f"{line}\n" for line in parts)


def _line(finding: Finding, outcome: Outcome | None) -> str:
    place = f"{finding.file}:{finding.line}:{finding.column}"
    head = f"{place}: {finding.code} {finding.name} [{finding.severity.value}]"
    if outcome is None:
        return f"{head} {finding.message}"
    said = outcome.reason or outcome.note
    return f"{head} {outcome.status}{f': {said}' if said else ''}"


def _details(finding: Finding, outcome: Outcome | None, data: bytes | None) -> Iterator[str]:
    if outcome is not None:
        yield f"  {finding.message}"
    source = _source(finding.file, data)
    if source is not None:
        yield from _frame(source, finding)
    if len(finding.chain) > 1:
        yield f"  reached by {' → '.join(finding.chain)}"
    if not finding.region.endswith(":<comment>"):
        yield f"  in region {finding.region}; rewrite: {finding.applicability.value}"


def _frame(source: Source, finding: Finding) -> Iterator[str]:
    width = len(str(finding.end_line))
    last = min(finding.end_line, finding.line + _MOST - 1, len(source.lines))
    for number in range(finding.line, last + 1):
        text = source.lines[number - 1][1].rstrip("\r\n")
        yield f"  {number:>{width}} | {text}"
        start = finding.column - 1 if number == finding.line else len(text) - len(text.lstrip())
        end = finding.end_column - 1 if number == finding.end_line else len(text)
        pad = "".join("\t" if character == "\t" else " " for character in text[:start])
        yield f"  {'':>{width}} | {pad}{'^' * max(1, end - start)}"
    if last < finding.end_line:
        yield f"  {'':>{width}} | … to line {finding.end_line}"


@lru_cache(maxsize=8)
def _source(file: str, data: bytes | None) -> Source | None:
    try:
        return load(Path(file), data)
    except SourceError:
        return None
