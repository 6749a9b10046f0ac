"""The harness: steps a second, everything compared, on the gate's own path.

Small tensors, no coverage tracer. In seconds of the core, of all threads: what others run on it
does not count, nor does the wait for a GPU. Workers are measured by the clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any, get_args

import pytest
from steps import run_all, run_steps, sample
from targets import NOTHING_SEEN

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._search import Engine
from kvlockstep._settings import Settings
from kvlockstep._trace import Mode
from kvlockstep._workers import begin, pin

RATE = "steps_per_second"
TURNS = 3

each_mode = pytest.mark.parametrize("mode", get_args(Mode))
each_engine = pytest.mark.parametrize("engine", get_args(Engine))


@pytest.mark.benchmark(timer=time.process_time, group="steps")
@pytest.mark.parametrize("cache", [*CACHES, FUNCTIONS])
@each_mode
def test_steps(mode: Mode, cache: str, settings: Settings, size: Any, benchmark: Any) -> None:
    """One process on one core, the same traces in each round, drawn by Hypothesis."""
    least = size(2_000, 50)
    steps = benchmark.pedantic(run_steps, (settings, cache, mode, least, "hypothesis"), rounds=3)
    if benchmark.enabled:
        benchmark.extra_info[RATE] = round(steps / benchmark.stats.stats.median)


@pytest.fixture(scope="module")
def crews(all_cores: list[int]) -> Iterator[dict[str, list[ProcessPoolExecutor]]]:
    """Worker processes as the gate has them: one on a core, and two on a core each."""
    if len(all_cores) < 2:
        pytest.skip("needs two cores")
    with ExitStack() as stack:

        def hire(core: int) -> ProcessPoolExecutor:
            pool = ProcessPoolExecutor(1, get_context("spawn"), begin, (core,))
            return stack.enter_context(pool)

        pinned = [hire(core) for core in all_cores[:2]]
        yield {"one": pinned[:1], "two": pinned}


@pytest.fixture
def off_the_cores(all_cores: list[int]) -> Iterator[None]:
    """This process waits for the workers on any core, not on the one that is one of theirs."""
    spread: Callable[..., None] = getattr(os, "sched_setaffinity", lambda *_: None)
    spread(0, all_cores)
    yield
    pin(all_cores[-1])


@pytest.mark.benchmark(timer=time.perf_counter, group="workers")
@pytest.mark.parametrize("engine", [*get_args(Engine), NOTHING_SEEN])
@each_mode
def test_workers(
    mode: Mode,
    engine: str,
    crews: dict[str, list[ProcessPoolExecutor]],
    off_the_cores: None,  # noqa: ARG001
    settings: Settings,
    size: Any,
    benchmark: Any,
) -> None:
    """Workers side by side over all caches, as many steps of each; one and two take turns.

    The operations of both sides alone are as fast as a harness that compares nothing.
    """
    given = settings, mode, size(500, 5), engine
    rates: dict[str, list[float]] = {crew: [] for crew in crews}

    def run() -> None:
        for crew, workers in crews.items():
            start = time.perf_counter()
            jobs = [worker.submit(run_all, *given) for worker in workers]
            steps = sum(job.result() for job in jobs)
            rates[crew].append(steps / (time.perf_counter() - start))

    for worker in crews["two"]:
        worker.submit(run_all, *given).result()  # Imports, and draws what is replayed.
    benchmark.pedantic(run, rounds=TURNS)
    benchmark.extra_info["rates"] = rates


@pytest.mark.benchmark(timer=time.process_time, group="profile")
@each_engine
@each_mode
def test_profile(mode: Mode, engine: Engine, settings: Settings, size: Any, benchmark: Any) -> None:
    """Where the time of a step goes: samples of what the process was doing, by part."""
    shares = benchmark.pedantic(sample, (settings, mode, size(1_000, 5), engine))
    assert sum(shares.values()) > 0
    benchmark.extra_info["shares"] = shares
