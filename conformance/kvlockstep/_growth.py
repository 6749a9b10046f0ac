"""Another growth step than 256 on both sides, so that growth happens within a few tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kvlockstep._caches import CACHES


@contextmanager
def growth_step(size: int, left: Any, right: Any) -> Iterator[None]:
    """Give all cache classes another growth step, where both sides have one that can be set."""
    pairs = [
        (getattr(left, name), getattr(right, name))
        for name in CACHES
        if hasattr(left, name) and hasattr(right, name)
    ]
    places = [(_kept(one), _kept(other)) for one, other in pairs]
    if size == 256 or any(hasattr(*one) != hasattr(*other) for one, other in places):
        yield
        return
    growing = [place for pair in places for place in pair if hasattr(*place)]
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


def _kept(cls: Any) -> tuple[Any, str]:
    """Return the class that keeps the growth step, and under which name."""
    return getattr(cls, "_growth", (cls, "step"))
