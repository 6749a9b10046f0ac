"""Coverage is a floor: what a run must reach of the reference, and what is listed as unreached."""

from __future__ import annotations

from functools import lru_cache

import msgspec
import pytest
from property_tests.harness.ports import RELEASE, whole_report

import kvreference
from kvlockstep import _floor as floors
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._coverage import lines_of_classes, reached_of_classes
from kvlockstep._divergence import Cell, Pair
from kvlockstep._floor import (
    FLOOR,
    Floor,
    UnreachedCells,
    UnreachedLines,
    UnreachedPairs,
    expected_cells,
    expected_pairs,
    floor,
    judge_coverage,
)
from kvlockstep._jobs import JobReport
from kvlockstep._operations import OPERATIONS

TARGET = f"release:{RELEASE}"
CONTRACT = contract_of(RELEASE)
LINES = lines_of_classes(CONTRACT)
CELL = Cell("KVCache", "trim", "full")
PAIR = Pair("BatchKVCache", "extend", "empty", "padding pending")


@lru_cache
def reached(release: str, arcs: frozenset):
    """Return what was reached of each class; to analyse the source takes a tenth of a second."""
    return reached_of_classes(contract_of(release), arcs)


@pytest.fixture
def listing(monkeypatch):
    """Return `listing(...)`: it puts another list in the place of ours, an empty one at first."""
    monkeypatch.setattr(
        floors,
        "reached_of_classes",
        lambda contract, arcs: reached(contract.release, frozenset(arcs)),
    )

    def put(**parts):
        monkeypatch.setattr(floors, "floor", lambda: Floor(**parts))

    put()
    return put


def without(*missed: Cell | Pair | int, **fields) -> JobReport:
    """Return the report of a run that reached everything but this."""
    report = whole_report(**fields)
    for one in missed:
        match one:
            case Cell():
                del report.cells[RELEASE][one]
            case Pair():
                del report.pairs[RELEASE][one]
            case _:
                report.arcs[RELEASE].discard((one, one))
    return report


def cells(cell: Cell, **fields) -> UnreachedCells:
    """Return an entry that lists a cell."""
    fields = {"releases": (RELEASE,), "reason": "a test", **fields}
    return UnreachedCells(
        cache=cell.cache, operations=(cell.operation,), states=(cell.state,), **fields
    )


def pairs(pair: Pair, **fields) -> UnreachedPairs:
    """Return an entry that lists a pair."""
    fields = {"releases": (RELEASE,), "reason": "a test", **fields}
    names = {"operations": (pair.operation,), "states": (pair.state,), "peers": (pair.peer,)}
    return UnreachedPairs(cache=pair.cache, **names, **fields)


def lines(*numbers: int, release: str = RELEASE, **fields) -> UnreachedLines:
    """Return an entry that lists lines."""
    return UnreachedLines(release=release, lines=numbers, reason="a test", **fields)


def entry_for(one: Cell | Pair | int, **fields) -> dict[str, tuple]:
    """Return the list with an entry for a cell, a pair or a line."""
    match one:
        case Cell():
            return {"cells": (cells(one, **fields),)}
        case Pair():
            return {"pairs": (pairs(one, **fields),)}
        case _:
            return {"lines": (lines(one, **fields),)}


LINE = max(LINES["KVCache"])
TOLD = {
    CELL: "KVCache trim when full",
    PAIR: "BatchKVCache extend when empty with a peer that is padding pending",
}
each = pytest.mark.parametrize("one", [CELL, PAIR, LINE], ids=["cell", "pair", "line"])


@pytest.mark.parametrize("release", kvreference.RELEASES)
def test_run_that_reaches_everything_has_no_problem(listing, release):
    """A run that reached every line, cell and pair is at the floor."""
    listing()

    assert judge_coverage(whole_report(release=release), TARGET) == []


@each
def test_what_is_not_reached_and_not_listed_fails(listing, one):
    """An empty cell, an empty pair or a line that never ran is a problem that names it."""
    listing()
    told = f"never reached: {TOLD[one]}" if one in TOLD else f"line {one} of KVCache never ran"

    assert judge_coverage(without(one), TARGET) == [f"coverage {RELEASE}: {told}"]


