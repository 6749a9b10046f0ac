"""The prompt caches of a server, as mlx-lm 0.31.3 has them: the order's default is spelled out."""

from __future__ import annotations

from collections.abc import Iterable

from mlxkv import _lru, _order


class LRUPromptCache(_lru.LRUPromptCache):
    """See `mlxkv._lru`."""

    class CacheOrder(_order.CacheOrder):
        """See `mlxkv._order`; the default is the release's, but a list of its own each time."""

        def __init__(self, ordering: Iterable[str] = ["assistant", "user", "system"]) -> None:
            super().__init__(ordering)
