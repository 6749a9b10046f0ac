"""Drift: every distinct divergence between two targets of any kind, each with a short trace.

One of the two is the contract side, whose sizes the traces go by: a release or a working copy
before a port, and what is not transactional before what is. Where they are equals, both are, in
turns: a state in the layout of one says other things than one in the layout of the other.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import kvreference
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import Contract, Level, contract_of, signatures, surface_of
from kvlockstep._divergence import Divergence, Run, Signature
from kvlockstep._drift_words import cache_of, is_refused, key_of, say
from kvlockstep._engine import Lockstep
from kvlockstep._gate import use_device
from kvlockstep._generate import generate
from kvlockstep._jobs import CORPUS
from kvlockstep._search import seeded_bytes
from kvlockstep._settings import Settings
from kvlockstep._shrink import shrink
from kvlockstep._snapshots import CAUGHT
from kvlockstep._targets import Target, TargetError, contracts_of, load_target
from kvlockstep._trace import Mode, Trace, dumps, read
from kvlockstep._workers import cores, pool

# Of the time of a part, what the search gets; the rest is for shrinking.
_SEARCHING = 0.6
# After so many traces in a row without a step there is nothing that both sides have.
_MOST_IDLE = 20
_CORPUS = "corpus"
# What shows so often in a row is taken to show always.
_SURE = 2


@dataclass(frozen=True)
class Part:
    """A part of the comparison that one worker does: a cache in a mode, or the corpus.

    `flipped`: the second target is the contract side. `seconds`: when to stop, for None never.
    """

    a: str
    b: str
    name: str
    mode: Mode = "value"
    flipped: bool = False
    seed: int = 0
    steps: int = 0
    seconds: float | None = None
    device: str = "cpu"
    level: Level | None = None


@dataclass
class Difference:
    """One distinct divergence: its shortest trace, what shows in it, and what each side does.

    `signatures` are all that say the same, as (cache, operation, field). `flipped`: the second
    target was the contract side. `refused`: both raise, in their own way.
    """

    cache: str
    operation: str
    where: str
    a: str
    b: str
    trace: Trace
    step: int
    flipped: bool
    signatures: set[tuple[str, str, str]] = field(default_factory=set)
    shrunk: bool = True
    refused: bool = False

    @property
    def size(self) -> tuple[int, int, str]:
        """What makes one trace shorter than another."""
        text = dumps(self.trace)
        return len(self.trace.steps), len(text), text


@dataclass
class Surfaces:
    """What only one of the two targets has, and what they call with other parameters."""

    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    parameters: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Drift:
    """The result: the differences by what they say, and what was done to find them."""

    a: str
    b: str
    surfaces: Surfaces = field(default_factory=Surfaces)
    differences: dict[Hashable, Difference] = field(default_factory=dict)
    steps: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Drift) -> None:
        """Add what a part found, keeping the shortest trace of each difference."""
        self.steps += other.steps
        self.problems += [text for text in other.problems if text not in self.problems]
        for key, new in other.differences.items():
            known = self.differences.get(key)
            best = new if known is None or new.size < known.size else known
            both = new.signatures | (known.signatures if known else set())
            self.differences[key] = replace(best, signatures=both)

    def ordered(self) -> list[Difference]:
        """Return the differences by cache and operation, in the order that we know them in."""
        caches = [*CACHES, FUNCTIONS]
        tags = {c: ("construct", *CACHES[c].operations) if c in CACHES else () for c in caches}

        def place(one: Difference) -> tuple[Any, ...]:
            tag = tags[one.cache]
            known = tag.index(one.operation) if one.operation in tag else len(tag)
            return caches.index(one.cache), known, one.operation, one.size

        return sorted(self.differences.values(), key=place)

    @property
    def exit_status(self) -> int:
        """0: no difference. 1: some. 2: a part could not run."""
        if self.problems:
            return 2
        surfaces = self.surfaces
        told = surfaces.only_a or surfaces.only_b or surfaces.parameters
        return 1 if self.differences or told else 0


def drift(
    a: str, b: str, settings: Settings, seconds: float | None = None, workers: int | None = None
) -> Iterator[tuple[Drift, int, int]]:
    """Compare `a` with `b` and yield the result as it grows, with parts done and parts in all.

    Raises `TargetError` or `ReferenceError` if a target cannot be loaded.
    """
    total = Drift(a, b, surfaces=compare(a, b))
    workers = workers or len(cores())
    parts = list(parts_of(a, b, settings))
    if seconds is not None:
        # The corpus takes what it takes, which is little.
        searches = sum(1 for part in parts if part.name != _CORPUS)
        each = seconds * workers / max(1, searches)
        parts = [replace(part, seconds=each) for part in parts]
    yield total, 0, len(parts)
    with pool(workers) as executor:
        futures = {executor.submit(run_part, part): part for part in parts}
        for number, future in enumerate(as_completed(futures), 1):
            part = futures[future]
            try:
                total.add(future.result())
            except BrokenProcessPool:
                total.problems.append(f"{part.name} {part.mode}: the process died: did it crash?")
            yield total, number, len(parts)


def parts_of(a: str, b: str, settings: Settings) -> Iterator[Part]:
    """Yield the parts of a comparison, those of the corpus first."""
    names = settings.caches or (*CACHES, FUNCTIONS)
    for name in names:
        if name not in (*CACHES, FUNCTIONS):
            raise TargetError(f"cache {name!r}: expected one of {', '.join((*CACHES, FUNCTIONS))}")
    ways = directions(a, b)
    common = {"device": settings.device, "level": settings.level}
    if not settings.caches:
        for flipped in ways:
            yield Part(a, b, _CORPUS, flipped=flipped, **common)  # type: ignore[arg-type]
    for name in names:
        for mode in get_args(Mode):
            for flipped in ways:
                seed = 8 * settings.seed + 4 * flipped + (2 if mode == "in-place" else 0)
                steps = max(1, settings.steps_each // len(ways))
                yield Part(a, b, name, mode, flipped, seed, steps, **common)  # type: ignore[arg-type]


def directions(a: str, b: str) -> tuple[bool, ...]:
    """Return which side is the contract's: False for `a`, True for `b`, both for equals."""
    ranks = [(spec.startswith("py:"), _target(spec, "").transactional) for spec in (a, b)]
    if ranks[0] == ranks[1]:
        return False, True
    return (ranks[0] > ranks[1],)


