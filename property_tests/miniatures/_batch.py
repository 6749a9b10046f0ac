"""Batches that go wrong: `BatchKVCache`."""

from __future__ import annotations

import mlx.core as mx
from property_tests.miniatures._registry import broken, rows_of
from property_tests.miniatures._steps import (
    Extend,
    Extract,
    Filter,
    Finalize,
    Hold,
    Literals,
    Mask,
    Merge,
    Prepare,
    SetState,
    Trim,
    at,
    construct,
    rows,
    update,
)

NAME = "BatchKVCache"
ONE = construct(NAME, left_padding=(0,))
PADDED = construct(NAME, left_padding=(1,))
TWO = construct(NAME, left_padding=(0, 0))
SINGLE = construct("KVCache")
COUNT = Literals(shape=(1,), dtype="int32", values=(0,))
PENDING = Prepare(lengths=(0,), right_padding=(1,))


@broken(
    "0.32.2",
    NAME,
    by_hand=(ONE, PENDING, update(1), Finalize()),
    shows="finalize",
    field="left_padding",
)
class LeftPaddingNotMovedByTheRoll:
    """Right padding is rolled to the left, and not counted there."""

    def finalize(self):
        padding = self.left_padding[...]
        super().finalize()
        self.left_padding = padding


@broken(
    "0.31.3",
    NAME,
    by_hand=(ONE, PENDING, update(1), Finalize()),
    shows="finalize",
    field="values",
)
class FinalizeRollsOnlyKeys:
    """The values stay where they were when right padding is rolled to the left."""

    def finalize(self):
        values = self.values
        super().finalize()
        self.values = values


@broken("0.31.3", NAME, by_hand=(ONE, Prepare(left_padding=(1,))), shows="prepare", field="offset")
class PreparedPaddingNotInTheOffset:
    """Left padding that is added to an empty batch does not move the offset."""

    def prepare(self, *, left_padding=None, lengths=None, right_padding=None):
        offset = self.offset[...]
        super().prepare(left_padding=left_padding, lengths=lengths, right_padding=right_padding)
        self.offset = offset


@broken("0.32.2", NAME, by_hand=(PADDED, Filter(indices=(0,))), shows="filter", field="_idx")
class IdxStaysWhenAFilterCutsPadding:
    """A filter of an empty batch that takes away padding leaves the index where it was."""

    def filter(self, batch_indices):
        index = self._idx
        super().filter(batch_indices)
        if self.keys is None:
            self._idx = index


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME, left_padding=(0, 1)), Filter(indices=(1, 0))),
    shows="filter",
    field="left_padding",
)
class FilterKeepsTheOldOrder:
    """The rows to keep stay in the order that they had."""

    def filter(self, batch_indices):
        array = isinstance(batch_indices, mx.array)
        ordered = sorted(batch_indices.tolist() if array else batch_indices)
        super().filter(mx.array(ordered, mx.int32) if array else ordered)


@broken(
    "0.32.2",
    NAME,
    by_hand=(ONE, at("b", TWO), update(1), Extend()),
    shows="extend",
    field="keys",
)
class EmptyPeerPaddedWithOwnBatchSize:
    """For a peer without keys, as many rows are added as there were."""

    def extend(self, other):
        own = 0 if self.keys is None else self.keys.shape[0]
        empty = other.keys is None
        super().extend(other)
        if own and empty:
            self.keys = with_rows(self.keys, 2 * own)
            self.values = with_rows(self.values, 2 * own)


def with_rows(array, batch):
    """Return an array with so many batch rows, zeros where there are more than it has."""
    missing = max(0, batch - array.shape[0])
    return mx.pad(array[:batch], [(0, missing), (0, 0), (0, 0), (0, 0)])


@broken(
    "0.31.3",
    NAME,
    by_hand=(ONE, at("b", ONE), update(1, dtype="float16"), Extend()),
    shows="extend",
    field="keys",
)
class EmptyPeerTakesTheDtypeThere:
    """A peer without keys gets the dtype of the others, where the release makes it float32."""

    def extend(self, other):
        filled = [cache.keys.dtype for cache in (self, other) if cache.keys is not None]
        super().extend(other)
        if len(filled) == 1:
            self.keys, self.values = self.keys.astype(filled[0]), self.values.astype(filled[0])


@broken(
    "0.32.2",
    NAME,
    by_hand=(ONE, at("b", ONE), update(2), at("b", update(1)), Extend()),
    shows="extend",
    field="left_padding",
)
class ShorterPeerPaddedOneRowTooLittle:
    """The rows of a shorter peer are moved to the right by one row less than it is shorter."""

    def extend(self, other):
        own = self.left_padding.shape[0]
        is_shorter = other.keys is not None and 0 < other._idx < self._idx
        super().extend(other)
        if is_shorter:
            shift = mx.array([0] * own + [1] * (self.left_padding.shape[0] - own))
            self.left_padding = self.left_padding - shift
            for name in ("keys", "values"):
                rows = getattr(self, name)
                moved = [rows[:own], mx.roll(rows[own:], -1, axis=2)]
                setattr(self, name, mx.concatenate(moved))


