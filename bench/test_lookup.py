"""Looking prompts up.

Python alone, in seconds of the core; its memory is Python's own. The ids are the caller's and are
not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from material import filled, tokens
from pairs import Pair, trace_python

MODEL = "model"
MORE = 100

pytestmark = pytest.mark.benchmark(timer=time.process_time)


def related(count: int, length: int) -> list[list[int]]:
    """Sequences that are alike in their first half."""
    start = tokens(length // 2)
    return [start + tokens(length - len(start), seed) for seed in range(1, count + 1)]


@pytest.mark.lengths(10_000, 32_768, 131_072, tiny=200)
def test_longer_match(pair: Pair, length: int) -> None:
    """Search: a prompt that shares with one stored the first half of that one's tokens."""
    stored = tokens(length)
    asked = stored[: length // 2] + tokens(MORE, 1)

    def prepare(cache: Any) -> Callable[[], Any]:
        trie = cache.PromptTrie()
        trie.add(MODEL, stored, "value")
        return lambda: trie.search(MODEL, asked)

    pair(prepare, tracer=trace_python)


@pytest.mark.lengths(1_000, 10_000, tiny=200)
def test_shared_half(pair: Pair, length: int, size: Any) -> None:
    """Search among 100 entries that share their first half, which is all that the prompt has."""
    stored = related(size(100, 5), length)
    asked = stored[0][: length // 2] + tokens(MORE, 1_000)

    def prepare(cache: Any) -> Callable[[], Any]:
        trie = cache.PromptTrie()
        for one in stored:
            trie.add(MODEL, one, "value")
        return lambda: trie.search(MODEL, asked)

    pair(prepare, tracer=trace_python)


@pytest.mark.lengths(10_000, 32_768, 131_072, tiny=200)
def test_exact_match(pair: Pair, length: int) -> None:
    """Search: the prompt itself is stored."""
    stored = tokens(length)

    def prepare(cache: Any) -> Callable[[], Any]:
        trie = cache.PromptTrie()
        trie.add(MODEL, stored, "value")
        return lambda: trie.search(MODEL, stored)

    pair(prepare, tracer=trace_python)


@pytest.mark.lengths(10_000, 32_768, 131_072, tiny=200)
def test_add(pair: Pair, length: int) -> None:
    """Add a prompt beside one that shares its first half."""
    first, second = related(2, length)

    def prepare(cache: Any) -> Callable[[], Any]:
        trie = cache.PromptTrie()
        trie.add(MODEL, first, "first")
        return lambda: trie.add(MODEL, second, "second")

    pair(prepare, tracer=trace_python)


@pytest.mark.lengths(10_000, 32_768, 131_072, tiny=200)
def test_pop(pair: Pair, length: int) -> None:
    """Take a prompt away from beside one that shares its first half."""
    first, second = related(2, length)

    def prepare(cache: Any) -> Callable[[], Any]:
        trie = cache.PromptTrie()
        trie.add(MODEL, first, "first")
        trie.add(MODEL, second, "second")
        return lambda: trie.pop(MODEL, second)

    pair(prepare, tracer=trace_python)


@pytest.mark.lengths(10_000, 32_768, 131_072, tiny=200)
def test_memory(pair: Pair, length: int) -> None:
    """Add a prompt to an empty trie: what is held is the trie, a unit one token."""
    stored = tokens(length)

    def prepare(cache: Any) -> Callable[[], Any]:
        trie = cache.PromptTrie()
        return lambda: trie.add(MODEL, stored, "value")

    pair(prepare, unit="token", per=length, tracer=trace_python)


def stocked(cache: Any, stored: list[list[int]]) -> Any:
    """An LRU cache with all these prompts; what it keeps under them is next to nothing."""
    lru = cache.LRUPromptCache(max_size=len(stored) + 1)
    for one in stored:
        lru.insert_cache(MODEL, one, [])
    return lru


@pytest.mark.lengths(4_096, 32_768, tiny=200)
def test_reinsert(pair: Pair, length: int, size: Any) -> None:
    """LRU cache of 100 prompts that share their first half: insert the last ones again."""
    stored = related(size(100, 5), length)
    again = [list(one) for one in stored[-4:]]

    def prepare(cache: Any) -> Callable[[], Any]:
        lru = stocked(cache, stored)

        def insert() -> Any:
            for one in again:
                lru.insert_cache(MODEL, one, [])
            return len(lru), lru.stats_by_type()

        return insert

    pair(prepare, unit="insertion", per=len(again), tracer=trace_python)


@pytest.mark.lengths(4_096, 32_768, tiny=200)
def test_extend_entry(pair: Pair, length: int, size: Any) -> None:
    """LRU cache of 100 prompts that share their first half: the last ones go on for 200 tokens."""
    stored = related(size(100, 5), length)
    longer = [one + tokens(2 * MORE, 5) for one in stored[-4:]]

    def prepare(cache: Any) -> Callable[[], Any]:
        lru = stocked(cache, stored)

        def insert() -> Any:
            for one in longer:
                lru.insert_cache(MODEL, one, [])
            return len(lru), lru.stats_by_type()

        return insert

    pair(prepare, unit="insertion", per=len(longer), tracer=trace_python)


@pytest.mark.lengths(1_000, 10_000, tiny=200)
def test_fetch(pair: Pair, length: int, size: Any) -> None:
    """LRU cache of 10 prompts that share their first half: fetch 32 layers for another prompt."""
    stored = related(size(10, 3), length)
    asked = stored[0][: length // 2] + tokens(MORE, 1_000)

    def prepare(cache: Any) -> Callable[[], Any]:
        lru = cache.LRUPromptCache(max_size=len(stored))
        layers = filled(cache, "KVCache", size(32, 2), 64, 1, 64)
        mx.eval([layer.state[0] for layer in layers])
        for one in stored:
            lru.insert_cache(MODEL, one, layers)
        return lambda: lru.fetch_nearest_cache(MODEL, asked)

    pair(prepare, tracer=trace_python)
