"""The caches of caches and of arrays, and finding a class by name, as mlx-lm 0.32.2 has them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxkv import _arrays, _list
from mlxkv._errors import MetaStateError, StateArityError
from mlxkv._list import entries
from mlxkv._masks import padding_mask
from mlxkv._names import find_class
from mlxkv._states import check_optional, check_slots, unpack
from mlxkv.mlx_lm_0_32._batches import BatchKVCache, BatchRotatingKVCache
from mlxkv.mlx_lm_0_32._sequences import (
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    Restored,
    RotatingKVCache,
)


def from_state(name: str, state: Any, meta_state: Any = None) -> Any:
    """A cache of the class of that name, or of its Rust alias, from its state.

    The release has no meta_state: `MetaStateError` unless it is None or empty. Raises
    `UnknownCacheError` and what the class's `from_state` raises.
    """
    cls = find_class(name, CLASSES)
    if meta_state:
        raise MetaStateError(cls.__name__, "from_state", "no meta_state", repr(meta_state))
    return cls.from_state(state)


class ArraysCache(Restored, _arrays.ArraysCache):
    """See `mlxkv._arrays`. state: cache, left_padding, lengths."""

    @property
    def state(self) -> tuple[Any, Any, Any]:
        """The list of slots itself, left_padding and lengths; setting it keeps what is given.

        Setting raises `StateError`, `StateArityError`, `ArrayTypeError`.
        """
        return self.cache, self.left_padding, self.lengths

    @state.setter
    def state(self, state: Any) -> None:
        slots, left_padding, lengths = unpack(self, state, "cache left_padding lengths")
        check_slots(self, slots)
        check_optional(self, "left_padding", left_padding)
        check_optional(self, "lengths", lengths)
        self.cache, self.left_padding, self.lengths = slots, left_padding, lengths

    def make_mask(self, N: int) -> mx.array | None:  # noqa: N803 - the release's name
        """The mask bool (batch, N) past left_padding and within `lengths`.

        None where neither is set. Raises `PaddingError`. Source: 0.32.2 cache.py:687-695.
        """
        return padding_mask(self, N, self.left_padding, self.lengths)


class CacheList(Restored, _list.CacheList):
    """See `mlxkv._list`. state: a list of pairs, a child's state and its class's name."""

    @property
    def state(self) -> list[tuple[Any, str]]:
        """The children's states and class names; setting it makes a list of new children.

        Raises what a child raises; setting also `StateError`, `StateArityError`,
        `UnknownCacheError`.
        """
        return [(child.state, type(child).__name__) for child in self.caches]

    @state.setter
    def state(self, state: Any) -> None:
        self.caches = [self._restore(entry) for entry in entries(self, state)]

    def _restore(self, entry: Any) -> Any:
        """A new child from its state and class name."""
        try:
            state, name = entry
        except (TypeError, ValueError):
            raise StateArityError(self, "state", "(state, name)", repr(entry)) from None
        return from_state(name, state)


ArraysCache._extracted_class = ArraysCache
CacheList._extracted_class = CacheList

CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        ArraysCache,
        BatchKVCache,
        BatchRotatingKVCache,
        CacheList,
        ChunkedKVCache,
        ConcatenateKVCache,
        KVCache,
        QuantizedKVCache,
        RotatingKVCache,
    )
}
