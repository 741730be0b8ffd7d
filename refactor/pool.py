"""Many files at once: worker processes, results in the order of the files, a dead worker blamed on a file.

Processes, because parsing and analysis are Python. A worker that dies takes its pool with it; the files it
may have been reading are then read again, each in a process of its own, so that only the culprit is reported.
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

from refactor.engine import Examiner, Job, Result, Task
from refactor.findings import FileError

ALONE = 24
"""Up to this many files are examined in this process: starting others would take longer."""
_CHUNK = 16

Rows = list[tuple[int, Job]]
Done = list[tuple[int, Result]]


def examine(
    jobs: Sequence[Job],
    task: Task,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Result]:
    """Examine files and return the results in their order.

    Args:
        jobs: the files.
        task: what to do with each.
        workers: number of processes; by default one for each CPU if there are more than `ALONE` files.
        advance: called with the number of files that were just finished.
    """
    count = workers if workers is not None else _cpus() if len(jobs) > ALONE else 1
    results: dict[int, Result] = {}
    for done in _here(jobs, task) if count <= 1 else _pooled(jobs, task, count):
        results.update(done)
        advance(len(done))
    return [results[index] for index in range(len(jobs))]


def _here(jobs: Sequence[Job], task: Task) -> Iterator[Done]:
    examiner = Examiner(task)
    for index, job in enumerate(jobs):
        yield [(index, examiner(job))]


def _pooled(jobs: Sequence[Job], task: Task, workers: int) -> Iterator[Done]:
    size = max(1, min(_CHUNK, len(jobs) // (4 * workers)))
    rows = list(enumerate(jobs))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    chunks.reverse()
    while chunks:
        running: dict[Future[Done], Rows] = {}
        pool = _pool(workers)
        try:
            while chunks or running:
                while chunks and len(running) < 2 * workers:
                    chunk = chunks.pop()
                    running[pool.submit(_examine_all, task, chunk)] = chunk
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
        except BrokenProcessPool:
            pool.shutdown()
            suspects = [row for chunk in running.values() for row in chunk]
            yield from _one_by_one(sorted(suspects, key=lambda row: row[0]), task)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_by_one(suspects: Rows, task: Task) -> Iterator[Done]:
    pool = _pool(1)
    for index, job in suspects:
        try:
            yield pool.submit(_examine_all, task, [(index, job)]).result()
        except BrokenProcessPool:  # noqa: PERF203
            pool.shutdown()
            message = "the process that examined it died: out of memory, or a crash of the interpreter"
            yield [(index, Result(job, errors=(FileError(job.file, 1, message),)))]
            pool = _pool(1)
    pool.shutdown()


def _pool(workers: int) -> ProcessPoolExecutor:
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() and os.name == "posix" else "spawn"
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    gc.freeze()


@lru_cache(maxsize=1)
def _examiner(task: Task) -> Examiner:
    """One for the life of a worker process, so that parsed modules are kept."""
    return Examiner(task)


def _examine_all(task: Task, rows: Rows) -> Done:
    examiner = _examiner(task)
    done = [(index, examiner(job)) for index, job in rows]
    gc.freeze()  # what the project keeps need not be looked at again
    return done


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
