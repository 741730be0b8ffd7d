"""What differs at every call: random numbers, of this and of other threads, the time, files."""

from __future__ import annotations

import ctypes
import datetime
import random
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from refactor.runtime.cuda_graphs import graphed

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.filterwarnings("ignore::RuntimeWarning")]


def seeded(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return x + torch.randn_like(x)


def seeded_on_the_device(x: Tensor) -> Tensor:
    torch.cuda.manual_seed(0)
    return x + torch.randn_like(x)


def forked(x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[0]):
        torch.manual_seed(1)
        return x + torch.randn_like(x)


def put_back(x: Tensor) -> Tensor:
    state = torch.cuda.get_rng_state()
    y = x + torch.randn_like(x)
    torch.cuda.set_rng_state(state)
    return y


OWN = torch.Generator("cpu")


def own(x: Tensor) -> Tensor:
    OWN.manual_seed(3)
    return x + float(torch.rand(1, generator=OWN))


SEEDING = {
    "manual_seed": seeded,
    "torch.cuda.manual_seed": seeded_on_the_device,
    "fork_rng": forked,
    "a state that is put back": put_back,
    "a generator of its own on the host": own,
}


@pytest.mark.parametrize("fn", SEEDING.values(), ids=SEEDING.keys())
def test_numbers_are_those_of_plain_calls_for_code_that_seeds_by(fn: Callable[[Tensor], Tensor]) -> None:
    wrapper = graphed(fn)
    x = torch.zeros(3, device="cuda")
    for _ in range(4):
        torch.manual_seed(7)
        want, after = fn(x), torch.cuda.get_rng_state()
        torch.manual_seed(7)
        assert torch.equal(wrapper(x), want)
        assert torch.equal(torch.cuda.get_rng_state(), after)


def test_code_that_seeds_and_does_not_draw_gets_its_graph() -> None:
    def fn(x: Tensor) -> Tensor:
        OWN.manual_seed(3)
        return x * 2

    wrapper = graphed(fn)
    x = torch.ones(3, device="cuda")
    for _ in range(3):
        assert torch.equal(wrapper(x), x * 2)
    assert wrapper.stats()["replays"] == 2


def by_the_clock(x: Tensor) -> Tensor:
    return x + 1 if time.perf_counter_ns() % 2 else x - 1


NUMBER = ctypes.c_int(0)  # memory that cannot be watched


def from_elsewhere(x: Tensor) -> Tensor:
    NUMBER.value += 1
    return x + NUMBER.value


OUTSIDE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "the time": (lambda x: x + time.time(), "it calls time()"),
    "the time to decide": (by_the_clock, "it calls perf_counter_ns()"),
    "the date": (lambda x: x + datetime.datetime.now().microsecond, "it calls datetime.now()"),
    "noise of the system": (lambda x: x + secrets.randbelow(1000), "it calls urandom()"),
    "a file": (lambda x: x + float(Path(__file__).read_text()[:0] or 1), "it calls open()"),
    "a sequence that is put back": (lambda x: x + put_back_on_the_host(), "it calls Random.random()"),
    "a number that is always another": (from_elsewhere, "is called with something else at every call"),
}


def put_back_on_the_host() -> float:
    state = random.getstate()
    drawn = random.random()
    random.setstate(state)
    return drawn


@pytest.mark.parametrize(("fn", "reason"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_every_call_is_a_plain_one_of_code_that_asks_for(fn: Callable[[Tensor], Tensor], reason: str) -> None:
    wrapper = graphed(lambda x: fn(x))
    for _ in range(3):
        wrapper(torch.zeros(2, device="cuda"))
    assert wrapper.stats()["replays"] == 0
    assert reason in next(iter(wrapper.stats()["eager"]))


DRAWS: dict[str, Callable[[], Any]] = {
    "the device": lambda: torch.rand(4, device="cuda").tolist(),
    "the host": lambda: torch.rand(4).tolist(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_a_recording_and_another_thread_leave_each_other_alone_that_draws_on(draw: Any) -> None:
    seen: list[tuple[float, ...]] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def once() -> None:
        try:
            seen.append(tuple(draw()))
        except RuntimeError as error:
            errors.append(error)

    def others() -> None:
        while not done.is_set():
            once()

    def fn(x: Tensor) -> Tensor:
        time.sleep(0.003)  # for the other thread to draw in every run
        return x * 2

    wrapper = graphed(fn)
    x = torch.ones(3, device="cuda")
    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(3):
            assert torch.equal(wrapper(x), x * 2)
    finally:
        done.set()
        thread.join()
    assert len(errors) <= 1, errors  # in the moment in which a capture begins, on a GPU
    assert wrapper.stats()["eager"] == {"recording": 1}
    assert len(seen) > 10
    assert len(set(seen)) == len(seen)  # no number came twice: none was put back
