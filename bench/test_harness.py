"""Steps a second of the lockstep, everything compared, on the gate's own path.

Hypothesis draws the bytes of the traces, on small tensors; no coverage tracer runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, get_args

import pytest
from steps import RELEASE, run_steps

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._settings import Settings
from kvlockstep._trace import Mode
from kvlockstep._workers import pin

RATE = "steps_per_second"

each_mode = pytest.mark.parametrize("mode", get_args(Mode))


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("cache", [*CACHES, FUNCTIONS])
@each_mode
@pytest.mark.parametrize("target", [f"release:{RELEASE}", "py:mlxkv"])
def test_steps(target: str, mode: Mode, cache: str, settings: Settings, benchmark: Any) -> None:
    """One process on one core, the same traces in each round.

    In seconds of the core, of all threads: what others run on it does not count. Nor does the wait
    for a GPU.
    """
    task = replace(settings, target=target)
    benchmark.group = f"steps {target} {mode}"
    steps = benchmark.pedantic(run_steps, (task, cache, mode, 5_000), rounds=3)
    if benchmark.enabled:
        benchmark.extra_info[RATE] = round(steps / benchmark.stats.stats.median)


@pytest.fixture(scope="module")
def crews(all_cores: list[int]) -> Iterator[dict[str, list[ProcessPoolExecutor]]]:
    """Worker processes: one on a core, two on a core each, two that the system puts anywhere."""
    if len(all_cores) < 2:
        pytest.skip("needs two cores")
    # A new process inherits the core of this one.
    spread = getattr(os, "sched_setaffinity", None)
    with ExitStack() as stack:

        def hire(start: Callable[..., None] | None, *where: Any) -> ProcessPoolExecutor:
            pool = ProcessPoolExecutor(1, get_context("spawn"), start, where if start else ())
            return stack.enter_context(pool)

        pinned = [hire(pin, core) for core in all_cores[:2]]
        unpinned = [hire(spread, 0, all_cores) for _ in range(2)]
        yield {"one": pinned[:1], "two pinned": pinned, "two unpinned": unpinned}


@pytest.fixture(scope="module")
def rates() -> dict[tuple[Mode, int, str], float]:
    """Steps a second by mode, turn and crew."""
    return {}


@pytest.mark.parametrize("crew", ["one", "two pinned", "two unpinned"])
@pytest.mark.parametrize("turn", range(5))
@each_mode
def test_workers(
    mode: Mode,
    turn: int,
    crew: str,
    crews: dict[str, list[ProcessPoolExecutor]],
    rates: dict[tuple[Mode, int, str], float],
    settings: Settings,
    benchmark: Any,
) -> None:
    """Workers side by side, as many steps for each; the crews take turns."""
    task = replace(settings, target=f"release:{RELEASE}")

    def run(least: int) -> int:
        jobs = [
            worker.submit(run_steps, task, "ChunkedKVCache", mode, least) for worker in crews[crew]
        ]
        return sum(job.result() for job in jobs)

    run(100)  # Starts the processes.
    benchmark.group = f"workers {mode}"
    steps = benchmark.pedantic(run, (3_000,))
    if benchmark.enabled:
        rate = rates[mode, turn, crew] = steps / benchmark.stats.stats.median
        benchmark.extra_info[RATE] = round(rate)
        benchmark.extra_info["times_one"] = round(rate / rates.get((mode, turn, "one"), rate), 3)
