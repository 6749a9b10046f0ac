"""The cache of recurrent layers: slots that a model fills with arrays of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, ClassVar, NoReturn, Self

import mlx.core as mx

from mlxkv._base import Cache, as_size
from mlxkv._batch_rows import ones_for
from mlxkv._errors import (
    ArrayTypeError,
    CountError,
    EmptySlotError,
    ItemError,
    MissingSlotError,
    NothingError,
    PaddingError,
    PeerError,
    RowIndexError,
    RowSelectionError,
    SlotShapeError,
    UnsupportedError,
)
from mlxkv._words import join

Slot = mx.array | None

# What a cache has counted before its first token: no padding is that object.
_NOTHING_YET: tuple[Any, Any, Any] = (object(), None, None)


class Absent:
    """An operation of `Cache` that a class does not have: `hasattr` says False, as in mlx-lm."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cache: object, owner: type) -> NoReturn:
        raise UnsupportedError(owner.__name__, self.name, "a class that has it", owner.__name__)


class Rows:
    """The rows of a batch that a caller names; each array that they are taken from is checked."""

    def __init__(self, cache: object, operation: str, indices: Any) -> None:
        self.cache, self.operation, self.indices = cache, operation, indices
        self.array: Any = None
        self.bounds: tuple[int, int] | None = None

    def take(self, array: mx.array) -> mx.array:
        """Those rows of an array, a new one. Raises `RowSelectionError`, `RowIndexError`."""
        if not isinstance(array, mx.array) or not array.ndim:
            check_batched(self.cache, self.operation, array)
        if self.array is None:
            if isinstance(self.indices, slice):
                return self._cut(array)
            self._read()
        if self.bounds is not None:
            batch = array.shape[0]
            low, high = self.bounds
            if low < -batch or high >= batch:
                got = str(high if high >= batch else low)
                raise RowIndexError(self.cache, self.operation, f"rows of a batch of {batch}", got)
        return array[self.array]

    def _cut(self, array: mx.array) -> mx.array:
        try:
            return array[self.indices]
        except ValueError:
            self._refuse()

    def _read(self) -> None:
        """Look at the indices once, when the first array needs them."""
        rows = self.indices
        numbers: Any = rows
        try:
            array = mx.array(rows) if isinstance(rows, list) else rows
        except (ValueError, TypeError, RuntimeError):
            self._refuse()
        if array is rows or set(map(type, rows)) != {int}:
            if not isinstance(array, mx.array) or array.ndim != 1:
                self._refuse()
            if not mx.issubdtype(array.dtype, mx.integer):
                self._refuse()
            numbers = array.tolist()
        if numbers:
            self.bounds = min(numbers), max(numbers)
        self.array = array

    def _refuse(self) -> NoReturn:
        expected = "integers in a list, a 1-D array or a slice"
        raise RowSelectionError(self.cache, self.operation, expected, repr(self.indices)) from None


def check_batched(cache: object, operation: str, array: Any) -> None:
    """Raise unless it is an array with a batch axis."""
    if not isinstance(array, mx.array):
        raise ArrayTypeError(cache, operation, "an mx.array", type(array).__name__)
    if array.ndim == 0:
        raise SlotShapeError(cache, operation, "an array with a batch axis", "a scalar")


def as_counts(cache: object, operation: str, name: str, counts: Any) -> mx.array:
    """A new array of those counts. Raises `PaddingError`."""
    try:
        return mx.array(counts)
    except (ValueError, TypeError, RuntimeError):
        got = repr(counts)
        raise PaddingError(cache, operation, f"{name} as one number a row", got) from None


def as_left_padding(cache: object, left_padding: Any) -> mx.array | None:
    """A new array of the left padding, None where there is none: mlx-lm asks for its truth."""
    try:
        given = bool(left_padding)
    except ValueError:
        got = repr(left_padding)
        raise PaddingError(cache, "__init__", "left_padding as a list", got) from None
    return as_counts(cache, "__init__", "left_padding", left_padding) if given else None


