"""The processes of ``benchmarks/models.py``: started, asked, held back while memory is short, stood still."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]


class Turns:
    """Who may run: as many models at once as the device has memory for, and one alone while it is timed.

    Sizes are in GiB. ``room`` is what the device has; None where there is none to run short of.
    """

    START = 2.5  # two contexts of CUDA with their libraries
    FOLD = 9  # peaks of the first eager forward: two sides, a graph's memory, and a run in float64

    def __init__(self, room: float | None) -> None:
        self.room, self.used, self.working = room, 0.0, 0
        self.starting, self.still = 0, False
        self.changed = threading.Condition()
        self.processes: set[Process] = set()

    @contextlib.contextmanager
    def place(self, size: float, *, work: bool = False) -> Iterator[None]:
        """Hold room of this size; whoever would be the only one at work may always go on."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.room is None or self.used + size <= self.room or not self.working
            )
            self.used += size
            self.working += work
        try:
            yield
        finally:
            with self.changed:
                self.used -= size
                self.working -= work
                self.changed.notify_all()

    @contextlib.contextmanager
    def start(self) -> Iterator[None]:
        """Start a process: not while another is timed."""
        with self.changed:
            self.changed.wait_for(lambda: not self.still)
            self.starting += 1
        try:
            yield
        finally:
            with self.changed:
                self.starting -= 1
                self.changed.notify_all()

    @contextlib.contextmanager
    def stillness(self, *others: Process) -> Iterator[None]:
        """Stop every process but these; what they had launched is done soon after."""
        with self.changed:
            self.changed.wait_for(lambda: not self.still)
            self.still = True
            self.changed.wait_for(lambda: not self.starting)
            stopped = [p for p in self.processes if p not in others]
            for process in stopped:
                process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                process.signal(signal.SIGCONT)
            with self.changed:
                self.still = False
                self.changed.notify_all()


class Workers:
    """Where the processes of one side come from: one that has imported the libraries, and copies of it."""

    def __init__(
        self, tree: Path, packages: list[str], folder: Path, turns: Turns, options: argparse.Namespace
    ) -> None:
        self.tree, self.packages, self.folder, self.options = tree, packages, folder, options
        self.turns = turns
        self.fresh = False  # set where a copy cannot use the device: then each has to start from nothing
        self.count = itertools.count()
        self.nursery = self._start(once=False)

    def _start(self, *, once: bool) -> tuple[subprocess.Popen[bytes], Path, Path]:
        number = next(self.count)
        place, log = (
            self.folder / f"{self.tree.name}{number}.sock",
            self.folder / f"{self.tree.name}{number}.log",
        )
        options = self.options
        command = [options.python, str(HERE / "model_worker.py"), "--tree", str(self.tree), "--builder",
                   str(options.builder), "--device", options.device, "--socket", str(place), "--packages",
                   *self.packages]  # fmt: skip
        command += ["--prelude", str(options.prelude)] if options.prelude else []
        command += ["--once"] if once else []
        environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", HF_HUB_OFFLINE="1")
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        environment.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking for a device must not start it
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       env=environment)  # fmt: skip
        return process, place, log

    def process(self) -> Process:
        """A process for one model."""
        with self.turns.start():
            if not self.fresh:
                made = Process(self.nursery, self._log(), self.turns)
                if not made.unfit:
                    return made
                made.close()
                self.fresh = True
            return Process(self._start(once=True), self._log(), self.turns)

    def _log(self) -> Path:
        return self.folder / f"{self.tree.name}-{next(self.count)}.log"

    def close(self) -> None:
        """End the process that the others are copies of."""
        self.nursery[0].kill()
        self.nursery[0].wait()


class Process:
    """One side of one model."""

    def __init__(self, origin: tuple[subprocess.Popen[bytes], Path, Path], log: Path, turns: Turns) -> None:
        self.log, self.pid, self.turns = log, 0, turns
        self.socket = socket.socket(socket.AF_UNIX)
        end = time.time() + 180
        while True:
            try:
                self.socket.connect(str(origin[1]))
                break
            except OSError:
                if origin[0].poll() is not None or time.time() > end:
                    raise RuntimeError(f"no process: {_last_line(origin[2])}") from None
                time.sleep(0.05)
        self.stream = self.socket.makefile("rw")
        hello = self.ask("hello", log=str(log))
        self.pid, self.unfit = hello.get("pid", 0), "error" in hello
        with turns.changed:
            turns.processes.add(self)

    def ask(self, op: str, limit: float = 300.0, **request: Any) -> Row:
        """The answer, or ``{"error": …}`` if there is none within ``limit`` seconds."""
        self.tell(op, **request)
        return self.hear(op, limit)

    def tell(self, op: str, **request: Any) -> None:
        """Ask without waiting for the answer."""
        with contextlib.suppress(OSError):  # `hear` says that it ended
            self.stream.write(json.dumps({"op": op, **request}) + "\n")
            self.stream.flush()

    def hear(self, op: str, limit: float = 300.0) -> Row:
        """The answer to what was told."""
        self.socket.settimeout(limit)
        try:
            line = self.stream.readline()
        except OSError:
            line = ""
        if line:
            return dict(json.loads(line))
        return {"error": f"the process ended in `{op}`: {_last_line(self.log)}"}

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """End it."""
        with self.turns.changed:
            self.turns.processes.discard(self)
        self.signal(signal.SIGKILL)
        self.stream.close()
        self.socket.close()


def _last_line(log: Path) -> str:
    words = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return words[-1] if words else "no output"
