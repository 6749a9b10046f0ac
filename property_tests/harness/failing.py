"""Steps that fail half done in the releases, with what goes before and after them."""

from __future__ import annotations

from property_tests.harness.ports import construct, update

from kvlockstep._prompt_steps import AppendTokens, LruFetch, LruInsert, LruTrim
from kvlockstep._recipes import Rows
from kvlockstep._steps import (
    Construct,
    Extend,
    Extract,
    Filter,
    GetItem,
    Made,
    Prepare,
    SetItem,
    Trim,
    Update,
)

KV = Made(cache="KVCache")
ARRAYS = Made(cache="ArraysCache", args={"size": 1})
LRU = construct("LRUPromptCache", max_size=2)


def ring(slot: str, *fed: int, dim: int = 2):
    """Return a batch ring of one row and its updates."""
    yield construct("BatchRotatingKVCache", slot, max_size=4, left_padding=(0,))
    for number, tokens in enumerate(fed):
        rows = Rows(shape=(1, 2, tokens, dim), start=7 * number)
        yield Update(slot=slot, keys=rows, values=rows)


def listed(slot: str, *children: Made) -> Construct:
    """Return the construction of a list."""
    return Construct(slot=slot, cache="CacheList", children=children)


BATCHED = Made(cache="BatchKVCache", args={"left_padding": (0,)})
SINGLE_HEAD = Rows(shape=(1, 1, 1, 2))
ROTATED = 3, 1, 1
PAIR = listed("a", KV, ARRAYS)

# What fails half done in the releases: the steps before it, the step, and steps that go on.
FAILING = {
    "extend that put itself in order": (
        [*ring("a", *ROTATED), *ring("b", 2, dim=3)],
        Extend(),
        [update(1), update(1), Extract(index=0), update(1, "e")],
    ),
    "extend that put its peer in order": (
        [*ring("a", 2, dim=3), *ring("b", *ROTATED)],
        Extend(),
        [update(1, "b"), update(3, "b"), Extract(slot="b", index=0)],
    ),
    "extend of lists that reached the first child": (
        [listed("a", BATCHED, BATCHED), listed("b", BATCHED, BATCHED),
         *(update(2, f"{slot}.{i}") for slot in "ab" for i in (0, 1) if slot + str(i) != "b1"),
         Update(slot="b.1", keys=SINGLE_HEAD, values=SINGLE_HEAD)],
        Extend(),
        [update(1, "a.0"), update(1, "a.1"), update(1, "b.0"), Trim(slot="b", n=1)],
    ),
    "trim of a list whose second child cannot": (
        [PAIR, update(3, "a.0"), SetItem(slot="a.1", index=0, value=Rows(shape=(1, 2)))],
        Trim(n=2),
        [update(1, "a.0"), GetItem(slot="a.1", index=0), Trim(slot="a.0", n=1)],
    ),
    "trim of a nested list": (
        [listed("a", KV, Made(cache="CacheList", children=(KV, ARRAYS))),
         update(3, "a.0"), update(3, "a.1.0")],
        Trim(n=2),
        [update(1, "a.0"), update(2, "a.1.0"), Trim(slot="a.1.0", n=1)],
    ),
    "trim of a list by a fraction": (
        [listed("a", BATCHED, ARRAYS), update(3, "a.0")],
        Trim(n=1.5),
        [Filter(slot="a.0", indices=(0, 0)), update(1, "a.0", batch=2)],
    ),
    "filter of a list whose second child cannot": (
        [listed("a", BATCHED, KV), update(3, "a.0"), update(3, "a.1")],
        Filter(indices=(0, 0)),
        [update(1, "a.0"), update(1, "a.1"), Trim(slot="a.0", n=1)],
    ),
    "prepare of a list whose second child cannot": (
        [listed("a", BATCHED, KV), update(2, "a.1")],
        Prepare(right_padding=(1,), lengths=(1,)),
        [update(2, "a.0"), update(1, "a.0")],
    ),
    "update that wrote the keys": (
        [construct(), update(3)],
        Update(keys=Rows(shape=(1, 2, 1, 2), start=90), values=Rows(shape=(1, 2, 1, 3))),
        [update(1, start=5), update(4), Trim(n=2)],
    ),
    "tokens of another kind": (
        [construct("TokenBuffer"), AppendTokens(tokens=(4, 5, 6))],
        AppendTokens(tokens=(7, 8), as_list=True),
        [AppendTokens(tokens=(9,)), AppendTokens(tokens=(1, 2, 3))],
    ),
    "insertion of an unknown type": (
        [LRU, construct(slot="s"), update(2, "s"), LruInsert(tokens=(1, 2), caches=("s",))],
        LruInsert(tokens=(1, 2), caches=("s",), cache_type="tool"),
        [LruFetch(tokens=(1, 2, 3)), update(1, "f0"), LruInsert(tokens=(4,), caches=("f0",)),
         LruTrim(n_sequences=1), LruFetch(tokens=(1, 2))],
    ),
}  # fmt: skip
