"""Filling a cache with a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from material import CLASSES, batch_of, rows, step
from pairs import Pair

CHUNK = 512

# All but those that the same rows would not go into.
FED = [name for name in CLASSES if name != "ArraysCache"]


def prefill(
    pair: Pair, name: str, length: int, chunk: int, heads: int, announced: bool = False
) -> None:
    """Measure a prefill of one cache in chunks, each evaluated, its length announced or not."""

    def prepare(cache: Any) -> Callable[[], Any]:
        made = CLASSES[name](cache, length // 2)
        keys, values = rows(batch_of(name), heads, chunk, 128)

        def fill() -> Any:
            if announced and cache is pair.port:
                made.reserve(length)
            for _ in range(0, length, chunk):
                mx.eval(step(name, [made], keys, values))
            return made

        return fill

    pair(prepare, unit="prefill")


@pytest.mark.both_limits
@pytest.mark.lengths(4_096, 16_384, tiny=16)
def test_announced(pair: Pair, length: int, size: Any) -> None:
    """KVCache in chunks of 512, the port told of the length by `reserve`; 8 heads of 128."""
    if not hasattr(getattr(pair.port, "KVCache", None), "reserve"):
        pytest.skip("the target has no reserve")
    prefill(pair, "KVCache", length, size(CHUNK, 8), 8, announced=True)


@pytest.mark.both_limits
@pytest.mark.lengths(4_096, 16_384, tiny=16)
def test_not_announced(pair: Pair, length: int, size: Any) -> None:
    """KVCache in chunks of 512, no length announced; 8 heads of 128."""
    prefill(pair, "KVCache", length, size(CHUNK, 8), 8)


@pytest.mark.parametrize("name", [name for name in FED if name != "KVCache"])
@pytest.mark.lengths(4_096, tiny=16)
def test_class(pair: Pair, name: str, length: int, size: Any) -> None:
    """The other classes, a ring or chunk half as long, no length announced; 2 heads of 128."""
    prefill(pair, name, length, size(CHUNK, 8), 2)


@pytest.mark.both_limits
@pytest.mark.parametrize("name", ["RotatingKVCache", "BatchRotatingKVCache"])
@pytest.mark.lengths(512, 2_048, 8_192, tiny=16)
def test_after_wrap(pair: Pair, name: str, length: int, size: Any) -> None:
    """16 tokens at once into a full ring that decoding has turned by a third; 8 heads of 128."""
    turned = length // 3

    def prepare(cache: Any) -> Callable[[], Any]:
        ring = CLASSES[name](cache, length)
        batch = batch_of(name)
        mx.eval(step(name, [ring], *rows(batch, 8, length, 128)))
        one = rows(batch, 8, 1, 128)
        for _ in range(turned):
            mx.eval(step(name, [ring], *one))
        some = rows(batch, 8, size(16, 2), 128)

        def update() -> Any:
            mx.eval(step(name, [ring], *some))
            return ring

        return update

    pair(prepare, unit="update")
