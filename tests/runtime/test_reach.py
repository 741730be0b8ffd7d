"""Only what the code that ran can read is watched, and that is enough: each way for code to run unnoticed."""

from __future__ import annotations

import contextlib
import functools
import operator
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed, segment

pytestmark = [
    pytest.mark.usefixtures("device"),
    pytest.mark.filterwarnings("ignore:.*runs eagerly:RuntimeWarning"),
]


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


LEVEL = 1.0
OTHER = 1.0
COUNT = 0
EVENTS: list[str] = []


def level() -> float:
    return LEVEL


class Attribute:
    """A descriptor of a user's own."""

    def __get__(self, owner: Any, kind: Any = None) -> float:
        return LEVEL


class Dynamic:
    def __getattr__(self, name: str) -> float:
        if name == "level":
            return LEVEL
        raise AttributeError(name)


class Called:
    def __call__(self) -> float:
        return LEVEL

    def __len__(self) -> int:
        return int(LEVEL)

    def __iter__(self) -> Iterator[float]:
        yield LEVEL

    def __getitem__(self, key: str) -> float:
        return LEVEL

    def __enter__(self) -> float:
        return LEVEL

    def __exit__(self, *error: Any) -> None:
        EVENTS.clear()

    def __mul__(self, x: Any) -> Any:
        return x * LEVEL


class Meta(type):
    @property
    def level(cls) -> float:
        return LEVEL


class OfMeta(metaclass=Meta):
    pass


class Raising(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.level = LEVEL


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x * LEVEL


class Kept:
    @functools.cached_property
    def level(self) -> float:
        return LEVEL


def generated() -> Iterator[float]:
    yield LEVEL


@contextlib.contextmanager
def managed() -> Iterator[float]:
    yield LEVEL


@functools.singledispatch
def dispatched(value: Any) -> float:
    return 0.0


@dispatched.register
def _(value: str) -> float:
    return LEVEL


def doubled(function: Callable[[], float]) -> Callable[[], float]:
    @functools.wraps(function)
    def call() -> float:
        return 2 * function()

    return call


@doubled
def wrapped() -> float:
    return LEVEL


def raised() -> float:
    try:
        raise Raising
    except Raising as error:
        return error.level


def by_name() -> float:
    return float(getattr(sys.modules[__name__], "LE" + "VEL"))


GET = operator.methodcaller("__call__")
TABLE: dict[str, Callable[[], float]] = {"a": level, "b": lambda: OTHER}

WAYS: dict[str, Callable[[Way, torch.Tensor], torch.Tensor]] = {
    "a helper": lambda m, x: x * level(),
    "a key of a sort": lambda m, x: x * max([1, 2], key=lambda n: n * LEVEL) * LEVEL,
    "a map": lambda m, x: x * sum(map(Called().__mul__, [1.0, 2.0])),
    "a property": lambda m, x: x * m.level,
    "a descriptor": lambda m, x: x * m.described,
    "an attribute made up": lambda m, x: x * m.dynamic.level,
    "an object that is called": lambda m, x: x * m.called(),
    "a length": lambda m, x: x * len(m.called),
    "an iteration": lambda m, x: x * sum(m.called),
    "an item": lambda m, x: x * m.called["a"],
    "an operator": lambda m, x: m.called * x,
    "a context": lambda m, x: x * m.entered(),
    "a managed context": lambda m, x: x * m.managed(),
    "a property of a metaclass": lambda m, x: x * OfMeta.level,
    "an exception": lambda m, x: x * raised(),
    "a function of autograd": lambda m, x: Function.apply(x),
    "a generator": lambda m, x: x * next(generated()),
    "a dispatch by type": lambda m, x: x * dispatched("a"),
    "a decorator": lambda m, x: x * wrapped(),
    "a partial": lambda m, x: x * m.partial(),
    "a caller from elsewhere": lambda m, x: x * GET(level),
    "a table": lambda m, x: x * TABLE["a"](),
    "a class method": lambda m, x: x * m.of_class(),
    "a hook": lambda m, x: m.hooked(x),
    "a thread": lambda m, x: x * in_a_thread(),
    "a pool of threads": lambda m, x: x * POOL.submit(level).result(),
    "a worker behind a queue": lambda m, x: x * asked(),
    "a method of a super class": lambda m, x: super(Way, m).base(x),
}


def in_a_thread() -> float:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(LEVEL))
    thread.start()
    thread.join()
    return found[0]


