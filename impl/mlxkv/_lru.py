"""Prompt caches under their tokens, the least recently inserted evicted first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxkv import _order
from mlxkv._base import copied
from mlxkv._errors import LimitError, NotAnIntegerError
from mlxkv._prompts import can_trim_prompt_cache, trim_prompt_cache
from mlxkv._trie import PromptTrie


class LRUPromptCache:
    """Prompt caches under (model, tokens), with a limit on how many and on their bytes.

    A prompt cache is a list of caches, one a layer. It is kept by reference, its bytes counted at
    insertion; what is fetched is a deep copy. Prompts are evicted in the order of their insertion,
    by type as `CacheOrder` says. Prompts with equal tokens are one, whatever sequence they were
    given as, and what becomes of that sequence later changes nothing here. What raises changes
    nothing. Source: cache.py `LRUPromptCache`.
    """

    @dataclass
    class CacheEntry:
        """One prompt cache, its bytes at insertion and its type."""

        prompt_cache: list[Any]
        nbytes: int
        cache_type: str
        _ticket: int = field(default=-1, init=False, repr=False, compare=False)

    CacheOrder = _order.CacheOrder

    def __init__(self, max_size: int = 10, max_bytes: int = 1 << 63) -> None:
        self.max_size = max_size
        self.max_bytes = max_bytes
        self._trie = PromptTrie()
        self._lru = self.CacheOrder()
        self._n_bytes = 0
        self._n_bytes_by_type = dict.fromkeys(self._lru._ordering, 0)

    def __len__(self) -> int:
        return len(self._lru)

    @property
    def nbytes(self) -> int:
        """The bytes of all prompt caches, each as counted at its insertion."""
        return self._n_bytes

    def fetch_nearest_cache(
        self, model: Any, tokens: list[Any]
    ) -> tuple[list[Any] | None, list[Any]]:
        """Return a copy of the prompt cache that saves most work, and the tokens yet to process.

        That of the same tokens, else a longer one trimmed to the prefix that is alike (leaving one
        token to process at least), else that of the longest prefix of two tokens or more, else
        (None, `tokens` itself). Does not mutate. Raises as `PromptTrie.search` does.
        """
        match = self._trie._find(self, "fetch_nearest_cache", model, tokens)
        if match.exact is not None:
            return copied(match.exact[0].prompt_cache, {}), []
        if match.longer is not None and match.common > match.short:
            held = match.longer[0].prompt_cache
            if can_trim_prompt_cache(held):
                cache = copied(held, {})
                prefix = min(len(tokens) - 1, match.common)
                trim_prompt_cache(cache, match.long() - prefix)
                return cache, tokens[prefix:]
        if match.shorter is not None:
            return copied(match.shorter[0].prompt_cache, {}), tokens[match.short :]
        return None, tokens

    def insert_cache(
        self,
        model: Any,
        tokens: list[Any],
        prompt_cache: list[Any],
        *,
        cache_type: str = "assistant",
    ) -> None:
        """Keep a prompt cache, as the newest of its type; evict what is then too much.

        One under the same tokens is replaced. If all the caches can be trimmed, those of proper
        prefixes are dropped. At most one is evicted for `max_size`, as many as it takes for
        `max_bytes`, the new one not excepted. Mutates. Raises `UnknownCacheTypeError`,
        `UnhashableTokenError`, `TokenSequenceError`, `LimitError`, `NotAnIntegerError`.
        """
        entry = self.CacheEntry(prompt_cache, sum(c.nbytes for c in prompt_cache), cache_type)
        self._lru._check(self, "insert_cache", cache_type)
        path = self._trie._key(self, "insert_cache", model, tokens)
        trimmable = can_trim_prompt_cache(prompt_cache)
        self._check_limits()

        previous = self._trie.add(model, path, entry)
        if previous is not None:
            self._forget(previous)
        entry._ticket = self._lru._enter(_order.Place(model, path), cache_type)
        self._count(entry, entry.nbytes)
        if trimmable:
            for _, shorter in self._trie.pop_prefixes(model, path):
                self._forget(shorter)
        if len(self) > self.max_size:
            self._evict()
        self._evict_bytes(self.max_bytes)

    def trim_to(self, *, n_sequences: int | None = None, n_bytes: int | None = None) -> None:
        """Evict prompts until no more than so many, and so many bytes, are left.

        A negative number counts as 0, None as no limit. Mutates. Raises `NotAnIntegerError`.
        """
        sequences = _at_least_0(self, "n_sequences", n_sequences)
        most = _at_least_0(self, "n_bytes", n_bytes)
        while sequences is not None and len(self) > sequences:
            self._evict()
        if most is not None:
            self._evict_bytes(most)

    def stats_by_type(self) -> dict[str, dict[str, int]]:
        """The number of prompts and their bytes, for every cache type in the order's order."""
        return {
            cache_type: {"n_sequences": len(queue), "n_bytes": self._n_bytes_by_type[cache_type]}
            for cache_type, queue in self._lru._lrus.items()
        }

    def _evict(self) -> None:
        model, path = self._lru.pop()
        entry = self._trie.pop(model, path)
        self._count(entry, -entry.nbytes)

    def _evict_bytes(self, most: int) -> None:
        while len(self) and self._n_bytes > most:
            self._evict()

    def _forget(self, entry: CacheEntry) -> None:
        """Let go of an entry that is no longer in the trie."""
        self._lru._leave(entry._ticket, entry.cache_type)
        self._count(entry, -entry.nbytes)

    def _count(self, entry: CacheEntry, nbytes: int) -> None:
        self._n_bytes += nbytes
        self._n_bytes_by_type[entry.cache_type] += nbytes

    def _check_limits(self) -> None:
        """Raise unless there can be an end to evicting."""
        _at_least_0(self, "max_size", self.max_size, "insert_cache")
        _at_least_0(self, "max_bytes", self.max_bytes, "insert_cache")
        if self.max_bytes < 0:
            raise LimitError(self, "insert_cache", "max_bytes of at least 0", f"{self.max_bytes}")


def _at_least_0(cache: object, name: str, limit: Any, operation: str = "trim_to") -> Any:
    """The limit, or 0 if it is negative; None is none. Raises `NotAnIntegerError`."""
    if limit is None and operation == "trim_to":
        return None
    try:
        return max(0, limit)
    except TypeError:
        got = type(limit).__name__
        raise NotAnIntegerError(cache, operation, f"a number as {name}", got) from None
