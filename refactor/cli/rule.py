"""``refactor rule``: the documentation of a rule, made from its data."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import click

from refactor.cli.streams import emit
from refactor.engine import catalogue
from refactor.findings import Applicability, Severity
from refactor.rule import Example, Rule

_SEVERITIES = {
    Severity.BREAKS: "capture raises",
    Severity.WRONG: "capture works, a replay gives wrong results",
    Severity.SHAPE: "capture works, but the shape varies between calls",
    Severity.COST: "capture works, or it is outside the graph: only slow",
}
_APPLICABILITIES = {
    Applicability.SAFE: "same results by construction",
    Applicability.VERIFY: "applied by default, unverified until `refactor verify` passes",
    Applicability.MANUAL: "explained, never edited",
}


@click.command(short_help="Show a rule's documentation, or list all rules.")
@click.argument("code", required=False)
def rule(code: str | None) -> None:
    """Show the documentation of the rule CODE (code or name) as Markdown, or list all rules."""
    rules = catalogue()
    if code is None:
        emit(listed(rules))
        return
    for candidate in rules:
        if code.upper() == candidate.code or code.lower() == candidate.name:
            emit(document(candidate))
            return
    words = [word for candidate in rules for word in (candidate.code, candidate.name)]
    close = difflib.get_close_matches(code.upper(), words, 3) or difflib.get_close_matches(
        code.lower(), words, 3
    )
    family = [candidate.code for candidate in rules if candidate.code.startswith(code.upper())]
    hint = ", ".join(family or close)
    advice = f"did you mean {hint}?" if hint else "`refactor rule` lists all"
    raise click.UsageError(f"no rule is called {code!r}; {advice}")


def listed(rules: Sequence[Rule]) -> str:
    """A Markdown table of all rules."""
    rows = ["| code | name | severity | rewrite | what |", "|---|---|---|---|---|"]
    for item in rules:
        cells = (item.code, item.name, item.severity.value, item.applicability.value, item.summary)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def document(item: Rule) -> str:
    """The documentation of one rule."""
    return "\n".join(_sections(item)) + "\n"


def _sections(item: Rule) -> Iterator[str]:
    yield f"# {item.code} {item.name}"
    yield f"\n{item.summary[:1].upper()}{item.summary[1:]}."
    yield f"\nSeverity: **{item.severity.value}** ({_SEVERITIES[item.severity]})."
    yield f"Rewrite: **{item.applicability.value}** ({_APPLICABILITIES[item.applicability]})."
    yield f"\n## What it does\n\n{item.what.strip()}"
    yield f"\n## Why it is bad\n\n{item.why.strip()}"
    if item.invalid:
        yield "\n## Example"
        yield from _example(item.invalid[0])
    if item.rewritten:
        pair = item.rewritten[0]
        yield "\n`refactor apply` turns"
        yield from _code(pair.before)
        yield "\ninto"
        yield from _code(pair.after)
    yield f"\n## Use instead\n\n{item.instead.strip()}"
    if item.valid:
        yield "\n## Not reported"
        yield from _example(item.valid[0])
    if item.error:
        yield f"\n## What the error looks like\n\n```\n{item.error.strip()}\n```"


def _example(example: Example) -> Iterator[str]:
    if example.note:
        yield f"\n{example.note[:1].upper()}{example.note[1:]}:"
    yield from _code(example.code)


def _code(code: str) -> Iterator[str]:
    lines = [line.removesuffix("  # !") for line in code.strip("\n").splitlines()]
    yield "\n".join(["\n```python", *lines, "```"])
