"""What the commands share: the file argument, and how a refusal ends a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from mlxkv._files._errors import HeaderError, PromptCacheError, PromptCacheOSError

Command = Callable[..., None]

WRONG, UNREADABLE = 1, 2


def file_argument(command: Command) -> Command:
    """Add FILE; not checked by click, for the reader says more, and opens without waiting."""
    return click.argument("file", type=click.Path(path_type=Path))(command)


def fail(message: object, status: int) -> NoReturn:
    """Say what is wrong, on standard error, and end with that status."""
    click.echo(f"mlxkv: {message}", err=True)
    sys.exit(status)


@contextmanager
def refusals() -> Iterator[None]:
    """End with 2 where the file cannot be read or written at all, with 1 where it is refused."""
    try:
        yield
    except (HeaderError, PromptCacheOSError) as error:
        fail(error, UNREADABLE)
    except PromptCacheError as error:
        fail(error, WRONG)
