"""A trace being written: what its writers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, get_args

from msgspec.structs import replace

from kvlockstep._contract import Contract
from kvlockstep._recipes import Size
from kvlockstep._source import HEAD_BYTES, STEP_BYTES, Source, steps_in
from kvlockstep._steps import Construct, Foreign, Update
from kvlockstep._style import Style
from kvlockstep._trace import AnyStep

# Tokens in an update: mostly one, for that is decoding; then small, then the boundaries.
TOKENS: tuple[Size, ...] = (
    *(1,) * 8, 2, 2, 3, 3, 4, 5, 6, 0, "room", "room+1", "room-1", "window", "window+1", "window-1",
    "step", "step+1", "capacity+1",
)  # fmt: skip
_FOREIGN: tuple[Foreign, ...] = get_args(Foreign)
_DECODING: tuple[Size, ...] = (*(1,) * 23, 3)
_LARGE_TOKENS: tuple[Size, ...] = (1, 1, 1, 3, 255, 256, 257, "room", "room+1", 513)


@dataclass
class Writing:
    """A trace being written.

    `fed` are the addresses of caches that take keys and values, `slots` those of the class under
    test, `singles` those that are there to be merged; `classes` names the class of each slot, as
    far as it is known when the trace is written.
    """

    contract: Contract
    source: Source
    style: Style
    slots: list[str]
    fed: list[str]
    classes: dict[str, str]
    constructs: dict[str, Construct] = field(default_factory=dict)
    singles: tuple[str, ...] = ()

    def slot(self) -> str:
        """Draw a cache of the class under test, the first one twice as often."""
        slots = self.slots
        return slots[0] if len(slots) == 1 else self.source.pick((slots[0], *slots))

    def fed_slot(self) -> str:
        """Draw a cache that takes keys and values."""
        return self.fed[0] if len(self.fed) == 1 else self.source.pick((self.fed[0], *self.fed))

    def add_slot(self, slot: str, cache: str) -> None:
        """Take note of a new cache of the class under test."""
        self.classes[slot] = cache
        if slot not in self.slots:
            self.slots.append(slot)
        if slot not in self.fed:
            self.fed.append(slot)

    def update_of(self, slot: str, tokens: Sequence[Size] = TOKENS) -> Update:
        """Draw an update."""
        style = self.style
        if tokens is TOKENS and style.decoding:
            tokens = _DECODING
        number = self.source.pick(_LARGE_TOKENS if style.large else tokens)
        keys, values = style.pair(self.source, number)
        update = Update(slot=slot, keys=keys, values=values)
        if not self.source.one_in(64):
            return update
        foreign, name = self.source.pick(_FOREIGN), self.source.pick(("keys_as", "values_as"))
        return replace(update, **{name: foreign})


Writer: TypeAlias = Callable[[Writing], Iterator[AnyStep]]


def write_steps(
    data: bytes, writing: Writing, operations: Sequence[str], writers: dict[str, Writer]
) -> Iterator[AnyStep]:
    """Yield the steps that `data` stands for, each from a window of its own."""
    source = writing.source = Source(data)
    for index in range(steps_in(data)):
        source.window(HEAD_BYTES + index * STEP_BYTES, STEP_BYTES)
        yield from writers[source.pick(operations)](writing)


def swarm(
    source: Source, offered: Sequence[str], weights: dict[str, int], share: int = 4
) -> tuple[str, ...]:
    """Return a random subset of the operations, `share` eighths of them, repeated by weight.

    A fault that an operation undoes is only seen in traces without it.
    """
    chosen = [name for name in offered if source.below(8) < share]
    return tuple(name for name in chosen for _ in range(weights.get(name, 1)))
