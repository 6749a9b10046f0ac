"""Batches of rings that go wrong: `BatchRotatingKVCache`."""

from __future__ import annotations

import mlx.core as mx
from property_tests.miniatures._registry import broken
from property_tests.miniatures._steps import (
    Extend,
    Extract,
    Finalize,
    Hold,
    Mask,
    Merge,
    Prepare,
    Reload,
    Trim,
    at,
    construct,
    update,
)

NAME = "BatchRotatingKVCache"


def ring(max_size, *left_padding):
    """Construct a batch of rings in slot `a`."""
    return construct(NAME, max_size=max_size, left_padding=left_padding)


def single(max_size):
    """Construct a ring of one sequence in slot `s`."""
    return at("s", construct("RotatingKVCache", max_size=max_size))


class AsBuilt:
    """Knows whether a batch of rings is what its construction and its updates made it.

    A fault that shows in restored or extended ones too would have other shortest traces.
    """

    _as_built = False

    def __init__(self, max_size, left_padding):
        super().__init__(max_size, left_padding)
        self._as_built = True

    @property
    def state(self):
        return super().state

    @state.setter
    def state(self, v):
        self._as_built = False
        super(AsBuilt, type(self)).state.fset(self, v)

    def extend(self, other):
        super().extend(other)
        self._as_built = False

    def is_rotated(self):
        """Tell whether updates, and nothing else, made the rows turn round."""
        return self._as_built and self.rotated


@broken(
    "0.32.2",
    NAME,
    by_hand=(single(2), at("s", update(2)), at("s", update(1, start=2)), Merge(slot="s")),
    shows="merge",
    field="keys",
    seen_in="RotatingKVCache",
)
class MergeForgetsTheTemporalOrder:
    """Rings are merged with their rows in the order in which they lie."""

    @classmethod
    def merge(cls, caches):
        batch = super().merge(caches)
        for index, cache in enumerate(caches):
            if cache.keys is not None and 0 < cache._idx < cache.max_size < cache.offset:
                for rows in (batch.keys, batch.values):
                    rows[index] = mx.roll(rows[index], cache._idx, axis=1)
        return batch


@broken(
    "0.31.3",
    NAME,
    by_hand=(single(1), at("s", update(2)), Merge(slot="s")),
    shows="merge",
    field="offset",
    seen_in="RotatingKVCache",
)
class MergeCountsOnlyTheWindow:
    """The offsets of merged rings are the tokens that they hold, not those that they saw."""

    @classmethod
    def merge(cls, caches):
        batch = super().merge(caches)
        if batch.keys is not None:
            batch.offset = mx.array([cache.size() for cache in caches])
        return batch


@broken(
    "0.32.2",
    NAME,
    by_hand=(ring(1, 1), update(1), Extract(index=0)),
    shows="extract",
    field="_idx",
)
class ExtractKeepsThePadding:
    """A row that is taken out brings its padding with it."""

    def extract(self, idx):
        padding = self.left_padding
        self.left_padding = mx.zeros_like(padding)
        try:
            return super().extract(idx)
        finally:
            self.left_padding = padding


@broken(
    "0.32.2",
    NAME,
    by_hand=(ring(1, 1), update(1), Extract(index=0)),
    shows="extract",
    field="_idx",
)
class ExtractKeepsTheIdx:
    """A row that is taken out has the index of the batch, though its padding is cut off."""

    def extract(self, idx):
        cache = super().extract(idx)
        if not self.rotated:
            cache._idx = self._idx
        return cache


@broken(
    "0.32.2",
    NAME,
    by_hand=(ring(2, 0), update(2), update(1, start=2), Extract(index=0)),
    shows="extract",
    field="keys",
)
class ExtractInPhysicalOrder(AsBuilt):
    """A row that is taken out of a rotated batch has its oldest token in the middle."""

    def extract(self, idx):
        cache = super().extract(idx)
        if self.is_rotated():
            cache.keys = mx.roll(cache.keys, self._idx, axis=2)
        return cache


@broken(
    "0.32.2",
    NAME,
    by_hand=(ring(2, 0), update(2), Mask(n=1, window=1)),
    shows="mask",
    field="result",
)
class MaskOfARotatedBatchNotRolled:
    """The mask of a smaller window is in temporal order, and the rows are not."""

    def make_mask(self, n, window_size=None, return_array=False):
        mask = super().make_mask(n, window_size, return_array)
        is_full = self._idx >= self.max_size
        is_smaller = window_size is not None and 0 < window_size < self.max_size
        if n == 1 and is_smaller and (self.rotated or is_full):
            return mx.roll(mask, -1 if is_full else -1 - self._idx, axis=-1)
        return mask