@each
def test_what_is_listed_need_not_be_reached(listing, one):
    """What is listed with a reason may stay unreached."""
    listing(**entry_for(one))

    assert judge_coverage(without(one), TARGET) == []


@each
def test_what_is_listed_must_not_be_reached(listing, one):
    """What is listed and reached after all is a mistake in the list."""
    listing(**entry_for(one))
    told = (
        f"listed as never reached, and reached: {TOLD[one]}"
        if one in TOLD
        else f"line {one} of KVCache is listed as never run, and ran"
    )

    assert judge_coverage(whole_report(), TARGET) == [f"coverage {RELEASE}: {told}"]


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (CELL._replace(cache="PagedKVCache"), "PagedKVCache trim when full"),
        (CELL._replace(operation="rewind"), "KVCache rewind when full"),
        (CELL._replace(operation="front_trim"), "KVCache front_trim when full"),
        (CELL._replace(state="half full"), "KVCache trim when half full"),
        (PAIR._replace(operation="merge"), "BatchKVCache merge when empty with a peer that is"),
        (PAIR._replace(peer="rotated"), "with a peer that is rotated"),
    ],
)
def test_what_is_listed_must_exist(listing, one, told):
    """A listed cell or pair that there is not is a mistake in the list."""
    listing(**entry_for(one))

    (problem,) = judge_coverage(whole_report(), TARGET)

    assert problem.startswith(f"coverage {RELEASE}: listed as never reached, but there is no ")
    assert told in problem


def test_listed_line_must_be_one_of_a_class(listing):
    """A listed line outside of every class and function that is measured is a mistake."""
    listing(lines=(lines(1, LINE),))

    (problem,) = judge_coverage(without(LINE), TARGET)

    assert problem == f"coverage {RELEASE}: line 1 is listed as never run, and is in no class"


@each
def test_entries_hold_for_their_releases(listing, one):
    """An entry for one release says nothing of another one."""
    other = {"release": "0.31.3"} if one == LINE else {"releases": ("0.31.3",)}
    listing(**entry_for(one, **other))

    assert len(judge_coverage(without(one), TARGET)) == 1


@each
@pytest.mark.parametrize(
    ("target", "problems"),
    [("py:mlxkv", 0), ("py:mlxkv.mlx_lm_0_32", 0), ("release:0.32.2", 1), ("path:../mlx-lm", 1)],
)
def test_entries_hold_for_their_targets(listing, one, target, problems):
    """An entry for some targets holds for those and their modules only."""
    listing(**entry_for(one, targets=("py:mlxkv",)))

    assert len(judge_coverage(without(one), target)) == problems
    assert len(judge_coverage(whole_report(), target)) == 1 - problems


def test_operations_and_states_of_an_entry_multiply(listing):
    """An entry lists each of its operations in each of its states."""
    states = "full", "trimmed"
    entry = cells(CELL)
    entry = msgspec.structs.replace(entry, operations=("trim", "mask"), states=states)
    listing(cells=(entry,))
    listed = [
        Cell("KVCache", operation, state) for operation in ("trim", "mask") for state in states
    ]

    assert judge_coverage(without(*listed), TARGET) == []
    assert len(judge_coverage(without(*listed[:1]), TARGET)) == 3


# What is not judged.


@pytest.mark.parametrize("name", [*CACHES, FUNCTIONS])
def test_part_of_a_run_is_not_judged(listing, name):
    """Fewer steps on one cache, or none, and the run says nothing of the whole."""
    listing()
    report = without(CELL, LINE)
    assert judge_coverage(report, TARGET)

    report.searched[RELEASE, name] -= 1
    assert judge_coverage(report, TARGET) == []
    del report.searched[RELEASE, name]
    assert judge_coverage(report, TARGET) == []


def test_each_release_is_judged_on_its_own(listing):
    """A release that was searched is judged, beside one that was searched in part."""
    listing()
    report = without(CELL)
    other = whole_report(release="0.31.3")
    other.searched.clear()
    del other.cells["0.31.3"][CELL]
    report.add(other)

    assert judge_coverage(report, "py:mlxkv") == [
        f"coverage {RELEASE}: never reached: {TOLD[CELL]}"
    ]


