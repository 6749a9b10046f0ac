"""Growing buffers that go wrong: `KVCache` and `ConcatenateKVCache`."""

from __future__ import annotations

import copy
from contextlib import suppress

import mlx.core as mx
from property_tests.miniatures._registry import broken, rows_of
from property_tests.miniatures._steps import (
    Bits,
    Fetch,
    Hold,
    Literals,
    Quantize,
    Trim,
    Update,
    construct,
    rows,
    update,
)

NAME = "KVCache"
CONCATENATE = "ConcatenateKVCache"
NEGATIVE_ZERO = Literals(shape=(1, 1, 1, 1), values=(-0.0,))


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME), update(1), Update(keys=rows(1, head_dim=2), values=rows(1))),
)
class ValuesWrittenBeforeKeysFail:
    """Keys that do not fit raise, but the values of that update are there already."""

    def update_and_fetch(self, keys, values):
        start = self.offset
        try:
            return super().update_and_fetch(keys, values)
        except ValueError:
            if self.offset != start:
                with suppress(ValueError):
                    self.values[..., start : self.offset, :] = values
            raise


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME), update(1, dtype="float16"), update(256, dtype="float16")),
)
class DtypePromotedOnGrowth:
    """A buffer that grows becomes float32."""

    def update_and_fetch(self, keys, values):
        if self.keys is not None and self.offset + rows_of(keys) > rows_of(self.keys):
            self.keys = self.keys.astype(mx.float32)
            self.values = self.values.astype(mx.float32)
        return super().update_and_fetch(keys, values)


@broken("0.31.3", NAME, by_hand=(construct(NAME), update(1)))
class ZerosMissingInTheSpare:
    """The rows that are allocated and not in use hold ones."""

    def update_and_fetch(self, keys, values):
        capacity = rows_of(self.keys)
        result = super().update_and_fetch(keys, values)
        if rows_of(self.keys) != capacity:
            self.keys[..., self.offset :, :] = 1
            self.values[..., self.offset :, :] = 1
        return result


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME), Update(keys=Bits(shape=(1, 1, 16, 1)), values=rows(16))),
)
class NanPayloadLost:
    """Every NaN becomes the usual one."""

    def update_and_fetch(self, keys, values):
        return super().update_and_fetch(plain_nans(keys), plain_nans(values))


def plain_nans(array):
    """Return `array` with one bit pattern for all its NaNs."""
    if not mx.issubdtype(array.dtype, mx.floating):
        return array
    return mx.where(mx.isnan(array), mx.array(float("nan"), array.dtype), array)


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct(NAME), update(2), Hold(what="state"), Trim(n=1), update(1, start=2)),
)
class StateAliasesTheBuffer:
    """A partial `state` goes on showing what is written into its rows later."""

    _handed_out = ()

    @property
    def state(self):
        state = super().state
        self._handed_out = (*self._handed_out, state)
        return state

    @state.setter
    def state(self, v):
        super(StateAliasesTheBuffer, type(self)).state.fset(self, v)

    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        for state in self._handed_out:
            for seen, buffer in zip(state, (self.keys, self.values), strict=True):
                now = buffer[..., : seen.shape[-2], :]
                if (seen.shape, seen.dtype) == (now.shape, now.dtype):
                    seen[...] = now
        return result


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct(NAME), update(1), Hold(what="state"), update(1)),
    mode="in-place",
)
class StateOfItsOwn:
    """`state` has a copy of the keys, where the release hands out its own buffer."""

    @property
    def state(self):
        keys, values, offset = super().state
        return None if keys is None else keys[...], values, offset

    @state.setter
    def state(self, v):
        super(StateOfItsOwn, type(self)).state.fset(self, v)


@broken("0.32.2", NAME, by_hand=(construct(NAME), update(1), Hold(what="copy"), update(1)))
class CopySharesItsFuture:
    """The values of a deep copy are the buffer of the original."""

    def __deepcopy__(self, memo):
        twin = copy.copy(self)
        twin.keys = copy.deepcopy(self.keys, memo)
        return twin


