"""Two sides of one piece of work, measured in turns within one bench.

A turn is four runs: the reference, the port, the port, the reference. What a run finds warm or cold
after the one before, and the load of a shared machine, fall on both sides alike, and the ratio
within a turn is what counts. Each run is made anew, outside the measured region, and let go of
before the next one.
"""

from __future__ import annotations

import gc
import hashlib
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import is_dataclass
from itertools import chain, cycle
from statistics import median, quantiles
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

Action = Callable[[], Any]
# Makes the state of one side, from its cache module, and returns the work to be measured.
Prepare = Callable[[Any], Action]
Memory = dict[str, int]

PORT, REFERENCE = "port", "reference"
TURN = (REFERENCE, PORT, PORT, REFERENCE)
WARM = (REFERENCE, PORT)
MOST_TURNS = 50


class Pair:
    """Calling it measures both sides, and notes times, ratios and memory in the bench's results."""

    def __init__(self, benchmark: Any, port: Any, reference: Any, turns: int, seconds: float):
        self.port = port
        self._benchmark = benchmark
        self._modules = {PORT: port, REFERENCE: reference}
        self._least_turns = turns
        self._seconds = seconds

    def __call__(
        self,
        prepare: Prepare,
        against: Prepare | None = None,
        *,
        other: str = "mlx-lm",
        unit: str = "call",
        per: int = 1,
        turns: int = 0,
        tracer: Callable[[Callable[[], Action]], tuple[Any, Memory]] | None = None,
    ) -> None:
        """Run `prepare`'s work on both sides, `per` units of it in a call.

        As many turns as fit into the time, but at least `turns`, or as were asked for.
        `against` stands in the reference's place where that is no release's work, and `other` says
        what it is. The first runs of each side are not timed: of the first one memory is traced,
        after which MLX has given all buffers back, and what the sides return must be the same,
        arrays and caches byte for byte; the second one makes that good. An action holds no handle
        on a buffer across an evaluation, for it would make MLX copy what it writes in place.
        """
        makers = {
            PORT: lambda: self._make(prepare, PORT),
            REFERENCE: lambda: self._make(against or prepare, REFERENCE),
        }
        start = time.perf_counter()
        traced = {side: (tracer or trace_mlx)(make) for side, make in makers.items()}
        seconds = time.perf_counter() - start
        seen = [result for result, _ in traced.values()]
        assert against is not None or seen[0] == seen[1], "the sides do not give the same"

        least = max(2, turns or self._least_turns)
        turns = min(max(least, int(self._seconds / seconds / 2)), MOST_TURNS)
        sides = chain(WARM, cycle(TURN))

        def begin() -> tuple[tuple[SimpleNamespace], dict[str, Any]]:
            return (SimpleNamespace(action=makers[next(sides)]()),), {}

        def run(work: SimpleNamespace) -> None:
            work.result = work.action()

        def let_go(work: SimpleNamespace) -> None:
            vars(work).clear()

        rounds = {"rounds": len(TURN) * turns, "warmup_rounds": len(WARM)}
        self._benchmark.pedantic(run, setup=begin, teardown=let_go, **rounds)
        if self._benchmark.enabled:
            memory = {side: one for side, (_, one) in traced.items()}
            self._note(per, {"other": other, "unit": unit, "memory": memory})

    def _make(self, prepare: Prepare, side: str) -> Action:
        module = self._modules[side]
        try:
            return prepare(module)
        except AttributeError as error:
            if side == PORT and error.obj is module:
                pytest.skip(f"the target has no {error.name}")
            raise

    def _note(self, per: int, more: dict[str, Any]) -> None:
        stats = self._benchmark.stats.stats
        times: dict[str, list[float]] = {PORT: [], REFERENCE: []}
        for side, seconds in zip(cycle(TURN), stats.data, strict=False):
            times[side].append(seconds / per)
        # What pytest-benchmark itself tells of this bench is the port's.
        stats.data[:] = times[PORT]
        ours, theirs = map(_by_turn, times.values())
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive")
        self._benchmark.extra_info |= more | {
            "seconds": {side: median(values) for side, values in times.items()},
            "ratios": ratios,
            "speedup": {"low": low, "median": middle, "high": high},
        }


def _by_turn(runs: list[float]) -> list[float]:
    return [first + second for first, second in zip(runs[::2], runs[1::2], strict=True)]


def trace_mlx(make: Callable[[], Action]) -> tuple[Any, Memory]:
    """Run the work once; return what it gave, and MLX's memory beyond what there was before."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    action = make()
    mx.reset_peak_memory()
    result = action()
    peak = max(mx.get_peak_memory(), mx.get_active_memory()) - before
    seen = see(result)
    del result
    return seen, {"peak": peak, "held": mx.get_active_memory() - before}


def trace_python(make: Callable[[], Action]) -> tuple[Any, Memory]:
    """The same for Python's own memory."""
    gc.collect()
    tracemalloc.start()
    try:
        action = make()
        tracemalloc.reset_peak()
        result = action()
        peak = tracemalloc.get_traced_memory()[1]
        seen = see(result)
        del result
        gc.collect()
        return seen, {"peak": peak, "held": tracemalloc.get_traced_memory()[0]}
    finally:
        tracemalloc.stop()


def see(value: Any) -> Any:
    """Return something that is equal where the bytes of two results are."""
    if isinstance(value, mx.array):
        content = bytes(memoryview(value)) if value.size else b""
        return str(value.dtype), value.shape, hashlib.blake2b(content).digest()
    if isinstance(value, list | tuple):
        return [see(one) for one in value]
    if hasattr(type(value), "state"):
        return type(value).__name__, see(value.state)
    if is_dataclass(value):
        return type(value).__name__, {name: see(one) for name, one in vars(value).items()}
    return value
