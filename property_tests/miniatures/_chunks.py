"""Chunks that go wrong: `ChunkedKVCache`."""

from __future__ import annotations

import mlx.core as mx
from property_tests.miniatures._registry import broken, rows_of
from property_tests.miniatures._steps import (
    FrontTrim,
    Reload,
    SetState,
    Trim,
    construct,
    rows,
    update,
)

NAME = "ChunkedKVCache"


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME, chunk_size=1), update(2), FrontTrim()),
    shows="front_trim",
)
class FrontTrimDropsTheHead:
    """Trimming the front to a whole chunk takes the first row of the chunk away too."""

    def maybe_trim_front(self):
        whole = self.keys
        super().maybe_trim_front()
        if self.keys is not whole and rows_of(self.keys) == self.chunk_size:
            self.keys, self.values = self.keys[..., 1:, :], self.values[..., 1:, :]


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME, chunk_size=1), update(1), FrontTrim()),
    shows="front_trim",
)
class FrontTrimKeepsTheHead:
    """Trimming the front keeps the oldest rows, and as many as it should."""

    def maybe_trim_front(self):
        keys, values = self.keys, self.values
        super().maybe_trim_front()
        if self.keys is not keys:
            self.keys = keys[..., : rows_of(self.keys), :]
            self.values = values[..., : rows_of(self.values), :]


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME, chunk_size=1), SetState(state=(rows(1), rows(2))), FrontTrim()),
    shows="front_trim",
)
class KWindowUsedForV:
    """The rows to keep are reckoned from the keys, for values restored with more rows too."""

    _is_restored = False

    @property
    def state(self):
        return super().state

    @state.setter
    def state(self, v):
        super(KWindowUsedForV, type(self)).state.fset(self, v)
        self._is_restored = rows_of(self.keys) > 0

    def maybe_trim_front(self):
        keys, values = self.keys, self.values
        super().maybe_trim_front()
        if self.keys is not keys and self._is_restored and rows_of(values) > rows_of(keys):
            self.values = values[..., rows_of(keys) - rows_of(self.keys) : rows_of(keys), :]


@broken("0.31.3", NAME, by_hand=(construct(NAME, chunk_size=1), update(1), Trim(n=1)), shows="trim")
class TrimMovesTheStart:
    """Tokens taken from the end move the start position."""

    def trim(self, n):
        n = super().trim(n)
        self.start_position += max(n, 0)
        return n


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME, chunk_size=1), update(2), FrontTrim(), Trim(n=2)),
    shows="trim",
)
class TrimCountsTheDroppedRows:
    """`trim` takes away tokens that the front-trim has dropped already."""

    _dropped = 0

    def maybe_trim_front(self):
        start = self.start_position
        super().maybe_trim_front()
        self._dropped += self.start_position - start

    def trim(self, n):
        self.start_position -= self._dropped
        try:
            return super().trim(n)
        finally:
            self.start_position += self._dropped


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME, chunk_size=1), update(1), FrontTrim(), Reload()),
    shows="reload",
)
class ReloadForgetsTheStart:
    """A cache made from a state starts at 0."""

    @classmethod
    def from_state(cls, state, meta_state):
        cache = super().from_state(state, meta_state)
        cache.start_position = 0
        return cache


@broken("0.31.3", NAME, by_hand=(construct(NAME, chunk_size=1), update(1), update(256)))
class CapacityRoundedUp:
    """A buffer that is a multiple of the growth step grows to one again."""

    def update_and_fetch(self, keys, values):
        capacity = rows_of(self.keys)
        result = super().update_and_fetch(keys, values)
        if rows_of(self.keys) != capacity and capacity % self.step == 0:
            spare = [(0, 0), (0, 0), (0, -rows_of(self.keys) % self.step), (0, 0)]
            self.keys, self.values = mx.pad(self.keys, spare), mx.pad(self.values, spare)
        return result
