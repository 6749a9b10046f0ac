"""Steps for the traces that were found by hand: one batch, one head, and short to write."""

from __future__ import annotations

from kvlockstep._trace import (
    AttentionMask,
    Bits,
    CausalMask,
    Construct,
    Fetch,
    FrontTrim,
    Hold,
    Literals,
    Mask,
    Quantize,
    Reload,
    Rows,
    SetState,
    Trim,
    Update,
)

__all__ = [
    "AttentionMask",
    "Bits",
    "CausalMask",
    "Fetch",
    "FrontTrim",
    "Hold",
    "Literals",
    "Mask",
    "Quantize",
    "Reload",
    "SetState",
    "Trim",
    "Update",
    "construct",
    "rows",
    "update",
]


def construct(cache, **arguments):
    """Construct `cache(**arguments)` in slot `a`."""
    return Construct(cache=cache, args=arguments)


def rows(count, head_dim=1, dtype="float32", start=0):
    """Return the recipe of an array of shape [1, 1, count, head_dim]."""
    return Rows(shape=(1, 1, count, head_dim), dtype=dtype, start=start)


def update(count, head_dim=1, dtype="float32", start=0):
    """Update with `count` tokens, whose numbers begin at `start`; values differ from keys."""
    keys = rows(count, head_dim, dtype, start)
    return Update(keys=keys, values=rows(count, head_dim, dtype, start + 100))
