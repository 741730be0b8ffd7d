"""Room for deep recursion: what the interpreter of a syntax tree needs of the interpreter it runs in."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

RECURSION = 5000
"""Python frames an analysis may stack up before it gets a stack of its own."""
DEEP = 200_000
"""Python frames on such a stack: a chain of a thousand calls needs a dozen for each."""
STACK = 512 * 2**20
"""Bytes of such a stack; what is not used is not taken."""
_WORDS = 2**18

T = TypeVar("T")


def roomily(work: Callable[[], T]) -> T:
    """What ``work`` gives, the Python frames below it in one block of memory.

    From 3.11 on, CPython keeps frames in blocks of 16 KiB that it maps and unmaps, so calls that go up and
    down across the end of a block pay for a system call and page faults each: a tenth of the time of a check.
    A frame that is larger than a block gets one of twice its size or less, and what the frame leaves of it is
    taken by the frames below. Its own half is never touched, so it takes no memory.
    """
    return work()


# A frame of just over a power of two: half of its block, 2 MiB, is left. Older versions allocate each frame.
roomily.__code__ = roomily.__code__.replace(co_stacksize=_WORDS)


def deeply(work: Callable[[], T]) -> T:
    """What ``work`` gives on a stack of its own that is large enough for deeply nested code.

    Raises:
        RecursionError: it is too deep even for that, or there is no memory for such a stack.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(roomily(work))
        except BaseException as error:  # raised again below, in the thread that asked
            failed.append(error)

    limit, size = sys.getrecursionlimit(), threading.stack_size()
    try:
        threading.stack_size(STACK)
        thread = threading.Thread(target=run, daemon=True)
        sys.setrecursionlimit(DEEP)
        thread.start()
        thread.join()
    except (RuntimeError, ValueError):
        raise RecursionError from None
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)
    if failed:
        raise failed[0]
    return done[0]