class ArraysCache(Cache):
    """A list of slots, each None or an array (batch, ...) of any dtype.

    `left_padding` and `lengths` are None or int32 (batch,): the tokens still to come before and
    up to the end of each row's own; `advance` counts both down. The slots are a list that `state`
    hands out as it is. Source: 0.31.3 cache.py:594-728, 0.32.2 cache.py:596-724.
    """

    __slots__ = ("_counted",)  # No field: what copies and states need not have.
    _counted: tuple[Any, Any, mx.array | int]

    _reference_name = "ArraysCache"
    _extracted_class: ClassVar[type[ArraysCache]]

    cache: Any
    left_padding: mx.array | None
    lengths: mx.array | None

    update_and_fetch: Any = Absent()
    trim: Any = Absent()

    def __init__(self, size: int, left_padding: Any = None) -> None:
        """Make `size` empty slots; left_padding is a list of integers, one a row, or None.

        Raises `NotAnIntegerError`, `NegativeSizeError`, `PaddingError`.
        """
        self.cache = [None] * as_size(self, "size", size)
        self.left_padding = as_left_padding(self, left_padding)
        self.lengths = None

    @property
    def batch_size(self) -> int:
        """The rows of the first slot that has an array, else of left_padding, else of lengths.

        1 where nothing says. Raises `SlotShapeError` for a slot with a scalar, `ArrayTypeError`.
        """
        for slot in self.cache:
            if slot is not None:
                check_batched(self, "batch_size", slot)
                return int(slot.shape[0])
        for counts in (self.left_padding, self.lengths):
            if counts is not None:
                return counts.size
        return 1

    def __getitem__(self, idx: Any) -> Any:
        """The slot's own object, or for a slice a new list. Raises `ItemError`."""
        try:
            return self.cache[idx]
        except (IndexError, TypeError):
            self._refuse_item("__getitem__", idx)

    def __setitem__(self, idx: Any, value: Any) -> None:
        """Put an object into a slot, as a list does; what it is nobody checks. Raises `ItemError`.

        A slice may change the number of slots.
        """
        try:
            self.cache[idx] = value
        except (IndexError, TypeError, ValueError):
            self._refuse_item("__setitem__", idx)

    def _refuse_item(self, operation: str, idx: Any) -> NoReturn:
        expected = f"an index into {len(self.cache)} slots of a {type(self.cache).__name__}"
        raise ItemError(self, operation, expected, repr(idx)) from None

    def filter(self, batch_indices: Any) -> None:
        """Keep those rows, in that order: a new list of new arrays.

        `batch_indices` are integers in a list, a 1-D array or a slice; negative ones count from
        the end. Raises `RowSelectionError`, and `RowIndexError` where mlx reads past the array. A
        cache without any array takes anything. Source: 0.31.3 cache.py:632-640, 0.32.2
        cache.py:628-636.
        """
        rows = Rows(self, "filter", batch_indices)
        slots = [None if slot is None else rows.take(slot) for slot in self.cache]
        left_padding, lengths = self.left_padding, self.lengths
        left_padding = None if left_padding is None else rows.take(left_padding)
        lengths = None if lengths is None else rows.take(lengths)
        self.cache, self.left_padding, self.lengths = slots, left_padding, lengths

    def extend(self, other: Any) -> None:
        """Append the rows of another cache, which is not changed; dtypes promote.

        Where one side has a slot, `left_padding` or `lengths` and the other has not, the other's
        rows are zeros. Raises `PeerError`, `CountError` (mlx-lm drops the slots that only one
        side has), `SlotShapeError`. Source: 0.31.3 cache.py:642-671, 0.32.2 cache.py:638-667.
        """
        if not isinstance(other, ArraysCache):
            raise PeerError.between(self, "extend", ArraysCache, other)
        if len(self.cache) != len(other.cache):
            expected = f"a cache of {len(self.cache)} slots"
            raise CountError(self, "extend", expected, f"{len(other.cache)} slots")
        batches = self.batch_size, other.batch_size
        slots = [self._join(a, b, batches) for a, b in zip(self.cache, other.cache, strict=True)]
        left_padding = self._join(self.left_padding, other.left_padding, batches)
        lengths = self._join(self.lengths, other.lengths, batches)
        self.cache, self.left_padding, self.lengths = slots, left_padding, lengths

    def _join(self, first: Any, second: Any, batches: tuple[int, int]) -> Slot:
        """Both arrays end to end, zeros for the one that is None."""
        if second is None:
            if first is None:
                return None
            check_batched(self, "extend", first)
            second = mx.zeros((batches[1], *first.shape[1:]), first.dtype)
            return join((first, second), 0)
        check_batched(self, "extend", second)
        if first is None:
            first = mx.zeros((batches[0], *second.shape[1:]), second.dtype)
            return join((first, second), 0)
        check_batched(self, "extend", first)
        if first.shape[1:] != second.shape[1:]:
            expected = f"rows of shape {first.shape[1:]}"
            raise SlotShapeError(self, "extend", expected, str(second.shape[1:]))
        return join((first, second), 0)

    def extract(self, idx: Any) -> ArraysCache:
        """A new cache with one row, views of the slots; it has no left_padding and no lengths.

        Raises `RowSelectionError`, `EmptySlotError`, and `RowIndexError` for a row that is not
        there and for -1, where mlx-lm hands out no row at all (its window is [-1, 0)).
        Source: 0.31.3 cache.py:673-676, 0.32.2 cache.py:669-672.
        """
        slots = self._rows_at(idx) if type(idx) is int and idx >= 0 else None
        single = object.__new__(self._extracted_class)
        single.cache = self._cut_row(idx) if slots is None else slots
        single.left_padding = single.lengths = None
        return single

    def _rows_at(self, row: int) -> list[mx.array] | None:
        """That row of each slot, None where one is no array or has no such row."""
        window, rows = slice(row, row + 1), []
        for slot in self.cache:
            if type(slot) is not mx.array or not slot.ndim or row >= len(slot):
                return None
            rows.append(slot[window])
        return rows

    def _cut_row(self, idx: Any) -> list[mx.array]:
        """The same by any index; raises as `extract` does."""
        if not self.cache:
            return []
        try:
            row = index(idx)
        except TypeError:
            row = None
        if row is None or isinstance(idx, bool | mx.array):
            raise RowSelectionError(self, "extract", "an integer", repr(idx))
        for i, slot in enumerate(self.cache):
            if slot is None:
                raise EmptySlotError(self, "extract", f"an array in slot {i}", "None")
        slots = []
        for slot in self.cache:
            check_batched(self, "extract", slot)
            batch = slot.shape[0]
            if not -batch <= row < batch or row == -1:
                expected = f"a row of [0, {batch}) or [-{batch}, -1)"
                raise RowIndexError(self, "extract", expected, str(row))
            slots.append(slot[row : row + 1])
        return slots

    def prepare(self, lengths: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Set `lengths`, the tokens of each row that are still to come; the rest is ignored.

        Raises `PaddingError`, without lengths too. Source: 0.31.3 cache.py:678-679, 0.32.2
        cache.py:674-675.
        """
        self.lengths = as_counts(self, "prepare", "lengths", lengths)

    def finalize(self) -> None:
        """Forget `lengths` and `left_padding`."""
        self.lengths = self.left_padding = None

    def advance(self, N: Any) -> None:  # noqa: N803 - the release's name, passed by keyword
        """Subtract N tokens from `lengths` and `left_padding`.

        Mutates the arrays: a handle taken earlier shows it. Raises `PaddingError`.
        Source: 0.31.3 cache.py:685-689, 0.32.2 cache.py:681-685.
        """
        try:
            known, tokens, one = self._counted
        except AttributeError:
            known, tokens, one = _NOTHING_YET
        lengths, left_padding = self.lengths, self.left_padding
        if known is left_padding and N is tokens and lengths is None:
            left_padding -= one
            return
        if type(N) is int and N == 1 and lengths is None and left_padding is not None:
            self._counted = left_padding, N, ones_for(left_padding)
        try:
            if lengths is not None:
                if left_padding is not None and (
                    type(N) is not int or left_padding.dtype != lengths.dtype
                ):
                    _ = left_padding - N  # What can fail fails before the first changes.
                lengths -= N
            if left_padding is not None:
                left_padding -= N
        except (ValueError, TypeError, RuntimeError, AttributeError):
            raise PaddingError(self, "advance", "a number of tokens", repr(N)) from None
        self.lengths, self.left_padding = lengths, left_padding

    @classmethod
    def merge(cls, caches: Sequence[Any]) -> Self:
        """A new cache whose rows are those of the caches, of one row each, in their order.

        A slot is of the dtype of the first cache that has it; the others are cast, and rows of
        caches without it are zeros. left_padding and lengths are dropped; where no slot is
        filled, left_padding is zeros. Raises `NothingError`, `PeerError`, `CountError`,
        `SlotShapeError` (mlx-lm broadcasts), and `MissingSlotError` for a slot that is None in
        all. Source: 0.31.3 cache.py:701-721, 0.32.2 cache.py:697-717.
        """
        if not len(caches):
            raise NothingError(cls.__name__, "merge", "at least one cache", "none")
        for cache in caches:
            if not isinstance(cache, ArraysCache):
                raise PeerError.between(cls.__name__, "merge", ArraysCache, cache)
            if len(cache.cache) != len(caches[0].cache):
                expected = f"caches of {len(caches[0].cache)} slots"
                raise CountError(cls.__name__, "merge", expected, f"{len(cache.cache)} slots")
        merged = cls(len(caches[0].cache))
        if not merged.cache:
            merged.empty()
        slots = [[cache.cache[i] for cache in caches] for i in range(len(merged.cache))]
        if all(row is None for rows in slots for row in rows):
            merged.left_padding = mx.array([0] * len(caches))
        else:
            merged.cache = [_stack(cls.__name__, i, rows) for i, rows in enumerate(slots)]
        return merged

    def empty(self) -> bool:
        """Whether the first slot is None; the others do not count. Raises `NothingError`."""
        if not self.cache:
            raise NothingError(self, "empty", "a slot", "none")
        return self.cache[0] is None

    @property
    def nbytes(self) -> int:
        try:
            return sum(slot.nbytes for slot in self.cache if slot is not None)
        except AttributeError:
            expected, got = "an mx.array or None in every slot", repr(self.cache)
            raise ArrayTypeError(self, "nbytes", expected, got) from None

    def materialize(self) -> None:
        """Evaluate the arrays of the slots, left_padding and lengths."""
        mx.eval([*self.cache, self.left_padding, self.lengths])


def _stack(name: str, slot: int, rows: Iterable[Any]) -> mx.array:
    """The arrays of one slot, of one row each, as one batch; zeros where there is None."""
    held = [row for row in rows if row is not None]
    if not held:
        raise MissingSlotError(name, "merge", f"an array in slot {slot} of some cache", "None")
    for row in held:
        check_batched(name, "merge", row)
    shape = (1, *held[0].shape[1:])
    for row in held:
        if row.shape != shape:
            expected = f"one row of shape {shape[1:]} in slot {slot}"
            raise SlotShapeError(name, "merge", expected, str(row.shape))
    dtype = held[0].dtype
    zeros = mx.zeros(shape, dtype)
    return join([zeros if row is None else row.astype(dtype) for row in rows], 0)
