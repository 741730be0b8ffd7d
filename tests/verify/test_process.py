"""Workers that die, hang or print for ever: one verdict, with their last words."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from refactor.verify import process
from refactor.verify.process import NO_TORCH, Worker, WorkerDied, interpreter

SERVER = """
import json, os, struct, sys, time
read, write = int(sys.argv[2]), int(sys.argv[3])
def receive():
    size = struct.unpack("!Q", os.read(read, 8))[0]
    return json.loads(os.read(read, size))
def answer(**m):
    body = json.dumps({"answer": m}).encode(); os.write(write, struct.pack("!Q", len(body)) + body)
while True:
    request = receive()
    exec(request["code"])
"""

# The kernel's way with a process that takes too much, without a machine that is out of memory.
HUNGRY = """
import threading
def killer():
    while int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") < 256 << 20:
        time.sleep(0.001)
    os.kill(os.getpid(), 9)
threading.Thread(target=killer, daemon=True).start()
held = []
while True:
    print("32 MiB more", flush=True); held.append(b"x" * (32 << 20)); time.sleep(0.005)
"""


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Worker:
    """A worker that runs the code of each request; no torch, so that it starts at once."""
    monkeypatch.setattr(process, "BOOTSTRAP", SERVER)
    return Worker("after", sys.executable, tmp_path)


def test_an_answer_comes_back_while_the_program_prints(worker: Worker) -> None:
    code = "for i in range(20000): print('noise', i)\nanswer(ok=True)"
    assert worker.ask({"code": code}, 20) == {"ok": True}
    worker.stop()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param(
            "print('last words', flush=True); os._exit(7)", "ended with exit code 7: last words", id="exit"
        ),
        pytest.param("os.kill(os.getpid(), 9)", "killed by SIGKILL", id="killed"),
        pytest.param("raise ValueError('oops')", "oops", id="exception"),
        pytest.param(HUNGRY, "killed by SIGKILL (out of memory, or from outside): 32 MiB more", id="oom"),
        pytest.param(
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(1 << 31)",
            "MemoryError",
            id="limit",
        ),
        pytest.param("time.sleep(60)", "hung (no answer within 0.5 s)", id="hung"),
        pytest.param("os.close(write); time.sleep(60)", "ended", id="pipe closed"),
    ],
)
def test_the_way_it_ended_and_its_last_words_are_told(worker: Worker, code: str, said: str) -> None:
    start = time.monotonic()
    with pytest.raises(WorkerDied) as caught:
        worker.ask({"code": code}, 0.5 if "hung" in said else 10)
    if "pipe" not in code and said != "ended":
        assert said in str(caught.value)
    assert time.monotonic() - start < 8
    assert not worker.alive


def test_a_second_stop_does_nothing(worker: Worker) -> None:
    worker.stop(kill=True)
    worker.stop(kill=True)


def test_an_interpreter_without_torch_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    shadowed = Worker.__new__(Worker)
    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", str(tmp_path))
    try:
        shadowed = Worker("before", sys.executable, tmp_path)
        with pytest.raises(WorkerDied) as caught:
            shadowed.ask({"op": "hello"}, 20)
        assert caught.value.code == NO_TORCH
    finally:
        environment.undo()


def test_the_interpreter_is_the_one_named_then_the_active_one_then_the_projects_then_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert interpreter("/some/python", tmp_path) == "/some/python"
    assert interpreter(None, tmp_path) == sys.executable
    project = tmp_path / ".venv" / "bin" / "python"
    project.parent.mkdir(parents=True)
    project.touch()
    assert interpreter(None, tmp_path) == str(project)
    active = tmp_path / "active" / "bin" / "python"
    active.parent.mkdir(parents=True)
    active.touch()
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "active"))
    assert interpreter(None, tmp_path) == str(active)
