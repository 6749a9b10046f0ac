"""An unbounded search on all cores, which can be stopped and taken up again at any time.

Its folder holds `state.json` (which seeds are done, what was found), `corpus/` (the fewest traces
that reach all that was reached; they run first next time) and `findings/`, a trace each. All of it
is written as it comes, so that whatever ends the process loses at most the units in flight, which
are then not ticked off.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import msgspec

from kvlockstep._corpus import Corpus, write_whole
from kvlockstep._divergence import Signature
from kvlockstep._hunt_unit import Unit, UnitReport, run_unit
from kvlockstep._jobs import Found, caches_of, releases_of
from kvlockstep._settings import Settings
from kvlockstep._tally import slug
from kvlockstep._targets import TargetError
from kvlockstep._trace import Mode, read
from kvlockstep._workers import pool

_FORMAT, _VERSION = "kvlockstep-hunt", 1
_CHUNK = 20
_PATIENCE = 0.2
_MINIMIZE_EVERY = 50


class Lane(msgspec.Struct):
    """The seeds of one cache in one mode that are done: all below `below`, and `more`."""

    below: int = 0
    more: list[int] = msgspec.field(default_factory=list)

    def tick(self, seed: int) -> None:
        """Tick a seed off."""
        self.more = sorted({*self.more, seed})
        while self.more and self.more[0] <= self.below:
            self.below = max(self.below, self.more.pop(0) + 1)

    def first_left(self, taken: set[int]) -> int:
        """Return the first seed that is neither done nor taken."""
        return next(n for n in range(self.below, 1 << 62) if n not in taken and n not in self.more)


class State(msgspec.Struct, forbid_unknown_fields=True):
    """What a hunt has done so far, as it stands in `state.json`."""

    target: str
    level: str | None
    format: str = _FORMAT
    version: int = _VERSION
    steps: int = 0
    seconds: float = 0.0
    lanes: dict[str, Lane] = msgspec.field(default_factory=dict)
    findings: list[Signature] = msgspec.field(default_factory=list)
    crashed: list[str] = msgspec.field(default_factory=list)


@dataclass
class Progress:
    """What there is to show: of this session, but for `state`, which is of all."""

    state: State
    corpus: Corpus
    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    new_goals: int = 0
    new: list[Found] = field(default_factory=list)
    gone: set[Signature] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    replaying: bool = True

    @property
    def seconds(self) -> float:
        """The seconds of this session."""
        return time.monotonic() - self.started

    @property
    def open(self) -> list[Signature]:
        """The findings that still show."""
        return [one for one in self.state.findings if one not in self.gone]

    @property
    def exit_status(self) -> int:
        """0: nothing found. 1: something. 2: a unit killed its process."""
        if self.crashed:
            return 2
        return 1 if self.open or self.problems else 0


class Hunt:
    """A hunt in its folder. Raises `TargetError` for a folder of another target."""

    def __init__(self, settings: Settings, folder: Path, workers: int) -> None:
        self.folder = folder
        self.settings = replace(settings, report=folder / "findings")
        self.workers = workers
        state = self._read()
        corpus = Corpus(folder / "corpus")
        self.progress = Progress(state, corpus)
        self.releases = releases_of(settings)
        self._lanes = [
            Unit(release, cache, mode)
            for release in self.releases
            for cache in caches_of(settings)
            for mode in get_args(Mode)
        ]
        self._turn = 0
        self._before = state.seconds
        self._shown: set[Signature] = set()
        self._replays = list(self._replay_units())
        self._suspects: list[Unit] = []
        self._running: dict[Future[UnitReport], Unit] = {}
        self._added = 0

    def _read(self) -> State:
        path = self.folder / "state.json"
        if not path.exists():
            return State(self.settings.target, self.settings.level)
        try:
            state = msgspec.json.decode(path.read_bytes(), type=State)
        except msgspec.MsgspecError as error:
            raise TargetError(f"{path}: expected the state of a hunt: {error}") from error
        if (state.format, state.version) != (_FORMAT, _VERSION):
            raise TargetError(f"{path}: expected {_FORMAT} {_VERSION}, got {state.version}")
        if (state.target, state.level) != (self.settings.target, self.settings.level):
            raise TargetError(
                f"{self.folder}: it is a hunt on {state.target}, level {state.level or 'its own'}; "
                f"name another --state for {self.settings.target}"
            )
        return state

    def save(self) -> None:
        """Write the state as a whole."""
        state = self.progress.state
        state.seconds = self._before + self.progress.seconds
        text = msgspec.json.format(msgspec.json.encode(state)).decode()
        write_whole(self.folder / "state.json", f"{text}\n")

    def run(self, seconds: float | None, stop: threading.Event) -> Generator[Progress, None, None]:
        """Hunt until the time is over or `stop` is set, and yield how far it is, now and then.

        Units in flight are waited for; if the generator is closed before that, they are dropped.
        """
        executor = self._start()
        self.save()
        try:
            while True:
                late = seconds is not None and self.progress.seconds >= seconds
                if stop.is_set() or late:
                    stop.set()
                else:
                    executor = self._submit(executor)
                if not self._running:
                    return
                done, _ = wait(self._running, _PATIENCE, FIRST_COMPLETED)
                for future in done:
                    executor = self._take(future, executor, stop)
                yield self.progress
        finally:
            _end(executor, now=bool(self._running))
            self.progress.corpus.minimize()
            self.save()

    def _start(self) -> ProcessPoolExecutor:
        return pool(self.workers)

    def _submit(self, executor: ProcessPoolExecutor) -> ProcessPoolExecutor:
        """Give every worker a unit: what may have killed one comes first, and alone."""
        most = 1 if self._suspects else self.workers
        while len(self._running) < most:
            unit = self._next()
            if unit is None:
                break
            corpus = self.progress.corpus
            goals = frozenset(goal for goal in corpus.goals if goal[0] == unit.release)
            known = frozenset(self.progress.state.findings)
            with _deaf():
                future = executor.submit(run_unit, unit, self.settings, goals, known)
            self._running[future] = unit
            if unit in self._suspects:
                break
        return executor

    def _next(self) -> Unit | None:
        if self._suspects:
            return None if self._running else self._suspects[0]
        if self._replays:
            return self._replays.pop(0)
        if any(not unit.cache for unit in self._running.values()):
            # What the corpus reaches is known before anything new can be.
            return None
        if self.progress.replaying:
            self._settle_replays()
        lane = self._lanes[self._turn % len(self._lanes)]
        self._turn += 1
        taken = {unit.seed for unit in self._running.values() if unit.lane == lane.lane}
        done = self.progress.state.lanes.setdefault(lane.lane, Lane(below=self.settings.seed))
        return replace(lane, seed=done.first_left(taken))

    def _replay_units(self) -> Iterator[Unit]:
        """Yield the corpus and the findings, for what they reach and show today."""
        traces = self.progress.corpus.traces()
        found = [self.finding(one) for one in self.progress.state.findings]
        traces += [read(path) for path in found if path.exists()]
        for release in self.releases:
            own = [one for one in traces if not one.releases or release in one.releases]
            for start in range(0, len(own), _CHUNK):
                yield Unit(release, traces=tuple(own[start : start + _CHUNK]))

    def finding(self, signature: Signature) -> Path:
        """Return the file of a finding."""
        return self.settings.report / f"{slug(str(signature))}.json"

    def _settle_replays(self) -> None:
        """Note which findings no longer show, once all traces ran again."""
        progress = self.progress
        progress.gone = set(progress.state.findings) - self._shown
        progress.replaying = False
        progress.corpus.minimize()

    def _take(
        self, future: Future[UnitReport], executor: ProcessPoolExecutor, stop: threading.Event
    ) -> ProcessPoolExecutor:
        """Add what a unit found, and tick it off."""
        unit = self._running.pop(future, None)
        if unit is None:
            return executor
        try:
            self._add(unit, future.result())
        except BrokenProcessPool:
            return self._restart(unit, executor, stop)
        if unit in self._suspects:
            self._suspects.remove(unit)
        return executor

    def _add(self, unit: Unit, report: UnitReport) -> None:
        progress = self.progress
        progress.steps += report.steps
        progress.state.steps += report.steps
        progress.problems += [p for p in report.problems if p not in progress.problems]
        for reached in report.reached:
            added = progress.corpus.add(reached)
            if unit.cache:
                progress.new_goals += added
                self._added += bool(added)
        progress.corpus.drop(unit.release, unit.traces)
        if self._added >= _MINIMIZE_EVERY:
            self._added = 0
            progress.corpus.minimize()
        self._shown |= report.shown
        progress.gone -= report.shown
        for found in report.found:
            if found.signature not in progress.state.findings:
                progress.state.findings.append(found.signature)
                progress.new.append(found)
        if unit.cache:
            progress.state.lanes[unit.lane].tick(unit.seed)
        self.save()

    def _restart(
        self, unit: Unit, executor: ProcessPoolExecutor, stop: threading.Event
    ) -> ProcessPoolExecutor:
        """Go on after a unit killed its process: those in flight run again, one at a time."""
        suspects = [unit, *self._running.values()]
        self._running.clear()
        _end(executor, now=True)
        if stop.is_set():
            return executor
        if len(suspects) == 1 and (unit in self._suspects or self.workers == 1):
            self._suspects = [one for one in self._suspects if one != unit]
            self._crash(unit)
        else:
            others = [one for one in self._suspects if one not in suspects]
            self._suspects = [*suspects, *others]
        return self._start()

    def _crash(self, unit: Unit) -> None:
        progress = self.progress
        told = f"{unit}: the process died: did the target crash?"
        progress.crashed.append(told)
        progress.state.crashed.append(told)
        if unit.cache:
            progress.state.lanes[unit.lane].tick(unit.seed)
        self.save()


def _end(executor: ProcessPoolExecutor, now: bool) -> None:
    if now:
        for child in multiprocessing.active_children():
            child.kill()
    executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C: it is for this one, which ends them in order.

    Blocked, and not ignored: this process hears it as soon as the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tell_goals(corpus: Corpus) -> Counter[str]:
    """Return how many of each kind are reached: cells, pairs and arcs."""
    return Counter(goal[1] for goal in corpus.goals)
