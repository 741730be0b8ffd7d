"""The JSON of `check` and `apply`: a stable contract, ``"schema": 1``."""

from __future__ import annotations

import json
from typing import Any

from refactor.findings import Finding
from refactor.report import Listing


def to_json(listing: Listing) -> str:
    """One document: ``findings`` (with ``status`` and ``reason`` for `apply`) and ``errors``."""
    rows = [_finding(finding) for finding in listing.findings]
    if listing.outcomes is not None:
        rows = [
            {**_finding(row.finding), "status": row.status, "reason": row.reason or row.note}
            for row in listing.outcomes
        ]
    errors = [{"file": e.file, "line": e.line, "message": e.message} for e in listing.errors]
    return json.dumps({"schema": 1, "findings": rows, "errors": errors}, indent=1) + "\n"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.value,
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "end_line": finding.end_line,
        "end_column": finding.end_column,
        "message": finding.message,
        "applicability": finding.applicability.value,
        "region": finding.region,
        "chain": list(finding.chain),
    }
