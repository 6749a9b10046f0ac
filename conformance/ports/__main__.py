"""`python -m conformance.ports`, from the repository's root: run the gate on ports of others."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
from conformance.ports._judgements import JudgementError, check_judgements, read_judgements
from conformance.ports._look import look_at, write_traces
from conformance.ports._page import render
from conformance.ports._ports import Port, PortError, find_ports, install

from kvlockstep._targets import TargetError


@click.command()
@click.argument("names", nargs=-1)
@click.option("--steps", type=click.IntRange(1), default=10_000, show_default=True)
def main(names: tuple[str, ...], steps: int) -> None:
    """Install each port, or those named, run the gate on it, and write its page.

    Exit status: 0 done; 1 a divergence is not judged, or a judgement of none; 2 could not run.
    """
    status = 0
    try:
        ports = {port.name: port for port in find_ports()}
        for name in names:
            if name not in ports:
                raise PortError(f"port {name!r}: expected one of {', '.join(ports)}")
        for port in (ports[name] for name in names or ports):
            status = max(status, write_page(port, steps))
    except (PortError, TargetError) as error:
        click.echo(f"could not run: {error}", err=True)
        status = 2
    sys.exit(status)


def write_page(port: Port, steps: int) -> int:
    """Run the gate on one port and write its traces and its page; returns the exit status.

    Where a divergence is not judged it says which, and leaves the page as it is.
    """
    install(port)
    with tempfile.TemporaryDirectory() as folder:
        look = look_at(port, steps, Path(folder))
    write_traces(port, look)
    file = port.folder / "judgements.toml"
    try:
        judgements = read_judgements(file)
        check_judgements(judgements, look.findings, file)
    except JudgementError as error:
        click.echo(error, err=True)
        return 1
    port.page.write_text(render(port, look, judgements), encoding="utf-8")
    click.echo(f"{port.name} {port.version}: {len(look.findings)} signatures, all judged")
    return 0


if __name__ == "__main__":
    main()
