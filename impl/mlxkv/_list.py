"""The cache of a layer that has several: what is asked of it is asked of each child in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

import mlx.core as mx

from mlxkv._arrays import Absent
from mlxkv._base import Cache, PlainCache
from mlxkv._errors import (
    CountError,
    ItemError,
    NothingError,
    PeerError,
    StateError,
    UnsupportedError,
)
from mlxkv._rotating import RotatingKVCache


class AllOrNothing:
    """A block that changes several caches: where it raises, all of them are as they were.

    It keeps each cache's fields, and the contents of its counts (arrays of rank 0 and 1), which
    are what an operation may change in place: a handle taken earlier sees the old ones again,
    unless their shape or dtype has changed. Lists are followed down to their children. An
    operation that `rebinds`, which makes new counts in our own classes, needs no copies of theirs.
    """

    def __init__(self, caches: Iterable[Any], *, rebinds: bool = False) -> None:
        self._fields: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._counts: list[tuple[dict[str, Any], str, mx.array]] = []
        every = list(caches)
        for cache in every:  # It grows by the children of those that have some.
            fields = getattr(cache, "__dict__", {})
            self._fields.append((fields, fields.copy()))
            if rebinds and isinstance(cache, Cache):
                every.extend(fields.get("caches", ()))
                continue
            for name, field in fields.items():
                if type(field) is mx.array:
                    if field.ndim < 2:
                        self._counts.append((fields, name, mx.array(field)))
                elif name == "caches":
                    every.extend(field)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            return
        for fields, before in self._fields:
            fields.clear()
            fields.update(before)
        for fields, name, contents in self._counts:
            array = fields[name]
            if array.shape == contents.shape and array.dtype == contents.dtype:
                array[...] = contents
            else:
                fields[name] = contents


def trim_all(caches: Sequence[Any], n: Any) -> list[int]:
    """Trim each cache by n; return how many tokens each forgot. All are trimmed, or none.

    Raises what a child raises.
    """
    with AllOrNothing(caches):
        return [cache.trim(n) for cache in caches]


def count_down(caches: Sequence[Any], n: Any) -> list[int] | None:
    """The same in less, where all that a trim does is to count down, and it cannot fail; else None.

    That is so for the caches of one sequence, in lists too, as long as rings are not full.
    """
    leaves: list[Any] = []
    trimmed = _plan(caches, n, leaves) if type(n) is int and n >= 0 else None
    if trimmed is None or len(set(map(id, leaves))) < len(leaves):
        return None
    for cache in leaves:
        offset = cache.offset
        tokens = n if n < offset else offset
        cache.offset -= tokens
        if type(cache).trim is not PlainCache.trim:
            cache._idx -= tokens
    return trimmed


def _plan(caches: Sequence[Any], n: int, leaves: list[Any]) -> list[int] | None:
    """How many tokens each cache will forget, or None; `leaves` gets them, those of lists too."""
    trimmed = []
    for cache in caches:
        trim = getattr(type(cache), "trim", None)
        if trim is PlainCache.trim or trim is RotatingKVCache.trim:
            offset = cache.offset
            tokens = n if n < offset else offset
            if trim is RotatingKVCache.trim and (offset >= cache.max_size or tokens > cache._idx):
                return None
            leaves.append(cache)
        elif trim is CacheList.trim:
            children = _plan(cache.caches, n, leaves)
            if not children:
                return None
            tokens = children[-1]
        else:
            return None
        trimmed.append(tokens)
    return trimmed


def find(owner: object, child: Any, operation: str) -> Any:
    """The operation of a child. Raises `UnsupportedError`."""
    method = getattr(child, operation, None)
    if method is None:
        got = type(child).__name__
        raise UnsupportedError(owner, operation, "children that have it", got)
    return method


def entries(cache: object, state: Any) -> tuple[Any, ...]:
    """The entries of a list's state."""
    try:
        return tuple(state)
    except TypeError:
        raise StateError(cache, "state", "one entry a child", repr(state)) from None


def check_lists(owner: object, operation: str, lists: Sequence[Any]) -> None:
    """Raise unless all are caches of caches."""
    for one in lists:
        if not isinstance(one, CacheList):
            raise PeerError.between(owner, operation, CacheList, one)


def check_counts(owner: object, operation: str, lists: Sequence[Any]) -> None:
    """Raise unless all have as many children as the first.

    To be called after what can be done is done, so that errors come in mlx-lm's order.
    """
    for one in lists:
        if len(one.caches) != len(lists[0].caches):
            expected = f"caches of {len(lists[0].caches)} children"
            raise CountError(owner, operation, expected, f"{len(one.caches)} children")


