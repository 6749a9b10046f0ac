"""Tasks in processes of their own, which may hang, exhaust memory or crash without harm.

A process is used for many tasks. It may grow by so much memory; one that takes too long over a
task is killed; one that died is replaced, and its task reported as dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from kvlockstep._workers import cores, pin

Task = TypeVar("Task")
Result = TypeVar("Result")

_MEBIBYTE = 1 << 20
_START_SECONDS = 300.0


class HangError(BaseException):
    """The block took too long. No `Exception`: nothing that a cache does may swallow it."""


class ContainmentError(Exception):
    """No process can be started."""


@dataclass(frozen=True)
class Died:
    """What became of a task whose process did not answer."""

    why: str
    hung: bool


@dataclass(frozen=True)
class Limits:
    """Seconds of wall clock for a task, and MiB that a process may grow by."""

    seconds: float = 120.0
    memory: int = 3072


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Raise `HangError` in the block after so many CPU seconds, where the system can tell them."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, stop)
    # Again and again: a `finally` of what hangs may take the first one.
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@dataclass
class _Worker(Generic[Task]):
    process: Any
    pipe: Connection
    core: int | None
    deadline: float
    task: Task | None = None


def run_contained(
    perform: Callable[[Task], Result], tasks: Iterable[Task], workers: int, limits: Limits
) -> Iterator[tuple[Task, Result | Died]]:
    """Yield each task with what `perform` returned for it, in the order in which they finish.

    `perform` is importable, and tasks and results can be pickled. What it raises ends its process.
    """
    waiting = iter(tasks)
    free = cores()
    pinned = [free[n] if workers <= len(free) else None for n in range(workers)]
    running = [_start(perform, core, limits) for core in pinned]
    try:
        while running:
            ready = wait([worker.pipe for worker in running], _until(running))
            now = time.monotonic()
            for worker in [*running]:
                if worker.pipe not in ready and worker.deadline > now:
                    continue
                answer: Any = _answer(worker, worker.pipe in ready)
                task = worker.task
                if isinstance(answer, Died):
                    running.remove(worker)
                    _stop(worker)
                    if task is None:
                        raise ContainmentError(f"a worker process does not start: {answer.why}")
                    running.append(_start(perform, worker.core, limits))
                elif not _give(worker, waiting, limits):
                    running.remove(worker)
                    _stop(worker)
                if task is not None:
                    yield task, answer
    finally:
        for worker in running:
            _stop(worker)


def _until(running: Iterable[_Worker[Task]]) -> float:
    return max(0.0, min(worker.deadline for worker in running) - time.monotonic())


def _give(worker: _Worker[Task], waiting: Iterator[Task], limits: Limits) -> bool:
    """Give a worker its next task; False if there is none."""
    for task in waiting:
        worker.task = task
        worker.deadline = time.monotonic() + limits.seconds
        # One that has died is noticed when its answer is read.
        with contextlib.suppress(OSError):
            worker.pipe.send(task)
        return True
    return False


def _answer(worker: _Worker[Task], ready: bool) -> Any:
    if not ready:
        return Died("no answer in time", hung=True)
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(10)
        code = worker.process.exitcode
        if code is not None and code < 0:
            return Died(signal.Signals(-code).name, hung=False)
        return Died(f"exit status {code}", hung=False)


def _start(perform: Callable[[Task], Result], core: int | None, limits: Limits) -> _Worker[Task]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, perform, core, limits), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, core, time.monotonic() + _START_SECONDS)


def _stop(worker: _Worker[Task]) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _serve(
    pipe: Connection, perform: Callable[[Task], Result], core: int | None, limits: Limits
) -> None:
    if core is not None:
        pin(core)
    limit_growth(limits.memory)
    # What a crashing process prints is no news.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    with contextlib.suppress(EOFError, OSError):
        # The first message says that it has started.
        pipe.send(None)
        while True:
            pipe.send(perform(pipe.recv()))


def limit_growth(mebibytes: int) -> None:
    """Let this process have so much more memory than now, where the system can see to that."""
    sizes = Path("/proc/self/statm")
    if not sizes.exists():
        return
    import resource  # noqa: PLC0415

    pages = int(sizes.read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + mebibytes * _MEBIBYTE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