@broken("0.32.2", NAME, by_hand=(construct(NAME), update(1)))
class ValuesReadFromKeys:
    """The values that the first update returns are the keys."""

    def update_and_fetch(self, keys, values):
        fresh = self.keys is None
        keys, values = super().update_and_fetch(keys, values)
        return keys, keys if fresh else values


@broken("0.31.3", NAME, by_hand=(construct(NAME), update(0)))
class ZeroTokensMakeNoBuffer:
    """An update of no tokens leaves an empty cache without a buffer."""

    def update_and_fetch(self, keys, values):
        fresh = self.keys is None
        result = super().update_and_fetch(keys, values)
        if fresh and rows_of(keys) == 0:
            self.keys = self.values = None
        return result


@broken("0.31.3", NAME, by_hand=(construct(NAME), Quantize()), shows="quantize")
class QuantizeIgnoresBits:
    """`to_quantized` takes 8 bits where 4 were asked for."""

    def to_quantized(self, group_size=64, bits=4):
        return super().to_quantized(group_size, 8 if bits == 4 else bits)


@broken(
    "0.32.2",
    CONCATENATE,
    by_hand=(construct(CONCATENATE), Update(keys=NEGATIVE_ZERO, values=rows(1))),
)
class NegativeZeroLost:
    """Every -0.0 becomes 0.0."""

    def update_and_fetch(self, keys, values):
        return super().update_and_fetch(plain_zeros(keys), plain_zeros(values))


def plain_zeros(array):
    """Return `array` without negative zeros, all else bit for bit."""
    return mx.where(array == 0, mx.zeros_like(array), array)


@broken("0.31.3", CONCATENATE, by_hand=(construct(CONCATENATE), update(1), update(1, head_dim=2)))
class ErrorMovesTheOffset:
    """Tokens that could not be appended are counted."""

    def update_and_fetch(self, keys, values):
        try:
            return super().update_and_fetch(keys, values)
        except ValueError:
            self.offset += keys.shape[-2]
            raise


@broken("0.32.2", CONCATENATE, by_hand=(construct(CONCATENATE), Trim(n=1)), shows="trim")
class TrimReturnsWhatWasAsked:
    """`trim` returns its argument, not how many tokens it took away."""

    def trim(self, n):
        super().trim(n)
        return n


@broken(
    "0.31.3", CONCATENATE, by_hand=(construct(CONCATENATE), update(1, dtype="float16"), update(1))
)
class FirstDtypeKept:
    """What is appended is cast to the dtype that is there, where the release promotes."""

    def update_and_fetch(self, keys, values):
        if self.keys is not None:
            keys, values = keys.astype(self.keys.dtype), values.astype(self.values.dtype)
        return super().update_and_fetch(keys, values)


@broken(
    "0.31.3", NAME, by_hand=(construct(NAME), Update(keys=rows(1, dtype="float16"), values=rows(1)))
)
class ValuesInTheDtypeOfKeys:
    """The values' first buffer is allocated in the dtype of the keys."""

    def update_and_fetch(self, keys, values):
        if self.keys is None and isinstance(keys, mx.array) and isinstance(values, mx.array):
            values = values.astype(keys.dtype)
        return super().update_and_fetch(keys, values)


@broken("0.32.2", NAME, by_hand=(construct(NAME), update(256)))
class TokensCountedInOneByte:
    """The number of tokens in an update is counted in one byte."""

    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        self.offset -= rows_of(keys) // 256 * 256
        return result


@broken("0.32.2", NAME, by_hand=(construct(NAME), update(1), Trim(n=1), Fetch()), shows="fetch")
class FetchIsStaleAfterATrim:
    """`keys_and_values` goes on returning what the last update returned."""

    _returned = _stale = None

    def update_and_fetch(self, keys, values):
        self._stale = None
        self._returned = super().update_and_fetch(keys, values)
        return self._returned

    def trim(self, n):
        self._stale = self._returned
        return super().trim(n)

    def keys_and_values(self):
        return self._stale or super().keys_and_values()
