"""One worker process: start it in the user's interpreter, ask it, and say what became of it when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

from .worker import wire

HERE = Path(__file__).resolve().parent

# Runs before anything of the user's: the empty sys.path[0] of -c goes, and the worker's files are loaded by
# path under private names, so that a user's own refactor, transforms or verify are what his program imports.
BOOTSTRAP = """
import sys
if sys.path and sys.path[0] == "": del sys.path[0]
import faulthandler, importlib.util as u
faulthandler.enable()
try:
    with open("/proc/self/oom_score_adj", "w") as f: f.write("1000")  # the first to go, not the user's shell
except OSError: pass
def load(name, folder):
    s = u.spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])
    m = u.module_from_spec(s); sys.modules[name] = m; s.loader.exec_module(m)
try:
    import torch
except ImportError as e:
    print("NO TORCH:", e, file=sys.stderr); sys.exit(86)
load("_refactor_emulator", sys.argv[1] + "/emulator"); load("_refactor_worker", sys.argv[1] + "/worker")
from _refactor_worker.main import serve
serve(int(sys.argv[2]), int(sys.argv[3]))
"""
NO_TORCH = 86


class WorkerDied(Exception):
    """The worker ended, hung or was killed. ``words`` are its last ones."""

    def __init__(self, how: str, words: str, step: int | None, code: int | None = None) -> None:
        self.how, self.words, self.step, self.code = how, words, step, code
        at = f" at step {step}" if step is not None else ""
        super().__init__(f"{how}{at}" + (f": {words}" if words else ""))


class OutOfTime(BaseException):
    """The time that a target or a run may take is over. ``words`` are the last ones of a worker.

    No Exception: neither hypothesis nor a handler of faults may take it for one.
    """

    def __init__(self, words: str = "") -> None:
        super().__init__(words)
        self.words = words


class Worker:
    """A running worker; ``ask`` sends a request and waits, ``begin`` and ``finish`` do half of it."""

    def __init__(self, side: str, python: str, cwd: Path, over: threading.Event | None = None) -> None:
        self.side = side
        self.over = over or threading.Event()  # once set, whatever is asked raises OutOfTime
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        environment.setdefault("MKL_CBWR", "AVX2,STRICT")  # the same bits wherever operands lie in memory
        environment.pop("PYTHONSAFEPATH", None)
        try:
            self._process = subprocess.Popen(
                [python, "-c", BOOTSTRAP, str(HERE), str(to_read), str(from_write)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(to_read, from_write),
                start_new_session=True,
                env=environment,
                cwd=cwd,
            )
        except OSError:
            for fd in (to_write, from_read):
                os.close(fd)
            raise
        finally:
            os.close(to_read)
            os.close(from_write)
        self._out, self._in = to_write, from_read
        self._words: deque[bytes] = deque(maxlen=40)
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()
        self.step: int | None = None
        self.alive = True

    def _drain(self) -> None:
        """Keep the last words only: a program may print for ever."""
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            while block := os.read(self._process.stdout.fileno(), 1 << 14):
                self._words.extend(line[-400:] for line in block.splitlines()[-40:])

    def begin(self, request: dict[str, Any]) -> None:
        """Send a request. Raises WorkerDied and OutOfTime."""
        if self.over.is_set():
            raise OutOfTime
        self.step = None
        try:
            wire.send(self._out, request)
        except wire.WireClosed:
            self._die(None)

    def finish(self, timeout: float) -> dict[str, Any]:
        """The answer; ``timeout`` in seconds counts anew for every step reported.

        Raises WorkerDied and OutOfTime.
        """
        while True:
            try:
                message = wire.receive(self._in, timeout)
            except wire.WireTimeout:
                self._die(f"no answer within {timeout:g} s")
            except (wire.WireClosed, ValueError):
                self._die(None)
            if "answer" in message:
                answer: dict[str, Any] = message["answer"]
                return answer
            self.step = message.get("step")

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """``begin`` and ``finish``. Raises WorkerDied and OutOfTime."""
        self.begin(request)
        return self.finish(timeout)

    def _die(self, hung: str | None) -> Any:
        code = self.stop(kill=hung is not None)
        self._reader.join(1.0)
        words = b"\n".join(list(self._words)[-12:]).decode(errors="replace").strip()
        if self.over.is_set():
            raise OutOfTime(f"{self.side} worker: {words}" if words else "")
        if hung is not None:
            how = f"hung ({hung})"
        elif code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            how += " (out of memory, or from outside)" if code == -signal.SIGKILL else ""
        else:
            how = f"ended with exit code {code}"
        raise WorkerDied(how, words, self.step, code)

    def interrupt(self) -> None:
        """Kill it from another thread than the one that asks; who waits for an answer is told."""
        if self.alive and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self, kill: bool = False) -> int | None:
        """End the worker and everything it started; its exit code. A second call does nothing."""
        if not self.alive:
            return self._process.returncode
        self.alive = False
        for fd in (self._out, self._in):
            with contextlib.suppress(OSError):
                os.close(fd)
        try:
            code: int | None = self._process.wait(0.0 if kill else 2.0)
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        final = self._process.wait()
        return final if code is None else code


def interpreter(python: str | None, root: Path) -> str:
    """The user's Python: the one named, else the active environment's, else the project's, else ours."""
    if python is not None:
        return python
    active = os.environ.get("VIRTUAL_ENV")
    for folder in ([Path(active)] if active else []) + [root / ".venv"]:
        if (folder / "bin" / "python").is_file():
            return str(folder / "bin" / "python")
    return sys.executable