def compare(a: str, b: str) -> Surfaces:
    """Return what only one side has, and what both have with other parameters."""
    modules = _target(a, b).module, _target(b, a).module
    ours, theirs = map(signatures, modules)
    for module, known in zip(modules, (ours, theirs), strict=True):
        known |= {name: None for name in _other_caches(module) if name not in known}
    return Surfaces(
        [name for name in ours if name not in theirs and _owner(name) in ("", *theirs)],
        [name for name in theirs if name not in ours and _owner(name) in ("", *ours)],
        [
            (name, mine or "a property", theirs[name] or "a property")
            for name, mine in ours.items()
            if name in theirs and mine != theirs[name]
        ],
    )


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _other_caches(module: Any) -> list[str]:
    """Return the cache classes of a module that the harness does not know."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and hasattr(value, "state") and not name.startswith("_")
    ]


@lru_cache(maxsize=8)
def lockstep_between(contract: str, target: str, level: Level | None) -> Lockstep:
    """Return the engine that runs the target string `contract` against `target`.

    At the lower level of the two; raises `TargetError` or `ReferenceError`.
    """
    ours, theirs = _target(contract, target), _target(target, contract)
    levels: tuple[Level, ...] = get_args(Level)
    lowest = min(ours.level, theirs.level, key=levels.index)
    return Lockstep(_contract(ours), theirs, level or lowest)


def _contract(target: Target) -> Contract:
    kind, _, name = target.spec.partition(":")
    if kind != "py":
        return contract_of(name if kind == "release" else target.spec)
    module = target.module
    try:
        surfaces = {
            name: surface_of(module, kind) for name, kind in CACHES.items() if hasattr(module, name)
        }
    except CAUGHT as error:
        raise TargetError(f"target {target.spec!r} cannot be driven: {error!r}") from error
    file = Path(getattr(module, "__file__", None) or module.__name__)
    reference = kvreference.Reference(target.spec, module, module, file)
    return Contract(target.contract or target.spec, reference, surfaces)


def _target(spec: str, other: str) -> Target:
    """Load a target; of a package that follows several releases the one that fits the other's."""
    known = contracts_of(spec)
    wanted = [name for name in (contracts_of(other) if other else ()) if name in known]
    return load_target(spec, wanted[-1] if wanted else known[-1])


