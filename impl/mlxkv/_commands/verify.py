"""`mlxkv verify FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlxkv._commands._common import UNREADABLE, WRONG, fail, file_argument
from mlxkv._files._errors import LABELS, HeaderError, PromptCacheOSError
from mlxkv._files._inspect import inspect_prompt_cache


@click.command()
@file_argument
def verify(file: Path) -> None:
    """See whether a prompt-cache file can be loaded, and say all that is wrong with it.

    Exit status: 0 it can, 1 it is refused, 2 it cannot be read at all.
    """
    try:
        found = inspect_prompt_cache(file)
    except (HeaderError, PromptCacheOSError) as error:
        fail(error, UNREADABLE)
    for problem in found.problems:
        click.echo(f"mlxkv: {problem}", err=True)
    if found.problems:
        sys.exit(WRONG)
    labels = ", ".join(LABELS[one] for one in found.generations)
    click.echo(f"{file}: {len(found.reading.layers)} layers, {labels}")