@broken("0.31.3", NAME, by_hand=(ONE, at("b", PADDED), Extend()), shows="extend", field="offset")
class ExtendForgetsThePeersOffsets:
    """The rows that are appended have an offset of 0."""

    def extend(self, other):
        own = self.offset.shape[0]
        super().extend(other)
        if other is not self:
            kept = mx.arange(self.offset.shape[0]) < own
            self.offset = mx.where(kept, self.offset, 0)


@broken(
    "0.32.2",
    NAME,
    by_hand=(
        at("s", SINGLE),
        at("t", SINGLE),
        at("s", update(1)),
        at("t", update(2)),
        Merge(slot="s", peers=("t",)),
    ),
    shows="merge",
    field="keys",
    seen_in="KVCache",
)
class MergePadsOnTheRight:
    """The rows of shorter caches begin at the left, and the padding follows."""

    @classmethod
    def merge(cls, caches):
        batch = super().merge(caches)
        for index, padding in enumerate(batch.left_padding.tolist()):
            if padding > 0 and batch.keys is not None:
                for rows in (batch.keys, batch.values):
                    rows[index : index + 1] = mx.roll(rows[index : index + 1], -padding, axis=2)
        return batch


@broken(
    "0.31.3",
    NAME,
    by_hand=(at("s", SINGLE), at("s", update(1)), Merge(slot="s")),
    shows="merge",
    field="_idx",
    seen_in="KVCache",
)
class MergeTakesTheSpareRowsToo:
    """Caches are merged by the length of their buffers, not by their tokens."""

    @classmethod
    def merge(cls, caches):
        batch = super().merge(caches)
        longest = max(rows_of(cache.keys) for cache in caches)
        more = longest - rows_of(batch.keys)
        if batch.keys is not None and more > 0:
            spare = [(0, 0), (0, 0), (more, 0), (0, 0)]
            batch.keys, batch.values = mx.pad(batch.keys, spare), mx.pad(batch.values, spare)
            batch.left_padding = batch.left_padding + more
            batch._idx = longest
        return batch


@broken(
    "0.31.3",
    NAME,
    by_hand=(PADDED, update(1), Extract(index=0)),
    shows="extract",
    field="offset",
)
class ExtractForgetsTheLeftPadding:
    """A row that is taken out brings its padding with it."""

    def extract(self, idx):
        padding = self.left_padding
        self.left_padding = mx.zeros_like(padding)
        try:
            return super().extract(idx)
        finally:
            self.left_padding = padding


@broken("0.32.2", NAME, by_hand=(PADDED, Mask(n=1)), shows="mask", field="result")
class MaskForgetsTheLastRowsPadding:
    """The left padding of the last row is not masked."""

    def make_mask(self, n, return_array=False, **kwargs):
        padding = self.left_padding
        is_last = mx.arange(padding.shape[0]) == padding.shape[0] - 1
        self.left_padding = mx.where(is_last, 0, padding)
        try:
            return super().make_mask(n, return_array, **kwargs)
        finally:
            self.left_padding = padding


@broken("0.31.3", NAME, by_hand=(ONE, update(1), Trim(n=1)), shows="trim", field="offset")
class TrimForgetsTheLastOffset:
    """Of the offsets of a batch, a trim leaves the last one as it was."""

    def trim(self, n):
        offset = self.offset[...]
        result = super().trim(n)
        if result > 0:
            is_last = mx.arange(offset.shape[0]) == offset.shape[0] - 1
            self.offset = mx.where(is_last, offset, self.offset)
        return result


@broken(
    "0.31.3",
    NAME,
    by_hand=(ONE, update(1), Hold(what="state"), update(1, start=1)),
    mode="in-place",
    field="held state[2]",
)
class OffsetInANewArray:
    """Each update makes a new array of offsets, as 0.32 does, where 0.31 adds to the old one."""

    def update_and_fetch(self, keys, values):
        self.offset = self.offset[...]
        return super().update_and_fetch(keys, values)


@broken(
    "0.32.2",
    NAME,
    by_hand=(PADDED, SetState(state=(rows(1), rows(1), COUNT, COUNT, 0))),
    shows="set_state",
    field="_idx",
)
class IdxReadOffTheBuffer:
    """A padded, empty batch that is given a state goes on behind its buffer, as in 0.31."""

    _was_padded = False

    def __init__(self, left_padding):
        super().__init__(left_padding)
        self._was_padded = any(left_padding)

    @property
    def state(self):
        return super().state

    @state.setter
    def state(self, v):
        was_empty = getattr(self, "keys", None) is None
        super(IdxReadOffTheBuffer, type(self)).state.fset(self, v)
        if self._was_padded and was_empty and self.keys is not None:
            self._idx = rows_of(self.keys)
