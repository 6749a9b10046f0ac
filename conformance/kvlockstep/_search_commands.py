"""`kvlockstep drift` and `kvlockstep hunt`: the search beyond the gate."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import kvreference
from kvlockstep._caches import FUNCTIONS
from kvlockstep._cannot_run import exit_2_where_it_cannot_run
from kvlockstep._contract import Level
from kvlockstep._drift import Drift, drift
from kvlockstep._drift_report import Format, render, slug_of, verdict
from kvlockstep._gate import run_job, use_device
from kvlockstep._hunt import Hunt
from kvlockstep._hunt_display import Display, line
from kvlockstep._jobs import Job, JobReport, releases_of
from kvlockstep._options import settings_from
from kvlockstep._settings import DEFAULT_TARGET, Device
from kvlockstep._targets import TargetError
from kvlockstep._trace import write
from kvlockstep._workers import cores

# Steps for each cache and mode where no time is given, so that a seed says what is found.
_STEPS = 10_000
_TIME = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or 90s, 10m, 1h30m."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the seconds; fails for what is no time, or none."""
        text = str(value)
        found = _TIME.fullmatch(f"{text}s" if text.replace(".", "").isdigit() else text)
        hours, minutes, seconds = (
            (float(part or 0) for part in found.groups()) if found else (0,) * 3
        )
        total = 3600 * hours + 60 * minutes + seconds
        if total <= 0:
            self.fail(f"{value!r}: expected a time such as 90s, 10m or 1h30m", param, ctx)
        return total


@click.command(name="drift")
@click.argument("a")
@click.argument("b")
@click.option("--cache", multiple=True, help=f"a cache class, or {FUNCTIONS} (default: all)")
@click.option("--time", "seconds", type=Duration(), help="how long, instead of steps: 90s, 10m")
@click.option("--steps", type=click.IntRange(1), help=f"for each cache and mode (default {_STEPS})")
@click.option("--seed", type=int, help="seed of the generated traces (default 0)")
@click.option("--workers", type=click.IntRange(1), help="processes (default: one for each core)")
@click.option("--level", type=click.Choice(get_args(Level)), help="how much is compared")
@click.option("--device", type=click.Choice(get_args(Device)), help="MLX device (default cpu)")
@click.option("--format", "form", type=click.Choice(get_args(Format)), default="text")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="a file")
@click.option(
    "--traces", type=click.Path(file_okay=False, path_type=Path), help="a folder for them"
)
def drift_command(
    a: str,
    b: str,
    cache: tuple[str, ...],
    seconds: float | None,
    steps: int | None,
    seed: int | None,
    workers: int | None,
    level: Level | None,
    device: Device | None,
    form: Format,
    output: Path | None,
    traces: Path | None,
) -> None:
    """List every distinct difference between the targets A and B, with its shortest trace.

    A target is release:VERSION (or just the version), py:MODULE or path:DIR. Exit status: 0 no
    difference, 1 some, 2 could not run.
    """
    given = {"cache": cache, "steps": steps or _STEPS, "seed": seed, "device": device}
    a, b = _named(a), _named(b)
    with exit_2_where_it_cannot_run():
        settings = settings_from({**given, "level": level})
        use_device(settings)
        result = _follow(a, b, settings, seconds, workers)
    told = render(result, form, _command(a, b, cache, seconds, steps or _STEPS, settings.seed))
    if output is None:
        click.echo(told, nl=False)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(told, encoding="utf-8")
        click.echo(f"{output}: {verdict(result)}")
    if traces is not None:
        for one in result.ordered():
            write(one.trace, traces / f"{slug_of(one)}.json")
    sys.exit(result.exit_status)


def _named(target: str) -> str:
    """Return a target string; a version alone stands for its release."""
    return f"release:{target}" if target in kvreference.PINNED else target


