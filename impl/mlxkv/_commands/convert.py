"""`mlxkv convert FILE --to 0.32|0.31 -o OUT`."""

from __future__ import annotations

from pathlib import Path

import click

from mlxkv._commands._common import file_argument, refusals
from mlxkv._files._convert import EXTRAS, TARGETS, convert_prompt_cache
from mlxkv._files._errors import LABELS
from mlxkv._files._read import GENERATIONS
from mlxkv._files._write import target_of


@click.command()
@file_argument
@click.option("--to", required=True, type=click.Choice(tuple(TARGETS)), help="the new generation")
@click.option("--output", "-o", "out", required=True, type=click.Path(path_type=Path))
@click.option("--from", "generation", type=click.Choice(GENERATIONS), help="read it as this one")
@click.option("--drop", multiple=True, type=click.Choice(EXTRAS), help="leave this field out")
def convert(file: Path, to: str, out: Path, generation: str | None, drop: tuple[str, ...]) -> None:
    """Write a prompt-cache file as another generation of mlx-lm loads it.

    OUT gets `.safetensors` appended unless it is there, and is replaced as a whole. What the new
    generation cannot say is refused with the reason. Exit status: 0 written, 1 refused, 2 FILE
    cannot be read, or OUT not written.
    """
    with refusals():
        read = convert_prompt_cache(file, to, out, generation, drop)
        click.echo(f"{target_of(out)}: {len(read.layers)} layers, {LABELS[to]}")
