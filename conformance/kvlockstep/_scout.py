"""Which traces run which lines of the intact target: what a mutant is shown first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, get_args

import coverage

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Divergence
from kvlockstep._engine import Lockstep
from kvlockstep._generate import generate
from kvlockstep._jobs import CORPUS, ledger_of
from kvlockstep._origin import origin_of
from kvlockstep._search import seeded_bytes
from kvlockstep._settings import Settings
from kvlockstep._steps import Construct
from kvlockstep._trace import Mode, Trace, TraceError, read

MODES: tuple[Mode, ...] = get_args(Mode)
Line = tuple[str, int]


class Key(NamedTuple):
    """Names a trace: a file of the corpus, or the generated one of that number."""

    release: str
    cache: str
    mode: Mode
    number: int
    file: str = ""


@dataclass(frozen=True)
class Patrol:
    """What one scout runs: the traces of one cache against one release, or the corpus ("")."""

    settings: Settings
    releases: tuple[str, ...]
    release: str
    cache: str
    traces: int


@dataclass
class Map:
    """The traces that ran each line, and how many steps each trace has."""

    lines: dict[Line, list[Key]] = field(default_factory=dict)
    steps: dict[Key, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, other: Map) -> None:
        """Add what another scout saw."""
        for line, keys in other.lines.items():
            self.lines.setdefault(line, []).extend(keys)
        self.steps |= other.steps
        self.problems += other.problems


@lru_cache(maxsize=20_000)
def trace_of(key: Key) -> Trace:
    """Return the trace that a key names; raises `TraceError` for a file that cannot be read."""
    if key.file:
        try:
            return read(Path(key.file))
        except OSError as error:
            raise TraceError(str(error)) from error
    data = next(seeded_bytes(key.number))
    return generate(data, contract_of(key.release), key.cache, key.mode)


def keys_from(release: str, cache: str, first: int, traces: int) -> Iterator[Key]:
    """Yield the keys of generated traces from number `first` on, in both modes by turns."""
    for number in range(first, first + traces):
        yield Key(release, cache, MODES[number % len(MODES)], number)


def corpus_keys(release: str) -> Iterator[Key]:
    """Yield the keys of all trace files that are for a release, witnesses of ledgers included."""
    for path in sorted(CORPUS.rglob("*.json")):
        trace = read(path)
        if trace.releases and release not in trace.releases:
            continue
        names = [step.cache for step in trace.steps if isinstance(step, Construct)]
        yield Key(release, names[0] if names else FUNCTIONS, trace.mode, -1, str(path))


def users_of(release: str, cache: str, traces: int) -> set[str]:
    """Return the caches whose traces construct `cache` too, itself among them."""
    contract = contract_of(release)
    found = {cache}
    for user in CACHES:
        if user in contract.surfaces:
            for key in keys_from(release, user, 0, traces):
                steps = trace_of(key).steps
                if any(cache in classes_in(step) for step in steps if isinstance(step, Construct)):
                    found.add(user)
                    break
    return found


def classes_in(step: Construct) -> set[str]:
    """Return the classes that a construction makes caches of, its children's among them."""
    found, waiting = {step.cache}, [*step.children]
    while waiting:
        made = waiting.pop()
        found.add(made.cache)
        waiting += made.children
    return found


def scout(patrol: Patrol) -> Map:
    """Run the traces of a patrol on the intact target and note the lines that they run."""
    origin = origin_of(patrol.settings.target, patrol.releases)
    files = sorted({origin.file_of(unit) for unit in origin.units})
    seen = Map()
    tracer = coverage.Coverage(data_file=None, include=files, config_file=False)
    tracer.set_option("run:disable_warnings", ["no-data-collected"])
    if patrol.cache:
        keys = [*keys_from(patrol.release, patrol.cache, 0, patrol.traces)]
    else:
        keys = [*corpus_keys(patrol.release)]
    with origin.mutated(None) as load:
        contract = contract_of(patrol.release)
        engine = Lockstep(contract, load(patrol.release), patrol.settings.level)
        tracer.start()
        try:
            for number, key in enumerate(keys):
                tracer.switch_context(str(number))
                run = engine.run(trace_of(key))
                seen.steps[key] = run.steps
                shown = undeclared(run.divergences, patrol.settings)
                seen.problems += [str(one.signature) for one in shown]
        finally:
            tracer.stop()
    data = tracer.get_data()
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            numbers = [int(context) for context in contexts if context]
            if numbers:
                seen.lines[file, line] = [keys[number] for number in numbers]
    return seen


def undeclared(divergences: list[Divergence], settings: Settings) -> list[Divergence]:
    """Return those that the target's ledger does not declare."""
    ledger = ledger_of(settings)
    return [one for one in divergences if ledger.declares(one) is None]