def run_part(part: Part) -> Drift:
    """Run one part and return what it found, shrunk."""
    use_device(Settings(device=part.device))  # type: ignore[arg-type]
    sides = (part.b, part.a) if part.flipped else (part.a, part.b)
    engine = lockstep_between(*sides, part.level)
    search = _Search(part, engine)
    if part.name == _CORPUS:
        for path in sorted(CORPUS.rglob("*.json")):
            search.visit(read(path))
    else:
        search.generate()
    return search.result()


class _Search:
    """Keeps the shortest trace of each difference that a part meets, and shrinks it."""

    def __init__(self, part: Part, engine: Lockstep) -> None:
        self.part = part
        self.engine = engine
        self.found = Drift(part.a, part.b)
        self.shortest: dict[Hashable, Trace] = {}
        self.signatures: dict[Hashable, set[tuple[str, str, str]]] = {}
        self.started = time.monotonic()

    def generate(self) -> None:
        part, contract = self.part, self.engine.contract
        if part.name not in (*contract.surfaces, FUNCTIONS):
            return
        idle = 0
        for data in seeded_bytes(part.seed):
            idle = 0 if self.visit(generate(data, contract, part.name, part.mode)) else idle + 1
            enough = part.seconds is None and self.found.steps >= part.steps
            if enough or idle > _MOST_IDLE or self._is_late(_SEARCHING):
                return

    def visit(self, trace: Trace) -> int:
        """Run a trace, take note of what it shows, and return its steps."""
        run = self.engine.run(trace)
        self.found.steps += run.steps
        for divergence in run.divergences:
            key = key_of(divergence, self.part.flipped)
            known = self.shortest.get(key)
            if known is None or len(trace.steps) < len(known.steps):
                self.shortest[key] = trace
            self.signatures.setdefault(key, set()).add(divergence.signature[1:])
        return run.steps

    def result(self) -> Drift:
        """Return what was found, each difference with its shortest trace."""
        for key, trace in self.shortest.items():
            told = self._explain(key, trace)
            if told is not None:
                self.found.differences[key] = told
                continue
            self.found.problems.append(
                f"{'/'.join(min(self.signatures[key]))} did not show again when its trace was "
                "replayed: is it deterministic?"
            )
        return self.found

    def _explain(self, key: Hashable, trace: Trace) -> Difference | None:
        """Shrink a trace and put what it shows in words; None if it does not always show it."""
        if not all(self._only(key, trace).divergences for _ in range(_SURE)):
            return None
        late = self._is_late(1.0)
        if not late:
            trace = shrink(trace, _STANDS_FOR, lambda one: self._only(key, one, as_one=True))
        run = self._only(key, trace)
        if not run.divergences:
            return None
        divergence = run.divergences[0]
        if late:
            trace = trace.part(trace.steps[: divergence.index + 1])
        told = say(divergence, run)
        return Difference(
            cache_of(divergence),
            divergence.signature.operation,
            divergence.where,
            *(told[::-1] if self.part.flipped else told),
            trace,
            divergence.index,
            self.part.flipped,
            self.signatures[key],
            not late,
            is_refused(divergence),
        )

    def _only(self, key: Hashable, trace: Trace, as_one: bool = False) -> Run:
        """Run a trace, keeping only what says `key`; `as_one`: under one signature for all."""
        run = self.engine.run(trace)
        kept = [d for d in run.divergences if key_of(d, self.part.flipped) == key]
        run.divergences = [_as_one(d) for d in kept] if as_one else kept
        return run

    def _is_late(self, share: float) -> bool:
        seconds = self.part.seconds
        return seconds is not None and time.monotonic() - self.started > share * seconds


# Shrinking goes by signature: all signatures of one difference go by this one meanwhile.
_STANDS_FOR = Signature("", "", "", "")


def _as_one(divergence: Divergence) -> Divergence:
    return replace(divergence, signature=_STANDS_FOR)


def operations_of(difference: Difference) -> Sequence[str]:
    """Return the operations that show a difference, that of its trace first."""
    others = {operation for _, operation, _ in difference.signatures}
    return difference.operation, *sorted(others - {difference.operation})
