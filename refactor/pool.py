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


def examine(
    jobs: Sequence[Job], task: Task, workers: int | None = None, advance: Callable[[int], None] = _nothing
) -> list[Examined]:
    """Examine files; results come in their order.

    Args:
        jobs: the files.
        task: what to do with each.
        workers: number of processes; by default one for each CPU if there are more than `ALONE` files.
        advance: called with the number of files that were just finished.
    """
    return [row for row in _run(jobs, task, workers, advance) if isinstance(row, Examined)]


def rewrite(
    orders: Sequence[Order], task: Task, workers: int | None = None, advance: Callable[[int], None] = _nothing
) -> list[Rewritten]:
    """Make the patches of files, as `examine` does."""
    return [row for row in _run(orders, task, workers, advance) if isinstance(row, Rewritten)]


def _run(
    items: Sequence[Item], task: Task, workers: int | None, advance: Callable[[int], None]
) -> list[Examined | Rewritten]:
    count = workers if workers is not None else _cpus() if len(items) > ALONE else 1
    results: dict[int, Examined | Rewritten] = {}
    for done in _here(items, task) if count <= 1 else _pooled(items, task, count):
        results.update(done)
        advance(len(done))
    return [results[index] for index in range(len(items))]


def _here(items: Sequence[Item], task: Task) -> Iterator[Done]:
    if not items:
        return
    examiner = Examiner(task)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index, item in enumerate(items):
            yield [(index, _one(examiner, item))]
    finally:
        if collecting:
            gc.enable()


def _one(examiner: Examiner, item: Item) -> Examined | Rewritten:
    return examiner.examine(item) if isinstance(item, Job) else examiner.rewrite(item)


def _pooled(items: Sequence[Item], task: Task, workers: int) -> Iterator[Done]:
    size = max(1, min(_CHUNK, len(items) // (4 * workers)))
    rows = list(enumerate(items))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    chunks.reverse()
    while chunks:
        running: dict[Future[Done], Rows] = {}
        pool = _pool(workers)
        try:
            while chunks or running:
                while chunks and len(running) < 2 * workers:
                    chunk = chunks.pop()
                    running[pool.submit(_all, task, chunk)] = chunk
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
            pool.shutdown()  # not left to the interpreter's exit, which may find its pipes closed already
        except BrokenProcessPool:
            suspects = [row for chunk in running.values() for row in chunk]
            yield from _one_by_one(sorted(suspects, key=lambda row: row[0]), task)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_by_one(suspects: Rows, task: Task) -> Iterator[Done]:
    pool = _pool(1)
    for index, item in suspects:
        try:
            yield pool.submit(_all, task, [(index, item)]).result()
        except BrokenProcessPool:  # noqa: PERF203  # that is the point
            yield [(index, _died(item))]
            pool.shutdown()
            pool = _pool(1)
    pool.shutdown()


def _died(item: Item) -> Examined | Rewritten:
    job = item if isinstance(item, Job) else item.job
    message = "the process that worked on it died: out of memory, or a crash of the interpreter"
    failure = Failure(FileError(job.file, 1, message))
    return Examined(item, failure=failure) if isinstance(item, Job) else Rewritten(item, failure=failure)


def _pool(workers: int) -> ProcessPoolExecutor:
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start)


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
