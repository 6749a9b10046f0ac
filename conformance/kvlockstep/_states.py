"""State classes: what a cache is like before a step, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from kvlockstep._side import walk
from kvlockstep._sizes import Sizes, sizes_of


def state_of(cache: Any, sizes: Sizes, trimmed: bool) -> str:
    """Return the state class of a cache of the reference; `trimmed`: by its last change.

    A cache that was set to a state of another class may be in none: "odd".
    """
    try:
        return _STATES.get(type(cache).__name__, _state_of_buffer)(cache, sizes, trimmed)
    except (AttributeError, TypeError):
        return "odd"


def leaves_of(address: str, cache: Any, trimmed: Container[str]) -> list[tuple[str, int]]:
    """Return class and state class, and the batch rows, of every cache inside a list.

    None for a cache that is no list. `trimmed` has the addresses of those last trimmed.
    """
    leaves = []
    for below, leaf in walk(address, cache)[1:]:
        sizes = sizes_of(leaf)
        state = state_of(leaf, sizes, below in trimmed)
        leaves.append((f"{type(leaf).__name__}: {state}", sizes["batch"]))
    return leaves


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
    if getattr(cache, "rotated", False):
        return "rotated"
    if offset == window or hasattr(cache, "rotated"):
        return "full"
    return "wrapped"


def _state_of_chunks(cache: Any, sizes: Sizes, trimmed: bool) -> str:
    state = _state_of_buffer(cache, sizes | {"offset": sizes["position"]}, trimmed)
    if state == "empty" or not getattr(cache, "start_position", 0):
        return state
    return f"{state}, front-trimmed"


def _with_padding(field: str, state_of_rows: Callable[..., str]) -> Callable[..., str]:
    """Tell apart a batch whose right padding waits, in `field`, to be finalized."""

    def state(cache: Any, sizes: Sizes, trimmed: bool) -> str:
        if getattr(cache, field, None) is None:
            return state_of_rows(cache, sizes, trimmed)
        return "padding pending" if cache.keys is not None else "empty, padding pending"

    return state


def _state_of_arrays(cache: Any, _sizes: Sizes, _trimmed: bool) -> str:
    waiting = cache.left_padding is not None or cache.lengths is not None
    prepared = ", prepared" if waiting else ""
    filled = [array is not None for array in cache.cache]
    if not filled:
        return "no slots"
    if not any(filled):
        return f"empty{prepared}"
    if not filled[0]:
        return f"first slot empty{prepared}"
    return f"filled{prepared}" if all(filled) else f"partly filled{prepared}"


def _state_of_list(cache: Any, sizes: Sizes, trimmed: bool) -> str:
    empty = [_is_empty(child, sizes, trimmed) for child in cache.caches]
    if not empty:
        return "no children"
    if all(empty):
        return "empty"
    return "partly filled" if any(empty) else "filled"


def _is_empty(child: Any, sizes: Sizes, trimmed: bool) -> bool:
    return state_of(child, sizes, trimmed).startswith(("empty", "no "))


def _state_of_tokens(cache: Any, _sizes: Sizes, _trimmed: bool) -> str:
    if cache._size == 0:
        return "empty"
    return "spare" if cache._size < cache._buffer.size else "full"


def _state_of_trie(cache: Any, _sizes: Sizes, _trimmed: bool) -> str:
    models = len(cache._trie)
    return "empty" if not models else "one model" if models == 1 else "several models"


def _state_of_lru(cache: Any, _sizes: Sizes, _trimmed: bool) -> str:
    types = sum(1 for queue in cache._lru._lrus.values() if queue)
    return "empty" if not types else "one type" if types == 1 else "several types"


_STATES: dict[str, Callable[[Any, Sizes, bool], str]] = {
    "RotatingKVCache": _state_of_ring,
    "ChunkedKVCache": _state_of_chunks,
    "BatchKVCache": _with_padding("_right_padding", _state_of_buffer),
    "BatchRotatingKVCache": _with_padding("_lengths", _state_of_ring),
    "ArraysCache": _state_of_arrays,
    "CacheList": _state_of_list,
    "TokenBuffer": _state_of_tokens,
    "PromptTrie": _state_of_trie,
    "LRUPromptCache": _state_of_lru,
}
