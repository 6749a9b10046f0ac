"""Making a contract's caches of what a file says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mlx.core as mx

from mlxkv._files._body import Body, is_small, load_arrays, read_arrays
from mlxkv._files._header import Tensor, opened, read_header
from mlxkv._files._layers import Layer
from mlxkv._files._read import PromptCacheFile, choose


def load(
    path: Any, classes: Mapping[str, Any], generation: str | None = None
) -> tuple[list[Any], Any]:
    """The caches of a file, of these classes, and its metadata; the arrays are read at once.

    Raises `PromptCacheError`.
    """
    with opened(path) as source:
        header = read_header(source)
        body = Body(source, header)
        small = is_small(header)
        file = choose(header, body, generation, {} if small else load_arrays(source, header))
        metadata = file.user_metadata()
        if small:
            arrays = read_arrays(body, _tensors(file.layers))
            return _restore_all(file.layers, classes, arrays), metadata
    return build(file, classes), metadata


def build(file: PromptCacheFile, classes: Mapping[str, Any]) -> list[Any]:
    """The caches of a file, of these classes. Raises `PromptCacheOSError`."""
    file.read([tensor.name for tensor in _tensors(file.layers)])
    return _restore_all(file.layers, classes, file.arrays)


def _tensors(layers: Iterable[Layer]) -> Iterator[Tensor]:
    """Those that become arrays of a cache."""
    for layer in layers:
        for _, tensor in layer.tensors():
            yield tensor
        yield from _tensors(layer.children)


def _restore_all(
    layers: Iterable[Layer], classes: Mapping[str, Any], arrays: Mapping[str, mx.array]
) -> list[Any]:
    return [_restore(layer, classes, arrays) for layer in layers]


def _restore(layer: Layer, classes: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> Any:
    """One cache, as if its state had been set: fields only, its constructor does not run."""
    cls = classes[layer.name]
    cache = cls.__new__(cls)
    for name, value in layer.fields.items():
        setattr(cache, name, _resolve(value, arrays))
    if layer.name == "CacheList":
        cache.caches = _restore_all(layer.children, classes, arrays)
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
