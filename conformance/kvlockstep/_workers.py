"""Worker processes, one pinned to each core.

Two processes that share two cores unpinned give as much as one: MLX evaluates on a thread of its
own, and the two threads of each process get in the other's way. Pinned, they give double.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from kvlockstep._gate import run_job
from kvlockstep._jobs import Job, JobReport
from kvlockstep._settings import Settings


def cores() -> list[int]:
    """Return the cores that this process may use; where that cannot be told, just numbers."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Put all threads of this process on one core, where the system can do that.

    As a batch process: else each task that MLX enqueues wakes its thread, which then preempts the
    one that enqueues. Worth a tenth in value mode, a sixth in in-place mode.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    tasks = Path("/proc/self/task")
    threads = [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]
    for thread in threads:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, {core})
            if hasattr(os, "SCHED_BATCH"):
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def run_jobs(
    jobs: Iterable[Job], settings: Settings, workers: int
) -> Iterator[tuple[Job, JobReport]]:
    """Run `jobs` in `workers` processes and yield their reports as they come.

    A target that kills its process (a signal, `os._exit`) breaks the run, and says so.
    """
    with pool(workers) as executor:
        futures = {executor.submit(run_job, job, settings): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            try:
                yield job, future.result()
            except BrokenProcessPool:
                yield job, JobReport(broken=[f"{job.kind} {job}: the process died: did it crash?"])


def pool(workers: int) -> ProcessPoolExecutor:
    """Return an executor of `workers` processes, each pinned where there is a core for each."""
    context = get_context("spawn")
    queue: SimpleQueue[int | None] = context.SimpleQueue()
    free = cores()
    for number in range(workers):
        queue.put(free[number] if workers <= len(free) else None)
    return ProcessPoolExecutor(workers, context, _start, (queue,))


def _start(queue: SimpleQueue[int | None]) -> None:
    begin(queue.get())


def begin(core: int | None) -> None:
    """Make this process a worker, on one core if one is given."""
    if core is not None:
        pin(core)
    if logging.lastResort is not None:
        # A port that warns of each full cache would tell it thousands of times.
        logging.lastResort.setLevel(logging.CRITICAL)
    # A trace makes many objects and few cycles: collecting seldom is worth another twentieth.
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
