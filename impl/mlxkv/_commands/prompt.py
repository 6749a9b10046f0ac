"""`mlxkv prompt`: run a model over a prompt and save its caches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import mlx.core as mx

from mlxkv._commands._common import UNREADABLE, WRONG, fail, refusals
from mlxkv._driver import cache_prompt_ids, contract_of, encode_prompt
from mlxkv._errors import CacheError
from mlxkv._in_mlx_lm import use_in_mlx_lm
from mlxkv._prefill import QUANTIZED_KV_START, STEP_SIZE, Progress

INTERRUPTED = 130

# What mlx-lm's own tool writes where code from elsewhere is not trusted.
_NOT_TRUSTED = {"mlxkv.mlx_lm_0_31": None, "mlxkv.mlx_lm_0_32": False}


@click.command()
@click.option(
    "--model",
    required=True,
    type=click.Path(exists=True, file_okay=False),
    help="A local folder with a model and its tokenizer, as mlx-lm loads them.",
)
@click.option("--prompt", "text", required=True, help="The prompt; - reads it from stdin.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False),
    help="The file; .safetensors is appended where it is missing.",
)
@click.option("--max-kv-size", type=click.IntRange(1), help="Tokens that the caches hold.")
@click.option("--kv-bits", type=click.IntRange(1), help="Quantize the caches to so many bits.")
@click.option("--kv-group-size", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--quantized-kv-start",
    type=click.IntRange(0),
    default=QUANTIZED_KV_START,
    show_default=True,
    help="With --kv-bits: quantize from this token on.",
)
@click.option(
    "--step-size",
    type=click.IntRange(1),
    default=STEP_SIZE,
    show_default=True,
    help="Tokens in a chunk, which bounds the memory.",
)
@click.option("--adapter-path", type=click.Path(exists=True), help="Adapter weights.")
@click.option("--eos-token", help="The token that ends a text.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
def prompt(model: str, text: str, output: str, **options: Any) -> None:
    """Run a model over a prompt and save the caches for mlx-lm's `generate`.

    The file is the one that `mlx_lm.cache_prompt` writes, and is saved atomically.

    Exit status: 0 saved, 1 the prompt or an option is refused, 2 the model cannot be loaded or
    the file not written, 130 interrupted. Unless it is 0, FILE is as it was.
    """
    folder = Path(output).absolute().parent
    if not folder.is_dir():
        raise click.BadParameter(f"no such folder: {folder}", param_hint="--output")
    try:
        with refusals():
            _run(model, _read(text), output, options)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except (CacheError, ValueError, NotImplementedError) as error:
        fail(error, WRONG)


def _read(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _run(folder: str, text: str, output: str, options: dict[str, Any]) -> None:
    load = _mlx_lm().load
    contract = contract_of(None)
    trusted = options.pop("trust_remote_code")
    config: dict[str, Any] = {
        "trust_remote_code": trusted or _NOT_TRUSTED[contract.__name__],
    }
    if (token := options.pop("eos_token")) is not None:
        config["eos_token"] = token
    loading = {"adapter_path": options.pop("adapter_path"), "tokenizer_config": config}
    if trusted and contract.__name__ == "mlxkv.mlx_lm_0_32":
        loading["trust_remote_code"] = True
    with use_in_mlx_lm():
        with _blaming(f"{folder}: mlx-lm cannot load it"):
            model, tokenizer = load(folder, **loading)
        with _blaming(f"{folder}: its tokenizer cannot encode the prompt"):
            tokens = encode_prompt(tokenizer, text)
        if options["max_kv_size"] is not None and hasattr(model, "make_cache"):
            click.echo("--max-kv-size has no effect: the model makes its own caches.", err=True)
        with _progress() as report:
            saved = cache_prompt_ids(
                model,
                tokens,
                output,
                model_name=folder,
                tokenizer_config=config,
                on_progress=report,
                **options,
            )
    click.echo(
        f"{saved.path}: {saved.tokens_processed:,} tokens, "
        f"{saved.nbytes / 1e6:,.1f} MB of caches, peak memory {mx.get_peak_memory() / 1e9:,.3f} GB"
    )


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """End the command for any error: of mlx-lm, of transformers, of what the folder holds."""
    try:
        yield
    except Exception as error:
        fail(f"{what}: {type(error).__name__}: {error}", UNREADABLE)


def _mlx_lm() -> Any:
    """mlx-lm's `utils`, or a message that says how to get it."""
    try:
        return import_module("mlx_lm.utils")
    except ImportError as error:
        fail(f"{error}: pip install 'kvlockstep[models]'", UNREADABLE)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar with tokens a second on a terminal, a line for each chunk elsewhere; on stderr."""
    from rich.console import Console  # noqa: PLC0415 - only this command draws
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    console = Console(stderr=True)
    rate = _rate()
    if not console.is_terminal:
        yield lambda done, total: click.echo(f"{done:,} of {total:,} tokens{rate(done)}", err=True)
        return
    columns = (
        TextColumn("Prompt"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens{task.fields[rate]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, rate="")
        yield lambda done, total: bar.update(task, completed=done, total=total, rate=rate(done))


def _rate() -> Callable[[int], str]:
    """Say tokens a second since the first call."""
    started = 0.0

    def rate(done: int) -> str:
        nonlocal started
        now = time.perf_counter()
        started = started or now
        return f", {done / max(now - started, 1e-9):,.1f} tokens/s" if done else ""

    return rate
