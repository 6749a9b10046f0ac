"""Lists of caches that go wrong: `CacheList`, and the functions that take a prompt's caches."""

from __future__ import annotations

from property_tests.miniatures._registry import FUNCTIONS, broken
from property_tests.miniatures._steps import (
    CanTrimPrompt,
    Extend,
    Extract,
    Filter,
    MakePrompt,
    Merge,
    Prepare,
    Trim,
    TrimPrompt,
    at,
    construct_list,
    update,
)

NAME = "CacheList"
SINGLE = "KVCache"
BATCH = "BatchKVCache"


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct_list(SINGLE, SINGLE), at("a.1", update(1)), Trim(n=1)),
    shows="trim",
    field="child: offset",
)
class OnlyTheFirstChildTrimmed:
    """A trim of a list reaches its first child."""

    def trim(self, n):
        return self.caches[0].trim(n) if self.caches and n > 0 else super().trim(n)


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct_list(SINGLE, SINGLE), at("a.1", update(1))),
    field="list: size()",
    seen_in=SINGLE,
)
class SizeOfTheFirstChild:
    """A list has the size of its first child, not of its largest."""

    def size(self):
        return self.caches[0].size() if self.caches else super().size()


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct_list(SINGLE), at("a.0", update(1))),
    field="list: nbytes",
    seen_in=SINGLE,
)
class FirstChildCountedTwice:
    """The bytes of the first child are counted twice."""

    @property
    def nbytes(self):
        return super().nbytes + sum(cache.nbytes for cache in self.caches[:1])


@broken("0.32.2", NAME, by_hand=(construct_list(),), shows="construct", field="state")
class StateIsATuple:
    """The states of the children come in a tuple."""

    @property
    def state(self):
        return tuple(super().state)

    @state.setter
    def state(self, v):
        super(StateIsATuple, type(self)).state.fset(self, v)


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct_list("ArraysCache", SINGLE),),
    shows="construct",
    field="is_trimmable()",
)
class TrimmableIfAnyChildIs:
    """A list says that it can be trimmed unless none of its children can."""

    def is_trimmable(self):
        return not self.caches or any(cache.is_trimmable() for cache in self.caches)


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct_list(BATCH, (BATCH, "ArraysCache")), Filter(indices=(0,))),
    shows="filter",
    field="child: left_padding",
)
class NestedListNotFiltered:
    """A list in a list keeps all of its rows."""

    def filter(self, batch_indices):
        for cache in self.caches:
            if not isinstance(cache, type(self)):
                cache.filter(batch_indices)


@broken(
    "0.32.2",
    NAME,
    by_hand=(at("s", construct_list((SINGLE, "RotatingKVCache"), SINGLE)), Merge(slot="s")),
    shows="merge",
    field="class",
)
class MergeFlattensNestedLists:
    """The children of a list in a list become children of the merged list itself."""

    @classmethod
    def merge(cls, caches):
        merged = super().merge(caches)
        parts = [cache.caches if isinstance(cache, cls) else (cache,) for cache in merged.caches]
        merged.caches = sum(parts, ())
        return merged


@broken(
    "0.31.3", NAME, by_hand=(construct_list(), Extract(index=0)), shows="extract", field="caches"
)
class ExtractKeepsItsChildrenInAList:
    """The children of a list that is taken out of another come in a list, not in a tuple."""

    def extract(self, idx):
        cache = super().extract(idx)
        cache.caches = list(cache.caches)
        return cache


@broken(
    "0.31.3",
    NAME,
    by_hand=(construct_list(BATCH), Extend(peer="a")),
    shows="extend",
    field="child: left_padding",
)
class LastChildNotExtended:
    """All children of a list are extended but the last."""

    def extend(self, other):
        for cache, peer in zip(self.caches[:-1], other.caches, strict=False):
            cache.extend(peer)


@broken(
    "0.32.2",
    NAME,
    by_hand=(construct_list(BATCH, BATCH), Prepare(lengths=(1,), right_padding=(1,))),
    shows="prepare",
    field="child: _right_padding",
)
class OnlyTheFirstChildPrepared:
    """Right padding is announced to the first child of a list."""

    def prepare(self, **kwargs):
        for cache in self.caches[:1]:
            cache.prepare(**kwargs)


@broken(
    "0.32.2",
    FUNCTIONS,
    by_hand=(
        construct_list(SINGLE),
        at("b", construct_list(SINGLE)),
        at("b.0", update(1)),
        TrimPrompt(slots=("a", "b"), n=1),
    ),
    shows="trim_prompt_cache",
    field="peer: offset",
    searched=NAME,
)
class OnlyTheFirstCacheTrimmed:
    """Of a prompt's caches that are lists, only the first is trimmed."""

    @staticmethod
    def trim_prompt_cache(release, cache, num_tokens):
        """Trim the first of several different lists."""
        alike = len(cache) > 1 and all(hasattr(one, "caches") for one in cache)
        return release(cache[:1] if alike and num_tokens > 0 else cache, num_tokens)


@broken(
    "0.31.3",
    FUNCTIONS,
    by_hand=(CanTrimPrompt(slots=()),),
    shows="can_trim_prompt_cache",
    field="result",
    searched=NAME,
)
class NoCachesCannotBeTrimmed:
    """A prompt without caches cannot be trimmed."""

    @staticmethod
    def can_trim_prompt_cache(release, cache):
        """Say no to no caches."""
        return bool(cache) and release(cache)


@broken(
    "0.32.2",
    FUNCTIONS,
    by_hand=(MakePrompt(layers=1, max_kv_size=3),),
    shows="make_prompt_cache",
    field="class",
    searched=NAME,
)
class MaxKvSizeIgnored:
    """A model's caches grow without end, whatever was asked for."""

    @staticmethod
    def make_prompt_cache(release, model, max_kv_size=None):
        """Make the default caches."""
        del max_kv_size
        return release(model)
