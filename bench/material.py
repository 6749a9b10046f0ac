"""What the benches work on: rows, tokens, and a cache of each class for a context."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx

# A chunk that is never full.
ENOUGH = 1 << 16

# How each class is made for a context of that many tokens: a ring is full with it.
SEQUENCES: dict[str, Callable[[Any, int], Any]] = {
    "KVCache": lambda cache, _: cache.KVCache(),
    "ConcatenateKVCache": lambda cache, _: cache.ConcatenateKVCache(),
    "RotatingKVCache": lambda cache, context: cache.RotatingKVCache(max_size=context, keep=4),
    "ChunkedKVCache": lambda cache, _: cache.ChunkedKVCache(chunk_size=ENOUGH),
    "QuantizedKVCache": lambda cache, _: cache.QuantizedKVCache(),
}
BATCHES: dict[str, Callable[[Any, int], Any]] = {
    "BatchKVCache": lambda cache, _: cache.BatchKVCache([0, 3]),
    "BatchRotatingKVCache": lambda cache, context: cache.BatchRotatingKVCache(context, [0, 3]),
    "ArraysCache": lambda cache, _: cache.ArraysCache(2, left_padding=[0, 3]),
    "CacheList": lambda cache, _: cache.CacheList(cache.KVCache(), cache.KVCache()),
}
CLASSES = SEQUENCES | BATCHES


def rows(batch: int, heads: int, tokens: int, head_dim: int) -> tuple[mx.array, mx.array]:
    """Keys and values, float16, that nobody else holds, evaluated; each row is another one."""
    shape = batch, heads, tokens, head_dim
    numbers = mx.arange(tokens)[:, None] % 1021 + mx.arange(head_dim) / head_dim
    keys = mx.contiguous(mx.broadcast_to(numbers.astype(mx.float16), shape))
    values = -keys
    mx.eval(keys, values)
    return keys, values


def batch_of(name: str) -> int:
    """The sequences in a cache of that class as it is made here."""
    return 2 if name in BATCHES and name != "CacheList" else 1


def step(name: str, layers: list[Any], keys: mx.array, values: mx.array) -> list[Any]:
    """One update of each layer, as a model makes it; returns what was fetched."""
    if name == "CacheList":
        return [
            (layer[0].update_and_fetch(keys, values), layer[1].update_and_fetch(keys, values))
            for layer in layers
        ]
    if name == "ChunkedKVCache":
        for layer in layers:
            layer.maybe_trim_front()
    if name != "ArraysCache":
        return [layer.update_and_fetch(keys, values) for layer in layers]
    fetched = []
    for layer in layers:
        layer[0] = keys
        layer[1] = values
        layer.advance(1)
        fetched.append((layer[0], layer[1]))
    return fetched


def filled(
    cache: Any, name: str, layers: int, context: int, heads: int, head_dim: int
) -> list[Any]:
    """That many caches with so many tokens and one more, which makes room for the next ones.

    Each is fed rows of its own: a ring keeps the arrays that it is given first.
    """
    batch = batch_of(name)
    made = [CLASSES[name](cache, context) for _ in range(layers)]
    for one in made:
        mx.eval(step(name, [one], *rows(batch, heads, context, head_dim)))
        mx.eval(step(name, [one], *rows(batch, heads, 1, head_dim)))
    return made


def tokens(count: int, seed: int = 0) -> list[int]:
    """Ids as of a vocabulary of 150,000, the same for the same seed."""
    return random.Random(seed).choices(range(150_000), k=count)
