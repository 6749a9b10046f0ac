"""Rings that go wrong: `RotatingKVCache`."""

from __future__ import annotations

from contextlib import contextmanager

import mlx.core as mx
from property_tests.miniatures._registry import broken, rows_of
from property_tests.miniatures._steps import Hold, Mask, Quantize, construct, update

NAME = "RotatingKVCache"


def about_to_wrap(cache):
    """Tell whether the next single token goes back to the row behind `keep`."""
    return cache.keys is not None and cache._idx == cache.max_size == rows_of(cache.keys)


@contextmanager
def changed(cache, **fields):
    """Give `cache` other fields for a while."""
    own = {name: getattr(cache, name) for name in fields}
    vars(cache).update(fields)
    try:
        yield
    finally:
        vars(cache).update(own)


class AsBuilt:
    """Knows whether a ring is what its construction and updates made it.

    A fault that shows in restored or trimmed rings too would have other shortest traces.
    """

    _first_keep = None

    def __init__(self, max_size, keep=0):
        super().__init__(max_size, keep)
        self._first_keep = keep if keep < max_size else None

    @property
    def state(self):
        return super().state

    @state.setter
    def state(self, v):
        self._first_keep = None
        super(AsBuilt, type(self)).state.fset(self, v)

    def trim(self, n):
        self._first_keep = None
        return super().trim(n)

    def is_as_built(self):
        """Tell whether nothing but updates came after the construction."""
        return self.keep == self._first_keep


@broken("0.32.2", NAME, by_hand=(construct(NAME, max_size=2), update(2), update(1)))
class OffByOneAfterTheWrap:
    """The token that wraps around is written one row too far."""

    def _update_in_place(self, keys, values):
        if about_to_wrap(self):
            self._idx = self.keep + 1
        return super()._update_in_place(keys, values)


@broken("0.32.2", NAME, by_hand=(construct(NAME, max_size=2, keep=1), update(2), update(1)))
class KeepIgnoredAfterTheWrap(AsBuilt):
    """The token that wraps around overwrites the first of the rows to keep."""

    def _update_in_place(self, keys, values):
        if about_to_wrap(self) and self.is_as_built():
            self._idx = 0
        return super()._update_in_place(keys, values)


@broken(
    "0.31.3", NAME, by_hand=(construct(NAME, max_size=2, keep=1), update(2), update(1), update(1))
)
class KeepIgnoredAtTheSecondWrap(AsBuilt):
    """The first wrap is right, the second one overwrites a row to keep."""

    _wraps = 0

    def _update_in_place(self, keys, values):
        if about_to_wrap(self) and self.is_as_built():
            self._wraps += 1
            if self._wraps == 2:
                self._idx = 0
        return super()._update_in_place(keys, values)


@broken("0.31.3", NAME, by_hand=(construct(NAME, max_size=2), update(1), update(2)))
class StaleIdxAfterTemporalOrder(AsBuilt):
    """Several tokens put the rows in order, and the cursor stays where it was."""

    @property
    def meta_state(self):
        return super().meta_state

    @meta_state.setter
    def meta_state(self, v):
        super(StaleIdxAfterTemporalOrder, type(self)).meta_state.fset(self, v)
        self._first_keep = None

    def _update_concat(self, keys, values):
        stale = self.is_as_built() and self._idx < rows_of(self.keys) and self._idx
        result = super()._update_concat(keys, values)
        if stale is not False:
            self._idx = stale
        return result


@broken(
    "0.31.3", NAME, by_hand=(construct(NAME, max_size=3, keep=1), update(3), update(1), update(2))
)
class TemporalOrderForgetsKeep(AsBuilt):
    """Putting a full ring in order moves the rows to keep behind the older ones."""

    def _temporal_order(self, v):
        right = not self.is_as_built() or rows_of(v) != self.max_size
        with changed(self, keep=self.keep if right else 0):
            return super()._temporal_order(v)


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME, max_size=2, keep=1), update(3), update(1)),
    field="keys",
)
class KeepIgnoredWhenTheRingIsCut(AsBuilt):
    """A ring longer than its window is cut from row 0 on."""

    def _trim(self, trim_size, v, append=None):
        whole = append is not None or not self.is_as_built()
        with changed(self, keep=self.keep if whole else 0):
            return super()._trim(trim_size, v, append)