POOL = ThreadPoolExecutor(1)
QUESTIONS: Any = queue.SimpleQueue()
ANSWERS: Any = queue.SimpleQueue()


def asked() -> float:
    QUESTIONS.put(1)
    return float(ANSWERS.get())


def answering() -> None:
    while QUESTIONS.get() is not None:
        ANSWERS.put(LEVEL)


class Base(nn.Module):
    def base(self, x: torch.Tensor) -> torch.Tensor:
        return x * LEVEL


class Way(Base):
    described = Attribute()

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.dynamic, self.called = way, Dynamic(), Called()
        self.partial, self.lin, self.hooks = functools.partial(level), nn.Linear(3, 3), nn.Identity()
        self.hooks.register_forward_hook(lambda module, args, out: out * LEVEL)

    @property
    def level(self) -> float:
        return LEVEL

    @classmethod
    def of_class(cls) -> float:
        return LEVEL

    def entered(self) -> float:
        with self.called as value:
            return value

    def managed(self) -> float:
        with managed() as value:
            return value

    def hooked(self, x: torch.Tensor) -> torch.Tensor:
        return self.hooks(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WAYS[self.way](self, self.lin(x))


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_code_is_seen_to_run_through(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = threading.Thread(target=answering)
    worker.start()
    try:
        module = Way(way).cuda()
        wrapper = graphed(module)
        for value in (1.0, 3.0, 1.0, 5.0):
            monkeypatch.setattr(sys.modules[__name__], "LEVEL", value)
            for i in range(3):
                x = rnd(2, 3, seed=i)
                same(wrapper(x), module(x))
    finally:
        QUESTIONS.put(None)
        worker.join()


UNSEEN = {"a thread", "a pool of threads", "a worker behind a queue"}


def watch_of(wrapper: Any) -> Any:
    runner = wrapper._cg_runner
    return runner.watches[id(runner.fn)]


@torch.no_grad()
def test_all_is_watched_where_code_may_have_run_elsewhere_and_little_where_not() -> None:
    worker = threading.Thread(target=answering)
    worker.start()
    try:
        for way in WAYS:
            wrapper = graphed(Way(way).cuda())
            for i in range(2):
                wrapper(rnd(2, 3, seed=i))
            assert watch_of(wrapper).only == (way not in UNSEEN), way
    finally:
        QUESTIONS.put(None)
        worker.join()


# ------------------------------------------------------------------------- what did not run and may yet


class Cases(nn.Module):
    """Code that runs for some sizes, modes and settings only."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.kind, self.seen = nn.Linear(3, 3), "plain", 0

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return x * LEVEL

    def other(self, x: torch.Tensor) -> torch.Tensor:
        return x - OTHER

    @functools.cache  # noqa: B019
    def cached(self) -> float:
        return LEVEL

    def by_cache(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.cached()

    def counting(self, x: torch.Tensor) -> torch.Tensor:
        EVENTS.append("counted")
        return x

    def numbering(self, x: torch.Tensor) -> torch.Tensor:
        global COUNT
        COUNT += 1
        return x + COUNT

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = getattr(self, self.kind)(self.lin(x))
        if x.shape[0] == 4:
            x = self.other(x)
        if x.shape[0] == 5:
            x = self.counting(x)
        return self.other(x) if self.training else x


def change(name: str, value: Any) -> Callable[[pytest.MonkeyPatch, Any], None]:
    return lambda patch, module: patch.setattr(sys.modules[__name__], name, value)


def switch_to(kind: str) -> Callable[[pytest.MonkeyPatch, Any], None]:
    return lambda patch, module: setattr(module, "kind", kind)


def cleared(patch: pytest.MonkeyPatch, module: Any) -> None:
    change("LEVEL", 7.0)(patch, module)
    module.cached.cache_clear()


COURSES: dict[str, list[Any]] = {
    "what a path reads is changed before the path is taken": [2, change("OTHER", 3.0), 4],
    "what a path reads is changed after it was taken": [2, 4, 4, change("OTHER", 3.0), 4, 2],
    "what the first path reads is changed after another was taken": [2, 4, change("LEVEL", 3.0), 2, 4],
    "a method is chosen by name": [2, switch_to("other"), change("OTHER", 3.0), 2, switch_to("plain"), 2],
    "modes alternate": [2, "train", 2, "eval", 2, change("OTHER", 3.0), 2, "train", 2, 2],
    "a path that counts on the host": [2, 5, 5, 5, 2, 5],
    "a method that counts is chosen by name": [2, switch_to("numbering"), 2, 2, switch_to("plain"), 2],
    "a cache is cleared": [switch_to("by_cache"), 2, 2, cleared, 2, 2],
}


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES.keys())
@torch.no_grad()
def test_other_code_is_followed_when(course: list[Any]) -> None:
    torch.manual_seed(0)
    module = Cases().cuda().eval()
    results: list[list[torch.Tensor]] = []
    for run in (graphed(module), module.forward):
        EVENTS.clear()
        module.kind = "plain"
        module.eval()
        with pytest.MonkeyPatch.context() as patch:
            module.cached.cache_clear()
            change("COUNT", 0)(patch, module)
            results.append([])
            for i, step in enumerate(course):
                if isinstance(step, str):
                    getattr(module, step)()
                elif callable(step):
                    step(patch, module)
                else:
                    for k in range(3):
                        results[-1].append(run(rnd(step, 3, seed=10 * i + k)))
        results[-1].append(torch.tensor([len(EVENTS), COUNT]))
    same(*results)


@torch.no_grad()
def test_what_only_other_code_names_may_change_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Cases().cuda().eval()
    wrapper = graphed(module)
    for i in range(12):
        monkeypatch.setattr(sys.modules[__name__], "OTHER", float(i))
        same(wrapper(rnd(2, 3, seed=i)), module(rnd(2, 3, seed=i)))
    assert wrapper.stats()["replays"] == 11


@torch.no_grad()
def test_a_watch_grows_with_the_code_that_runs_and_then_stays() -> None:
    module = Cases().cuda().eval()
    wrapper = graphed(module)
    for _ in range(3):
        for rows in (2, 3, 4, 6):
            wrapper(rnd(rows, 3))
    stats = wrapper.stats()
    assert (stats["graphs"], stats["replays"]) == (4, 8)


def test_a_backward_that_may_run_elsewhere_is_watched_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
            return gradient * LEVEL

    weight = rnd(3, 3).requires_grad_()

    def step(x: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(Scaled.apply(x @ weight).sum(), weight)
        return gradient

    wrapper = graphed(step)
    for value in (1.0, 3.0, 5.0):
        monkeypatch.setattr(sys.modules[__name__], "LEVEL", value)
        for i in range(3):
            same(wrapper(rnd(2, 3, seed=i)), step(rnd(2, 3, seed=i)))
    assert wrapper.stats()["replays"] == 6


@torch.no_grad()
def test_a_profiler_that_is_at_work_goes_on_undisturbed() -> None:
    calls: list[str] = []
    module = Cases().cuda().eval()
    wrapper = graphed(module)
    sys.setprofile(lambda frame, event, arg: calls.append(event))
    try:
        for i in range(3):
            wrapper(rnd(2, 3, seed=i))
        before = len(calls)
        module(rnd(2, 3))
        assert len(calls) > before
    finally:
        sys.setprofile(None)
    same(wrapper(rnd(2, 3)), module(rnd(2, 3)))
    assert wrapper.stats()["replays"] == 3


@torch.no_grad()
def test_a_recording_leaves_no_profiler_behind() -> None:
    wrapper = graphed(lambda x: x + 1)
    wrapper(rnd(2))
    assert sys.getprofile() is None


@torch.no_grad()
def test_weights_that_only_a_library_names_are_followed_in_segments() -> None:
    class Own(nn.Linear):
        @segment
        def run(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    module = Own(3, 3).cuda()
    for seed in range(3):
        for i in range(3):
            same(module.run(rnd(2, 3, seed=i)), F.linear(rnd(2, 3, seed=i), module.weight, module.bias))
        module.weight = nn.Parameter(rnd(3, 3, seed=seed))
    (runner,) = vars(module)["_cuda_graphs"].made.values()
    assert runner.stats()["replays"] == 6


def test_a_watch_that_misses_a_tensor_that_is_read_is_not_used() -> None:
    weight = rnd(3, 3)
    wide = cuda_graphs._Watch(lambda x: x @ weight, "fn")
    assert not wide.settled(cuda_graphs._Ran(), {weight.untyped_storage().data_ptr()}, wide).only
