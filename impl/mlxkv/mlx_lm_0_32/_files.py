"""Saving and loading prompt caches as mlx-lm 0.32.2 does: scalars are tensors like the rest."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxkv._files._build import load
from mlxkv._files._errors import NotSavableError, Place
from mlxkv._files._metadata import flatten_metadata
from mlxkv._files._write import flatten_states, place_of, states_of, target_of, write
from mlxkv.mlx_lm_0_32._containers import CLASSES


def save_prompt_cache(
    file_name: str, cache: list[Any], metadata: dict[str, str] | None = None
) -> None:
    """Save the caches of a model: the same bytes as mlx-lm 0.32.2, in place of a file as a whole.

    `.safetensors` is appended unless it is there; links are followed. The arrays are evaluated on
    this thread. The file is written beside its place, flushed and renamed: whatever fails, a whole
    file is there, the one from before unless only the renaming could not be made to last. Raises
    `NotSavableError` before anything is written, for states that are no arrays, numbers, strings or
    None, and metadata that is no text, and `PromptCacheOSError`.
    Source: 0.32.2 cache.py:43-82.
    """
    target = target_of(file_name)
    place = Place(target)
    every, states = states_of(place, cache, lambda one: one.state)
    arrays: dict[str, mx.array] = {}
    scalars = {"2.0": ""}
    for name, leaf in flatten_states(place, every, states):
        if isinstance(leaf, mx.array):
            arrays[name] = leaf
            continue
        try:
            arrays[name], kind = _as_array(leaf)
        except TypeError as error:
            at = place_of(place, every, name)
            raise NotSavableError(at, f"tensor {name}", str(error), repr(leaf)) from None
        number = len(scalars) // 2 + 1
        scalars |= {f"2.{number}.0": name, f"2.{number}.1": kind}
    user = flatten_metadata(place, metadata or {}, "0")
    names = {f"1.{i}": type(one).__name__ for i, one in enumerate(every)}
    write(target, arrays, user | names | scalars)


def _as_array(leaf: Any) -> tuple[mx.array, str]:
    """A number, a string or None as an array, and the word for which it is.

    Raises `TypeError`, which says what would be one.
    """
    if leaf is None:
        return mx.array([]), "none"
    if isinstance(leaf, str):
        return mx.array([ord(character) for character in leaf]), "string"
    if isinstance(leaf, int | float):
        try:
            return mx.array(leaf), "scalar"
        except (RuntimeError, ValueError, OverflowError):
            raise TypeError("a number of 64 bits") from None
    raise TypeError("an array, a number, a string or None")


def load_prompt_cache(
    file_name: str, return_metadata: bool = False, *, generation: str | None = None
) -> Any:
    """The caches of a file, and its metadata if asked for; the arrays are read at once.

    Beyond mlx-lm, files of every other generation load too, all of them or of the one that is
    named (see `mlxkv.read_prompt_cache`). Raises `PromptCacheError`.
    Source: 0.32.2 cache.py:85-115.
    """
    caches, metadata = load(file_name, CLASSES, generation)
    return (caches, metadata) if return_metadata else caches
