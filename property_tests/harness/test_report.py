"""The report: tables that a person can read, of a run that is made up."""

from __future__ import annotations

import io
from collections import Counter
from itertools import takewhile

import pytest
from property_tests.harness.ports import RELEASE, whole_report
from rich.console import Console

import kvreference
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._coverage import lines_of_classes
from kvlockstep._divergence import Cell, Pair
from kvlockstep._jobs import JobReport
from kvlockstep._report import show
from kvlockstep._settings import Settings

SETTINGS = Settings(target=f"release:{RELEASE}")


def made_up(**parts) -> JobReport:
    """Return a report on one release: `cells` and `pairs`, counters, and `arcs`."""
    named = {"cells": Counter(), "pairs": Counter(), "arcs": set(), **parts}
    times = {RELEASE: Counter()}
    return JobReport(times=times, **{name: {RELEASE: part} for name, part in named.items()})


def text_of(report: JobReport, width: int = 400) -> str:
    """Return the report as text, so wide that nothing is broken."""
    out = io.StringIO()
    show(report, SETTINGS, Console(file=out, width=width, no_color=True))
    return out.getvalue()


def rows_of(report: JobReport) -> list[list[str]]:
    """Return the report line by line, the columns of its tables apart."""
    lines = text_of(report).splitlines()
    return [[part.strip() for part in line.replace("┃", "│").split("│")] for line in lines]


def table_of(report: JobReport, title: str) -> dict[tuple[str, str], str]:
    """Return the table of pairs under a title: state of self and of the peer to a number."""
    lines = text_of(report).partition(f"\n{title}")[2].replace("┃", "│").splitlines()
    head, *body = [
        [part.strip() for part in line.split("│")]
        for line in takewhile(lambda line: "└" not in line, lines)
        if "│" in line
    ]
    return {
        (row[1], state): number
        for row in body
        for state, number in zip(head[2:-1], row[2:-1], strict=True)
    }


@pytest.mark.parametrize(
    ("cache", "operation"),
    [(name, operation) for name, kind in CACHES.items() for operation in kind.peers],
)
def test_states_of_self_and_peer_make_a_table(cache, operation):
    """For each operation with a peer there is a table of how often which state met which."""
    states = CACHES[cache].states
    pairs = Counter()
    for row, state in enumerate(states):
        for column, peer in enumerate(states):
            if (row + column) % 3:
                pairs[Pair(cache, operation, state, peer)] = 100 * row + column
    report = made_up(pairs=pairs)

    shown = table_of(report, f"{cache}.{operation} in {RELEASE}:")

    assert shown == {
        (state, peer): f"{number:,}"
        if (number := pairs[Pair(cache, operation, state, peer)])
        else "-"
        for state in states
        for peer in states
    }


def test_states_that_never_met_anything_are_left_out():
    """A table has the states that took part in any meeting, in the order of the class."""
    pair = Pair("KVCache", "merge", "full", "empty")
    report = made_up(pairs=Counter({pair: 1234}))

    shown = table_of(report, f"KVCache.merge in {RELEASE}:")

    assert shown == {
        ("empty", "empty"): "-", ("empty", "full"): "-",
        ("full", "empty"): "1,234", ("full", "full"): "-",
    }  # fmt: skip


def test_release_without_pairs_has_no_table():
    """Where no caches met there is no table of states by states."""
    report = made_up(cells=Counter({Cell("KVCache", "trim", "full"): 1}))

    assert "state of self" not in text_of(report)


def test_table_names_the_states_that_an_operation_missed():
    """A row of the main table says how many of the class's states were reached, and which not."""
    cells = Counter({Cell("KVCache", "update", state): 5 for state in ("empty", "full", "spare")})
    cells[Cell("KVCache", "trim", "full")] = 7
    rows = rows_of(made_up(cells=cells))

    (trim,) = [row for row in rows if "trim" in row]
    (update,) = [row for row in rows if "update" in row]
    assert (trim[3], trim[-2]) == ("7", "1 of 3, not: empty, spare")
    assert (update[3], update[-2]) == ("15", "3 of 3")
    assert any(row[-2:-1] == ["3 states: empty, full, spare"] for row in rows)


@pytest.mark.parametrize("release", kvreference.RELEASES)
def test_lines_and_branches_are_counted(release):
    """Of each class the lines are told, those that never ran by number, and the branches taken."""
    report = whole_report(release=release)
    report.times = {release: Counter()}
    lines = sorted(lines_of_classes(contract_of(release))["TokenBuffer"])
    report.arcs[release] -= {(line, line) for line in (*lines[:2], lines[-1])}

    text = text_of(report)

    first = f"{lines[0]}-{lines[1]}" if lines[1] == lines[0] + 1 else f"{lines[0]}, {lines[1]}"
    count = f"{len(lines) - 3}/{len(lines)} lines"
    assert f"TokenBuffer: {count}, never reached: {first}, {lines[-1]}; " in text
    assert "TokenBuffer: " in text
    assert " branches" in text
    for name in (*CACHES, "_BaseCache"):
        assert f"  {name}: " in text
        if name != "TokenBuffer":
            own = len(lines_of_classes(contract_of(release))[name])
            assert f"  {name}: {own}/{own} lines, all reached; " in text


def test_classes_that_were_not_run_are_not_measured():
    """A run of one class tells the lines of that one and of the base class."""
    report = made_up(cells=Counter({Cell("KVCache", "trim", "full"): 1}), arcs={(1, 2)})

    lines = [line.strip() for line in text_of(report).splitlines() if "branches" in line]

    assert [line.partition(":")[0] for line in lines[1:]] == ["_BaseCache", "KVCache"]


def test_lines_that_were_not_measured_are_told_so():
    """Where another tracer was at work the report says that lines were not measured."""
    report = made_up(cells=Counter({Cell(FUNCTIONS, "causal_mask", "none"): 1}))

    assert "lines reached: not measured" in text_of(report)


def test_problems_of_coverage_are_printed():
    """What a run did not reach stands in the report, and the target does not conform."""
    report = JobReport(problems=[f"coverage {RELEASE}: never reached: KVCache trim when full"])

    text = text_of(report)

    assert report.exit_status == 1
    assert f"coverage {RELEASE}: never reached: KVCache trim when full" in text
    assert f"release:{RELEASE} does not conform" in text
