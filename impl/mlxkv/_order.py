"""In which order prompts are evicted: a queue for every cache type, O(1) for every touch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from mlxkv._errors import EmptyOrderError, OrderingError, UnknownCacheTypeError

CACHE_TYPES = ("assistant", "user", "system")


class Place(NamedTuple):
    """A prompt in a queue; `key` is its hash where it may be removed by value, else None."""

    model: Any
    tokens: Any
    key: int | None = None


class CacheOrder:
    """Prompts in the order in which they came, in a queue for every cache type.

    Of lists a copy is kept, so that what their owner does to them later changes nothing here.
    Source: cache.py `LRUPromptCache.CacheOrder`.
    """

    def __init__(self, ordering: Iterable[str] | None = None) -> None:
        self._ordering = list(CACHE_TYPES if ordering is None else ordering)
        self._lrus: dict[str, OrderedDict[int, Place]] = {t: OrderedDict() for t in self._ordering}
        self._next_ticket = 0
        self._by_hash: dict[int, dict[int, str]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lrus.values()))

    def push(self, model: Any, tokens: list[Any], cache_type: str = "assistant") -> None:
        """Put a prompt at the end of its type's queue, even if it is in one already.

        Mutates. Raises `UnknownCacheTypeError`.
        """
        self._check(self, "push", cache_type)
        kept = tokens[:] if isinstance(tokens, list) else tokens
        key = _hash(model, kept)
        ticket = self._enter(Place(model, kept, key), cache_type)
        self._by_hash.setdefault(key, {})[ticket] = cache_type

    def remove(self, model: Any, tokens: list[Any]) -> None:
        """Remove the prompt, if it is there: once, from the first type's queue that has it.

        Mutates. Does not raise.
        """
        places = [
            (self._ordering.index(cache_type), ticket, cache_type)
            for ticket, cache_type in self._by_hash.get(_hash(model, tokens), {}).items()
            if (model, tokens) == self._lrus[cache_type][ticket][:2]
        ]
        if places:
            _, ticket, cache_type = min(places)
            self._leave(ticket, cache_type)

    def pop(self) -> tuple[Any, Any]:
        """Remove and return the (model, tokens) to evict next.

        It is the oldest of the first type that has prompts, and as many as the next type at
        least; else of the last type. Mutates. Raises `EmptyOrderError`, and `OrderingError` where
        there are fewer than two types.
        """
        if len(self._ordering) < 2:
            got = f"{len(self._ordering)}"
            raise OrderingError(self, "pop", "an ordering of two cache types or more", got)
        cache_type = self._ordering[-1]
        for first, second in zip(self._ordering, self._ordering[1:], strict=False):
            if self._lrus[first] and len(self._lrus[first]) >= len(self._lrus[second]):
                cache_type = first
                break
        if not self._lrus[cache_type]:
            raise EmptyOrderError(self, "pop", "a prompt", "none")
        place = self._leave(next(iter(self._lrus[cache_type])), cache_type)
        return place.model, place.tokens

    def _enter(self, place: Place, cache_type: str) -> int:
        """Put a prompt at the end of a queue and return the ticket to `_leave` with. Mutates."""
        ticket = self._next_ticket
        self._next_ticket += 1
        self._lrus[cache_type][ticket] = place
        return ticket

    def _leave(self, ticket: int, cache_type: str) -> Place:
        """Remove and return the prompt of that ticket from its queue. Mutates."""
        place = self._lrus[cache_type].pop(ticket)
        if place.key is not None:
            alike = self._by_hash[place.key]
            del alike[ticket]
            if not alike:
                del self._by_hash[place.key]
        return place

    def _check(self, owner: object, operation: str, cache_type: str) -> None:
        """Raise `UnknownCacheTypeError` unless there is a queue for that type."""
        with suppress(TypeError):  # it cannot be hashed
            if cache_type in self._lrus:
                return
        expected = f"one of {', '.join(map(str, self._ordering))}"
        raise UnknownCacheTypeError(owner, operation, expected, repr(cache_type))


def _hash(model: Any, tokens: Any) -> int:
    try:
        return hash((model, tuple(tokens)))
    except TypeError:
        return 0
