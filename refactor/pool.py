"""Many files at once: worker processes, results in the order given, a dead worker blamed on one file.

Processes, because parsing and analysis are Python. A worker that dies takes its pool with it; the files it
may have been working on are then done again, each in a process of its own, so that only the culprit is
reported.

There is no garbage collection while files are looked at: it would go over all syntax trees that are kept
again and again, which takes longer than parsing, and it would find next to nothing.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

from refactor.engine import Examined, Examiner, Failure, Job, Order, Rewritten, Task
from refactor.findings import FileError

ALONE = 24
"""Up to this many files are done in this process: starting others would take longer."""
_CHUNK = 16

Item = Job | Order
Rows = list[tuple[int, Item]]
Done = list[tuple[int, Examined | Rewritten]]


def _nothing(count: int) -> None:
    """Progress nobody looks at."""


class Crew:
    """Those who work on the files of one run: this process, or others that live as long as the run.

    A file is rewritten by the process that examined it, which still knows it, unless that one has more to do
    than another. Results come in the order of what was given, whoever made them.
    """

    def __init__(self, task: Task, workers: int | None = None) -> None:
        """Start nothing yet.

        Args:
            task: what to do with each file.
            workers: number of processes; by default one for each CPU if there are more than `ALONE` files.
        """
        self.task, self.workers = task, workers
        self._examiner: Examiner | None = None
        self._pools: list[ProcessPoolExecutor] = []
        self._met: dict[Job, int] = {}  # the place of the pool that knows a file

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        # not left to the interpreter's exit, which may find its pipes closed already
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)
        self._pools.clear()

    def examine(self, jobs: Sequence[Job], advance: Callable[[int], None] = _nothing) -> list[Examined]:
        """Examine files.

        Args:
            jobs: the files.
            advance: called with the number of files that were just finished.
        """
        return [row for row in self._run(jobs, advance) if isinstance(row, Examined)]

    def rewrite(self, orders: Sequence[Order], advance: Callable[[int], None] = _nothing) -> list[Rewritten]:
        """Make the patches of files, as `examine` does."""
        return [row for row in self._run(orders, advance) if isinstance(row, Rewritten)]

    def _run(self, items: Sequence[Item], advance: Callable[[int], None]) -> list[Examined | Rewritten]:
        many = len(items) > ALONE or bool(self._pools)
        count = self.workers if self.workers is not None else _cpus() if many else 1
        results: dict[int, Examined | Rewritten] = {}
        for done in self._here(items) if count <= 1 else self._pooled(items, count):
            results.update(done)
            advance(len(done))
        return [results[index] for index in range(len(items))]

    def _here(self, items: Sequence[Item]) -> Iterator[Done]:
        if not items:
            return
        if self._examiner is None:
            self._examiner = Examiner(self.task)
        collecting = gc.isenabled()
        gc.disable()
        try:
            for index, item in enumerate(items):
                yield [(index, _one(self._examiner, item))]
        finally:
            if collecting:
                gc.enable()

    def _pooled(self, items: Sequence[Item], workers: int) -> Iterator[Done]:
        self._pools += [_pool() for _ in range(workers - len(self._pools))]
        waiting = self._shared_out(items, workers)
        running: dict[Future[Done], tuple[int, Rows]] = {}
        while running or any(waiting):
            for place in range(workers):
                while sum(where == place for where, _ in running.values()) < 2 and any(waiting):
                    rows = waiting[place].pop() if waiting[place] else max(waiting, key=len).pop()
                    running[self._begun(place, rows)] = place, rows
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, rows = running.pop(future)
                if not isinstance(future.exception(), BrokenProcessPool):
                    yield future.result()
                    continue
                lost = [more for where, more in running.values() if where == place]
                running = {other: kept for other, kept in running.items() if kept[0] != place}
                self._pools[place].shutdown(wait=False, cancel_futures=True)
                self._pools[place] = _pool()
                yield from _one_by_one(
                    sorted([*rows, *(row for more in lost for row in more)], key=_index), self.task
                )
                break

    def _begun(self, place: int, rows: Rows) -> Future[Done]:
        """Give work to a process; one that has died meanwhile fails it as what it died of."""
        self._met.update((_job(item), place) for _, item in rows)
        try:
            return self._pools[place].submit(_all, self.task, rows)
        except BrokenProcessPool as error:
            failed: Future[Done] = Future()
            failed.set_exception(error)
            return failed

    def _shared_out(self, items: Sequence[Item], workers: int) -> list[list[Rows]]:
        """For each process the chunks it will do, the last one first."""
        size = max(1, min(_CHUNK, len(items) // (4 * workers)))
        known: list[Rows] = [[] for _ in range(workers)]
        fresh: Rows = []
        for index, item in enumerate(items):
            place = self._met.get(_job(item))
            (known[place] if place is not None and place < workers else fresh).append((index, item))
        shared: list[list[Rows]] = [_chunks(rows, size) for rows in known]
        for place, rows in enumerate(_chunks(fresh, size)):
            shared[place % workers].append(rows)
        for chunks in shared:
            chunks.reverse()
        return shared


def _chunks(rows: Rows, size: int) -> list[Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _index(row: tuple[int, Item]) -> int:
    return row[0]


def _job(item: Item) -> Job:
    return item if isinstance(item, Job) else item.job


def _one(examiner: Examiner, item: Item) -> Examined | Rewritten:
    return examiner.examine(item) if isinstance(item, Job) else examiner.rewrite(item)


def _one_by_one(suspects: Rows, task: Task) -> Iterator[Done]:
    pool = _pool()
    for index, item in suspects:
        try:
            yield pool.submit(_all, task, [(index, item)]).result()
        except BrokenProcessPool:  # noqa: PERF203  # that is the point
            yield [(index, _died(item))]
            pool.shutdown()
            pool = _pool()
    pool.shutdown()


def _died(item: Item) -> Examined | Rewritten:
    message = "the process that worked on it died: out of memory, or a crash of the interpreter"
    failure = Failure(FileError(_job(item).file, 1, message))
    return Examined(item, failure=failure) if isinstance(item, Job) else Rewritten(item, failure=failure)


def _pool() -> ProcessPoolExecutor:
    """One process, which forgets nothing until it is shut down."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    return ProcessPoolExecutor(1, multiprocessing.get_context(method), _start)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    gc.freeze()
    gc.disable()


@lru_cache(maxsize=1)
def _examiner(task: Task) -> Examiner:
    """One for the life of a worker process, so that parsed modules are kept."""
    return Examiner(task)


def _all(task: Task, rows: Rows) -> Done:
    examiner = _examiner(task)
    return [(index, _one(examiner, item)) for index, item in rows]


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
