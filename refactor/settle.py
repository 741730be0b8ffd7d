"""Which findings count: those of all files together, less what comments, settings and baseline cover."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from refactor.baseline import Known
from refactor.discovery import display
from refactor.engine import Examined, Raw, Result, Task, key_of
from refactor.findings import Finding
from refactor.selection import Selection
from refactor.suppress import UNUSED, Suppression, split

IN_BASELINE = "in the baseline"
"""Why a finding that the baseline knows is not reported."""


def settle(
    examined: Sequence[Examined],
    task: Task,
    selection: Selection,
    baseline: Mapping[str, Mapping[Known, int]],
) -> list[Result]:
    """One result for each file, in the given order.

    Findings in files that were not asked for are dropped, and so are those in a vendored runtime. A finding
    that several files lead to is counted once: for the file's own regions, else for the first file.
    """
    reached: dict[str, list[tuple[str, Raw]]] = {}
    for row in examined:
        for path, raws in row.foreign:
            reached.setdefault(path, []).extend((row.module, raw) for raw in raws)
    results = [
        _settled(row, reached.get(os.path.realpath(row.job.path), ()), task, selection, baseline)
        for row in examined
    ]
    counted = {
        os.path.realpath(result.job.path): {key_of(finding): finding for finding in result.findings}
        for result in results
        if result.findings
    }
    return [
        replace(result, outer=tuple(_led_to(row, counted))) if row.foreign else result
        for row, result in zip(examined, results, strict=True)
    ]


def _led_to(
    row: Examined, counted: Mapping[str, Mapping[tuple[str, int, int], Finding]]
) -> Iterator[Finding]:
    """Findings of other files that count and that the regions of a file lead to."""
    for path, raws in row.foreign:
        found = counted.get(path, {})
        yield from (found[key] for key in (key_of(raw.finding) for raw in raws) if key in found)


def _settled(
    row: Examined,
    reached: Sequence[tuple[str, Raw]],
    task: Task,
    selection: Selection,
    baseline: Mapping[str, Mapping[Known, int]],
) -> Result:
    if row.failure is not None or row.copy is not None:
        return Result(row.job, failures=(row.failure,) if row.failure else (), copy=row.copy)
    raws = {key_of(raw.finding): raw for raw in row.raws}
    entry: dict[Finding, str] = {}
    for module, raw in reached:
        if raws.setdefault(key_of(raw.finding), raw) is raw:
            entry[raw.finding] = module
    relative = display(row.job.path, task.settings.root)
    known = {raw.finding: raw.known for raw in raws.values()}
    kept, quiet, unused = split(sorted(known), row.comments)
    for comment, message in selection.judged(unused):
        finding = _comment_finding(row.job.file, row.module, comment, message)
        known[finding] = Known(relative, finding.code, finding.region, " ".join(comment.row.split()))
        kept.append(finding)
    kept = sorted(finding for finding in kept if selection.is_wanted(finding, relative))
    fresh, old = _without_known(kept, known, baseline.get(relative, {}))
    return Result(
        row.job,
        findings=tuple(fresh),
        known=tuple(known[finding] for finding in fresh),
        suppressed=tuple(sorted((*quiet, *((finding, IN_BASELINE) for finding in old)))),
        entries=tuple(dict.fromkeys(entry[finding] for finding in fresh if finding in entry)),
    )


def _without_known(
    findings: Sequence[Finding], known: Mapping[Finding, Known], baseline: Mapping[Known, int]
) -> tuple[list[Finding], list[Finding]]:
    """Findings the baseline does not know, and those it does."""
    left = dict(baseline)
    fresh: list[Finding] = []
    old: list[Finding] = []
    for finding in findings:
        if left.get(known[finding], 0) > 0:
            left[known[finding]] -= 1
            old.append(finding)
        else:
            fresh.append(finding)
    return fresh, old


def _comment_finding(file: str, module: str, comment: Suppression, message: str) -> Finding:
    return Finding(
        file=file,
        line=comment.line,
        column=comment.column,
        end_line=comment.line,
        end_column=comment.column + len(comment.text),
        code=UNUSED.code,
        name=UNUSED.name,
        severity=UNUSED.severity,
        applicability=UNUSED.applicability,
        message=message,
        region=f"{module or os.path.basename(file).removesuffix('.py')}:<comment>",
        start=comment.start,
        end=comment.end,
    )
