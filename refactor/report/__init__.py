"""Findings and outcomes as text for people, and as JSON, GitHub annotations and SARIF for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refactor.findings import FileError, Finding, Outcome
from refactor.rule import Rule

FORMATS = ("concise", "full", "json", "github", "sarif")


@dataclass(frozen=True)
class Listing:
    """What one run has to say; ``outcomes`` is None for `check`, else it has one row for every finding."""

    findings: Sequence[Finding]
    errors: Sequence[FileError]
    outcomes: Sequence[Outcome] | None
    rules: Sequence[Rule]
    sources: dict[str, bytes]
    """Bytes of files that are not on disk as they were examined, such as standard input."""


def rendered(listing: Listing, form: str) -> str:
    """The listing in one of `FORMATS`, for standard output."""
    if form == "json":
        from refactor.report.json import to_json

        return to_json(listing)
    if form == "sarif":
        from refactor.report.sarif import to_sarif

        return to_sarif(listing)
    if form == "github":
        from refactor.report.github import to_github

        return to_github(listing)
    from refactor.report.text import to_text

    return to_text(listing, full=form == "full")
