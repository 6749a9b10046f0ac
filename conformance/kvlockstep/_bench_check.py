"""`kvlockstep bench-check`: what a port lost between two runs of the paired benches.

The port's times alone depend on the machine and on who else uses it. What is compared is how often
faster it is than the reference beside it, in turns of the same run, and how many times less memory
it takes at its peak.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.table import Table

from kvlockstep._cannot_run import exit_2_where_it_cannot_run
from kvlockstep._options import OptionError

LOSS = 15.0


class BenchFileError(OptionError):
    """A file that holds no results of paired benches, or none to compare."""


class Spread(msgspec.Struct):
    """The quartiles of a ratio over the turns of a bench."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:,.2f} ({self.low:,.2f} to {self.high:,.2f})"


class Memory(msgspec.Struct):
    """Bytes of one side: at the peak of the work, and held after it."""

    peak: int
    held: int


class _More(msgspec.Struct):
    cache_limit: str = ""
    speedup: Spread | None = None
    memory: dict[str, Memory] = {}


class _Bench(msgspec.Struct):
    fullname: str
    extra_info: _More


class _Machine(msgspec.Struct):
    device: str = "?"
    mlx: str = "?"


class _File(msgspec.Struct):
    benchmarks: list[_Bench]
    machine_info: _Machine


class Results(NamedTuple):
    """The ratios of one run, each by its bench and by what is compared, and what they depend on."""

    ratios: dict[tuple[str, str], Spread]
    machine: _Machine


class Loss(NamedTuple):
    """A ratio that became worse by more than the spread of both runs and the loss allowed."""

    bench: str
    what: str
    was: Spread
    now: Spread


def read_results(path: Path) -> Results:
    """Read the JSON file of a run of `bench/`; raises `BenchFileError`."""
    expected = "expected the JSON that bench/run.py writes"
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise BenchFileError(f"{path}: {expected}, got {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchFileError(f"{path}: {expected}, got {error}") from error
    ratios = {key: spread for bench in file.benchmarks for key, spread in _ratios_of(bench)}
    if not ratios:
        raise BenchFileError(
            f"{path}: {expected}, got {len(file.benchmarks)} benches without a pair among them"
        )
    return Results(ratios, file.machine_info)


def _ratios_of(bench: _Bench) -> Iterator[tuple[tuple[str, str], Spread]]:
    more = bench.extra_info
    if more.speedup is None:
        return
    name = f"{bench.fullname.rpartition('/')[2]}, cache limit {more.cache_limit or 'unknown'}"
    yield (name, "time"), more.speedup
    sides = [more.memory[side].peak for side in ("reference", "port") if side in more.memory]
    if len(sides) == 2 and all(sides):
        ratio = sides[0] / sides[1]
        yield (name, "peak memory"), Spread(ratio, ratio, ratio)


def join(runs: Sequence[Results]) -> Results:
    """Return several runs of the same benches as one, whose spreads reach over those of each."""
    spreads: dict[tuple[str, str], list[Spread]] = defaultdict(list)
    for run in runs:
        for key, spread in run.ratios.items():
            spreads[key].append(spread)
    ratios = {
        key: Spread(
            min(one.low for one in some),
            median(one.median for one in some),
            max(one.high for one in some),
        )
        for key, some in spreads.items()
    }
    return Results(ratios, runs[0].machine)


def find_losses(base: Results, new: Results, percent: float = LOSS) -> list[Loss]:
    """Return what both runs have and the new one lost.

    That is where its upper quartile is lower, by more than `percent`, than the lower quartile of
    the base.
    """
    kept = 1 - percent / 100
    return [
        Loss(*key, was, now)
        for key, was in base.ratios.items()
        if (now := new.ratios.get(key)) is not None and now.high < kept * was.low
    ]


_FILE: Any = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(name="bench-check")
@click.argument("base", type=_FILE)
@click.argument("new", type=_FILE)
@click.option(
    "--also",
    type=(_FILE, _FILE),
    multiple=True,
    metavar="BASE NEW",
    help="a further run of each; the spread is then over all runs",
)
@click.option(
    "--loss",
    type=click.FloatRange(0, 100, max_open=True),
    default=LOSS,
    show_default=True,
    help="per cent that a ratio may lose beyond the spread",
)
def bench_check(base: Path, new: Path, also: tuple[tuple[Path, Path], ...], loss: float) -> None:
    """Compare two runs of the benches: did the port lose speed or memory?

    BASE and NEW are JSON files of bench/run.py. Ratios to the reference are compared, never times.
    Exit status: 0 nothing lost, 1 something lost, 2 could not compare.
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    with exit_2_where_it_cannot_run():
        was, now = (
            join([read_results(file) for file in files])
            for files in zip((base, new), *also, strict=True)
        )
        both = was.ratios.keys() & now.ratios.keys()
        if was.machine.device != now.machine.device or not both:
            raise BenchFileError(
                f"expected two runs of the same benches on the same device, got "
                f"{len(both)} ratios in common, {was.machine.device} and {now.machine.device}"
            )
    if was.machine.mlx != now.machine.mlx:
        console.print(f"MLX was {was.machine.mlx} and is {now.machine.mlx}")
    for file, mine, other in ((base, was, now), (new, now, was)):
        for name in sorted({name for name, _ in mine.ratios.keys() - other.ratios.keys()}):
            console.print(f"only in {file}: {name}", soft_wrap=True)
    losses = find_losses(was, now, loss)
    if losses:
        table = Table("bench", "what", "was", "is", title="times better than the reference")
        for lost in losses:
            table.add_row(lost.bench, lost.what, str(lost.was), str(lost.now))
        console.print(table)
    console.print(f"{len(both)} ratios compared, {len(losses)} lost more than {loss:g} %")
    sys.exit(1 if losses else 0)
