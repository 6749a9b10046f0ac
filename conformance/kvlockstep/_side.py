"""One side of the lockstep: its module, its caches, and what a caller may still hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from kvlockstep._sizes import children_of


@dataclass(frozen=True, slots=True)
class Handle:
    """Something that a caller keeps across later steps."""

    what: str
    value: Any


@dataclass(slots=True)
class Side:
    """One side of the lockstep: a module of cache classes and the caches made from it.

    `passed` and `returned` are what the previous step handed over and got back, for a `hold` that
    follows; they are dropped after one step, for a handle that is kept makes MLX copy instead of
    writing in place.
    """

    module: ModuleType
    slots: dict[str, Any] = field(default_factory=dict)
    held: list[Handle] = field(default_factory=list)
    passed: Any = None
    returned: Any = None

    def let_go(self) -> None:
        """Drop what the previous step handed over and got back."""
        self.passed = self.returned = None

    def at(self, address: str) -> Any:
        """Return the cache at an address, None where there is none: `a`, or `a.1` for a child."""
        if "." not in address:
            return self.slots.get(address)
        name, *indices = address.split(".")
        cache: Any = self.slots.get(name)
        for index in map(int, indices):
            if index >= len(children_of(cache)):
                return None
            cache = cache[index]
        return cache

    def all_at(self, addresses: Sequence[str]) -> list[Any]:
        """Return the caches at these addresses, those that are there."""
        return [cache for address in addresses if (cache := self.at(address)) is not None]

    def put_all(self, prefix: str, caches: Sequence[Any]) -> None:
        """Put caches into slots `prefix` + "0", "1", ..."""
        for number, cache in enumerate(caches):
            self.slots[f"{prefix}{number}"] = cache


def walk(address: str, cache: Any) -> list[tuple[str, Any]]:
    """Return a cache and all those inside it, each with its address."""
    found = [(address, cache)]
    for number, child in enumerate(children_of(cache)):
        found += walk(f"{address}.{number}", child)
    return found
