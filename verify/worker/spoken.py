"""What a program says while it is called: printed text, log records, warnings.

Records and warnings count only where a line of the user's tree gives them: libraries may warn in one of two
right programs and not in the other, as when a capture warms up.
"""

from __future__ import annotations

import contextlib
import dis
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .isolation import Output
from .trees import under

Leaves = list[list[Any]]

LIMIT = 20_000  # characters of text compared for one call
MOST = 10_000  # records, and warnings, of one call
_ALL = "(?s:.*)"
_RATE = re.compile(r"\[[\d:?]+<[\d:?]+,\s*[\d.?]+\w*/\w+")  # of tqdm: times of this run
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)\b")


@dataclass
class Spoken:
    """What one call said, each list in order."""

    out: Output = field(default_factory=Output)
    err: Output = field(default_factory=Output)
    logged: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    filters: list[Any] = field(default_factory=list)  # of warnings, set by lines of the user's tree
    left: dict[str, str] = field(default_factory=dict)  # settings of warnings and output that a call changed

    def printed(self) -> Leaves:
        """Printed text as plain data: words exactly, numbers as numbers."""
        return [*told("stdout", self.out.getvalue()), *told("stderr", self.err.getvalue())]

    def recorded(self) -> Leaves:
        """Log records, then warnings, each as words and numbers."""
        found: Leaves = []
        for name, lines in (("logged", self.logged), ("warned", self.warned)):
            for number, line in enumerate(lines):
                found += told(f"{name} {number}", line)
        return found


class Listener:
    """Hears the log records and warnings of one tree while a call runs. One for each worker."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current: Spoken | None = None

    def install(self) -> None:
        """Listen to every logger, to INFO where the program sets no level, and to ``warnings.warn``."""
        handle, warn = logging.Logger.callHandlers, warnings.warn
        listener = self

        def heard(logger: logging.Logger, record: logging.LogRecord) -> None:
            spoken = listener.current
            if spoken is not None and under(record.pathname, listener.root) and len(spoken.logged) < MOST:
                with contextlib.suppress(Exception):  # a record whose arguments do not fit its format
                    spoken.logged.append(f"{record.levelname} of {record.name}: {record.getMessage()}")
            handle(logger, record)

        def warned(message: Any, category: Any = None, *args: Any, **kwargs: Any) -> None:
            spoken = listener.current
            by = sys._getframe(1).f_code.co_filename
            if spoken is not None and under(by, listener.root) and len(spoken.warned) < MOST:
                kind = type(message) if isinstance(message, Warning) else category or UserWarning
                spoken.warned.append(f"{kind.__name__} {message}")
            kwargs["stacklevel"] = (args[0] if args else kwargs.get("stacklevel", 1)) + 1
            warn(message, category, *args[1:], **kwargs)

        for name in ("simplefilter", "filterwarnings"):
            setattr(warnings, name, self._told_of(getattr(warnings, name)))
        logging.Logger.callHandlers = heard  # type: ignore[method-assign,assignment]
        warnings.warn = warned
        logging.lastResort = logging.NullHandler()  # its output would count as printed text
        if logging.getLogger().level == logging.WARNING:
            logging.getLogger().setLevel(logging.INFO)

    def _told_of(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `warnings` that notes the filters which the user's own code sets with it."""

        def noting(*args: Any, **kwargs: Any) -> Any:
            known = {id(entry) for entry in warnings.filters}
            result = change(*args, **kwargs)
            if self.current is not None and under(sys._getframe(1).f_code.co_filename, self.root):
                self.current.filters += [entry for entry in warnings.filters if id(entry) not in known]
            return result

        return noting

    @contextlib.contextmanager
    def listening(self, spoken: Spoken) -> Iterator[None]:
        """Collect what is said inside the block."""
        before, self.current = self.current, spoken
        try:
            with (
                contextlib.redirect_stdout(spoken.out),
                contextlib.redirect_stderr(spoken.err),
                warnings.catch_warnings(),
            ):
                warnings.filterwarnings("ignore", message=_ALL)  # no filter of a program's is equal to it
                yield
                kept = {id(entry) for entry in warnings.filters}  # importing a library may set some as well
                changed = any(id(entry) in kept for entry in spoken.filters)
                spoken.left = spoken.left or {
                    "filters of warnings": "changed" if changed else "as before the call",
                    "standard output": "as before the call" if sys.stdout is spoken.out else "another one",
                }
        finally:
            self.current = before


def told(name: str, text: str) -> Leaves:
    """Text: the words exactly, the numbers in it as numbers, addresses of objects left out."""
    if not text:
        return []
    text = re.sub(r"0x[0-9a-fA-F]+", "0x", shown(text))
    if not text:
        return []
    numbers = _NUMBER.findall(text)
    words = _NUMBER.sub("#", text)
    leaves: Leaves = [[name, ["value", "str", repr(words[:LIMIT])]]]
    leaves += [[f"{name} number {i}", ["number", "printed", n]] for i, n in enumerate(numbers[:500])]
    return leaves


def shown(text: str) -> str:
    """The text as a terminal shows it in the end, without the times of a progress bar.

    How often a line is drawn over depends on how long the work took: only what stays is compared.
    """
    if "\r" not in text:
        return text
    lines = []
    for line in text.split("\n"):
        parts = line.split("\r")
        screen = ""
        for part in parts:
            screen = part + screen[len(part) :]
        lines.append(_RATE.sub("[", screen).rstrip() if len(parts) > 1 else line)
    return "\n".join(lines)


def said_by(error: BaseException, root: Path) -> bool:
    """Whether a line of the user's tree raised it, so that its message is the user's own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not under(trace.tb_frame.f_code.co_filename, root):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE


_RAISE = dis.opmap["RAISE_VARARGS"]


def quantum(text: str) -> float:
    """One unit in the last place of a printed number: 0.01 for ``0.12``, 1 for ``12``."""
    mantissa, _, exponent = text.lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(exponent or 0) - digits))
