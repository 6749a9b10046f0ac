"""Which architectures there are, which cannot run and why, and the sample of `make test`."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

CANNOT_RUN = Path(__file__).with_name("cannot_run.toml")

# Every combination of cache classes that the architectures have, once.
SAMPLE = (
    "afm7",  # KVCache, and ConcatenateKVCache where it is given no cache
    "baichuan_m1",  # lists of ArraysCache and KVCache, and of ArraysCache and RotatingKVCache
    "deepseek_v32",  # lists of two KVCaches
    "falcon_h1",  # lists of ArraysCache and KVCache
    "gear",  # RotatingKVCache, ArraysCache and KVCache
    "gemma3_text",  # RotatingKVCache and KVCache
    "llama4",  # ChunkedKVCache and KVCache
    "longcat_flash_ngram",  # ArraysCache and lists of two KVCaches
    "mamba",  # ArraysCache
    "minimax_m3_vl",  # lists of one KVCache and of two
    "qwen3_next",  # ArraysCache and KVCache
    "recurrent_gemma",  # ArraysCache and RotatingKVCache
)


@dataclass(frozen=True)
class CannotRun:
    """Why an architecture cannot run, and the error that shows it.

    `metal`: it can where there is Metal, and is left out of the checks there.
    """

    reason: str
    error: str
    says: str
    metal: bool = False


def architectures() -> list[str]:
    """The modules of `mlx_lm.models` that define a class Model; none of them is imported."""
    models = importlib.util.find_spec("mlx_lm.models")
    if models is None or not models.submodule_search_locations:
        raise ModuleNotFoundError("mlx-lm is needed: pip install -e '.[models]'")
    folder = Path(models.submodule_search_locations[0])
    return sorted(
        module.name
        for module in pkgutil.iter_modules([str(folder)])
        if any(
            isinstance(node, ast.ClassDef) and node.name == "Model"
            for node in ast.parse((folder / f"{module.name}.py").read_bytes()).body
        )
    )


def cannot_run() -> dict[str, CannotRun]:
    """What `cannot_run.toml` lists, by architecture."""
    listed = tomllib.loads(CANNOT_RUN.read_text(encoding="utf-8"))
    return {name: CannotRun(**entry) for name, entry in listed.items()}


def checked() -> list[str]:
    """The architectures whose listing can be checked on this machine: all, without Metal."""
    listed = cannot_run()
    return [
        name
        for name in architectures()
        if not (name in listed and listed[name].metal and mx.metal.is_available())
    ]
