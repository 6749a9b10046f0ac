"""The gate as jobs: each small enough for one test, each a value that travels to a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import kvreference
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._coverage import Arc
from kvlockstep._divergence import Cell, Pair, Signature
from kvlockstep._ledger import Ledger, LedgerError
from kvlockstep._settings import DEFAULT_TARGET, Settings
from kvlockstep._steps import Construct
from kvlockstep._targets import TargetError, contracts_of
from kvlockstep._trace import Mode, Trace, TraceError, read

Kind = Literal["surface", "smoke", "corpus", "ledger", "lockstep"]

HERE = Path(__file__).resolve().parent.parent
CORPUS = HERE / "traces"
LEDGER = HERE / "ledger.toml"


@dataclass(frozen=True)
class Job:
    """One part of the gate. `name` is a trace file, a ledger entry, or a cache class."""

    kind: Kind
    release: str
    name: str = ""
    mode: Mode = "value"

    def __str__(self) -> str:
        parts = [self.release, self.name]
        if self.kind == "lockstep":
            parts.append(self.mode)
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Found:
    """An undeclared divergence, in plain words, and its shortest trace with the file it is in."""

    signature: Signature
    text: str
    trace: str = ""
    shortest: Trace | None = None


@dataclass
class JobReport:
    """What one job found. Reports add up.

    `searched` are the steps of generated traces by release and cache, `arcs` the steps from line to
    line that ran of a release.
    `problems` are what fails the gate besides undeclared divergences; `broken`, what keeps it from
    running at all.
    """

    jobs: int = 0
    steps: int = 0
    seconds: float = 0.0
    cells: dict[str, Counter[Cell]] = field(default_factory=dict)
    times: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    pairs: dict[str, Counter[Pair]] = field(default_factory=dict)
    searched: Counter[tuple[str, str]] = field(default_factory=Counter)
    arcs: dict[str, set[Arc]] = field(default_factory=dict)
    declared: Counter[tuple[Signature, str]] = field(default_factory=Counter)
    undeclared: Counter[Signature] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)
    lacking: set[str] = field(default_factory=set)
    undefined: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, other: JobReport) -> None:
        """Add what another job found."""
        self.jobs += other.jobs
        self.steps += other.steps
        self.seconds += other.seconds
        for release, cells in other.cells.items():
            self.cells.setdefault(release, Counter()).update(cells)
        for release, times in other.times.items():
            self.times.setdefault(release, Counter()).update(times)
        for release, pairs in other.pairs.items():
            self.pairs.setdefault(release, Counter()).update(pairs)
        self.searched.update(other.searched)
        for release, arcs in other.arcs.items():
            self.arcs.setdefault(release, set()).update(arcs)
        self.declared.update(other.declared)
        self.undeclared.update(other.undeclared)
        known = {found.signature for found in self.found}
        self.found += [found for found in other.found if found.signature not in known]
        self.lacking |= other.lacking
        self.undefined.update(other.undefined)
        self.problems += [text for text in other.problems if text not in self.problems]
        self.broken += [text for text in other.broken if text not in self.broken]

    @property
    def exit_status(self) -> int:
        """0: conforms. 1: does not. 2: could not run."""
        if self.broken:
            return 2
        return 1 if self.problems or self.undeclared else 0


def releases_of(settings: Settings) -> tuple[str, ...]:
    """Return the releases that a run compares with; raises `TargetError`."""
    chosen = settings.releases
    if "all" in chosen:
        chosen = contracts_of(settings.target)
        return chosen if len(chosen) > 1 else kvreference.RELEASES
    for release in chosen:
        if release not in kvreference.PINNED and not release.startswith("path:"):
            raise TargetError(
                f"release {release!r}: expected all, path:DIR or one of "
                f"{', '.join(kvreference.PINNED)}"
            )
    return chosen or contracts_of(settings.target)


def caches_of(settings: Settings) -> tuple[str, ...]:
    """Return the caches (and the mask functions) that a run tests; raises `TargetError`."""
    known = (*CACHES, FUNCTIONS)
    for cache in settings.caches:
        if cache not in known:
            raise TargetError(f"cache {cache!r}: expected one of {', '.join(known)}")
    return settings.caches or known


@lru_cache(maxsize=4)
def ledger_of(settings: Settings) -> Ledger:
    """Return the ledger that applies: the one asked for, or ours if the target is ours."""
    ledger = Ledger()
    if settings.ledger is not None:
        ledger = Ledger.read(settings.ledger)
        check_ledger(ledger, settings.target)
    elif f"{settings.target}.".startswith(f"{DEFAULT_TARGET}.") and LEDGER.exists():
        ledger = Ledger.read(LEDGER)
        check_ledger(ledger, settings.target)
    return ledger


def check_ledger(ledger: Ledger, target: str) -> None:
    """Raise `LedgerError` for a ledger of another target, or with entries that nothing matches."""
    if not f"{target}.".startswith(f"{ledger.target}."):
        raise LedgerError(
            f"{ledger.path}: expected a ledger for {target}, got one for {ledger.target}; "
            "--ledger names another"
        )
    known = (*CACHES, FUNCTIONS)
    for entry in ledger.entries:
        if entry.cache not in known:
            raise LedgerError(
                f"ledger entry {entry.id!r}: cache: expected one of {', '.join(known)}, "
                f"got {entry.cache!r}"
            )
        for release in entry.releases:
            if release not in kvreference.RELEASES:
                raise LedgerError(
                    f"ledger entry {entry.id!r}: releases: expected some of "
                    f"{', '.join(kvreference.RELEASES)}, got {release!r}"
                )


def corpus_of(settings: Settings) -> list[Path]:
    """Return the trace files that are run first."""
    folder = settings.traces or CORPUS
    if settings.traces is not None and not folder.is_dir():
        raise TargetError(f"traces {str(folder)!r}: expected a folder of trace files")
    witnesses = folder / "ledger"
    return sorted(path for path in folder.rglob("*.json") if witnesses not in path.parents)


def jobs_of(settings: Settings) -> Iterator[Job]:
    """Yield the jobs of a run: cheap ones first.

    Raises `TargetError`, `TraceError` or `LedgerError` where the options do not fit.
    """
    releases, caches = releases_of(settings), caches_of(settings)
    for release in releases:
        yield Job("surface", release)
        yield Job("smoke", release)
    for path in corpus_of(settings):
        try:
            trace = read(path)
        except OSError as error:
            raise TraceError(str(error)) from error
        if not {step.cache for step in trace.steps if isinstance(step, Construct)} <= {*caches}:
            continue
        for release in releases:
            if not trace.releases or release in trace.releases:
                yield Job("corpus", release, str(path))
    for entry in ledger_of(settings).entries:
        for release in releases:
            if release in entry.releases and entry.cache in caches:
                yield Job("ledger", release, entry.id)
    for release in releases:
        for cache in caches:
            for mode in get_args(Mode):
                yield Job("lockstep", release, cache, mode)
