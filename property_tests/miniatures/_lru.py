"""Prompt caches that go wrong: `LRUPromptCache`."""

from __future__ import annotations

import copy
from contextlib import contextmanager

from property_tests.miniatures._registry import broken
from property_tests.miniatures._steps import (
    LruFetch,
    LruInsert,
    LruTrim,
    at,
    construct,
    update,
)

NAME = "LRUPromptCache"
LARGE = construct(NAME, max_size=3)
SINGLE = at("s", construct("KVCache"))


def insert(*tokens, caches=(), kind="assistant"):
    """Insert the caches for these tokens."""
    return LruInsert(tokens=tokens, caches=caches, cache_type=kind)


@contextmanager
def replaced(holder, name, function):
    """Give an object another method for a while."""
    setattr(holder, name, function)
    try:
        yield
    finally:
        delattr(holder, name)


def entry_at(cache, model, tokens):
    """Return the entry for these tokens, None where there is none."""
    try:
        return cache._trie.get(model, tokens)
    except (KeyError, TypeError):
        return None


@broken(
    "0.32.2",
    NAME,
    by_hand=(
        LARGE,
        SINGLE,
        at("s", update(1)),
        insert(1, caches=("s",)),
        insert(1, caches=("s",)),
    ),
    shows="lru_insert",
    field="nbytes",
)
class BytesOfTheOverwrittenKept:
    """The bytes of an entry that is overwritten are not taken off."""

    def insert_cache(self, model, tokens, prompt_cache, *, cache_type="assistant"):
        overwritten = entry_at(self, model, tokens)
        super().insert_cache(model, tokens, prompt_cache, cache_type=cache_type)
        self._n_bytes += overwritten.nbytes if overwritten is not None else 0


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME, max_size=1), insert(1), insert(2), LruFetch(tokens=(1,))),
    shows="lru_fetch",
    field="result[0]",
)
class NewestEvicted:
    """What was inserted last goes first."""

    def __init__(self, max_size=10, max_bytes=1 << 63):
        super().__init__(max_size, max_bytes)
        self._lru.pop = self._pop_newest

    def _pop_newest(self):
        order = self._lru
        before = {kind: len(queue) for kind, queue in order._lrus.items()}
        oldest = type(order).pop(order)
        queue = next(queue for kind, queue in order._lrus.items() if len(queue) < before[kind])
        queue.appendleft(oldest)
        return queue.pop()


@broken(
    "0.32.2",
    NAME,
    by_hand=(LARGE, insert(), insert(1)),
    shows="lru_insert",
    field="__len__()",
)
class PrefixesNotRemoved:
    """The prefixes of a sequence whose caches can be trimmed stay."""

    def insert_cache(self, model, tokens, prompt_cache, *, cache_type="assistant"):
        with replaced(self._trie, "pop_prefixes", lambda *_: []):
            super().insert_cache(model, tokens, prompt_cache, cache_type=cache_type)


@broken(
    "0.31.3",
    NAME,
    by_hand=(
        construct(NAME, max_size=2),
        insert(1),
        insert(2),
        insert(1),
        insert(3),
        LruFetch(tokens=(2,)),
    ),
    shows="lru_fetch",
    field="result[0]",
)
class OrderNotRefreshed:
    """A sequence that is inserted again keeps its place among those of its type."""

    def insert_cache(self, model, tokens, prompt_cache, *, cache_type="assistant"):
        known = entry_at(self, model, tokens)
        if known is None or known.cache_type != cache_type:
            super().insert_cache(model, tokens, prompt_cache, cache_type=cache_type)
            return
        keep = lambda *_: None  # noqa: E731
        with replaced(self._lru, "push", keep), replaced(self._lru, "remove", self._remove_others):
            self._kept = model, tokens
            super().insert_cache(model, tokens, prompt_cache, cache_type=cache_type)

    def _remove_others(self, model, tokens):
        if (model, tokens) != self._kept:
            type(self._lru).remove(self._lru, model, tokens)