@broken("0.31.3", NAME, by_hand=(construct(NAME, max_size=1), update(1), Mask(n=2)), shows="mask")
class MaskOffsetCappedWrongly:
    """The offset of a mask is capped at the window, not one below it."""

    def make_mask(self, n, window_size=None, return_array=False):
        if n <= 1 or not self.offset >= self.max_size > 0:
            return super().make_mask(n, window_size, return_array)
        window_size = window_size or self.max_size
        with changed(self, max_size=self.max_size + 1):
            return super().make_mask(n, window_size, return_array)


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME, max_size=2), update(1), Mask(n=1, window=1)),
    shows="mask",
)
class MaskRolledTooLittle:
    """The mask of a single token is rolled to the cursor, not past it."""

    def make_mask(self, n, window_size=None, return_array=False):
        mask = super().make_mask(n, window_size, return_array)
        return mx.roll(mask, -1) if n == 1 and isinstance(mask, mx.array) else mask


@broken("0.32.2", NAME, by_hand=(construct(NAME, max_size=2), update(1)))
class NbytesOffByTheSpare:
    """The rows that are allocated and not in use are left out of `nbytes`."""

    @property
    def nbytes(self):
        capacity = rows_of(self.keys)
        used = min(self.offset, capacity)
        return super().nbytes * used // capacity if capacity else 0


@broken("0.31.3", NAME, by_hand=(construct(NAME, max_size=1), update(1)))
class TrimmableWhenFull:
    """A ring that is just full says that it can still be trimmed."""

    def is_trimmable(self):
        return super().is_trimmable() or self.offset == self.max_size > 0


@broken("0.31.3", NAME, by_hand=(construct(NAME, max_size=1),), shows="construct")
class MetaStateInAnotherOrder:
    """`meta_state` has the window before `keep`."""

    @property
    def meta_state(self):
        keep, window, *rest = super().meta_state
        return (window, keep, *rest)

    @meta_state.setter
    def meta_state(self, v):
        window, keep, *rest = v
        super(MetaStateInAnotherOrder, type(self)).meta_state.fset(self, (keep, window, *rest))


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME, max_size=2), update(2), Hold(what="inputs"), update(1, start=2)),
    mode="in-place",
)
class CallersArrayNotShared:
    """The caller's first keys are copied, where the release keeps and overwrites them."""

    def _update_concat(self, keys, values):
        if self.keys is None and keys is not values:
            keys = keys[...]
        return super()._update_concat(keys, values)


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME, max_size=2), update(1), Mask(n=1, window=1)),
    shows="mask",
)
class MaskOneTokenTooLate:
    """A single token gets no mask when the window is just full: `>` for `>=`."""

    def make_mask(self, n, window_size=None, return_array=False):
        mask = super().make_mask(n, window_size, return_array)
        return None if n == 1 and window_size == self.offset > 0 else mask


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME, max_size=1), update(1), Hold(what="result"), update(1, start=1)),
    mode="in-place",
)
class ResultOfItsOwn:
    """A full ring is returned as a copy, where the release returns the buffer it writes into."""

    def _update_in_place(self, keys, values):
        keys, values = super()._update_in_place(keys, values)
        return keys[...], values


@broken("0.31.3", NAME, by_hand=(construct(NAME, max_size=1), Quantize()), shows="quantize")
class NotImplementedInOtherWords:
    """What is not implemented raises the same error with another message."""

    def to_quantized(self, group_size=64, bits=4):
        del group_size, bits
        raise NotImplementedError("a ring cannot be quantized")