@pytest.mark.parametrize("target", ["py:mlx_vlm.models.cache", "py:mlxkvfork", "py:port"])
def test_other_ports_are_not_judged(listing, target):
    """Beside another port, which may refuse what leads to a state, coverage is not judged."""
    listing()

    assert judge_coverage(without(CELL, PAIR, LINE), target) == []


def test_working_copy_as_the_contract_is_not_judged(listing):
    """A contract that is no pinned release has no list of its own."""
    listing()
    report = without(CELL)
    report.cells["path:x"] = report.cells.pop(RELEASE)

    assert judge_coverage(report, TARGET) == []


def test_lines_that_were_not_measured_are_not_judged(listing):
    """Where another tracer was at work, cells are judged and lines are not."""
    listing()
    report = without(CELL)
    report.arcs = {RELEASE: set()}

    assert judge_coverage(report, TARGET) == [f"coverage {RELEASE}: never reached: {TOLD[CELL]}"]


@pytest.mark.parametrize("lacks", ["ChunkedKVCache", "KVCache.trim", "BatchKVCache.extend"])
def test_what_the_target_lacks_is_not_asked_for(listing, lacks):
    """A class or an operation that the target lacks is asked for nowhere, all others are."""
    listing()
    asked = {f"{cell.cache}.{member(cell)}" for cell in expected_cells(CONTRACT, {lacks})}
    pairs_asked = {f"{pair.cache}.{pair.operation}" for pair in expected_pairs(CONTRACT, {lacks})}

    assert not any(f"{one}.".startswith(f"{lacks}.") for one in asked | pairs_asked)
    assert "RotatingKVCache.trim" in asked
    assert "BatchRotatingKVCache.extend" in pairs_asked
    assert judge_coverage(whole_report(lacking={lacks}), TARGET) == []
    missed = CELL._replace(cache="RotatingKVCache", state="wrapped")
    assert len(judge_coverage(without(missed, lacking={lacks}), TARGET)) == 1


def member(cell: Cell) -> str | None:
    """Return the member that an operation needs."""
    return next(one.member for one in OPERATIONS.values() if one.name == cell.operation)


def test_operations_of_one_release_are_asked_of_that_one():
    """What only one release has is expected of that release."""
    operations = {
        release: {cell.operation for cell in expected_cells(contract_of(release), ())}
        for release in kvreference.RELEASES
    }

    assert operations["0.31.3"] - operations["0.32.2"] == {"set_meta_state"}
    assert operations["0.32.2"] - operations["0.31.3"] == {"fetch"}


# Our list.


def test_our_list_reads_and_names_what_there_is():
    """Our list is readable, gives a reason for everything, and nothing in it is made up."""
    listed = floor()

    assert all(len(e.reason) > 10 for e in (*listed.cells, *listed.pairs, *listed.lines))
    for release in kvreference.RELEASES:
        contract = contract_of(release)
        known = {*expected_cells(contract, ()), *expected_pairs(contract, ())}
        named = [
            one
            for entry in (*listed.cells, *listed.pairs)
            if release in entry.releases
            for one in (floors._cells if entry in listed.cells else floors._pairs)(entry)
        ]
        assert [one for one in named if one not in known] == []
    assert {r for e in (*listed.cells, *listed.pairs) for r in e.releases} <= {
        *kvreference.RELEASES
    }


@pytest.mark.parametrize(
    "text",
    [
        '[[cells]]\nreleases = []\ncache = "x"\noperations = []\nstates = []\n',
        '[[lines]]\nrelease = "0.32.2"\nlines = [1]\nreason = "x"\nwhy = "y"\n',
        '[[line]]\nrelease = "0.32.2"\n',
    ],
    ids=["no reason", "unknown field", "unknown table"],
)
def test_list_that_does_not_fit_is_refused(text):
    """A list without a reason, or with anything unknown in it, cannot be read."""
    assert msgspec.toml.decode(FLOOR.read_bytes(), type=Floor) == floor()

    with pytest.raises(msgspec.ValidationError):
        msgspec.toml.decode(text, type=Floor)
