"""Slots for arrays that go wrong: `ArraysCache`."""

from __future__ import annotations

from contextlib import suppress

import mlx.core as mx
from property_tests.miniatures._registry import broken
from property_tests.miniatures._steps import (
    Advance,
    Extend,
    Extract,
    Filter,
    Finalize,
    Hold,
    Mask,
    Merge,
    Prepare,
    SetItem,
    at,
    construct,
    rows,
)

NAME = "ArraysCache"
NONE = construct(NAME, size=0)
ONE = construct(NAME, size=1)
PADDED = construct(NAME, size=0, left_padding=(1,))
TWO = construct(NAME, size=2)
FILL = SetItem(index=0, value=rows(1))


@broken(
    "0.32.2",
    NAME,
    by_hand=(NONE, Prepare(lengths=(1, 1)), Filter(indices=(0,))),
    shows="filter",
    field="lengths",
)
class FilterForgetsTheLengths:
    """The lengths of rows that are dropped stay."""

    def filter(self, batch_indices):
        lengths = self.lengths
        super().filter(batch_indices)
        self.lengths = lengths


@broken(
    "0.31.3",
    NAME,
    by_hand=(NONE, Prepare(lengths=(1,)), Advance(n=1)),
    shows="advance",
    field="lengths",
)
class AdvanceForgetsTheLengths:
    """Only the left padding moves."""

    def advance(self, n):
        lengths = self.lengths
        self.lengths = None
        super().advance(n)
        self.lengths = lengths


@broken(
    "0.32.2",
    NAME,
    by_hand=(NONE, Prepare(lengths=(1,)), Mask(n=1, bare=True)),
    shows="mask",
    field="result",
)
class MaskIgnoresTheLengths:
    """A mask knows of the left padding only, as that of 0.31 does where there is any."""

    def make_mask(self, n):
        lengths = self.lengths
        self.lengths = None
        try:
            return super().make_mask(n)
        finally:
            self.lengths = lengths


@broken("0.31.3", NAME, by_hand=(PADDED, Mask(n=2, bare=True)), shows="mask", field="result")
class MaskOffByOne:
    """The first token behind the left padding is masked too."""

    def make_mask(self, n):
        padding = self.left_padding
        if padding is not None:
            self.left_padding = mx.where(padding > 0, padding + 1, padding)
        try:
            return super().make_mask(n)
        finally:
            self.left_padding = padding


@broken(
    "0.32.2",
    NAME,
    by_hand=(
        at("s", TWO),
        at("t", TWO),
        at("s", FILL),
        at("s", SetItem(index=1, value=rows(1))),
        Merge(slot="s", peers=("t",)),
    ),
    shows="merge",
    field="cache[0]",
)
class MergeFillsTheRowsBackwards:
    """Of caches with several slots, the first becomes the last row."""

    @classmethod
    def merge(cls, caches):
        return super().merge(caches[::-1] if len(caches[0].cache) > 1 else caches)


@broken(
    "0.31.3",
    NAME,
    by_hand=(ONE, at("b", construct(NAME, size=1, left_padding=(0, 0))), FILL, Extend()),
    shows="extend",
    field="cache[0]",
)
class ExtendAddsZerosForItsOwnBatch:
    """For an empty slot of a peer, as many rows are added as there were."""

    def extend(self, other):
        own, peers = list(self.cache), list(other.cache)
        super().extend(other)
        for index, (array, peer) in enumerate(zip(own, peers, strict=False)):
            if array is not None and peer is None:
                self.cache[index] = mx.concatenate([array, mx.zeros_like(array)])


@broken("0.32.2", NAME, by_hand=(ONE, SetItem(index=1, value=None)), shows="set_item",
        field="returns, not IndexError")  # fmt: skip
class ItemPastTheEndIgnored:
    """What is put into a slot that is not there is dropped."""

    def __setitem__(self, idx, value):
        with suppress(IndexError):
            super().__setitem__(idx, value)


@broken(
    "0.31.3",
    NAME,
    by_hand=(ONE, Hold(what="state"), FILL),
    shows="set_item",
    mode="in-place",
    field="held state[0]",
)
class StateIsAListOfItsOwn:
    """`state` is a copy of the list of slots, where the release hands out the list."""

    @property
    def state(self):
        return list(super().state)

    @state.setter
    def state(self, v):
        super(StateIsAListOfItsOwn, type(self)).state.fset(self, v)


@broken("0.31.3", NAME, by_hand=(PADDED, Extract(index=0)), shows="extract", field="left_padding")
class ExtractKeepsTheLeftPadding:
    """A row that is taken out keeps its padding, which the release forgets."""

    def extract(self, idx):
        cache = super().extract(idx)
        if self.left_padding is not None:
            cache.left_padding = self.left_padding[idx : idx + 1]
        return cache


@broken(
    "0.32.2",
    NAME,
    by_hand=(TWO, SetItem(index=1, value=rows(1))),
    shows="set_item",
    field="empty()",
)
class EmptyOnlyWithoutAnyArray:
    """A cache is empty when all slots are, where the release looks at the first one."""

    def empty(self):
        return all(array is None for array in self.cache)


@broken("0.31.3", NAME, by_hand=(PADDED, Finalize()), shows="finalize", field="left_padding")
class FinalizeForgetsTheLeftPadding:
    """Left padding, if there is any, outlasts the prefill."""

    def finalize(self):
        padding = self.left_padding
        super().finalize()
        if padding is not None and max(padding.tolist(), default=0) > 0:
            self.left_padding = padding
