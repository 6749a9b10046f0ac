"""Saving and loading prompt caches as mlx-lm 0.31.3 does: states and, beside them, meta_states."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlxkv._files._build import load
from mlxkv._files._errors import NotSavableError, Place
from mlxkv._files._metadata import flatten_metadata
from mlxkv._files._write import flatten_states, place_of, states_of, target_of, write
from mlxkv.mlx_lm_0_31._containers import CLASSES


def save_prompt_cache(
    file_name: str,
    cache: list[Any],
    metadata: dict[str, str] = {},  # noqa: B006 - the release's default, not kept
) -> None:
    """Save the caches of a model: the same bytes as mlx-lm 0.31.3, in place of a file as a whole.

    `.safetensors` is appended unless it is there; links are followed. The arrays are evaluated on
    this thread. The file is written beside its place, flushed and renamed: whatever fails, a whole
    file is there, the one from before unless only the renaming could not be made to last. Raises
    `NotSavableError` before anything is written, for empty caches, empty slots and metadata that is
    no text, and `PromptCacheOSError`.
    Source: 0.31.3 cache.py:43-60.
    """
    target = target_of(file_name)
    place = Place(target)
    every, pairs = states_of(place, cache, lambda one: (one.state, one.meta_state))
    leaves = flatten_states(place, every, [state for state, _ in pairs])
    for name, leaf in leaves:
        if not isinstance(leaf, mx.array):
            at = place_of(place, every, name)
            raise NotSavableError(at, f"tensor {name}", "an array", repr(leaf))
    infos = dict(tree_flatten([meta for _, meta in pairs], ".0"))
    for name, text in infos.items():
        if not isinstance(text, str):
            raise NotSavableError(place, f"meta_state {name}", "a string", repr(text))
    user = flatten_metadata(place, metadata, "1")
    names = {f"2.{i}": type(one).__name__ for i, one in enumerate(every)}
    write(target, dict(leaves), infos | user | names)


def load_prompt_cache(
    file_name: str, return_metadata: bool = False, *, generation: str | None = None
) -> Any:
    """The caches of a file, and its metadata if asked for; the arrays are read at once.

    Beyond mlx-lm, files of every other generation load too, all of them or of the one that is
    named (see `mlxkv.read_prompt_cache`). Raises `PromptCacheError`.
    Source: 0.31.3 cache.py:63-87.
    """
    caches, metadata = load(file_name, CLASSES, generation)
    return (caches, metadata) if return_metadata else caches
