"""Quantized buffers that go wrong: `QuantizedKVCache`."""

from __future__ import annotations

import mlx.core as mx
from mlx.utils import tree_map
from property_tests.miniatures._registry import broken, rows_of
from property_tests.miniatures._steps import construct, update

NAME = "QuantizedKVCache"
HEAD_DIM = 64


@broken("0.32.2", NAME, by_hand=(construct(NAME), update(1, HEAD_DIM, dtype="float16")))
class ScalesInTheWrongDtype:
    """A new buffer has scales in float32, whatever the dtype of the keys and values."""

    def update_and_fetch(self, keys, values):
        fresh = self.keys is None
        result = super().update_and_fetch(keys, values)
        if not fresh:
            return result
        self.keys, self.values = map(with_float32_scales, (self.keys, self.values))
        return self.keys_and_values()


def with_float32_scales(triple):
    """Return a quantized triple in its own kind of container."""
    packed, scales, biases = triple
    return type(triple)((packed, scales.astype(mx.float32), biases))


@broken("0.32.2", NAME, by_hand=(construct(NAME), update(1, HEAD_DIM // 2)))
class ErrorOfAnotherType:
    """What cannot be quantized raises `TypeError`, with the release's message."""

    def update_and_fetch(self, keys, values):
        try:
            return super().update_and_fetch(keys, values)
        except ValueError as error:
            raise TypeError(*error.args) from error


@broken("0.31.3", NAME, by_hand=(construct(NAME), update(1, HEAD_DIM)))
class TriplesAsLists:
    """The triples are lists after an update, not tuples."""

    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        self.keys, self.values = list(self.keys), list(self.values)
        return result


@broken("0.31.3", NAME, by_hand=(construct(NAME), update(1, HEAD_DIM), update(255, HEAD_DIM)))
class GrowsOneTokenTooEarly:
    """A buffer grows when it is just full."""

    def update_and_fetch(self, keys, values):
        capacity = 0 if self.keys is None else rows_of(self.keys[0])
        result = super().update_and_fetch(keys, values)
        if 0 < self.offset == capacity == rows_of(self.keys[0]):
            spare = [(0, 0), (0, 0), (0, self.step), (0, 0)]
            more = tree_map(lambda part: mx.pad(part, spare), (self.keys, self.values))
            self.keys, self.values = more
        return result


@broken("0.31.3", NAME, by_hand=(construct(NAME),), shows="construct")
class NbytesOfNothingIsZero:
    """An empty cache has 0 bytes, where the release raises."""

    @property
    def nbytes(self):
        return 0 if self.keys is None else super().nbytes
