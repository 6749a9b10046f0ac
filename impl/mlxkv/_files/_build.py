"""Making a contract's caches of what a file says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlxkv._files._body import Body, is_small, load_arrays, read_arrays
from mlxkv._files._header import check_header, opened, read_text
from mlxkv._files._layers import Layer
from mlxkv._files._plan import make, plan
from mlxkv._files._quick import load_quickly
from mlxkv._files._read import PromptCacheFile, choose
from mlxkv._files._regular import Tensor, parse


def load(
    path: Any, classes: Mapping[str, Any], generation: str | None = None
) -> tuple[list[Any], Any]:
    """The caches of a file, of these classes, and its metadata; the arrays are read at once.

    Raises `PromptCacheError`.
    """
    with opened(path) as source:
        text = read_text(source)
        parsed = parse(text)
        if parsed is not None and generation in (None, "0.32"):
            loaded = load_quickly(source, text, parsed, classes)
            if loaded is not None:
                return loaded
        header = check_header(source, text, parsed)
        body = Body(source, header.begin)
        small = is_small(one.kind for one in header.tensors.values())
        file = choose(header, body, generation, {} if small else load_arrays(source, header))
        metadata = file.user_metadata()
        if small:
            arrays = read_arrays(body, _tensors(file.layers))
            return _make_all(file.layers, classes, arrays), metadata
    return build(file, classes), metadata


def build(file: PromptCacheFile, classes: Mapping[str, Any]) -> list[Any]:
    """The caches of a file, of these classes. Raises `PromptCacheOSError`."""
    file.read([tensor.name for tensor in _tensors(file.layers)])
    return _make_all(file.layers, classes, file.arrays)


def _tensors(layers: Iterable[Layer]) -> Iterator[Tensor]:
    """Those that become arrays of a cache."""
    for layer in layers:
        for _, tensor in layer.tensors():
            yield tensor
        yield from _tensors(layer.children)


def _make_all(
    layers: Iterable[Layer], classes: Mapping[str, Any], arrays: Mapping[str, Any]
) -> list[Any]:
    names = {name: name for name in arrays}
    return [make(plan(layer, classes, names), arrays) for layer in layers]
