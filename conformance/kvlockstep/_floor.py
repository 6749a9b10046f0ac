"""Coverage is a floor: what a whole run must have reached of the reference.

Every line of its classes, every operation in every state class, every pair of state classes for the
operations that take a peer. What no input reaches is listed with the reason in `floor.toml`; a
listed one that is reached is a mistake in the list. An entry may hold for some targets only: what a
transactional target refuses is undone on the reference too, and never goes on from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

import kvreference
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import Contract, contract_of
from kvlockstep._coverage import reached_of_classes
from kvlockstep._divergence import Cell, Pair
from kvlockstep._jobs import JobReport
from kvlockstep._operations import OPERATIONS
from kvlockstep._settings import DEFAULT_TARGET, PROFILES

FLOOR = Path(__file__).resolve().parent / "floor.toml"
# A run reaches the floor if it searches as long as the CI profile, in both modes.
_STEPS = 2 * PROFILES["ci"].steps

_JUDGED = (f"{DEFAULT_TARGET}.", "release:", "path:")

T = TypeVar("T")


class UnreachedCells(Struct, frozen=True, forbid_unknown_fields=True):
    """States in which an operation is never seen; `operations` and `states` multiply."""

    releases: tuple[str, ...]
    cache: str
    operations: tuple[str, ...]
    states: tuple[str, ...]
    reason: str
    targets: tuple[str, ...] = ()


class UnreachedPairs(Struct, frozen=True, forbid_unknown_fields=True):
    """States of a cache and its peer that an operation never meets."""

    releases: tuple[str, ...]
    cache: str
    operations: tuple[str, ...]
    states: tuple[str, ...]
    peers: tuple[str, ...]
    reason: str
    targets: tuple[str, ...] = ()


class UnreachedLines(Struct, frozen=True, forbid_unknown_fields=True):
    """Lines of a release's cache module that never run."""

    release: str
    lines: tuple[int, ...]
    reason: str
    targets: tuple[str, ...] = ()


E = TypeVar("E", UnreachedCells, UnreachedPairs, UnreachedLines)


class Floor(Struct, frozen=True, forbid_unknown_fields=True):
    """What is not reached, and why not."""

    cells: tuple[UnreachedCells, ...] = ()
    pairs: tuple[UnreachedPairs, ...] = ()
    lines: tuple[UnreachedLines, ...] = ()


@lru_cache(maxsize=1)
def floor() -> Floor:
    """Return the list in `floor.toml`; raises `msgspec.ValidationError`."""
    return msgspec.toml.decode(FLOOR.read_bytes(), type=Floor)


def judge_coverage(report: JobReport, target: str) -> list[str]:
    """Return what a run should have reached of the reference and did not, a line each.

    Only releases that were searched for long enough, on every cache that the target has, are
    judged: a part of a run says nothing of the whole. And only beside mlxkv or a release itself: it
    is the generator that is judged, and another port may refuse what leads to some states.
    """
    problems: list[str] = []
    if not f"{target}.".startswith(_JUDGED):
        return problems
    for release in sorted(report.cells):
        if release not in kvreference.RELEASES:
            continue
        names = [name for name in (*CACHES, FUNCTIONS) if name not in report.lacking]
        if all(report.searched[release, name] >= _STEPS for name in names):
            problems += _judge(report, release, target)
    return problems


def _judge(report: JobReport, release: str, target: str) -> Iterator[str]:
    contract = contract_of(release)
    listed = floor()
    cells = {cell for entry in _applying(listed.cells, release, target) for cell in _cells(entry)}
    yield from _compare(
        expected_cells(contract, report.lacking), report.cells[release], cells, release
    )
    pairs = {pair for entry in _applying(listed.pairs, release, target) for pair in _pairs(entry)}
    yield from _compare(
        expected_pairs(contract, report.lacking), report.pairs[release], pairs, release
    )
    lines = {line for entry in _applying(listed.lines, release, target) for line in entry.lines}
    arcs = report.arcs.get(release)
    if not arcs or report.lacking:
        return
    classes = reached_of_classes(contract, arcs)
    for line in sorted(lines.difference(*(reached.lines for reached in classes.values()))):
        yield f"coverage {release}: line {line} is listed as never run, and is in no class"
    for name, reached in classes.items():
        for line in reached.missed:
            if line not in lines:
                yield f"coverage {release}: line {line} of {name} never ran"
        for line in sorted(lines & reached.lines - {*reached.missed}):
            yield f"coverage {release}: line {line} of {name} is listed as never run, and ran"


def _applying(entries: Iterable[E], release: str, target: str) -> Iterator[E]:
    """Yield the entries that are about this release, beside this target."""
    for entry in entries:
        releases = (entry.release,) if isinstance(entry, UnreachedLines) else entry.releases
        beside = not entry.targets or any(f"{target}.".startswith(f"{t}.") for t in entry.targets)
        if release in releases and beside:
            yield entry


def _compare(
    expected: Collection[T], reached: Collection[T], listed: Collection[T], release: str
) -> Iterator[str]:
    for one in expected:
        if one not in reached and one not in listed:
            yield f"coverage {release}: never reached: {_tell(one)}"
    for one in listed:
        if one in reached:
            yield f"coverage {release}: listed as never reached, and reached: {_tell(one)}"
        elif one not in expected:
            yield f"coverage {release}: listed as never reached, but there is no {_tell(one)}"


def _tell(one: object) -> str:
    match one:
        case Cell(cache, operation, state):
            return f"{cache} {operation} when {state}"
        case Pair(cache, operation, state, peer):
            return f"{cache} {operation} when {state} with a peer that is {peer}"
        case _:
            return str(one)


def expected_cells(contract: Contract, lacking: Collection[str]) -> list[Cell]:
    """Return every operation of every class in every of its states."""
    return [
        Cell(name, operation, state)
        for name, operation in _operations(contract, lacking)
        for state in CACHES[name].states
    ]


def expected_pairs(contract: Contract, lacking: Collection[str]) -> list[Pair]:
    """Return every operation with a peer for every pair of states."""
    return [
        Pair(name, operation, state, peer)
        for name, operation in _operations(contract, lacking)
        if operation in CACHES[name].peers
        for state in CACHES[name].states
        for peer in CACHES[name].states
    ]


def _operations(contract: Contract, lacking: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the operations that both the release and the target have."""
    needs = {operation.name: operation.member for operation in OPERATIONS.values()}
    for name, kind in CACHES.items():
        if name not in contract.surfaces or name in lacking:
            continue
        for operation in kind.operations:
            need = needs[operation]
            has = need is None or need in contract.surfaces[name].members
            if has and f"{name}.{need}" not in lacking:
                yield name, operation


def _cells(entry: UnreachedCells) -> Iterator[Cell]:
    for operation in entry.operations:
        for state in entry.states:
            yield Cell(entry.cache, operation, state)


def _pairs(entry: UnreachedPairs) -> Iterator[Pair]:
    for operation in entry.operations:
        for state in entry.states:
            for peer in entry.peers:
                yield Pair(entry.cache, operation, state, peer)
