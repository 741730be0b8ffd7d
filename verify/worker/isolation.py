"""Keep what a program does to its process from reaching the next call: endless output, forks, directories."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

OVERLAY = ".refactor-overlay"  # lies in a rebuilt original, whose other files are links to the working tree
KEPT = 1 << 18  # characters of output that are kept of one call; of the rest only the number counts
ECHOED = 4096  # characters of one write that are passed on, for the last words of a worker that dies
STICKY = (
    "device-side assert", "illegal memory access", "misaligned address", "illegal instruction",
    "unspecified launch failure", "hardware stack error",
)  # fmt: skip
"""Errors of CUDA after which nothing on the device works in a process."""


class Output(io.StringIO):
    """What a call prints. A program may print for ever: only the beginning is kept.

    Everything is passed on to the process's own output, whose last lines are told when the worker dies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def write(self, text: str) -> int:
        """Keep the beginning, and pass the text on."""
        with contextlib.suppress(OSError):  # the program may have closed it
            os.write(1, text[-ECHOED:].encode(errors="replace"))
        if self.length < KEPT:
            super().write(text[: KEPT - self.length])
        self.length += len(text)
        return len(text)

    def getvalue(self) -> str:
        """The text kept, and how much more there was."""
        more = self.length - KEPT
        return super().getvalue() + (f"\n… and {more} characters more" if more > 0 else "")


def part_at_fork(*pipes: int) -> None:
    """A child the program forks must not answer for its parent: it loses the pipes."""

    def close() -> None:
        for pipe in pipes:
            with contextlib.suppress(OSError):
                os.close(pipe)

    os.register_at_fork(after_in_child=close)


def go_home(root: Path) -> None:
    """Back to the folder of the tree, which the program may have left."""
    with contextlib.suppress(OSError):
        os.chdir(root)


def is_sticky(message: str) -> bool:
    """Whether an error of CUDA ends all further work on the device in this process."""
    return any(words in message for words in STICKY)
