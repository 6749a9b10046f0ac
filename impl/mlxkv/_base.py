"""What every cache is: the interface, with its promises, and the parts that most classes share."""

from __future__ import annotations

import copy
from operator import index
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlxkv._buffers import Pair, first
from mlxkv._errors import NegativeSizeError, NegativeTrimError, NotAnIntegerError
from mlxkv._masks import Mask, create_attention_mask

_ARRAY = mx.array
_new = object.__new__
# What a deep copy shares.
_SCALARS = frozenset({int, float, bool, str, type(None)})


def as_integer(cache: object, operation: str, name: str, number: Any) -> int:
    """The number itself if it is an int, or as one, as NumPy's; raises `NotAnIntegerError`."""
    try:
        return number if isinstance(number, int) else index(number)
    except TypeError:
        got = repr(number)
        raise NotAnIntegerError(cache, operation, f"an integer as {name}", got) from None


def as_size(cache: object, name: str, size: Any, operation: str = "__init__") -> int:
    """The size as an int; raises unless it is an integer of at least 0."""
    number = as_integer(cache, operation, name, size)
    if number < 0:
        raise NegativeSizeError(cache, operation, f"{name} of at least 0", str(number))
    return number


def check_trim(cache: object, n: Any) -> int:
    """Return the number of tokens to trim; raise unless it is an integer of at least 0."""
    try:
        tokens = index(n)
    except TypeError:
        raise NotAnIntegerError(cache, "trim", "an integer", repr(n)) from None
    if tokens < 0:
        raise NegativeTrimError(cache, "trim", "at least 0 tokens", str(n))
    return tokens


class Cache:
    """The attention state of one layer for one sequence, or for a batch in step.

    Arrays are (batch, n_kv_heads, tokens, head_dim); the tokens are on the sequence axis, 2. An
    operation that raises leaves every field, byte and object as it was. Errors are `CacheError`s
    that derive from what mlx-lm raises in that place.
    """

    _reference_name: ClassVar[str]

    keys: Any
    values: Any
    offset: int

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        """Store the rows of new tokens and return all keys and values to attend to.

        Mutates the cache, its buffers in place where they have room: a buffer that somebody holds
        shows the write. Returns (keys, values), views or the buffers themselves. Raises
        `ArrayTypeError`, `RankError`, `LengthMismatchError`, `ShapeError`, `LostWriteError`.
        """
        raise NotImplementedError

    def trim(self, n: int) -> int:
        """Forget the last n tokens, or all where there are fewer; return how many.

        Mutates scalars only, never bytes. Raises `NegativeTrimError`, `NotAnIntegerError` and,
        where the tokens are not held any more, `NotTrimmableError`.
        """
        raise NotImplementedError

    def is_trimmable(self) -> bool:
        """Whether `trim` can forget tokens now. Does not mutate, does not raise."""
        return False

    def size(self) -> int:
        """The tokens held, or 0 where the class does not say (as in mlx-lm)."""
        return 0

    def empty(self) -> bool:
        """Whether nothing was ever stored."""
        return self.keys is None

    @property
    def nbytes(self) -> int:
        """The bytes of the buffers, spare rows included."""
        raise NotImplementedError

    def reserve(self, tokens: int) -> None:
        """Promise that the cache will hold that many tokens; see `BackedCache.reserve`.

        Nothing to do for a class whose buffers are not copied as it grows, or copied anyway.
        """

    def copy(self) -> Self:
        """An independent deep copy: no later operation on either shows in the other."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = _new(type(self))
        twin.__dict__ = fields = self.__dict__.copy()
        for name, field in fields.items():
            kind = type(field)
            if kind is _ARRAY:
                # Two fields may be one array.
                fields[name] = memo.setdefault(id(field), field.__copy__())
            elif kind not in _SCALARS:
                fields[name] = copied(field, memo)
        return twin

    @property
    def rope_offset(self) -> int:
        """The position of the next token, for rotary embeddings: `offset`, one for all rows."""
        return self.offset

    @property
    def reference_class_name(self) -> str:
        """The name of the class in mlx-lm, as prompt-cache files spell it."""
        return self._reference_name

    def materialize(self) -> None:
        """Evaluate the stored buffers; nothing to do on an empty cache."""
        if self.keys is not None:
            mx.eval(self.keys, self.values)


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy(value, memo)` returns, sooner for lists and tuples of caches and arrays.

    Where a list or a tuple is in the memo, or one of its entries, that is what its copy has.
    """
    kind = type(value)
    if kind is not list and kind is not tuple:
        return copy.deepcopy(value, memo)
    known = memo.get(id(value))
    if known is not None:
        return known
    entries: list[Any] = []
    if kind is list:
        memo[id(value)] = entries  # It may hold itself.
    for one in value:
        kind_of_one = type(one)
        if kind_of_one is _ARRAY:
            entries.append(memo.setdefault(id(one), one.__copy__()))
        elif kind_of_one in _SCALARS:
            entries.append(one)
        elif isinstance(one, Cache):
            twin = memo.get(id(one))
            if twin is None:
                twin = memo[id(one)] = one.__deepcopy__(memo)
            entries.append(twin)
        else:
            entries.append(copied(one, memo))
    if kind is list:
        return entries
    return memo.setdefault(id(value), tuple(entries))


class PlainCache(Cache):
    """What most classes share: empty is None, and the last tokens can be forgotten."""

    def __init__(self) -> None:
        self.keys = self.values = None
        self.offset = 0

    def is_trimmable(self) -> bool:
        return True

    def trim(self, n: int) -> int:
        trimmed = min(self.offset, check_trim(self, n))
        self.offset -= trimmed
        return trimmed

    def make_mask(
        self,
        N: int,  # noqa: N803 - the release's name, passed by keyword
        *,
        return_array: bool,
        window_size: int | None,
    ) -> Mask:
        """The mask of N new tokens over the cached ones and themselves; does not mutate.

        None, "causal", or bool (N, offset + N). Source: cache.py `create_attention_mask`.
        """
        return create_attention_mask(N, self.offset, return_array, window_size)

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None else int(self.keys.nbytes + self.values.nbytes)

    def _fetch(self) -> Pair:
        """The keys and values to attend to; each release says when they are views."""
        raise NotImplementedError

    def _rows_held(self) -> int:
        """The rows of the keys' buffer, spare ones included."""
        return int(self.keys.shape[2])

    def _first(self, rows: int) -> Pair:
        """Views of the first rows of both buffers, always new objects."""
        return first((self.keys, self.values), rows)
