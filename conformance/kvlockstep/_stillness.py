"""Caches that a step left alone: what derives from what they store is not looked at again.

A cache is still if the step did not take it, if it and all caches inside it store the very objects
that they stored before, and if the caches that the step took share no array with it, for an array
may be written in place. A cache with parts that cannot be told is never still, nor is any other
after a step that took it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import chain
from operator import is_
from typing import Any, Protocol

import mlx.core as mx

from kvlockstep._caches import CACHES

_ATOMS = frozenset({mx.array, int, bool, float, str, type(None)})
# The size of an object that holds nothing but its `__dict__`.
_PLAIN = type("Plain", (), {}).__basicsize__
_SLOT = type("Slotted", (), {"__slots__": ("one",)}).__basicsize__ - object.__basicsize__


class _Whole(Protocol):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class _Parts:
    """What is in `wholes`, live as they are, and what was in them when this was made."""

    def __init__(self, wholes: list[_Whole]) -> None:
        self._wholes = wholes
        self._sizes = [*map(len, wholes)]
        self.parts = [*chain.from_iterable(wholes)]

    def are_same(self) -> bool:
        """Tell whether the very same objects are in them, each where it was."""
        now = chain.from_iterable(self._wholes)
        return [*map(len, self._wholes)] == self._sizes and all(map(is_, self.parts, now))

    @cached_property
    def arrays(self) -> set[int]:
        """The ids of the arrays."""
        return {id(part) for part in self.parts if type(part) is mx.array}


class Stillness:
    """Knows the parts of the caches in each slot; None where they cannot be told."""

    def __init__(self) -> None:
        self._known: dict[str, _Parts | None] = {}
        self._taken: set[str] = set()
        self._reached: set[int] | None = set()

    def take(self, slots: set[str]) -> None:
        """Note which slots a step takes, or puts something into."""
        self._taken = slots
        self._reached = set()
        for slot in slots & self._known.keys():
            known = self._known[slot]
            if known is None:
                self._reached = None
                return
            self._reached.update(map(id, known.parts))

    def holds(self, slot: str, ours: Any, theirs: Any) -> bool:
        """Tell whether the step left the caches in a slot alone; False if it cannot be told."""
        if slot in self._taken or self._reached is None:
            return False
        known = self._known.get(slot)
        return (
            known is not None
            and known.parts[0] is ours
            and known.parts[1] is theirs
            and self._reached.isdisjoint(known.arrays)
            and known.are_same()
        )

    def learn(self, slot: str, ours: Any, theirs: Any) -> None:
        """Take note of the parts of the caches in a slot, which were just looked at."""
        wholes = wholes_in((ours, theirs))
        self._known[slot] = None if wholes is None else _Parts(wholes)

    def forget(self) -> None:
        """Know nothing any more: no cache is still."""
        self._known.clear()


def wholes_in(caches: Iterable[Any]) -> list[_Whole] | None:
    """Return all that holds something of some caches, first themselves; None if part is opaque."""
    wholes: list[_Whole] = [(*caches,)]
    for whole in wholes:
        for part in whole:
            kind = type(part)
            if kind in _ATOMS:
                continue
            if kind is list or kind is tuple:
                wholes.append(part)
                continue
            slots = _slots_of(kind)  # type: ignore[arg-type]
            if slots is None:
                return None
            wholes.append(vars(part).values())
            if slots:
                wholes.append(_Slotted(part, slots))
    return wholes


class _Slotted:
    """What is in the slots of an object, live."""

    def __init__(self, whole: Any, slots: tuple[str, ...]) -> None:
        self._whole, self._slots = whole, slots

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Any]:
        whole = self._whole
        return iter([getattr(whole, name, None) for name in self._slots])


@lru_cache(maxsize=256)
def _slots_of(kind: type) -> tuple[str, ...] | None:
    """Return the slots of a cache beside its `__dict__`; None if it is none, or holds more."""
    if kind.__name__ not in CACHES:
        return None
    every = [name for base in kind.__mro__ for name in vars(base).get("__slots__", ())]
    slots = tuple(name for name in every if name not in ("__dict__", "__weakref__"))
    own = kind.__basicsize__ - len(slots) * _SLOT
    return slots if own == _PLAIN and kind.__dictoffset__ else None
