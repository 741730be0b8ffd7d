"""Threads that run at the same time: they take turns often, and pause in the middle of the user's lines."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .trees import under

SWITCH_S = 1e-6  # threads take turns at almost every instruction
PAUSES, PAUSE_S, PAUSING_S = 0.25, 5e-4, 3.0  # and pause before one line in four, for three seconds in all


def together(workers: list[threading.Thread]) -> None:
    """Run threads to their end, switching between them at almost every instruction."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


_tracing = threading.Lock()


def _trace(function: Callable[..., Any] | None) -> None:
    """Set the trace function of this thread: two threads at once are refused."""
    with _tracing:
        sys.settrace(function)


@contextlib.contextmanager
def hesitating(root: Path, seed: int) -> Iterator[None]:
    """Let this thread pause at some lines of the user's, so that others go on in between: races show."""
    chance = random.Random(hash((seed, threading.get_ident())))
    end = time.monotonic() + PAUSING_S

    def at_line(frame: Any, event: str, argument: Any) -> Any:
        if event == "line" and chance.random() < PAUSES:
            time.sleep(PAUSE_S * chance.random())
            if time.monotonic() > end:  # a long program is not to look as if it hung
                _trace(None)
                return None
        return at_line

    def at_call(frame: Any, event: str, argument: Any) -> Any:
        return at_line if under(frame.f_code.co_filename, root) else None

    before = sys.gettrace()
    _trace(at_call)
    try:
        yield
    finally:
        _trace(before)


@contextlib.contextmanager
def entered(makers: list[Callable[[], contextlib.AbstractContextManager[Any]]]) -> Iterator[None]:
    """All of some contexts, which belong to this thread alone."""
    with contextlib.ExitStack() as stack:
        for make in makers:
            stack.enter_context(make())
        yield
