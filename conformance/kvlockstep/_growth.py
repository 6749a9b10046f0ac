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
    if size == 256 or any(hasattr(one, "step") != hasattr(other, "step") for one, other in pairs):
        yield
        return
    growing = [cls for pair in pairs for cls in pair if hasattr(cls, "step")]
    own = [(cls, vars(cls).get("step")) for cls in growing]
    for cls in growing:
        cls.step = size
    try:
        yield
    finally:
        for cls, step in own:
            if step is not None:
                cls.step = step
            elif "step" in vars(cls):
                del cls.step
