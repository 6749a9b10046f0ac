"""`mlxkv inspect FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlxkv._commands._common import UNREADABLE, fail, file_argument
from mlxkv._files._errors import LABELS, HeaderError, PromptCacheOSError
from mlxkv._files._inspect import inspect_prompt_cache


@click.command()
@file_argument
@click.option("--json", "as_json", is_flag=True, help="everything, as one JSON object")
def inspect(file: Path, as_json: bool) -> None:
    """Show what is in a prompt-cache file: generation, layers, metadata, and what is wrong.

    Exit status: 0, or 2 where the file cannot be read at all.
    """
    try:
        data = inspect_prompt_cache(file).as_data()
    except (HeaderError, PromptCacheOSError) as error:
        fail(error, UNREADABLE)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        show(data, Console(width=None if sys.stdout.isatty() else 120, highlight=False))


def show(data: dict[str, Any], console: Console) -> None:
    """The same, to be read."""
    labels = [LABELS[one] for one in data["generations"]]
    generation = ", ".join(labels) or f"none; nearest is {LABELS[data['read_as']]}"
    console.print(f"[bold]{escape(data['file'])}[/]  {data['bytes']:,} bytes")
    console.print(f"generation: {generation}")
    console.print(f"tensors: {data['tensors']}, {data['tensor_bytes']:,} bytes")
    if data["layers"]:
        table = Table("layer", "class", "scalars", "field", "dtype", "shape", "bytes")
        for layer in data["layers"]:
            for row in rows(layer, layer["layer"]):
                table.add_row(*map(escape, row))
        console.print(table)
    for name, text in data["metadata"].items():
        console.print(f"metadata {escape(name)}: {escape(shorten(text))}", soft_wrap=True)
    for problem in data["problems"]:
        console.print(f"[red]problem[/] {escape(problem['message'])}", soft_wrap=True)


def rows(layer: dict[str, Any], number: str) -> Iterator[tuple[str, ...]]:
    """One row a tensor; the class and the scalars stand in the first."""
    numbers = {**layer.get("scalars", {}), **layer.get("extras", {})}
    scalars = " ".join(f"{name}={value}" for name, value in numbers.items())
    name = layer["class"]
    if "loads_as" in layer:
        name += f" as {layer['loads_as']}"
    if layer.get("empty"):
        name += " (empty)"
    head = number, name, scalars
    tensors = layer.get("tensors", [])
    if not tensors:
        yield (*head, "", "", "", "")
    for one in tensors:
        shape = "x".join(map(str, one["shape"]))
        yield (*head, one["field"], one["dtype"], shape, f"{one['bytes']:,}")
        head = "", "", ""
    for i, child in enumerate(layer.get("children", [])):
        yield from rows(child, f"{number}.{i}")


def shorten(text: str) -> str:
    """The first 200 characters, on one line."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= 200 else f"{line[:200]}... ({len(line):,} characters)"
