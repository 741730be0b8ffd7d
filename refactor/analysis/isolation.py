"""What is found out once for a process, whichever file asks first: results must not depend on that.

The attributes of a class, the value of a top-level name and the summary of a call into another file are
*questions*. Each is answered by interpreting code in a state of its own, so that the answer depends on the
code alone: not on the file that asked, on how deep it was, or on what was asked before. A question that
comes up while it is being answered (a constructor that needs its own class) is open; whoever asks gets what
is known so far. Answers found in the course of an open question depend on it. They serve until it is
answered and are then forgotten, so that each question is finally answered from its own beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Question = tuple[Any, ...]
"""Its kind, and what it is about: hashable values."""
LIMIT = 80
"""Functions interpreted inside one another below the first open question."""
MAX_ANSWERS = 100_000
"""Answers kept before all are dropped."""


@dataclass(slots=True)
class _Answer:
    value: Any
    height: int
    """Functions that were interpreted inside one another for it."""
    cycle: frozenset[Question]
    """Questions it was asked from again: while one of them is open, another answer holds."""
    calls: frozenset[Any]
    """Functions whose summaries it took: while one of them is open, a call of it is recursion."""
    low: int = 0
    """For a loose answer: place of the first open question that it depends on."""


@dataclass(slots=True)
class _Open:
    start: int
    top: int
    low: int
    calls: set[Any]
    cycle: frozenset[Question] = frozenset()


class Answers:
    """Answers by question, and the questions that are open."""

    def __init__(self) -> None:
        self._known: dict[Question, _Answer] = {}
        self._loose: dict[Question, _Answer] = {}
        self._places: dict[Question, int] = {}
        self._open: list[_Open] = []
        self._calls: dict[Any, int] = {}  # functions whose summaries are open, with their places

    def __contains__(self, question: Question) -> bool:
        """Whether a question is open."""
        return question in self._places

    def recurs(self, node: object) -> bool:
        """Whether a call of this function is open, whatever its arguments; what asks then depends on it."""
        place = self._calls.get(node)
        if place is None:
            return False
        self._open[-1].low = min(self._open[-1].low, place)
        return True

    @property
    def busy(self) -> bool:
        """Whether any question is open."""
        return bool(self._open)

    def trim(self) -> None:
        """Drop all answers if there are too many; they will be found again."""
        if len(self._known) > MAX_ANSWERS:
            self._known.clear()

    def reached(self, depth: int) -> bool:
        """Note how many functions are being interpreted inside one another; False: no more may."""
        if not self._open:
            return True
        current = self._open[-1]
        current.top = max(current.top, depth)
        if depth <= LIMIT:
            return True
        current.low = 0  # another start might have come further
        return False

    def ask(self, question: Question, depth: int, find: Callable[[], Any]) -> Any:
        """The answer to a question; None while it is open, or when it is too deep down.

        Args:
            question: its kind and what it is about.
            depth: functions being interpreted inside one another, counted from the first open question.
            find: interprets what the answer depends on, in a state of its own; never returns None.
        """
        opened = self._open
        known = self._known.get(question)
        if known is not None:
            fits = depth + known.height <= LIMIT or not opened
            apart = not opened or (
                (not known.cycle or known.cycle.isdisjoint(self._places))
                and (not self._calls or known.calls.isdisjoint(self._calls))
            )
            if fits and apart:
                self._used(known, depth)
                return known.value
        place = self._places.get(question)
        if place is not None:
            opened[-1].low = min(opened[-1].low, place)
            return None
        loose = self._loose.get(question)
        if loose is not None:
            opened[-1].low = min(opened[-1].low, loose.low)
            self._used(loose, depth)
            return loose.value
        if depth > LIMIT:
            self.reached(depth)
            return None
        return self._find(question, depth, find)

    def _used(self, answer: _Answer, depth: int) -> None:
        if self._open:
            current = self._open[-1]
            current.top = max(current.top, depth + answer.height)
            current.calls |= answer.calls
            if answer.cycle and answer.cycle is not current.cycle:
                current.cycle |= answer.cycle

    def _find(self, question: Question, depth: int, find: Callable[[], Any]) -> Any:
        place = len(self._open)
        mine = _Open(depth, depth, place, set())
        self._open.append(mine)
        self._places[question] = place
        if question[0] == "call":
            self._calls[question[1]] = place
            mine.calls.add(question[1])
        try:
            value = find()
        finally:
            self._open.pop()
            del self._places[question]
            if question[0] == "call":
                del self._calls[question[1]]
        below = [asked for asked, answer in self._loose.items() if answer.low >= place] if self._loose else []
        if below:
            mine.cycle |= frozenset((question, *below))
        answer = _Answer(value, mine.top - mine.start, mine.cycle, frozenset(mine.calls), mine.low)
        if mine.low >= place:
            for asked in below:
                del self._loose[asked]
            self._known.setdefault(question, answer)
        else:
            for asked in below:
                self._loose[asked].low = mine.low
            self._loose[question] = answer
            self._open[-1].low = min(self._open[-1].low, mine.low)
        self._used(answer, depth)
        return value
