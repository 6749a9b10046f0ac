"""What a hunt shows while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvlockstep._hunt import Progress, tell_goals

_EVERY = 30.0
_LAST = 5


class Display:
    """Shows how far a hunt is. Use it as a context manager."""

    def __init__(self, console: Console, target: str, seconds: float | None) -> None:
        self._console = console
        self._target = target
        self._seconds = seconds
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._told = 0
        self._next = time.monotonic() + _EVERY

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show how far it is: each finding at once, the counts now and then."""
        if self._live is not None:
            self._live.update(self._table(progress))
            return
        for found in progress.new[self._told :]:
            self._console.print(f"found {found.signature}: {found.trace}", highlight=False)
        self._told = len(progress.new)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            self._console.print(line(progress), highlight=False)

    def _table(self, progress: Progress) -> RenderableType:
        goals = tell_goals(progress.corpus)
        table = Table.grid(padding=(0, 2))
        rows = {
            "target": self._target,
            "time": _time(progress.seconds)
            + (f" of {_time(self._seconds)}" if self._seconds else ", until it is stopped"),
            "steps": f"{progress.steps:,}, {_speed(progress):,.0f} a second; "
            f"{progress.state.steps:,} with those before",
            "coverage": f"{goals['cell']:,} cells, {goals['pair']:,} pairs, {goals['arc']:,} arcs; "
            f"{progress.new_goals:,} new",
            "corpus": f"{len(progress.corpus.reached):,} traces"
            + (", being run again" if progress.replaying else ""),
            "findings": f"{len(progress.new)} new, {len(progress.open)} in all",
        }
        for name, told in rows.items():
            table.add_row(Text(name, "bold"), told)
        last = [Text(f"  {found.signature}", "red") for found in progress.new[-_LAST:]]
        return Group(table, *last, *(Text(f"  {told}", "red") for told in progress.crashed))


def line(progress: Progress) -> str:
    """Return how far a hunt is in one line."""
    goals = tell_goals(progress.corpus)
    return (
        f"{_time(progress.seconds)}: {progress.steps:,} steps, {_speed(progress):,.0f} a second; "
        f"{goals['cell']:,} cells, {goals['pair']:,} pairs and {goals['arc']:,} arcs reached, "
        f"{progress.new_goals:,} new; {len(progress.corpus.reached):,} traces in the corpus; "
        f"{len(progress.new)} new findings, {len(progress.open)} in all"
    )


def _speed(progress: Progress) -> float:
    return progress.steps / max(progress.seconds, 1e-9)


def _time(seconds: float | None) -> str:
    minutes, rest = divmod(int(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
