"""The command line: each command of `kvlockstep`, or where it comes from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kvlockstep import _ledger_commands, _mutate_command, _search_commands
from kvlockstep._bench_check import bench_check
from kvlockstep._cannot_run import exit_2_where_it_cannot_run
from kvlockstep._explain import tell_divergence, tell_trace
from kvlockstep._floor import judge_coverage
from kvlockstep._gate import run_job, use_device
from kvlockstep._jobs import Job, JobReport, jobs_of, ledger_of, releases_of
from kvlockstep._options import OPTIONS, Option, settings_from
from kvlockstep._report import header, show
from kvlockstep._settings import Settings
from kvlockstep._tally import lockstep_of
from kvlockstep._trace import TraceError, read, schema
from kvlockstep._workers import cores, run_jobs

Command = Callable[..., None]


def options(*names: str) -> Callable[[Command], Command]:
    """Add the named options of a run to a command, or all of them."""

    def decorate(command: Command) -> Command:
        for option in reversed(OPTIONS):
            if not names or option.name in names:
                command = _option(option)(command)
        return command

    return decorate


def _option(option: Option) -> Callable[[Command], Command]:
    kind: Any = option.kind
    if option.choices:
        kind = click.Choice(option.choices)
    elif option.kind is Path:
        kind = click.Path(path_type=Path)
    text = f"{option.help} [{option.variable}]"
    return click.option(f"--{option.name}", type=kind, multiple=option.repeatable, help=text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kvlockstep")
def main() -> None:
    """Run a port of MLX's KV caches in lockstep with mlx-lm's own classes.

    Exit status: 0 conforms, 1 does not, 2 could not run.
    """


@main.command()
@options()
@click.option("--workers", type=click.IntRange(1), help="processes (default: one for each core)")
def run(workers: int | None, **given: Any) -> None:
    """Run the gate: surface check, smoke test, corpus, ledger, generated lockstep."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    report = JobReport()
    with exit_2_where_it_cannot_run():
        settings = settings_from(given)
        use_device(settings)
        jobs = list(jobs_of(settings))
        console.print(header(settings), highlight=False)
    first = [job for job in jobs if job.kind in ("surface", "smoke")]
    rest = [job for job in jobs if job not in first]
    with _progress(console) as progress:
        task = progress.add_task("", total=len(jobs), found=0, steps=0)
        for part in (first, rest):
            for job, one in run_jobs(part, settings, workers or len(cores())):
                report.add(one)
                progress.update(
                    task,
                    advance=1,
                    description=f"{job.kind} {job}",
                    found=len(report.undeclared),
                    steps=report.steps,
                )
                if not console.is_terminal and job.kind == "lockstep":
                    console.print(f"{report.jobs}/{len(jobs)} jobs, {report.steps:,} steps: {job}")
            if report.broken:
                break
    report.problems += judge_coverage(report, settings.target)
    show(report, settings, console)
    sys.exit(report.exit_status)


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[steps]:,} steps"),
        TextColumn("{task.fields[found]} undeclared"),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )


@main.command()
@options("target", "release", "device")
def smoke(**given: Any) -> None:
    """See whether the target can be driven at all."""
    report = JobReport()
    with exit_2_where_it_cannot_run():
        settings = settings_from(given)
        for release in releases_of(settings):
            report.add(run_job(Job("smoke", release), settings))
    for problem in report.broken:
        click.echo(problem, err=True)
    if not report.broken:
        click.echo(f"{settings.target} can be driven: {', '.join(releases_of(settings))}")
    sys.exit(report.exit_status)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options("target", "release", "level", "ledger", "device")
def replay(file: Path, **given: Any) -> None:
    """Run one trace file again, and say in plain words what it shows."""
    diverged = False
    with exit_2_where_it_cannot_run():
        settings = settings_from(given)
        use_device(settings)
        trace = read(file)
        click.echo(tell_trace(trace))
        releases = releases_of(settings)
        if trace.releases and not settings.releases:
            releases = tuple(release for release in releases if release in trace.releases)
        if not releases:
            raise TraceError(
                f"{file}: it is for {', '.join(trace.releases)}, and {settings.target} follows "
                f"{', '.join(releases_of(settings))}; name a --release to run it all the same"
            )
        for release in releases:
            diverged |= _replay(trace, release, settings)
    sys.exit(1 if diverged else 0)


def _replay(trace: Any, release: str, settings: Settings) -> bool:
    run = lockstep_of(settings, release).run(trace)
    ledger = ledger_of(settings)
    diverged = False
    for divergence in run.divergences:
        entry = ledger.declares(divergence)
        diverged |= entry is None
        told = "undeclared" if entry is None else f"declared by {entry}"
        click.echo(f"{divergence.signature} ({told})")
        click.echo(tell_divergence(divergence, run))
    for name in sorted(run.lacking):
        click.echo(f"{release}: the target lacks {name}")
    if not run.divergences:
        click.echo(f"{release}: {run.steps} steps, no divergence")
    return diverged


@main.command(name="schema")
def show_schema() -> None:
    """Print the JSON Schema of trace files."""
    click.echo(json.dumps(schema(), indent=2))


main.add_command(_ledger_commands.ledger)
main.add_command(bench_check)
main.add_command(_search_commands.drift_command)
main.add_command(_search_commands.hunt_command)
main.add_command(_mutate_command.mutate_command)

if __name__ == "__main__":
    main()
