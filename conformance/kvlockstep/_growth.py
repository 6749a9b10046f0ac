"""Another growth step than 256 on both sides, so that growth happens within a few tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kvlockstep._caches import CACHES

# A class, and the name under which it keeps its growth step.
Growing = tuple[Any, str]


def growing(left: Any, right: Any) -> Sequence[Growing]:
    """Return what keeps the growth steps of two modules; nothing if they keep unlike ones."""
    pairs = [
        (_kept(getattr(left, name)), _kept(getattr(right, name)))
        for name in CACHES
        if hasattr(left, name) and hasattr(right, name)
    ]
    if any(hasattr(*one) != hasattr(*other) for one, other in pairs):
        return ()
    return [place for pair in pairs for place in pair if hasattr(*place)]


@contextmanager
def growth_step(size: int, growing: Sequence[Growing]) -> Iterator[None]:
    """Give all cache classes another growth step, where both sides have one that can be set."""
    if size == 256:
        yield
        return
    own = [(cls, name, vars(cls).get(name)) for cls, name in growing]
    for cls, name in growing:
        setattr(cls, name, size)
    try:
        yield
    finally:
        for cls, name, step in own:
            if step is not None:
                setattr(cls, name, step)
            elif name in vars(cls):
                delattr(cls, name)


def _kept(cls: Any) -> Growing:
    """Return the class that keeps the growth step, and under which name."""
    return getattr(cls, "_growth", (cls, "step"))
