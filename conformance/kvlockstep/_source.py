"""Choices from bytes: what a trace is decoded from, whoever drew the bytes.

Hypothesis draws them, or a seeded generator does; decoding is the same. A step takes its choices
from a window of its own, so that one changed byte changes one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

HEAD_BYTES = 48
STEP_BYTES = 16


class Source:
    """Reads choices from a string of bytes; past its end every choice is the first one."""

    __slots__ = ("_data", "_end", "_next")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0
        self._end = len(data)

    def window(self, start: int, size: int) -> None:
        """Take the next choices from `size` bytes at `start`."""
        self._next = start
        self._end = min(start + size, len(self._data))

    def below(self, limit: int) -> int:
        """Return a number in 0 .. limit - 1; `limit` is at most 256."""
        if self._next >= self._end:
            return 0
        byte = self._data[self._next]
        self._next += 1
        return byte % limit

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of at most 256 choices; repeat a choice to make it likelier."""
        return choices[self.below(len(choices))]

    def one_in(self, number: int) -> bool:
        """Return True about once in `number` times; at the end of the bytes, False."""
        return self.below(number) == number - 1


def steps_in(data: bytes) -> int:
    """Return how many steps `data` has windows for."""
    return max(0, len(data) - HEAD_BYTES) // STEP_BYTES
