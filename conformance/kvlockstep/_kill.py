"""One mutant against the intact release: shown trace after trace until one tells them apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Literal

from kvlockstep._contained import HangError, no_longer_than
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Divergence, Run
from kvlockstep._engine import Lockstep
from kvlockstep._jobs import ledger_of
from kvlockstep._ledger import Entry, LedgerError, judge_witness
from kvlockstep._mutants import Mutant
from kvlockstep._origin import origin_of
from kvlockstep._scout import Key, keys_from, trace_of, undeclared
from kvlockstep._settings import Settings
from kvlockstep._shrink import shrink
from kvlockstep._snapshots import CAUGHT, Raised
from kvlockstep._surface import compare_surfaces
from kvlockstep._trace import Trace

Outcome = Literal[
    "divergence", "witness", "surface", "import", "hang", "memory", "crash", "survived"
]

# Traces that a mutant is shown before its parameters are compared.
_BEFORE_SURFACE = 24
_MEMORY = ("MemoryError", "Unable to allocate", "std::bad_alloc")


@dataclass(frozen=True)
class Case:
    """A mutant, the traces to show it first, and what to generate when they are used up.

    `then` are releases and caches, each as often as its traces are worth; `budget` is CPU seconds,
    and `hang` what one trace may take of them.
    """

    settings: Settings
    releases: tuple[str, ...]
    mutant: Mutant
    first: tuple[Key, ...]
    then: tuple[tuple[str, str], ...]
    number: int
    budget: float
    hang: float = 2.0
    shrink: bool = True


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: in how many CPU seconds, loading it included, and traces.

    `signature`, `trace` and `length`, the steps of the shrunk trace, are of the divergence.
    """

    outcome: Outcome
    seconds: float = 0.0
    traces: int = 0
    steps: int = 0
    by: str = ""
    signature: str = ""
    length: int | None = None
    trace: Trace | None = None

    @property
    def killed(self) -> bool:
        """Whether anything told the mutant apart."""
        return self.outcome != "survived"


def judge(case: Case) -> Verdict:
    """Show a mutant traces until one kills it, or its budget is spent."""
    origin = origin_of(case.settings.target, case.releases)
    start = time.process_time()
    with origin.mutated(case.mutant) as load:
        engines: dict[str, Lockstep] = {}
        try:
            with no_longer_than(case.hang):
                for release in case.releases:
                    target = load(release)
                    engine = Lockstep(contract_of(release), target, case.settings.level)
                    engines[release] = engine
        except HangError:
            return Verdict("hang", time.process_time() - start, by="import")
        except CAUGHT as error:
            return Verdict("import", time.process_time() - start, by=type(error).__name__)
        return _search(case, engines, start)


def _search(case: Case, engines: dict[str, Lockstep], start: float) -> Verdict:
    traces = steps = 0
    for key in _keys(case):
        if key is None:
            if (what := _surface(engines)) is not None:
                return Verdict("surface", time.process_time() - start, traces, steps, what)
            continue
        trace = trace_of(key)
        engine = engines[key.release]
        traces += 1
        try:
            with no_longer_than(case.hang):
                run = engine.run(trace)
                found = undeclared(run.divergences, case.settings)
        except HangError:
            return Verdict("hang", time.process_time() - start, traces, steps, key.cache)
        except LedgerError as error:
            # A divergence that an entry could declare, but for facts that only a mutant lacks.
            seconds = time.process_time() - start
            return Verdict("divergence", seconds, traces, steps, key.cache, str(error))
        steps += run.steps
        seconds = time.process_time() - start
        if found:
            small = _shrunk(case, engine, trace, found[0]) if case.shrink else None
            return Verdict(
                "memory" if _is_of_memory(found[0]) else "divergence",
                seconds, traces, steps, key.cache, str(found[0].signature),
                len(small.steps) if small is not None else None, small,
            )  # fmt: skip
        if (stale := _stale(key, run, case.settings)) is not None:
            return Verdict("witness", seconds, traces, steps, key.cache, stale, len(trace.steps))
        if seconds > case.budget:
            break
    return Verdict("survived", time.process_time() - start, traces, steps)


@lru_cache(maxsize=2)
def _witnesses(settings: Settings) -> dict[str, Entry]:
    """Return the ledger's entries by the files of their witnesses."""
    ledger = ledger_of(settings)
    folder = ledger.path.parent if ledger.path is not None else Path()
    return {str(folder / entry.witness): entry for entry in ledger.entries}


def _stale(key: Key, run: Run, settings: Settings) -> str | None:
    """Return what is wrong with a run of a witness, as the gate has it; None for other traces.

    A divergence that is meant must show: a target that does as the release does there is another.
    """
    entry = _witnesses(settings).get(key.file)
    if entry is None or key.release not in entry.releases:
        return None
    return judge_witness(entry, key.release, run)


def _keys(case: Case) -> Iterator[Key | None]:
    """Yield the traces to show; None where the surface is due."""
    yield from case.first[:_BEFORE_SURFACE]
    yield None
    yield from case.first[_BEFORE_SURFACE:]
    streams = {one: keys_from(*one, case.number, 1 << 30) for one in case.then}
    for one in cycle(case.then):
        yield next(streams[one])


def _surface(engines: dict[str, Lockstep]) -> str | None:
    for release, engine in engines.items():
        with suppress(Exception):
            _, problems = compare_surfaces(engine.contract, engine.target, release)
            if problems:
                return problems[0]
    return None


def _is_of_memory(divergence: Divergence) -> bool:
    actual = divergence.actual
    return isinstance(actual, Raised) and (
        actual.kind in _MEMORY or any(text in actual.message for text in _MEMORY)
    )


def _shrunk(case: Case, engine: Lockstep, trace: Trace, divergence: Divergence) -> Trace | None:
    """Return the shortest trace that shows the divergence; None if it does not show again."""

    def run_undeclared(candidate: Trace) -> Run:
        run = engine.run(candidate)
        run.divergences = undeclared(run.divergences, case.settings)
        return run

    with suppress(HangError, StopIteration), no_longer_than(10 * case.hang):
        return shrink(trace, divergence.signature, run_undeclared)
    return None
