"""SARIF 2.1.0 (OASIS standard), for code-scanning services."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any
from urllib.parse import quote

from refactor import __version__
from refactor.findings import FileError, Finding, Outcome, Severity
from refactor.report import Listing
from refactor.rule import Rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {
    Severity.BREAKS: "error",
    Severity.WRONG: "error",
    Severity.SHAPE: "warning",
    Severity.COST: "note",
}


def to_sarif(listing: Listing) -> str:
    """One run: the rules that were on, a result for each finding, a notification for each unreadable file."""
    done = {row.finding: row for row in listing.outcomes or ()}
    findings = [*done] if listing.outcomes is not None else list(listing.findings)
    index = {rule.code: number for number, rule in enumerate(listing.rules)}
    run = {
        "tool": {
            "driver": {
                "name": "refactor",
                "version": __version__,
                "rules": [_rule(rule) for rule in listing.rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": not listing.errors,
                "toolExecutionNotifications": [_notification(error) for error in listing.errors],
            }
        ],
        "results": [_result(finding, index, done.get(finding)) for finding in findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.what},
        "help": {"text": f"{rule.why}\n\n{rule.instead}", "markdown": f"{rule.why}\n\n{rule.instead}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"severity": rule.severity.value, "applicability": rule.applicability.value},
    }


def _result(finding: Finding, index: dict[str, int], outcome: Outcome | None) -> dict[str, Any]:
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.end_line,
        "endColumn": finding.end_column,
    }
    identity = f"{finding.file}\0{finding.code}\0{finding.region}\0{finding.message}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    row: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": _LEVELS[finding.severity],
        "message": {"text": finding.message},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(finding.file)}, "region": region},
                "logicalLocations": [{"fullyQualifiedName": finding.region}],
            }
        ],
        "partialFingerprints": {"refactorFinding/v1": digest},
    }
    if outcome is not None:
        row["properties"] = {"status": outcome.status, "reason": outcome.reason or outcome.note}
        if outcome.status == "suppressed":
            kind = "inSource" if "comment" in outcome.reason else "external"
            row["suppressions"] = [{"kind": kind, "justification": outcome.reason}]
    return row


def _notification(error: FileError) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": _uri(error.file)}, "region": {"startLine": error.line}}
    return {
        "level": "error",
        "message": {"text": error.message},
        "locations": [{"physicalLocation": place}],
    }


def _uri(file: str) -> str:
    return quote(os.fsencode(file))
