"""What keeps a run from starting, or from being told, for every front end the same.

Exit status 2, and why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

import kvreference
from kvlockstep._arrays import RecipeError
from kvlockstep._contained import ContainmentError
from kvlockstep._equivalents import EquivalentsError
from kvlockstep._ledger import LedgerError
from kvlockstep._mutants import NoOperatorsError
from kvlockstep._options import OptionError
from kvlockstep._targets import TargetError
from kvlockstep._trace import TraceError

CANNOT_RUN = (
    ContainmentError,
    EquivalentsError,
    kvreference.ReferenceError,
    LedgerError,
    NoOperatorsError,
    OSError,
    OptionError,
    RecipeError,
    TargetError,
    TraceError,
)


@contextmanager
def exit_2_where_it_cannot_run() -> Iterator[None]:
    """Say why and end the process with status 2 if the block raises one of `CANNOT_RUN`."""
    try:
        yield
    except CANNOT_RUN as error:
        click.echo(f"could not run: {error}", err=True)
        sys.exit(2)
