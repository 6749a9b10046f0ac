"""Writing a file of another generation with the same caches in it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterator
from typing import Any

from mlxkv._files._build import build
from mlxkv._files._errors import LABELS, GenerationError, NotExpressibleError, Place
from mlxkv._files._layers import Layer
from mlxkv._files._read import PromptCacheFile, read_prompt_cache

TARGETS = {"0.31": "mlxkv.mlx_lm_0_31", "0.32": "mlxkv.mlx_lm_0_32"}
# What bears on no key, value, position or mask: the growth of buffers, and who chose max_size.
EXTRAS = ("capacity_origin", "step")


def convert_prompt_cache(
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    generation: str | None = None,
    drop: Collection[str] = (),
) -> PromptCacheFile:
    """Write a file as mlx-lm `to`, "0.31" or "0.32", loads it; return what was read.

    The caches of the new file decode on as those of the old would have. Raises
    `NotExpressibleError`, before anything is written, for whatever the new file could not say:
    nothing is left out but the `drop`ped of "step" (unless it is 256, which every class has now)
    and "capacity_origin" (unless it is mlx-swift-lm's default). Raises `PromptCacheError`.
    """
    if to not in TARGETS:
        known = ", ".join(TARGETS)
        raise GenerationError(Place(os.fspath(path)), "generation to write", known, repr(to))
    file = read_prompt_cache(path, generation)
    for problem in obstacles(file, to, drop):
        raise problem
    module: Any = importlib.import_module(TARGETS[to])
    files: Any = importlib.import_module(f"{TARGETS[to]}._files")
    module.save_prompt_cache(out, build(file, files.CLASSES), file.metadata)
    return file


def obstacles(
    file: PromptCacheFile, to: str, drop: Collection[str] = ()
) -> Iterator[NotExpressibleError]:
    """What keeps the file from being written as that generation."""
    if not file.layers and to == "0.31":
        yield _refuse(file.place, "layers", "at least one", "none", to)
    for i, layer in enumerate(file.layers):
        yield from _obstacles(file.place.child(i, layer.spelled or layer.name), layer, to, drop)


def _obstacles(
    place: Place, layer: Layer, to: str, drop: Collection[str]
) -> Iterator[NotExpressibleError]:
    for name, text in layer.extras.items():
        if name not in drop and (name, text) not in (
            ("step", "256"),
            ("capacity_origin", "modelNative"),
        ):
            yield _refuse(place, name, "a field that it has, or to drop it", text, to)
    if layer.name == "CacheList":
        if not layer.children:
            yield _refuse(place, "children", "at least one, or mlx-lm drops the list", "none", to)
        for i, child in enumerate(layer.children):
            below = place.child(i, child.spelled or child.name)
            yield from _obstacles(below, child, to, drop)
        return
    if layer.name == "ArraysCache" and not layer.fields["cache"]:
        yield _refuse(place, "cache", "at least one slot, or mlx-lm loads no list", "none", to)
    if layer.name == "ConcatenateKVCache" and layer.empty:
        yield _refuse(place, "keys", "an array, or mlx-lm does not load it", "None", to)
    elif to == "0.31":
        yield from _obstacles_0_31(place, layer)


def _obstacles_0_31(place: Place, layer: Layer) -> Iterator[NotExpressibleError]:
    """What 0.31.3 cannot save, or would load as something else."""
    fields = layer.fields
    if layer.name == "ArraysCache":
        for i, slot in enumerate(fields["cache"]):
            if slot is None:
                yield _refuse(place, f"cache[{i}]", "an array", "None")
        for name in ("left_padding", "lengths"):
            if fields[name] is not None:
                yield _refuse(place, name, "None, for it is not saved", str(fields[name]))
        return
    if fields["keys"] is None:
        yield _refuse(place, "keys", "an array", "None: the cache is empty")
    if layer.name == "ChunkedKVCache":
        if fields["chunk_size"] is None:
            yield _refuse(place, "chunk_size", "an integer", "None")
        if fields["start_position"]:
            expected = "0, for the offset is not saved"
            yield _refuse(place, "start_position", expected, str(fields["start_position"]))
    if layer.name == "BatchRotatingKVCache" and not fields["rotated"]:
        yield _refuse(place, "rotated", "True, as which mlx-lm 0.31 loads all", "False")


def _refuse(
    place: Place, field: str, expected: str, got: str, to: str = "0.31"
) -> NotExpressibleError:
    return NotExpressibleError(place, field, f"for {LABELS[to]} {expected}", got)