def _command(
    a: str, b: str, caches: tuple[str, ...], seconds: float | None, steps: int, seed: int
) -> str:
    words = ["kvlockstep", "drift", a, b, *(f"--cache={name}" for name in caches)]
    words.append(f"--steps={steps}" if seconds is None else f"--time={seconds:g}s")
    return shlex.join([*words, f"--seed={seed}"])


def _follow(a: str, b: str, settings: Any, seconds: float | None, workers: int | None) -> Drift:
    """Compare, with a bar on standard error where that is a terminal."""
    columns = (
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[steps]:,} steps"),
        TextColumn("{task.fields[found]} differences"),
    )
    result = Drift(a, b)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", steps=0, found=0)
        for result, done, total in drift(a, b, settings, seconds, workers):
            found = len(result.differences)
            progress.update(task, total=total, completed=done, steps=result.steps, found=found)
    return result


@click.command(name="hunt")
@click.option("--time", "seconds", type=Duration(), help="90s, 10m, 1h30m (default: until stopped)")
@click.option("--target", help=f"what to test (default {DEFAULT_TARGET})")
@click.option("--release", multiple=True, help="the release to compare with")
@click.option("--cache", multiple=True, help=f"a cache class, or {FUNCTIONS} (default: all)")
@click.option("--level", type=click.Choice(get_args(Level)), help="how much is compared")
@click.option("--seed", type=int, help="the first seed of each cache and mode (default 0)")
@click.option("--ledger", type=click.Path(path_type=Path), help="the ledger (default: ours)")
@click.option("--device", type=click.Choice(get_args(Device)), help="MLX device (default cpu)")
@click.option("--workers", type=click.IntRange(1), help="processes (default: one for each core)")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("kvlockstep-hunt"),
    show_default=True,
    help="the folder of the hunt, to be gone on with",
)
def hunt_command(seconds: float | None, workers: int | None, state: Path, **given: Any) -> None:
    """Search without end, on all cores; stop and go on with it at any time.

    The folder keeps the seeds that are done, every finding as a trace, and the fewest traces that
    reach all that was reached, which run first the next time. Ctrl-C or SIGTERM ends it when the
    units in flight are done, a second one at once. Exit status: 0 nothing found, 1 something, 2
    could not run, or a unit killed its process.
    """
    with exit_2_where_it_cannot_run():
        settings = settings_from(given)
        use_device(settings)
        for release in releases_of(settings):
            check(run_job(Job("smoke", release), settings))
        state.mkdir(parents=True, exist_ok=True)
        hunting = Hunt(settings, state, workers or len(cores()))
    console = Console(width=None if sys.stdout.isatty() else 120)
    stop = threading.Event()
    course = hunting.run(seconds, stop)
    with _until_signalled(stop), Display(console, settings.target, seconds) as display:
        try:
            for progress in course:
                display.show(progress)
        except _StopNowError:
            pass
        finally:
            course.close()
    _tell(hunting, console)
    sys.exit(hunting.progress.exit_status)


class _StopNowError(Exception):
    """A second signal: do not wait for the units in flight."""


@contextmanager
def _until_signalled(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on Ctrl-C or SIGTERM; raise `_StopNowError` on the next one."""

    def hear(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise _StopNowError
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, hear) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def check(report: JobReport) -> None:
    """Raise `TargetError` if the target cannot be driven."""
    if report.broken:
        raise TargetError("\n".join(report.broken))


def _tell(hunting: Hunt, console: Console) -> None:
    progress = hunting.progress
    for found in progress.new:
        console.rule(style="red")
        console.print(found.text, highlight=False, markup=False, soft_wrap=True)
    for signature in sorted(progress.gone):
        console.print(f"no longer shows: {hunting.finding(signature)}", highlight=False)
    for told in (*progress.problems, *progress.crashed):
        console.print(told, highlight=False, markup=False)
    console.print(line(progress), highlight=False)
    console.print(f"go on with: --state {hunting.folder}", highlight=False)
