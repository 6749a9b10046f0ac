"""`kvlockstep ledger check` and `kvlockstep ledger add`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from msgspec.structs import replace

from kvlockstep._cannot_run import exit_2_where_it_cannot_run
from kvlockstep._divergence import Divergence, Run
from kvlockstep._explain import tell_side, tell_step
from kvlockstep._jobs import LEDGER, check_ledger
from kvlockstep._ledger import Entry, Ledger, LedgerError, add_entry, judge_witness, name_for
from kvlockstep._settings import DEFAULT_TARGET, Settings
from kvlockstep._shrink import shrink
from kvlockstep._tally import lockstep_of
from kvlockstep._targets import contracts_of
from kvlockstep._trace import Trace, read


@click.group()
def ledger() -> None:
    """Check the ledger of declared divergences, or add to it."""


_target = click.option("--target", default=DEFAULT_TARGET, show_default=True)
_ledger = click.option(
    "--ledger", "path", type=click.Path(dir_okay=False, path_type=Path), default=LEDGER
)


@ledger.command()
@_target
@_ledger
def check(target: str, path: Path) -> None:
    """Replay every witness: each must show exactly the divergence that its entry declares."""
    with exit_2_where_it_cannot_run():
        known = Ledger.read(path)
        check_ledger(known, target)
        problems = [
            problem
            for entry in known.entries
            for release in entry.releases
            if (problem := _judge(known, entry, release, target)) is not None
        ]
    for problem in problems:
        click.echo(problem)
    click.echo(f"{path.name}: {len(known.entries)} entries, {len(problems)} problems")
    sys.exit(1 if problems else 0)


def _judge(known: Ledger, entry: Entry, release: str, target: str) -> str | None:
    engine = lockstep_of(Settings(target=target), release)
    return judge_witness(entry, release, engine.run(known.witness(entry)))


@ledger.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_target
@_ledger
@click.option("--why", prompt="Why is it meant", help="why the port differs")
@click.option("--source", prompt="What says so (FACTS, a seed test, an issue)", help="what says so")
@click.option("--when", default="", help="a condition on the step's facts, e.g. 'n < 0'")
@click.option("--id", "name", default=None, help="the entry's id (default: from the signature)")
def add(
    file: Path, target: str, path: Path, why: str, source: str, when: str, name: str | None
) -> None:
    """Declare the divergence that the trace FILE shows, with the shrunk trace as its witness."""
    with exit_2_where_it_cannot_run():
        trace = read(file)
        known = Ledger.read(path) if path.exists() else Ledger(path, target=target)
        check_ledger(known, target)
        entry, witness = make_entry(trace, target, known, why, source, when, name)
        add_entry(path, entry, witness, target)
    click.echo(f"{path}: added {entry.id} for {', '.join(entry.releases)}")
    click.echo(f"  the reference: {entry.reference}\n  the port: {entry.port}")


def make_entry(
    trace: Trace, target: str, known: Ledger, why: str, source: str, when: str, name: str | None
) -> tuple[Entry, Trace]:
    """Return the entry that declares what `trace` shows, and its shrunk witness.

    Raises `LedgerError` if it shows nothing undeclared, or more than one thing.
    """
    shown = {
        release: _undeclared(trace, target, release, known) for release in contracts_of(target)
    }
    kinds = {d.signature[1:] for divergences in shown.values() for d in divergences}
    if len(kinds) != 1:
        came = ", ".join("/".join(kind) for kind in sorted(kinds)) or "none"
        raise LedgerError(f"expected the trace to show one undeclared divergence, got {came}")
    releases = tuple(release for release, divergences in shown.items() if divergences)
    divergence = shown[releases[0]][0]
    engine = lockstep_of(Settings(target=target), releases[0])
    slug = name or name_for(divergence.signature, [entry.id for entry in known.entries])
    signature = divergence.signature
    entry = Entry(
        id=slug,
        releases=releases,
        cache=signature.cache,
        operation=signature.operation,
        field=signature.field,
        when=when,
        reference="?",
        port="?",
        why=why,
        source=source,
        witness=f"traces/ledger/{slug}.json",
    )

    def run_alone(candidate: Trace) -> Run:
        """Let a run count only if it shows what the entry is to declare, and nothing else."""
        run = engine.run(candidate)
        meant = (entry.covers(d) and known.declares(d) is None for d in run.divergences)
        if not all(meant):
            run.divergences = []
        return run

    if not run_alone(trace).divergences:
        raise LedgerError(f"expected the trace to show {signature} alone, when {when or 'ever'}")
    witness = shrink(trace, signature, run_alone)
    run = engine.run(witness)
    divergence = next(d for d in run.divergences if d.signature == divergence.signature)
    step = run.log[divergence.index]
    assert step is not None
    entry = replace(
        entry,
        reference=f"{tell_step(step)}: {tell_side(divergence, run, 'expected')}",
        port=f"{tell_step(step)}: {tell_side(divergence, run, 'actual')}",
    )
    witness = replace(witness, releases=releases, note=f"witness of ledger entry {slug}")
    for release in releases:
        engine = lockstep_of(Settings(target=target), release)
        problem = judge_witness(entry, release, engine.run(witness))
        if problem is not None:
            raise LedgerError(problem)
    return entry, witness


def _undeclared(trace: Trace, target: str, release: str, known: Ledger) -> list[Divergence]:
    run = lockstep_of(Settings(target=target), release).run(trace)
    return [d for d in run.divergences if known.declares(d) is None]
