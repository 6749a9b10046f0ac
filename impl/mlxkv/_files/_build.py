"""Making a contract's caches of what a file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlxkv._files._header import Tensor
from mlxkv._files._layers import Layer
from mlxkv._files._read import PromptCacheFile, read_prompt_cache


def load(
    path: Any, classes: Mapping[str, Any], generation: str | None = None
) -> tuple[list[Any], Any]:
    """The caches of a file, of these classes, and its metadata; the arrays are read at once.

    Raises `PromptCacheError`.
    """
    file = read_prompt_cache(path, generation)
    metadata = file.user_metadata()
    return build(file, classes), metadata


def build(file: PromptCacheFile, classes: Mapping[str, Any]) -> list[Any]:
    """The caches of a file, of these classes. Raises `PromptCacheOSError`."""
    file.read_all()
    return [_restore(layer, classes, file.arrays) for layer in file.layers]


def _restore(layer: Layer, classes: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> Any:
    """One cache, as if its state had been set: fields only, its constructor does not run."""
    cls = classes[layer.name]
    cache = cls.__new__(cls)
    for name, value in layer.fields.items():
        setattr(cache, name, _resolve(value, arrays))
    if layer.name == "CacheList":
        cache.caches = [_restore(child, classes, arrays) for child in layer.children]
    step = int(layer.extras.get("step", 0))
    if step and step != cls.step:
        cache.step = step
    return cache


def _resolve(value: Any, arrays: Mapping[str, mx.array]) -> Any:
    if isinstance(value, Tensor):
        return arrays[value.name]
    if isinstance(value, tuple):
        return [_resolve(one, arrays) for one in value]
    return value
