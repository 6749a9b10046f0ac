"""Steps for the traces that were found by hand: one batch, one head, and short to write."""

from __future__ import annotations

from msgspec.structs import replace

from kvlockstep._prompt_steps import (
    AppendTokens,
    CanTrimPrompt,
    LruFetch,
    LruInsert,
    LruTrim,
    MakePrompt,
    TrieAdd,
    TriePop,
    TriePopPrefixes,
    TrieSearch,
    TrimPrompt,
)
from kvlockstep._recipes import Bits, Literals, Rows
from kvlockstep._steps import (
    Advance,
    AttentionMask,
    CausalMask,
    Construct,
    Extend,
    Extract,
    Fetch,
    Filter,
    Finalize,
    FrontTrim,
    Hold,
    Made,
    Mask,
    Merge,
    Prepare,
    Quantize,
    Reload,
    SetItem,
    SetState,
    Transfer,
    Trim,
    Update,
)

__all__ = [
    "Advance",
    "AppendTokens",
    "AttentionMask",
    "Bits",
    "CanTrimPrompt",
    "CausalMask",
    "Extend",
    "Extract",
    "Fetch",
    "Filter",
    "Finalize",
    "FrontTrim",
    "Hold",
    "Literals",
    "LruFetch",
    "LruInsert",
    "LruTrim",
    "Made",
    "MakePrompt",
    "Mask",
    "Merge",
    "Prepare",
    "Quantize",
    "Reload",
    "SetItem",
    "SetState",
    "Transfer",
    "TrieAdd",
    "TriePop",
    "TriePopPrefixes",
    "TrieSearch",
    "Trim",
    "TrimPrompt",
    "Update",
    "at",
    "construct",
    "construct_list",
    "rows",
    "update",
]


def construct(cache, **arguments):
    """Construct `cache(**arguments)` in slot `a`."""
    return Construct(cache=cache, args=arguments)


def construct_list(*children):
    """Construct a list in slot `a`; a child is a name, or a tuple of names for a list in it."""
    return Construct(cache="CacheList", children=tuple(map(_made, children)))


_ARGUMENTS = {
    "ArraysCache": {"size": 2},
    "BatchKVCache": {"left_padding": (0, 1)},
    "RotatingKVCache": {"max_size": 4},
}


def _made(child):
    if isinstance(child, tuple):
        return Made(cache="CacheList", children=tuple(map(_made, child)))
    return Made(cache=child, args=_ARGUMENTS.get(child, {}))


def at(slot, step):
    """Return `step` on another slot."""
    return replace(step, slot=slot)


def rows(count, head_dim=1, dtype="float32", start=0):
    """Return the recipe of an array of shape [1, 1, count, head_dim]."""
    return Rows(shape=(1, 1, count, head_dim), dtype=dtype, start=start)


def update(count, head_dim=1, dtype="float32", start=0):
    """Update with `count` tokens, whose numbers begin at `start`; values differ from keys."""
    keys = rows(count, head_dim, dtype, start)
    return Update(keys=keys, values=rows(count, head_dim, dtype, start + 100))
