"""GitHub workflow commands: one annotation for each finding and error.

Properties and messages are escaped as ``actions/toolkit`` does (``packages/core/src/command.ts``).
"""

from __future__ import annotations

from refactor.findings import Finding, Severity
from refactor.report import Listing

_LEVELS = {
    Severity.BREAKS: "error",
    Severity.WRONG: "error",
    Severity.SHAPE: "warning",
    Severity.COST: "notice",
}


def to_github(listing: Listing) -> str:
    """One ``::error``, ``::warning`` or ``::notice`` line each."""
    errors = [f"::error file={_property(e.file)},line={e.line}::{_data(e.message)}" for e in listing.errors]
    if listing.outcomes is None:
        rows = [_finding(finding, "") for finding in listing.findings]
    else:
        rows = [_finding(row.finding, f"{row.status}: {row.reason or row.note}") for row in listing.outcomes]
    return "".join(f"{row}\n" for row in (*errors, *rows))


def _finding(finding: Finding, said: str) -> str:
    place = {"file": finding.file, "line": finding.line, "endLine": finding.end_line}
    if finding.line == finding.end_line:  # GitHub takes columns only within one line
        place |= {"col": finding.column, "endColumn": finding.end_column}
    place["title"] = f"{finding.code} {finding.name}"
    properties = ",".join(f"{key}={_property(str(value))}" for key, value in place.items())
    message = f"{finding.message} ({said})" if said else finding.message
    return f"::{_LEVELS[finding.severity]} {properties}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
