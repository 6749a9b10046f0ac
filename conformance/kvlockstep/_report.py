"""The report of a run: a table that a person can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

import kvreference
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._coverage import reached_of_classes
from kvlockstep._divergence import Pair
from kvlockstep._jobs import JobReport, releases_of
from kvlockstep._settings import Settings
from kvlockstep._targets import contracts_of, load_target
from kvlockstep._undefined import ZONES


def header(settings: Settings) -> str:
    """Return the options of a run in one line; raises `TargetError`."""
    releases = releases_of(settings)
    levels = {settings.level or load_target(settings.target, release).level for release in releases}
    return (
        f"kvlockstep: target {settings.target}, contract "
        f"{', '.join(contracts_of(settings.target))}, release {', '.join(releases)}, "
        f"level {', '.join(sorted(levels))}, profile {settings.profile} "
        f"({settings.steps_each:,} steps each), seed {settings.seed}, device {settings.device}"
    )


def show(report: JobReport, settings: Settings, console: Console) -> None:
    """Print the whole report."""
    for release in sorted(report.cells):
        console.print(_table(report, release))
        for table in _meetings(report, release):
            console.print(table)
        console.print(_lines(report, release))
    if report.lacking:
        console.print(Text(f"lacking (not tested): {', '.join(sorted(report.lacking))}", "yellow"))
    for reason in dict.fromkeys(zone.reason for zone in ZONES):
        times = report.undefined[reason]
        console.print(f"never run on the reference, {times:,} steps left out: {reason}")
    for found in report.found:
        console.rule(style="red")
        console.print(found.text, highlight=False, markup=False, soft_wrap=True)
    for problem in (*report.problems, *report.broken):
        console.print(Text(problem, "red"))
    console.print(_verdict(report, settings))


def _table(report: JobReport, release: str) -> Table:
    table = Table(title=f"contract {release}", title_justify="left", header_style="bold")
    for name in ("cache", "operation"):
        table.add_column(name, no_wrap=True)
    for name in ("steps", "declared", "undeclared", "steps/s"):
        table.add_column(name, justify="right")
    table.add_column("state classes reached")
    cells = report.cells[release]
    for cache in (*CACHES, FUNCTIONS):
        states = sorted({cell.state for cell in cells if cell.cache == cache} - {"none"})
        rows = sorted({cell.operation for cell in cells if cell.cache == cache})
        for number, operation in enumerate(rows):
            mine = [cell for cell in cells if (cell.cache, cell.operation) == (cache, operation)]
            steps = sum(cells[cell] for cell in mine)
            seconds = report.times[release][cache, operation]
            undeclared = _count(report, release, cache, operation, declared=False)
            table.add_row(
                cache if number == 0 else "",
                operation,
                f"{steps:,}",
                f"{_count(report, release, cache, operation, declared=True):,}",
                Text(f"{undeclared:,}", "bold red" if undeclared else ""),
                f"{steps / seconds:,.0f}" if seconds else "",
                _states(states, {cell.state for cell in mine}),
            )
        if rows:
            told = f"{len(states)} states: {', '.join(states)}" if states else ""
            table.add_row("", "", "", "", "", "", Text(told, "dim"), end_section=True)
    return table


def _states(known: list[str], reached: set[str]) -> str:
    if reached == {"none"}:
        return ""
    missed = [state for state in known if state not in reached]
    return f"{len(reached)} of {len(known)}" + (f", not: {', '.join(missed)}" if missed else "")


def _count(report: JobReport, release: str, cache: str, operation: str, declared: bool) -> int:
    place = (release, cache, operation)
    if declared:
        return sum(n for (signature, _), n in report.declared.items() if signature[:3] == place)
    return sum(n for signature, n in report.undeclared.items() if signature[:3] == place)


def _meetings(report: JobReport, release: str) -> Iterator[Table]:
    """For each operation that takes a peer, how often which state met which."""
    pairs = report.pairs.get(release, Counter())
    for cache, operation in sorted({(pair.cache, pair.operation) for pair in pairs}):
        states = [
            state
            for state in CACHES[cache].states
            if any(state in pair[2:] for pair in pairs if pair[:2] == (cache, operation))
        ]
        title = f"{cache}.{operation} in {release}: state of self (rows) x state of peer"
        table = Table(title=title, title_justify="left", header_style="bold")
        table.add_column("")
        for state in states:
            table.add_column(state, justify="right")
        for state in states:
            times = [pairs[Pair(cache, operation, state, peer)] for peer in states]
            table.add_row(state, *(f"{number:,}" if number else "-" for number in times))
        yield table


def _lines(report: JobReport, release: str) -> RenderableType:
    """Say which lines of the reference's classes were never reached, and how many branches."""
    arcs = report.arcs.get(release)
    if not arcs:
        return Text("lines reached: not measured (another tracer was at work, or no lockstep ran)")
    try:
        classes = reached_of_classes(contract_of(release), arcs)
    except kvreference.ReferenceError as error:
        return Text(str(error), "red")
    parts = []
    tested = {cell.cache for cell in report.cells[release]}
    for name, reached in classes.items():
        if name not in tested and name in (*CACHES, FUNCTIONS):
            continue
        missed = reached.missed
        told = f"never reached: {_ranges(missed)}" if missed else "all reached"
        lines = f"{len(reached.lines) - len(missed)}/{len(reached.lines)} lines, {told}"
        parts.append(Text(f"  {name}: {lines}; {reached.taken}/{reached.branches} branches"))
    title = f"lines and branches of {release}'s cache.py, inside the classes' functions"
    return Group(Text(title), *parts)


def _ranges(lines: Sequence[int]) -> str:
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _verdict(report: JobReport, settings: Settings) -> Text:
    declared = len(report.declared)
    entries = len({entry for _, entry in report.declared})
    speed = report.steps / report.seconds if report.seconds else 0.0
    total = (
        f"{report.jobs} jobs, {report.steps:,} steps, {speed:,.0f} steps/s a worker; "
        f"{declared} declared signatures ({entries} ledger entries), "
        f"{len(report.undeclared)} undeclared"
    )
    match report.exit_status:
        case 0:
            return Text(f"{settings.target} conforms: {total}", "bold green")
        case 1:
            return Text(f"{settings.target} does not conform: {total}", "bold red")
        case _:
            return Text(f"could not run: {total}", "bold red")
