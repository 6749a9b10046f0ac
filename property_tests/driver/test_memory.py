"""A prefill needs the memory of one chunk, however many there are."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import mlx.core as mx
import pytest
from bench.small_model import LAYERS, VOCABULARY, SmallModel

from mlxkv import prefill

CHUNK = 64


def peak(model: SmallModel, cache: list[Any], chunks: int) -> int:
    """The bytes that a prompt of so many chunks takes at most, beyond what is there before."""
    tokens = mx.arange(chunks * CHUNK + 1) % VOCABULARY
    mx.eval(tokens)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    prefill(model, tokens, cache, CHUNK)
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("barrier", [True, False])
def test_flat_in_the_number_of_chunks(
    contract: ModuleType, barrier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rings, whose size is the same, the peak is; without the barrier it grows."""
    if not barrier:
        monkeypatch.setattr("mlxkv._prefill.materialize", lambda _: None)
    model = SmallModel()

    def rings() -> list[Any]:
        return [contract.RotatingKVCache(max_size=CHUNK) for _ in range(LAYERS)]

    few, many = peak(model, rings(), 4), peak(model, rings(), 16)
    assert (many < 1.1 * few) is barrier
    assert (many > 1.5 * few) is not barrier


class Forgetful:
    """A model whose layers forget all but their last chunk before each update."""

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        rows = mx.zeros((1, 4, tokens.shape[1], 64))
        for one in cache:
            one.maybe_trim_front()
            one.update_and_fetch(rows, rows)
        return mx.zeros((*tokens.shape, 5))


def test_chunked_caches_hold_their_chunk(contract: ModuleType) -> None:
    """A cache that forgets is not given room for the whole prompt."""

    def held(chunks: int) -> int:
        rows = contract.KVCache.step  # 0.31 trims what is full.
        cache = contract.ChunkedKVCache(rows)
        before = mx.get_active_memory()
        prefill(Forgetful(), mx.zeros(chunks * rows + 1, mx.int32), [cache], rows)
        mx.clear_cache()
        return mx.get_active_memory() - before

    assert held(32) < 2 * held(4)
