"""What the commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from refactor.engine import Failure

_SHOWN = 200
"""With this many files or more a terminal shows progress."""


class Unusable(click.ClickException):
    """The command cannot run: configuration or journal. Exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message alone: it starts with the place, as all others."""
        say(self.format_message())


def emit(text: str) -> None:
    """Write a result to standard output. File names that are not UTF-8 are shown with escapes."""
    emit_bytes(text.encode("utf-8", "backslashreplace"))


def emit_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.flush()
    sys.stderr.buffer.write(f"{text}\n".encode("utf-8", "backslashreplace"))
    sys.stderr.buffer.flush()


def say_failures(failures: Iterable[Failure], *, debug: bool) -> None:
    """One ``file:line: message`` line for each, with the traceback of our own errors if asked for."""
    said = set()
    for failure in failures:
        if debug and failure.crash:
            say(failure.crash)
        if failure.error not in said:
            said.add(failure.error)
            say(f"{failure.error.file}:{failure.error.line}: {failure.error.message}")


def count(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal and there is enough to do."""
    if total < _SHOWN or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # No refresh thread: worker processes are forked from this one.
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, total=total)

        def advance(done: int) -> None:
            bar.advance(task, done)
            bar.refresh()

        yield advance
