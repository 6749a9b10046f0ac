"""Decoding a token.

The caches of a side decode on from turn to turn, with new rows each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache as once
from typing import Any

import mlx.core as mx
import pytest
from material import CLASSES, batch_of, filled, rows, step
from pairs import Pair

LAYERS = 32
# Evaluated steps in a measured run.
STEPS = 8

each_class = pytest.mark.parametrize("name", CLASSES)


@pytest.mark.benchmark(timer=time.process_time)
@each_class
def test_dispatch(pair: Pair, name: str, size: Any) -> None:
    """Python's share of a step of 32 layers: nothing is evaluated."""
    layers_of = once(lambda cache: filled(cache, name, size(LAYERS, 2), 64, 1, 64))

    def prepare(cache: Any) -> Callable[[], Any]:
        layers = layers_of(cache)
        mx.eval([layer.state for layer in layers])
        keys, values = rows(batch_of(name), 1, 1, 64)

        def decode() -> list[Any]:
            step(name, layers, keys, values)
            return layers

        return decode

    pair(prepare, unit="step")


class BareConcatenate:
    """The calls of MLX in an update of a `ConcatenateKVCache`, unchecked."""

    def __init__(self, cache: Any) -> None:
        self.keys, self.values, self.offset = cache.keys, cache.values, cache.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append rows."""
        self.keys = keys = mx.concatenate([self.keys, keys], 2)
        self.values = values = mx.concatenate([self.values, values], 2)
        self.offset += 1
        return keys, values


class BareArrays:
    """The same of an `ArraysCache`, whose one token is an array already."""

    def __init__(self, cache: Any) -> None:
        self.cache, self.left_padding = cache.cache, cache.left_padding
        self.one = mx.ones_like(self.left_padding)

    def __getitem__(self, slot: int) -> Any:
        return self.cache[slot]

    def __setitem__(self, slot: int, array: mx.array) -> None:
        self.cache[slot] = array

    def advance(self, _tokens: int) -> None:
        """Count one token."""
        self.left_padding -= self.one


BARE: dict[str, Any] = {"ConcatenateKVCache": BareConcatenate, "ArraysCache": BareArrays}


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", BARE)
def test_dispatch_floor(pair: Pair, name: str, size: Any) -> None:
    """The same of bare objects that call MLX as often and check nothing."""
    filled_once = once(lambda cache: filled(cache, name, size(LAYERS, 2), 64, 1, 64))
    bare_once = once(lambda cache: list(map(BARE[name], filled_once(cache))))

    def decoding(layers: list[Any]) -> Callable[[], Any]:
        mx.eval([vars(layer) for layer in layers])
        keys, values = rows(batch_of(name), 1, 1, 64)
        return lambda: step(name, layers, keys, values)

    def bare(cache: Any) -> Callable[[], Any]:
        return decoding(bare_once(cache))

    def whole(cache: Any) -> Callable[[], Any]:
        return decoding(filled_once(cache))

    pair(bare, whole, unit="step")


@each_class
@pytest.mark.lengths(256, 4_096, tiny=8)
def test_decode(pair: Pair, name: str, length: int, size: Any) -> None:
    """A step of 32 layers, evaluated; 2 heads of 128, the context is in the cache."""
    layers_of = once(lambda cache: filled(cache, name, size(LAYERS, 2), length, 2, 128))
    steps = size(STEPS, 2)

    def prepare(cache: Any) -> Callable[[], Any]:
        layers = layers_of(cache)
        keys, values = rows(batch_of(name), 2, 1, 128)

        def decode() -> list[Any]:
            for _ in range(steps):
                mx.eval(step(name, layers, keys, values))
            return layers

        return decode

    pair(prepare, unit="step", per=steps)


@pytest.mark.both_limits
@pytest.mark.lengths(512, 2_048, 8_192, tiny=8)
def test_saturated_chunk(pair: Pair, length: int, size: Any) -> None:
    """A full ChunkedKVCache forgets its first token for each new one; 8 heads of 128.

    More tokens than a window can slide before its rows are moved: what that costs is in here.
    """
    count = size(320, 4)

    def prepare(cache: Any) -> Callable[[], Any]:
        chunked = cache.ChunkedKVCache(chunk_size=length)
        mx.eval(chunked.update_and_fetch(*rows(1, 8, length, 128)))
        keys, values = rows(1, 8, 1, 128)

        def decode() -> Any:
            for _ in range(count):
                chunked.maybe_trim_front()
                mx.eval(chunked.update_and_fetch(keys, values))
            return chunked

        return decode

    pair(prepare, unit="token", per=count, turns=2)
