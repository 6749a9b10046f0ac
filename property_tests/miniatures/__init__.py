"""Miniatures: broken ports with one small fault each, made from the release's own classes.

They test the harness: `kvlockstep` must catch every one of them within its CI profile and shrink
what it found to the shortest trace. A miniature is a class with a one-line docstring whose methods
are mixed in before those of the release's class; nothing of mlx-lm is repeated here.
"""

from property_tests.miniatures import (  # noqa: F401
    _arrays,
    _batch,
    _batch_ring,
    _buffer,
    _chunks,
    _lists,
    _lookup,
    _lru,
    _masks,
    _quantized,
    _ring,
)
from property_tests.miniatures._registry import MINIATURES, Miniature

__all__ = ["MINIATURES", "Miniature"]