def check_trims(one: CacheList) -> None:
    """Raise unless all that is in a list, and in the lists in it, can trim, whatever the number."""
    if not one.caches:
        raise NothingError(one, "trim", "at least one child", "none")
    for child in one.caches:
        if isinstance(child, CacheList):
            check_trims(child)
        else:
            find(one, child, "trim")


class CacheList(Cache):
    """Caches of any class, lists too, for the parts of one layer.

    What changes them goes to each in turn; where one raises, all are as they were before, other
    caches that take part included. `caches` is the tuple that was given, a list once a state was
    set. Source: 0.31.3 cache.py:814-901, 0.32.2 cache.py:803-870.
    """

    _reference_name = "CacheList"
    _extracted_class: ClassVar[type[CacheList]]

    caches: Any

    update_and_fetch: Any = Absent()

    def __init__(self, *caches: Any) -> None:
        self.caches = caches

    def __getitem__(self, idx: Any) -> Any:
        """The child itself, or for a slice several. Raises `ItemError`."""
        try:
            return self.caches[idx]
        except (IndexError, TypeError):
            expected = f"an index into {len(self.caches)} children"
            raise ItemError(self, "__getitem__", expected, repr(idx)) from None

    def _ask_all(self, operation: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Each child's answer; where one raises, all children are as they were."""
        with AllOrNothing(self.caches):
            return [find(self, child, operation)(*args, **kwargs) for child in self.caches]

    def _refuse_nothing(self, operation: str) -> NoReturn:
        raise NothingError(self, operation, "at least one child", "none")

    def is_trimmable(self) -> bool:
        """Whether all children are; True without any."""
        return all(child.is_trimmable() for child in self.caches)

    def trim(self, n: int) -> int:
        """Forget the last n tokens of each child; return how many the last one forgot.

        Raises `NothingError` without children, `UnsupportedError`, and what a child raises.
        """
        trimmed = count_down(self.caches, n)
        if not trimmed:
            check_trims(self)
            trimmed = trim_all(self.caches, n)
        return trimmed[-1]

    def filter(self, batch_indices: Any) -> None:
        """Keep those rows of each child. Raises what a child raises, `UnsupportedError`."""
        with AllOrNothing(self.caches, rebinds=True):
            for child in self.caches:
                find(self, child, "filter")(batch_indices)

    def extend(self, other: Any) -> None:
        """Extend each child by the other list's child in its place.

        Raises `PeerError`, `CountError` (mlx-lm leaves out the children that only one list has),
        `UnsupportedError`, and what a child raises.
        """
        both = self, other
        check_lists(self, "extend", both)
        with AllOrNothing(both, rebinds=True):
            for child, peer in zip(self.caches, other.caches, strict=False):
                find(self, child, "extend")(peer)
            check_counts(self, "extend", both)

    @classmethod
    def merge(cls, caches: Sequence[Any]) -> Self:
        """A new list, a tuple of children, each merged from those in its place.

        Raises `NothingError`, `PeerError`, `CountError` (mlx-lm leaves out the children that the
        first list has not), `UnsupportedError`, and what a child raises.
        """
        if not len(caches):
            raise NothingError(cls.__name__, "merge", "at least one cache", "none")
        check_lists(cls.__name__, "merge", caches)
        merged = cls()
        children = []
        for i, child in enumerate(caches[0].caches):
            merge = find(merged, child, "merge")
            if any(len(one.caches) <= i for one in caches):
                break
            children.append(merge([one.caches[i] for one in caches]))
        check_counts(merged, "merge", caches)
        merged.caches = tuple(children)
        return merged

    def extract(self, idx: Any) -> CacheList:
        """A new list of one row of each child. Raises what a child raises, `UnsupportedError`."""
        return self._extracted_class(*[find(self, one, "extract")(idx) for one in self.caches])

    def prepare(self, **kwargs: Any) -> None:
        """Hand the paddings to each child. Raises what a child raises, `UnsupportedError`."""
        self._ask_all("prepare", **kwargs)

    def finalize(self) -> None:
        """Finalize each child. Raises what a child raises, `UnsupportedError`."""
        self._ask_all("finalize")

    def size(self) -> int:
        """The largest size of a child. Raises `NothingError` without children."""
        if not self.caches:
            self._refuse_nothing("size")
        size: int = max(child.size() for child in self.caches)
        return size

    def empty(self) -> bool:
        """Whether the first child is empty. Raises `NothingError` without children."""
        if not self.caches:
            self._refuse_nothing("empty")
        empty: bool = self.caches[0].empty()
        return empty

    @property
    def nbytes(self) -> int:
        return sum(child.nbytes for child in self.caches)

    def materialize(self) -> None:
        """Evaluate what the children hold."""
        for child in self.caches:
            child.materialize()
