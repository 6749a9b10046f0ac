"""The barrier of `prefill` between two chunks, against a prefill without it.

Both are the port's. Rings hold the same number of tokens however long the prompt is, so that what
grows is not theirs. Standard caches grow, and so does the attention of a chunk to all before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import pytest
from pairs import Pair
from small_model import LAYERS, VOCABULARY, SmallModel

import mlxkv

CHUNK = 128

CACHES: dict[str, Callable[[Any], Any]] = {
    "RotatingKVCache": lambda cache: cache.RotatingKVCache(max_size=CHUNK),
    "KVCache": lambda cache: cache.KVCache(),
}


@pytest.fixture(scope="module")
def model(settings: Any) -> SmallModel:  # noqa: ARG001 - the device comes first
    return SmallModel()


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.lengths(512, 1_024, 2_048, tiny=256)
def test_barrier(pair: Pair, name: str, length: int, model: SmallModel) -> None:
    """Prefill 4 layers of 4 heads of 32 in chunks of 128, with the barrier against without it."""

    def prepare(_: Any) -> Callable[[], Any]:
        tokens = mx.arange(length + 1) % VOCABULARY
        mx.eval(tokens)
        caches = [CACHES[name](pair.port) for _ in range(LAYERS)]
        return lambda: mlxkv.prefill(model, tokens, caches, CHUNK)

    def prepare_without(_: Any) -> Callable[[], Any]:
        fill = prepare(_)

        def run() -> Any:
            with patch("mlxkv._prefill.materialize"):
                return fill()

        return run

    pair(prepare, prepare_without, other="no barrier", unit="prefill", turns=2)
