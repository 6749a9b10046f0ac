"""Buffers that are part of longer ones: new rows are written where the release copies all rows."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple
from weakref import ref

import mlx.core as mx

from mlxkv._base import PlainCache, as_size
from mlxkv._buffers import (
    ALL,
    Pair,
    alike,
    check_window,
    count_steps,
    fit,
    fuse,
    grow,
    grown_rows,
    measure,
)
from mlxkv._in_place import capacity_for
from mlxkv._words import concatenate


class Span(NamedTuple):
    """Where the buffers of a cache lie in longer arrays, their backing.

    The buffers are the `rows` rows from `first` on, and zeros where the backing ends before. The
    backing itself is zeros from `clean` on.
    """

    first: int
    rows: int
    clean: int

    def __deepcopy__(self, memo: dict[int, Any]) -> Span:
        """Itself: there are only numbers in it."""
        return self


class Lent(NamedTuple):
    """The buffers that an update returned; dead references where nobody holds them."""

    keys: ref[mx.array]
    values: ref[mx.array]

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """None: they are buffers of the cache, and not of its copy."""


def _ending(name: str, doc: str) -> Any:
    """A property over the attribute `name`: to ask for the buffer, or to assign it, ends a span."""

    def get(cache: BackedCache) -> Any:
        if cache._span is not None:
            cache._settle()
        return getattr(cache, name)

    def put(cache: BackedCache, buffer: Any) -> None:
        cache._settle()
        setattr(cache, name, buffer)

    return property(get, put, doc=doc)


class BackedCache(PlainCache):
    """A cache whose `keys` and `values` may be spans of a backing that has room for more.

    What the release makes by copying everything into a longer buffer, or by cutting rows off the
    front, is here another span of the same backing. That lasts until somebody asks for `keys`,
    `values` or what is made of them, or assigns one: then both are cut out of the backing, and are
    buffers like any other, that a holder may write to and sees written to.
    """

    step: int

    _keys: Any
    _values: Any
    _span: Span | None = None
    _lent: Lent | None = None
    _reserved: int = 0

    keys = _ending(
        "_keys", "The keys' buffer (batch, n_kv_heads, capacity, head_dim), None while empty."
    )
    values = _ending("_values", "The values' buffer, likewise.")

    def reserve(self, tokens: int) -> None:
        """Promise that the cache will hold that many tokens, those that it holds included.

        The next time that the buffers grow they get room for all of them at once, and are not
        copied again until there are more. Their shapes and bytes, `nbytes` and `state` stay those
        of the release; what an update returns are views, also where the release returns the full
        buffers. Memory is what was promised, at once. A promise replaces the one before it, and 0
        withdraws it; it has an end when somebody asks for `keys`, `values` or `state` (to evaluate
        a cache there is `materialize`). Raises `NotAnIntegerError`, `NegativeSizeError`. What no
        array can hold, or no memory, MLX refuses in its own words when the buffers are to grow:
        the cache is as it was, and a smaller promise may follow.
        """
        self._reserved = as_size(self, "tokens", tokens, "reserve")

    def empty(self) -> bool:
        return self._keys is None

    @property
    def nbytes(self) -> int:
        span = self._span
        if span is None:
            return super().nbytes
        # No backing is without rows.
        return sum(b.nbytes // b.shape[2] * span.rows for b in (self._keys, self._values))

    def materialize(self) -> None:
        mx.eval(self._keys, self._values)

    def _overwrite(self, keys: mx.array, values: mx.array, prev: int) -> Pair | None:
        """Write one token at `prev` and return the rows up to it, if there are rows to spare then.

        What most updates are, in the fewest steps. None, and nothing has changed, where the
        buffers are spans or the token is not one like theirs: `_write` does those.
        """
        k_buffer, v_buffer = self._keys, self._values
        if self._span is not None:
            return None
        if not 0 <= prev < capacity_for(k_buffer, v_buffer, keys, values) - 1:
            return None
        stop = prev + 1
        window = (ALL, ALL, slice(prev, stop))
        k_buffer[window] = keys
        v_buffer[window] = values
        window = (ALL, ALL, slice(stop))
        return k_buffer[window], v_buffer[window]

    def _write(self, keys: mx.array, values: mx.array, prev: int) -> None:
        """Write the rows at `prev`, growing the buffers by whole steps when they do not fit.

        A growth drops the spare rows first, unless `prev` is a multiple of `step`. Both new shapes
        follow the batch and n_kv_heads of the keys.
        """
        k_shape, v_shape = measure(self, keys, values)
        k_buffer, stop, span = self._keys, prev + k_shape[2], self._span
        if k_buffer is None or stop > (k_buffer.shape[2] if span is None else span.rows):
            self._grow(keys, values, prev)
            return
        start = prev
        if span is not None:
            start += span.first
            if start + k_shape[2] > k_buffer.shape[2] or self._held():
                self._settle()
                k_buffer, span, start = self._keys, None, prev
        v_buffer = self._values
        check_window(self, "keys", k_buffer, k_shape, prev)
        check_window(self, "values", v_buffer, v_shape, prev)
        window = (ALL, ALL, slice(start, start + k_shape[2]))
        k_buffer[window] = keys
        v_buffer[window] = values
        if span is not None:
            self._span = span._replace(clean=max(span.clean, start + k_shape[2]))

    def _grow(self, keys: mx.array, values: mx.array, prev: int) -> None:
        """Write the rows into longer buffers: a longer span where the backing has room for it."""
        k_buffer, v_buffer, span = self._keys, self._values, self._span
        first = 0 if span is None else span.first
        stop = prev + keys.shape[2]
        steps = count_steps(self, self.step, keys.shape[2])
        longer = None
        if not alike(k_buffer, v_buffer, keys, values, prev, first):
            buffers = self._cut_out(k_buffer), self._cut_out(v_buffer)
            pair = grow(self, buffers, (keys, values), prev, steps)
        else:
            held = 0 if k_buffer is None else self._rows_held()
            capacity = grown_rows(self, held, prev, steps)
            if span is not None and self._has_room(keys, values, first + stop, capacity):
                self._lengthen(span, keys, values, prev, capacity)
                return
            rows = self._reserved if self._reserved >= stop else capacity
            pair = (
                fuse(k_buffer, keys, prev, rows, first),
                fuse(v_buffer, values, prev, rows, first),
            )
            longer = None if rows == capacity else Span(0, capacity, stop)
        self._keys, self._values = pair
        if longer is not None or span is not None:
            self._span, self._lent = longer, None

    def _has_room(self, keys: mx.array, values: mx.array, stop: int, capacity: int) -> bool:
        """Whether rows that end at row `stop` of the backing go there as into new buffers.

        Unless it was promised, the backing is not longer than the new buffers would be.
        """
        room = self._keys.shape[2]
        if stop > room or (room > capacity and not self._reserved):
            return False
        return fit(self._keys, keys) and fit(self._values, values)

    def _lengthen(
        self, span: Span, keys: mx.array, values: mx.array, prev: int, capacity: int
    ) -> None:
        """Write the rows into the backing and zeros over what an earlier write left behind them."""
        start = span.first + prev
        stop = start + keys.shape[2]
        window = (ALL, ALL, slice(start, stop))
        self._keys[window] = keys
        self._values[window] = values
        if stop < span.clean:
            stale = (ALL, ALL, slice(stop, span.clean))
            self._keys[stale] = self._values[stale] = 0
        self._span, self._lent = Span(span.first, capacity, stop), None

    def _forget(self, count: int, stop: int) -> None:
        """Keep the rows of the buffers from `count` to `stop`."""
        span = self._span
        if span is None:
            keys, values = self._keys, self._values
            held = keys.shape[2]
            if values.shape[2] != held:
                last = slice(count, stop)
                self._keys, self._values = keys[:, :, last], values[:, :, last]
                return
            # Their own objects, for a buffer that somebody holds is not written to any more.
            self._keys, self._values = copy.copy(keys), copy.copy(values)
            span = Span(0, held, held)
        first, end, _ = slice(count, stop).indices(span.rows)
        self._span, self._lent = Span(span.first + first, end - first, span.clean), None

    def _rows_held(self) -> int:
        """The rows of the keys' buffer, spare ones included."""
        rows: int = self._keys.shape[2] if self._span is None else self._span.rows
        return rows

    def _first(self, rows: int) -> Pair:
        """Views of the first rows of both buffers, always new objects; all of them at most."""
        keys, values, span = self._keys, self._values, self._span
        window = (ALL, ALL, slice(rows))
        if span is not None:
            stop = span.first + slice(rows).indices(span.rows)[1]
            if stop <= keys.shape[2]:
                window = (ALL, ALL, slice(span.first, stop))
            else:
                keys, values = self.keys, self.values
        return keys[window], values[window]

    def _lend(self) -> Pair:
        """The buffers themselves, or views of the span, for what an update returns.

        Whoever holds those sees the next write in place, if there is one before a growth.
        """
        span = self._span
        if span is None:
            return self._keys, self._values
        keys, values = self._first(span.rows)
        self._lent = Lent(ref(keys), ref(values))
        return keys, values

    def _borrowed(self) -> tuple[Any, Any]:
        """The buffers that were lent, as far as somebody holds them; else None."""
        return (None, None) if self._lent is None else (self._lent.keys(), self._lent.values())

    def _held(self) -> bool:
        """Whether somebody holds one of them."""
        return self._lent is not None and any(array() is not None for array in self._lent)

    def _settle(self) -> None:
        """Make the buffers plain ones: those that were lent, where somebody holds them."""
        if self._span is None:
            return
        keys, values = self._borrowed()
        self._keys = self._cut_out(self._keys) if keys is None else keys
        self._values = self._cut_out(self._values) if values is None else values
        self._span, self._lent, self._reserved = None, None, 0

    def _cut_out(self, backing: Any) -> Any:
        """The rows of the span, a new object, with the zeros that the backing does not have."""
        span = self._span
        if span is None:
            return backing
        rows = backing[:, :, span.first : span.first + span.rows]
        missing = span.rows - rows.shape[2]
        if not missing:
            return rows
        batch, n_kv_heads, _, head_dim = backing.shape
        zeros = mx.zeros((batch, n_kv_heads, missing, head_dim), backing.dtype)
        return concatenate((rows, zeros), 2)

    def __getstate__(self) -> dict[str, Any]:
        """The fields for a pickle or a shallow copy, which shares the buffers."""
        self._settle()
        return self.__dict__
