"""Caches as they were before a step, so that a failed step can be undone on the reference."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any, NamedTuple

import mlx.core as mx

from kvlockstep._snapshots import Snapshot

# The reference's own containers inside its trie and its LRU cache.
_INNER = ("PromptTrie", "CacheOrder")


class _Listed(NamedTuple):
    """A list, which others may hold too, and what was in it."""

    itself: list[Any]
    items: tuple[Any, ...]


# What is never changed in place, or is an array.
_KEPT = frozenset({mx.array, int, bool, float, str, tuple, type(None)})


class Memento:
    """The fields of some caches. Containers are copied, for they change; arrays are kept."""

    def __init__(self, caches: Iterable[Any]) -> None:
        self._fields = {id(cache): (cache, _copies(vars(cache))) for cache in caches}

    def put_back(
        self, contents: Mapping[int, Snapshot], swapped: Mapping[int, mx.array] | None = None
    ) -> dict[int, mx.array]:
        """Give the caches their fields back, and their lists and arrays, the same, their content.

        `contents` has the arrays' content as it was last seen, by the id of the object. An array
        that changed its shape in place cannot get it back, and a new one takes its place; returns
        the new ones by the id of the old. `swapped` are some that are known already.
        """
        new = dict(swapped or {})
        for cache, fields in self._fields.values():
            vars(cache).clear()
            vars(cache).update(_map_arrays(fields, contents, new))
        return new

    def arrays(self) -> Iterator[mx.array]:
        """Yield the arrays that were in the fields."""
        for _, fields in self._fields.values():
            yield from arrays_in(fields.values())


def arrays_in(values: Iterable[Any]) -> Iterator[mx.array]:
    """Yield the arrays among the values, and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, mx.array):
            yield value
        elif isinstance(value, _Listed):
            yield from arrays_in(value.items)
        elif isinstance(value, (list, tuple)):
            yield from arrays_in(value)


def _copies(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if type(item) in _KEPT else _copies(item) for key, item in value.items()}
    if type(value) is list:
        return _Listed(value, tuple(value))
    if isinstance(value, deque):
        return copy(value)
    if type(value).__name__ in _INNER:
        twin = copy(value)
        vars(twin).update(_copies(vars(value)))
        return twin
    return value


def exchange(value: Any, swapped: Mapping[int, mx.array]) -> Any:
    """Return `value` with the arrays in it that are swapped; a list stays the same object."""
    return _map_arrays(_copies(value), {}, dict(swapped))


def _map_arrays(value: Any, contents: Mapping[int, Snapshot], new: dict[int, mx.array]) -> Any:
    if isinstance(value, mx.array):
        return _with_content(value, contents.get(id(value)), new)
    if type(value) is dict:
        return {key: _map_arrays(item, contents, new) for key, item in value.items()}
    if type(value) is _Listed:
        value.itself[:] = [_map_arrays(item, contents, new) for item in value.items]
        return value.itself
    if type(value).__name__ in _INNER:
        vars(value).update(_map_arrays(vars(value), contents, new))
        return value
    if type(value) in (list, tuple):
        return type(value)(_map_arrays(item, contents, new) for item in value)
    return value


def _with_content(array: mx.array, content: Snapshot | None, new: dict[int, mx.array]) -> mx.array:
    if id(array) in new:
        return new[id(array)]
    if content is None or content.failed:
        return array
    if array.shape != content.shape:
        return new.setdefault(id(array), content.array())
    if array.size or array.dtype != content.dtype:
        array[...] = content.array()
    return array
