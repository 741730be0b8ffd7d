"""What ``benchmarks/models.py`` tells: a row for each model, and how many are equal, captured and faster."""

from __future__ import annotations

import math
from typing import Any

Row = dict[str, Any]


def explained(row: Row, findings: list[Row]) -> str:
    """The reason a model is not captured whole, with what `apply` said about the line that blocks it."""
    reason = str(row["reason"])
    for finding in findings:
        at = f"{finding['file'].removeprefix('./')}:{finding['line']}"
        if finding["status"] != "applied" and f"{at}:" in reason:
            return f"{reason} [{finding['code']}: {finding['reason']}]"
    return reason


def table(rows: list[Row], compiled: dict[str, Row]) -> str:
    """The rows as Markdown, the summary below."""
    lines = [
        "| model | verdict | runs as | before ms | after ms | speedup (range) | start s "
        "| reduce-overhead: ms | speedup | start s | reason |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        beside = compiled.get(row["name"], {})
        theirs = ["", "", ""]
        if beside:
            handled = bool(beside.get("ms"))
            theirs = (
                [beside["ms"], f"{ratio(beside):.2f}", beside["cold_s"]] if handled else ["fails", "", ""]
            )
        span = f"{row['speedup']} ({row['range'][0]}–{row['range'][1]})" if "speedup" in row else ""
        span += f", {row['first']} at first" if row.get("first") else ""
        lines.append(
            f"| {row['name']} | {row['verdict']}{', bitwise' if row.get('bitwise') else ''} | {runs_as(row)} "
            f"| {row.get('before_ms', '')} | {row.get('after_ms', '')} | {span} | {row.get('cold_s', '')} "
            f"| {theirs[0]} | {theirs[1]} | {theirs[2]} | {row['reason']} |"
        )
    return "\n".join([*lines, "", summary(rows, compiled)])


def runs_as(row: Row) -> str:
    """Whole, segments or eager; whether graphs were still recorded when all shapes had been seen."""
    again = row.get("last", [0, 0])[0]
    text = "eager" if row["how"] == "-" else str(row["how"])
    return text + (f", {again} recorded again" if again and row["how"] != "whole" else "")


def summary(rows: list[Row], compiled: dict[str, Row]) -> str:
    """How many are equal, captured and faster, and how that compares with torch.compile; the rest by name."""
    graphed = [r for r in rows if r["how"] != "-" and r["verdict"] == "equal"]
    whole = [r for r in graphed if r["how"] == "whole"]
    timed = [r for r in graphed if "speedup" in r]
    slower = [r for r in timed if r["speedup"] < 1]
    text = [
        f"{len(rows)} models: {sum(r['verdict'] == 'equal' for r in rows)} equal, "
        f"{sum(r['verdict'] == 'DIFFERS' for r in rows)} differ, "
        f"{sum(r['verdict'] == 'error' for r in rows)} not compared",
        f"under graphs: {len(graphed)}, {len(whole)} whole and {len(graphed) - len(whole)} as segments; "
        f"{len(timed)} of them timed",
        f"slower than eager: {len(slower)}{_named(slower)}, "
        f"of these surely (in every round): {sum(r['range'][1] < 1 for r in slower)}",
    ]
    again = [r for r in rows if r.get("first")]
    if again:
        both = ", ".join(f"{r['name']} {r['first']} and {r.get('speedup')}" for r in again)
        text.append(f"slower than eager beside others, and measured again alone in new processes: {both}")
    for kind, group in (
        ("all", timed),
        ("whole", [r for r in timed if r in whole]),
        ("segments", [r for r in timed if r not in whole]),
    ):
        if group:
            least = min(group, key=lambda r: float(r["speedup"]))
            text.append(
                f"speedup, {kind}: {mean([r['speedup'] for r in group]):.2f} in the geometric mean, "
                f"{least['speedup']} the least ({least['name']})"
            )
    names = {r["name"] for r in rows}
    text += beside_compile(timed, len(graphed), {n: c for n, c in compiled.items() if n in names})
    rest = [r for r in rows if r not in graphed]
    text += [f"not under graphs: {r['name']}: {r['verdict']}, {r['reason'] or 'no graph'}" for r in rest]
    return "\n".join(text)


def beside_compile(timed: list[Row], graphed: int, compiled: dict[str, Row]) -> list[str]:
    """Over the models that both handle, and how many each handles."""
    both = [(r, compiled[r["name"]]) for r in timed if compiled.get(r["name"], {}).get("ms")]
    if not both:
        return []
    handled = sum(bool(c.get("ms")) for c in compiled.values())
    starts = [c["cold_s"] / max(r["cold_s"], 0.01) for r, c in both]
    return [
        f"torch.compile handles {handled} of {len(compiled)}, this {graphed}; where both do ({len(both)}), "
        f"the speedups over eager are {mean([r['speedup'] for r, _ in both]):.2f} here and "
        f"{mean([ratio(c) for _, c in both]):.2f} there in the geometric mean, and the start is "
        f"{mean(starts):.0f} times sooner in the geometric mean ({min(starts):.1f} the least)"
    ]


def ratio(beside: Row) -> float:
    """The speedup of a model under torch.compile."""
    return float(beside["eager_ms"] / beside["ms"])


def mean(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _named(rows: list[Row]) -> str:
    return f" ({', '.join(str(r['name']) for r in rows)})" if rows else ""
