"""Caches that a step left alone: what derives from what they store is not looked at again.

A cache is still if the step did not take it, if it and all caches inside it store the very objects
that they stored before, and if the caches that the step took share no array with it, for an array
may be written in place. A cache with parts that cannot be told is never still, nor is any other
after a step that took it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from operator import is_
from typing import Any, NamedTuple

import mlx.core as mx

from kvlockstep._caches import CACHES

_ATOMS = frozenset({mx.array, int, bool, float, str, type(None)})
# The size of an object that holds nothing but its `__dict__`.
_PLAIN = type("Plain", (), {}).__basicsize__
_SLOT = type("Slotted", (), {"__slots__": ("one",)}).__basicsize__ - object.__basicsize__


class _Parts(NamedTuple):
    """What the caches in a slot are made of on both sides, and the ids of the arrays there."""

    ours: list[Any]
    theirs: list[Any]
    arrays: set[int]


class Stillness:
    """Knows the parts of the caches in each slot; None where they cannot be told."""

    def __init__(self) -> None:
        self._known: dict[str, _Parts | None] = {}
        self._taken: set[str] = set()
        self._reached: set[int] | None = set()

    def take(self, slots: Iterable[str]) -> None:
        """Note which slots a step takes, or puts something into."""
        self._taken = {*slots}
        self._reached = set()
        for slot in self._taken & self._known.keys():
            parts = self._known[slot]
            if parts is None:
                self._reached = None
                return
            self._reached |= parts.arrays

    def holds(self, slot: str, ours: Any, theirs: Any) -> bool:
        """Tell whether the step left the caches in a slot alone; False if it cannot be told."""
        parts = self._known.get(slot)
        return (
            parts is not None
            and slot not in self._taken
            and self._reached is not None
            and self._reached.isdisjoint(parts.arrays)
            and _are_same(parts.ours, parts_of(ours))
            and _are_same(parts.theirs, parts_of(theirs))
        )

    def learn(self, slot: str, ours: Any, theirs: Any) -> None:
        """Take note of the parts of the caches in a slot, which were just looked at."""
        mine, other = parts_of(ours), parts_of(theirs)
        self._known[slot] = None
        if mine is not None and other is not None:
            arrays = {id(part) for part in mine + other if type(part) is mx.array}
            self._known[slot] = _Parts(mine, other, arrays)

    def forget(self) -> None:
        """Know nothing any more: no cache is still."""
        self._known.clear()


def parts_of(cache: Any) -> list[Any] | None:
    """Return a cache, what it stores and what is inside that; None if something there is opaque."""
    parts = [cache]
    for part in parts:
        kind = type(part)
        if kind in _ATOMS:
            continue
        if kind is list or kind is tuple:
            parts += part
        elif kind.__name__ in CACHES and (slots := _slots_of(kind)) is not None:  # type: ignore[arg-type]
            parts += vars(part).values()
            parts += [getattr(part, name, None) for name in slots]
        else:
            return None
    return parts


@lru_cache(maxsize=256)
def _slots_of(kind: type) -> tuple[str, ...] | None:
    """Return the slots of a class beside its `__dict__`; None if it holds something else."""
    every = [name for base in kind.__mro__ for name in vars(base).get("__slots__", ())]
    slots = tuple(name for name in every if name not in ("__dict__", "__weakref__"))
    own = kind.__basicsize__ - len(slots) * _SLOT
    return slots if own == _PLAIN and kind.__dictoffset__ else None


def _are_same(before: list[Any], after: list[Any] | None) -> bool:
    return after is not None and len(before) == len(after) and all(map(is_, before, after))