@broken(
    "0.32.2",
    NAME,
    by_hand=(
        construct(NAME, max_size=0),
        SINGLE,
        at("s", update(1)),
        insert(1, caches=("s",)),
    ),
    shows="lru_insert",
    field="stats_by_type()[0][1][1][1]",
)
class StatsForgetEvictions:
    """The bytes by type go on counting what was evicted."""

    def insert_cache(self, model, tokens, prompt_cache, *, cache_type="assistant"):
        evicted = []

        def pop(model, tokens):
            evicted.append(type(self._trie).pop(self._trie, model, tokens))
            return evicted[-1]

        with replaced(self._trie, "pop", pop):
            super().insert_cache(model, tokens, prompt_cache, cache_type=cache_type)
        for entry in evicted:
            self._n_bytes_by_type[entry.cache_type] += entry.nbytes


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME, max_size=1), insert(1, kind="user"), insert(2)),
    shows="lru_insert",
    field="stats_by_type()[0][1][0][1]",
)
class TypesEvictedInReverse:
    """System prompts are evicted before the assistant's answers."""

    def __init__(self, max_size=10, max_bytes=1 << 63):
        super().__init__(max_size, max_bytes)
        self._lru.pop = self._pop_in_reverse

    def _pop_in_reverse(self):
        order = self._lru
        ordering = order._ordering
        order._ordering = ordering[::-1]
        try:
            return type(order).pop(order)
        finally:
            order._ordering = ordering


@broken(
    "0.32.2",
    NAME,
    by_hand=(
        LARGE,
        SINGLE,
        insert(1, caches=("s",)),
        LruFetch(tokens=(1,)),
        at("f0", update(1)),
    ),
    field="other cache: offset",
    seen_in="KVCache",
)
class FetchedCacheIsTheStoredOne:
    """What is fetched for a known sequence is no copy, and decoding on changes what is stored."""

    def fetch_nearest_cache(self, model, tokens):
        found = self._trie.search(model, tokens)
        if found.exact is None:
            return super().fetch_nearest_cache(model, tokens)
        return self._trie.get(model, found.exact).prompt_cache, []


@broken(
    "0.31.3",
    NAME,
    by_hand=(
        LARGE,
        SINGLE,
        at("s", update(2)),
        insert(1, 1, caches=("s",)),
        LruFetch(tokens=(1,)),
    ),
    shows="lru_fetch",
    field="other cache: offset",
)
class FetchTrimsOneTokenTooFew:
    """A longer sequence that is fetched for the first time keeps one token too many."""

    _fetched = ()

    def fetch_nearest_cache(self, model, tokens):
        fetched, left = super().fetch_nearest_cache(model, tokens)
        found = self._trie.search(model, tokens)
        prefix = min(len(tokens) - 1, found.common_prefix)
        if fetched and found.longer is not None and len(left) == len(tokens) - prefix:
            stored = self._trie.get(model, found.longer).prompt_cache
            if not any(one is cache for one in stored for cache in self._fetched):
                fetched = copy.deepcopy(stored)
                for cache in fetched:
                    cache.trim(max(0, len(found.longer) - prefix - 1))
        self._fetched = (*self._fetched, *(fetched or ()))
        return fetched, left


@broken(
    "0.32.2",
    NAME,
    by_hand=(LARGE, insert(1, 1), LruFetch(tokens=(1, 1, 1))),
    shows="lru_fetch",
    field="result[1]",
)
class LastTokenLeftToDoAgain:
    """Behind a shorter sequence, its last token is among those that are left."""

    def fetch_nearest_cache(self, model, tokens):
        fetched, left = super().fetch_nearest_cache(model, tokens)
        found = self._trie.search(model, tokens)
        is_shorter = found.shorter is not None and len(left) == len(tokens) - len(found.shorter)
        return fetched, tokens[len(found.shorter) - 1 :] if is_shorter else left


@broken(
    "0.31.3",
    NAME,
    by_hand=(LARGE, SINGLE, at("s", update(1)), insert(1, caches=("s",)), LruTrim(n_bytes=0)),
    shows="lru_trim_to",
    field="nbytes",
)
class TrimToIgnoresBytes:
    """A trim to so many bytes takes nothing out."""

    def trim_to(self, *, n_sequences=None, n_bytes=None):
        del n_bytes
        super().trim_to(n_sequences=n_sequences)
