"""`kvlockstep mutate`: how many single-point mutants does the harness tell apart?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kvlockstep._cannot_run import exit_2_where_it_cannot_run
from kvlockstep._gate import use_device
from kvlockstep._mutation import Outcomes, Plan, mutate
from kvlockstep._mutation_report import Format, tell
from kvlockstep._options import settings_from
from kvlockstep._settings import DEFAULT_TARGET
from kvlockstep._workers import cores


@click.command(name="mutate")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=(DEFAULT_TARGET,),
    help=f"what to mutate: py:MODULE, release:X or path:DIR (default {DEFAULT_TARGET})",
)
@click.option("--release", multiple=True, help="the release to compare with (default: its own)")
@click.option("--cache", multiple=True, help="mutate these classes only, or functions")
@click.option("--budget", type=float, default=15.0, help="CPU seconds a mutant (default 15)")
@click.option("--sample", type=click.IntRange(1), help="so many mutants, drawn by --seed")
@click.option("--seed", type=int, default=0, help="seed of the sample (default 0)")
@click.option("--only", default="", help="mutants whose content id has this in it")
@click.option("--every", is_flag=True, help="each binary operator becomes every other one")
@click.option("--no-shrink", is_flag=True, help="do not look for the shortest traces")
@click.option("--equivalents", type=click.Path(path_type=Path), help="another list of equivalents")
@click.option("--workers", type=click.IntRange(1), help="processes (default: one for each core)")
@click.option("--format", "how", type=click.Choice(get_args(Format)), default="text")
@click.option("--output", type=click.Path(path_type=Path), help="write the report there")
def mutate_command(
    targets: tuple[str, ...], how: Format, output: Path | None, workers: int | None, **given: Any
) -> None:
    """Make single-point mutants of cache classes and see which the harness kills.

    Each runs in lockstep against the intact release, in a process that may hang or crash. Exit
    status: 0, all killed but those listed as equivalent; 1, not so; 2, could not run.
    """
    runs: list[Outcomes] = []
    with exit_2_where_it_cannot_run():
        for target in targets:
            names = {"target": target, "release": given["release"], "cache": given["cache"]}
            settings = settings_from({**names, "seed": given["seed"]})
            use_device(settings)
            plan = Plan(
                settings,
                budget=given["budget"],
                sample=given["sample"],
                workers=workers or len(cores()),
                only=given["only"],
                every=given["every"],
                shrink=not given["no_shrink"],
                equivalents=given["equivalents"],
            )
            runs.append(_run(plan))
    report = tell(runs, how)
    if output is None:
        click.echo(report)
    else:
        output.write_text(report.rstrip("\n") + "\n", encoding="utf-8")
    sys.exit(max(run.exit_status for run in runs))


def _run(plan: Plan) -> Outcomes:
    console = Console(stderr=True)
    with Progress(
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("")

        def tell_progress(what: str, done: int, total: int) -> None:
            text = f"{plan.settings.target}: {what}"
            progress.update(task, completed=done, total=total, description=text)

        return mutate(plan, tell_progress)
