"""Putting batches together and taking them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from material import rows
from pairs import Pair

SEQUENCES = 4
HEADS, HEAD_DIM = 8, 128

each_class = pytest.mark.parametrize(
    "name", ["BatchKVCache", "BatchRotatingKVCache", "ArraysCache", "CacheList"]
)
each_length = pytest.mark.lengths(256, 2_048, tiny=16)


def alone(cache: Any, name: str, length: int, longest: int) -> Any:
    """The cache of one sequence of that many tokens, as the class of batches takes it in."""
    if name == "CacheList":
        return cache.CacheList(*(alone(cache, "BatchKVCache", length, longest) for _ in range(2)))
    if name == "ArraysCache":
        made = cache.ArraysCache(2)
        made[0], made[1] = rows(1, HEADS, length, HEAD_DIM)
        return made
    ring = name == "BatchRotatingKVCache"
    made = cache.RotatingKVCache(max_size=longest) if ring else cache.KVCache()
    mx.eval(made.update_and_fetch(*rows(1, HEADS, length, HEAD_DIM)))
    return made


def four(cache: Any, name: str, length: int, longest: int) -> list[Any]:
    """Caches of four sequences, each one shorter than the one before.

    The slots of an `ArraysCache` have no lengths of their own.
    """
    shorter = 0 if name == "ArraysCache" else length // 8
    lengths = [length - shorter * number for number in range(SEQUENCES)]
    return [alone(cache, name, one, longest) for one in lengths]


def batch(cache: Any, name: str, length: int, longest: int) -> Any:
    """A batch of four sequences; a ring is full if the longest fills it, and is turned by one."""
    merged = getattr(cache, name).merge(four(cache, name, length, longest))
    mx.eval(state(merged))
    if name == "BatchRotatingKVCache":
        mx.eval(merged.update_and_fetch(*rows(SEQUENCES, HEADS, 1, HEAD_DIM)))
    return merged


def state(cache: Any) -> list[mx.array]:
    """All arrays of a cache, which are computed when they are evaluated."""
    if hasattr(cache, "caches"):
        return [array for one in cache.caches for array in state(one)]
    found = [*cache.cache, cache.left_padding] if hasattr(cache, "cache") else vars(cache).values()
    return [one for one in found if isinstance(one, mx.array)]


def merging(name: str, length: int) -> Callable[[Any], Callable[[], Any]]:
    """The merging of four sequences, evaluated."""

    def prepare(cache: Any) -> Callable[[], Any]:
        made = four(cache, name, length, length)
        kind = getattr(cache, name)

        def merge() -> Any:
            merged = kind.merge(made)
            mx.eval(state(merged))
            return merged

        return merge

    return prepare


@pytest.mark.both_limits
@each_class
@each_length
def test_merge(pair: Pair, name: str, length: int) -> None:
    """Four sequences of four lengths become a batch; 8 heads of 128."""
    pair(merging(name, length))


@pytest.mark.parametrize("name", ["BatchKVCache", "CacheList"])
@pytest.mark.lengths(256, tiny=16)
def test_merge_floor(pair: Pair, name: str, length: int) -> None:
    """The same of bare buffers, written into zeros in words of eight bytes."""

    def bare(cache: Any) -> Callable[[], Any]:
        made = four(cache, name, length, length)
        layers = zip(*(one.caches for one in made), strict=True) if name == "CacheList" else [made]
        known = [[(one.keys, one.values, one.offset) for one in layer] for layer in layers]

        def merge() -> list[mx.array]:
            merged = [array for parts in known for array in stacked(parts)]
            mx.eval(merged)
            return merged

        return merge

    pair(bare, merging(name, length))


def stacked(parts: list[tuple[mx.array, mx.array, int]]) -> list[mx.array]:
    """Keys and values of four sequences in one batch, their padding and their offsets."""
    columns = max(length for _, _, length in parts)
    shape = SEQUENCES, HEADS, columns, HEAD_DIM // 4
    merged = [mx.zeros(shape, mx.uint64), mx.zeros(shape, mx.uint64)]
    for row, (keys, values, length) in enumerate(parts):
        for whole, rows_of in zip(merged, (keys, values), strict=True):
            whole[row : row + 1, :, columns - length :] = rows_of.view(mx.uint64)[:, :, :length]
    padding = mx.array([columns - length for _, _, length in parts])
    return [*(whole.view(mx.float16) for whole in merged), padding, columns - padding]


@pytest.mark.both_limits
@each_class
@each_length
def test_extend(pair: Pair, name: str, length: int) -> None:
    """A batch of four takes in another four, which are shorter; 8 heads of 128."""

    def prepare(cache: Any) -> Callable[[], Any]:
        shorter = 0 if name == "ArraysCache" else length // 4
        first = batch(cache, name, length, length)
        second = batch(cache, name, length - shorter, length)

        def extend() -> Any:
            first.extend(second)
            mx.eval(state(first))
            return first

        return extend

    pair(prepare)


def extracting(name: str, length: int) -> Callable[[Any], Callable[[], Any]]:
    """The extracting of four sequences, evaluated."""

    def prepare(cache: Any) -> Callable[[], Any]:
        whole = batch(cache, name, length, length)

        def extract() -> list[Any]:
            parts = [whole.extract(number) for number in range(SEQUENCES)]
            mx.eval([state(one) for one in parts])
            return parts

        return extract

    return prepare


@pytest.mark.both_limits
@each_class
@each_length
def test_extract(pair: Pair, name: str, length: int) -> None:
    """Each of four sequences taken out of a batch; 8 heads of 128."""
    pair(extracting(name, length))


@pytest.mark.parametrize("name", ["ArraysCache"])
@each_length
def test_extract_floor(pair: Pair, name: str, length: int) -> None:
    """The same of bare arrays: four rows cut out of each, and evaluated."""

    def bare(cache: Any) -> Callable[[], Any]:
        arrays = batch(cache, name, length, length).cache

        def extract() -> list[list[mx.array]]:
            parts = [[one[row : row + 1] for one in arrays] for row in range(SEQUENCES)]
            mx.eval(parts)
            return parts

        return extract

    pair(bare, extracting(name, length))


@pytest.mark.both_limits
@pytest.mark.parametrize("name", ["BatchKVCache", "BatchRotatingKVCache"])
@pytest.mark.lengths(512, 4_096, tiny=16)
def test_finalize(pair: Pair, name: str, length: int) -> None:
    """Right padding moves to the left in a batch of four; 8 heads of 128, 34 MB at the most."""
    padding = [0, 1, length // 8, length // 2]
    lengths = [length - one for one in padding]

    def prepare(cache: Any) -> Callable[[], Any]:
        none = [0] * SEQUENCES
        if name == "BatchKVCache":
            padded = cache.BatchKVCache(none)
        else:
            padded = cache.BatchRotatingKVCache(length, none)
        padded.prepare(lengths=lengths, right_padding=padding)
        mx.eval(padded.update_and_fetch(*rows(SEQUENCES, HEADS, length, HEAD_DIM)))

        def finalize() -> Any:
            padded.finalize()
            mx.eval(state(padded))
            return padded

        return finalize

    pair(prepare)
