"""What the messages of all rules have in common: quoted source, and the chain that reaches the place."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

from refactor.analysis.model import Event, EventKind, Facts
from refactor.analysis.rounds import between
from refactor.findings import Applicability, Severity
from refactor.rule import Hit

_WIDTH = 60


def quote(facts: Facts, node: ast.AST | None) -> str:
    """The source of a node on one line, in backticks, cut to a readable length."""
    if node is None:
        return "this"
    text = " ".join(facts.source.snippet(node).split())
    return f"`{text if len(text) <= _WIDTH else text[: _WIDTH - 1] + '…'}`"


def via(event: Event) -> str:
    """How the region reaches the place, where it is not the region itself."""
    return f" ({' → '.join(event.chain)})" if len(event.chain) > 1 else ""


def hits(
    *kinds: EventKind, message: Callable[[Facts, Event], str | None]
) -> Callable[[Facts], Iterable[Hit]]:
    """A detection that reports every event of the kinds for which ``message`` has something to say."""

    def detect(facts: Facts) -> Iterable[Hit]:
        for event in facts.events:
            if event.kind in kinds:
                text = message(facts, event)
                if text is None:
                    continue
                only = event.extra.get("only")
                if isinstance(only, ast.expr):
                    text += f", but only where {quote(facts, only)}: there it breaks a capture"
                    yield Hit(event, text + via(event), Severity.COST, Applicability.MANUAL)
                else:
                    yield Hit(event, text + via(event))
            elif event.kind is EventKind.ROUND_READ and event.extra.get("as") in kinds:
                yield Hit(event, _waits(facts, event), Severity.COST, Applicability.MANUAL)

    return detect


def _waits(facts: Facts, event: Event) -> str:
    """Why a read between the graphs of a loop costs, and what to do about it."""
    place = event.extra.get("place")
    how = f"reads a value back ({place})" if place else "is read back"
    return (
        f"{quote(facts, event.node)} {how} at every step of the loop that calls `{event.detail}`: "
        f"this breaks no capture, but the device idles while the host waits; {between(event)}"
    )
