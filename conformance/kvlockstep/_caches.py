"""The cache classes that the harness knows. The next cache class goes here.

For each: arguments for a first construction, the operations that its traces are made of, and the
names of the states that it can be in, for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kvlockstep._sizes import Sizes


@dataclass(frozen=True)
class CacheKind:
    """One cache class.

    `sample` constructs one; `operations` are the tags of the steps in its traces; `state_of` names
    the state class of a cache from its sizes and whether its last change was a trim.
    """

    name: str
    sample: Mapping[str, int]
    operations: tuple[str, ...]
    state_of: Callable[[Any, Sizes, bool], str]


def _state_of_buffer(cache: Any, sizes: Sizes, trimmed: bool) -> str:
    if cache.keys is None:
        return "empty"
    if sizes["offset"] > sizes["capacity"]:
        return "past its data"
    if trimmed:
        return "trimmed"
    return "spare" if sizes["room"] else "full"


def _state_of_ring(cache: Any, sizes: Sizes, trimmed: bool) -> str:
    if cache.keys is None:
        return "empty"
    if trimmed:
        return "trimmed"
    offset, window, capacity = sizes["offset"], sizes["window"], sizes["capacity"]
    if capacity > window:
        return "longer than the window"
    if offset < window:
        return "filling"
    if offset == window:
        return "full"
    return "wrapped"


def _state_of_chunks(cache: Any, sizes: Sizes, trimmed: bool) -> str:
    state = _state_of_buffer(cache, sizes | {"offset": sizes["rows"]}, trimmed)
    if state == "empty" or not getattr(cache, "start_position", 0):
        return state
    return f"{state}, front-trimmed"


_COMMON = ("update", "fetch", "trim", "set_state", "reload", "copy", "hold", "depends")

CACHES: dict[str, CacheKind] = {
    kind.name: kind
    for kind in (
        CacheKind("KVCache", {}, (*_COMMON, "mask", "quantize"), _state_of_buffer),
        CacheKind("ConcatenateKVCache", {}, (*_COMMON, "mask"), _state_of_buffer),
        CacheKind(
            "RotatingKVCache",
            {"max_size": 4, "keep": 1},
            (*_COMMON, "mask", "set_meta_state", "quantize"),
            _state_of_ring,
        ),
        CacheKind(
            "ChunkedKVCache",
            {"chunk_size": 4},
            (*_COMMON, "front_trim", "set_meta_state"),
            _state_of_chunks,
        ),
        CacheKind(
            "QuantizedKVCache",
            {"group_size": 32, "bits": 8},
            (*(name for name in _COMMON if name != "depends"), "mask", "set_meta_state"),
            _state_of_buffer,
        ),
    )
}

# The mask functions of the cache module, tested beside the classes under a name of their own.
FUNCTIONS = "functions"