@broken(
    "0.31.3",
    NAME,
    by_hand=(ring(2, 0), Mask(n=2, window=1)),
    shows="mask",
    field="result",
)
class MaskIgnoresTheWindow:
    """A mask has the window of the cache, whichever is asked for."""

    def make_mask(self, n, window_size=None, return_array=False):
        del window_size
        return super().make_mask(n, None, return_array)


@broken(
    "0.32.2",
    NAME,
    by_hand=(ring(0, 0), update(1), Reload()),
    shows="reload",
    field="rotated",
)
class RotatedFlagLost:
    """A batch made from a state has not rotated."""

    @classmethod
    def from_state(cls, state):
        cache = super().from_state(state)
        cache.rotated = False
        return cache


@broken(
    "0.31.3",
    NAME,
    by_hand=(ring(1, 0), update(1), Reload()),
    shows="reload",
    field="rotated",
)
class RotatedFlagReadRight:
    """A batch that had not rotated has not when it is loaded, where 0.31 takes any text as yes."""

    @classmethod
    def from_state(cls, state, meta_state):
        cache = super().from_state(state, meta_state)
        cache.rotated = meta_state[3] == "True"
        return cache


@broken(
    "0.32.2",
    NAME,
    by_hand=(
        ring(1, 0),
        Prepare(lengths=(0,), right_padding=(1,)),
        update(2),
        Finalize(),
    ),
    shows="finalize",
    field="_lengths",
)
class LengthsKeptAfterFinalize:
    """Right padding that was finalized still waits for it."""

    def finalize(self):
        lengths = self._lengths
        super().finalize()
        self._lengths = lengths


@broken(
    "0.31.3",
    NAME,
    by_hand=(
        ring(1, 0),
        Prepare(lengths=(1,), right_padding=(1,)),
        update(2),
        update(2, start=2),
    ),
    field="left_padding",
)
class PendingPaddingNotRolledByAnUpdate:
    """Several tokens are put behind right padding, which stays in the middle."""

    def _update_concat(self, keys, values):
        lengths = self._lengths
        self._lengths = None
        try:
            return super()._update_concat(keys, values)
        finally:
            self._lengths = lengths


@broken("0.31.3", NAME, by_hand=(ring(1, 0), update(2), update(1, start=2)), field="left_padding")
class RotationForgetsTheLeftPadding:
    """A token that overwrites the oldest row leaves the left padding as it was."""

    def _update_in_place(self, keys, values):
        result = super()._update_in_place(keys, values)
        if self.rotated and self.max_size > 0:
            self.left_padding = self.left_padding + keys.shape[2]
        return result


@broken(
    "0.32.2",
    NAME,
    by_hand=(ring(1, 0), update(2), Hold(what="state"), update(2, start=2)),
    mode="in-place",
    field="held state[3]",
)
class LeftPaddingInANewArray:
    """Padding that several tokens push out is taken off in a new array, not in the one held."""

    def _update_concat(self, keys, values):
        self.left_padding = self.left_padding[...]
        return super()._update_concat(keys, values)


@broken(
    "0.32.2",
    NAME,
    by_hand=(ring(2, 0), at("b", ring(2, 0)), update(2), update(1, start=2), Extend()),
    shows="extend",
    field="keys",
)
class ExtendForgetsTheTemporalOrder(AsBuilt):
    """A rotated batch is extended with its rows in the order in which they lie."""

    _extending = False

    def extend(self, other):
        self._extending = True
        try:
            super().extend(other)
        finally:
            self._extending = False

    def _temporal_order(self):
        lying = self.keys, self.values
        left_alone = self._extending and self.is_rotated()
        super()._temporal_order()
        if left_alone:
            self.keys, self.values = lying


@broken(
    "0.31.3",
    NAME,
    by_hand=(ring(1, 0), at("b", ring(1, 0)), at("b", update(1)), Extend()),
    shows="extend",
    field="_offset",
)
class ExtendForgetsTheLongerOffset:
    """A batch that is extended by a longer one goes on counting from its own length."""

    def extend(self, other):
        offset = self._offset
        super().extend(other)
        self._offset = offset


@broken("0.32.2", NAME, by_hand=(ring(1, 0), update(1), Trim(n=1)), shows="trim", field="_offset")
class TrimForgetsTheCount:
    """A trim moves the offsets of the rows, and not the one of the batch."""

    def trim(self, n):
        offset = self._offset
        n = super().trim(n)
        if n > 0:
            self._offset = offset
        return n
