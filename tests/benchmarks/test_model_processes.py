"""Which models of the harness may be at work at the same time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from model_processes import Turns


def test_a_model_that_is_larger_than_the_device_is_tried_when_no_other_is_at_work() -> None:
    with Turns(10.0).place(50.0, work=True):
        pass


def test_a_model_waits_for_the_memory_of_another() -> None:
    turns, order = Turns(10.0), list[str]()

    def second() -> None:
        with turns.place(6.0, work=True):
            order.append("second")

    with turns.place(6.0, work=True):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_no_process_starts_while_another_is_timed() -> None:
    turns, order = Turns(None), list[str]()

    def start() -> None:
        with turns.start():
            order.append("started")

    with turns.stillness():
        thread = threading.Thread(target=start)
        thread.start()
        thread.join(0.2)
        order.append("timed")
    thread.join(5)
    assert order == ["timed", "started"]
