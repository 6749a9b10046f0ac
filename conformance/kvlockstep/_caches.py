"""The cache classes that the harness knows. The next cache class goes here.

For each: arguments for a first construction, the operations that its traces are made of, and the
states that it can be in, which coverage and the report count by (`_states.py` tells them apart).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvlockstep._arrays import build_item
from kvlockstep._steps import Made


@dataclass(frozen=True)
class CacheKind:
    """One cache class, or another class of the cache module.

    `sample` makes one; `operations` are the tags of the steps in its traces; `states` its state
    classes. `peers` are the operations that take other caches too: coverage counts those by the
    states of both. `internal` are private fields that a port may well not have: what they hold is
    seen through the methods. `fed` says that it takes keys and values.
    """

    sample: Made
    operations: tuple[str, ...]
    states: tuple[str, ...]
    peers: tuple[str, ...] = ()
    internal: tuple[str, ...] = ()
    fed: bool = True

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.sample.cache


_COMMON = ("update", "fetch", "trim", "set_state", "reload", "copy", "hold", "depends", "transfer")
_BATCH = (
    *_COMMON, "mask", "set_meta_state", "filter", "extend", "extract", "prepare", "finalize",
)  # fmt: skip

_BUFFER_STATES = ("empty", "spare", "full", "trimmed", "past its data")
_PENDING = ("empty, padding pending", "padding pending")

_KINDS = (
    CacheKind(
        Made(cache="KVCache"),
        (*_COMMON, "mask", "quantize", "merge"),
        _BUFFER_STATES,
        peers=("merge",),
    ),
    CacheKind(
        Made(cache="ConcatenateKVCache"),
        (*_COMMON, "mask"),
        tuple(state for state in _BUFFER_STATES if state != "spare"),
    ),
    CacheKind(
        Made(cache="RotatingKVCache", args={"max_size": 4, "keep": 1}),
        (*_COMMON, "mask", "set_meta_state", "quantize", "merge"),
        ("empty", "filling", "full", "wrapped", "longer than the window", "trimmed"),
        peers=("merge",),
    ),
    CacheKind(
        Made(cache="ChunkedKVCache", args={"chunk_size": 4}),
        (*_COMMON, "front_trim", "set_meta_state"),
        (
            *_BUFFER_STATES,
            *(f"{state}, front-trimmed" for state in _BUFFER_STATES if state != "empty"),
        ),
    ),
    CacheKind(
        Made(cache="QuantizedKVCache", args={"group_size": 32, "bits": 8}),
        (*(name for name in _COMMON if name != "depends"), "mask", "set_meta_state"),
        _BUFFER_STATES,
    ),
    CacheKind(
        Made(cache="BatchKVCache", args={"left_padding": (1, 0)}),
        tuple(name for name in _BATCH if name != "set_meta_state"),
        (*_BUFFER_STATES, *_PENDING),
        peers=("extend",),
    ),
    CacheKind(
        Made(cache="BatchRotatingKVCache", args={"max_size": 4, "left_padding": (1, 0)}),
        (*_BATCH, "quantize"),
        (
            *("empty", "filling", "full", "rotated", "longer than the window", "trimmed"),
            *_PENDING,
        ),
        peers=("extend",),
    ),
    CacheKind(
        Made(cache="ArraysCache", args={"size": 2}),
        (
            *("set_item", "get_item", "mask", "set_state", "reload", "copy", "hold", "transfer"),
            *("filter", "extend", "extract", "merge", "prepare", "finalize", "advance"),
        ),
        (
            "no slots",
            *(
                state + prepared
                for prepared in ("", ", prepared")
                for state in ("empty", "first slot empty", "partly filled", "filled")
            ),
        ),
        peers=("extend", "merge"),
        fed=False,
    ),
    CacheKind(
        Made(
            cache="CacheList",
            children=(
                Made(cache="KVCache"),
                Made(cache="RotatingKVCache", args={"max_size": 4}),
            ),
        ),
        (
            *("trim", "get_item", "reload", "copy", "hold", "transfer"),
            *("filter", "extend", "extract", "merge", "prepare", "finalize"),
        ),
        ("no children", "empty", "partly filled", "filled"),
        peers=("extend", "merge"),
        fed=False,
    ),
    CacheKind(
        Made(cache="TokenBuffer"),
        ("append_tokens", "copy", "hold"),
        ("empty", "spare", "full"),
        fed=False,
    ),
    CacheKind(
        Made(cache="PromptTrie"),
        ("trie_add", "trie_get", "trie_pop", "trie_pop_prefixes", "trie_search", "copy"),
        ("empty", "one model", "several models"),
        internal=("_trie",),
        fed=False,
    ),
    CacheKind(
        Made(cache="LRUPromptCache", args={"max_size": 3}),
        ("lru_insert", "lru_fetch", "lru_trim_to"),
        ("empty", "one type", "several types"),
        internal=("_trie", "_lru", "_n_bytes", "_n_bytes_by_type"),
        fed=False,
    ),
)

CACHES: dict[str, CacheKind] = {kind.name: kind for kind in _KINDS}

# The functions of the cache module, tested beside the classes under a name of their own.
FUNCTIONS = "functions"


def make_cache(module: Any, made: Made) -> Any:
    """Return a new cache of `module`; lets its error through."""
    children = [make_cache(module, child) for child in made.children]
    # As a caller would write them: paddings are lists.
    args = {name: build_item(value) for name, value in made.args.items()}
    return getattr(module, made.cache)(*children, **args)
