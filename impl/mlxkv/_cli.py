"""The command line: `mlxkv inspect`, `verify`, `convert`, `prompt`."""

from __future__ import annotations

try:
    import click
    import rich  # noqa: F401
except ModuleNotFoundError as error:
    raise SystemExit(f"mlxkv: {error}: pip install 'kvlockstep[tools]'") from None

from mlxkv._commands.convert import convert
from mlxkv._commands.inspect import inspect
from mlxkv._commands.prompt import prompt
from mlxkv._commands.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kvlockstep")
def main() -> None:
    """Look at, check, convert and write the prompt-cache files of mlx-lm and mlx-swift-lm."""


for command in (convert, inspect, prompt, verify):
    main.add_command(command)
