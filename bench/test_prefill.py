"""Peak memory of a prefill, by the number of its chunks, with and without the barrier.

Rings hold the same number of tokens however long the prompt is, so that what grows is not theirs.
Standard caches grow, and so does the attention of a chunk to all before it. No handle on a buffer
is held across an evaluation, for it would make MLX copy what it writes in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import pytest
from small_model import LAYERS, VOCABULARY, SmallModel

from mlxkv import mlx_lm_0_31, mlx_lm_0_32, prefill

CHUNK = 128
CHUNKS = (4, 8, 16, 24)
PEAK = "peak_bytes"

RELEASES = {"0.31.3": mlx_lm_0_31, "0.32.2": mlx_lm_0_32}
CACHES: dict[str, Callable[[Any], Any]] = {
    "RotatingKVCache": lambda module: module.RotatingKVCache(max_size=CHUNK),
    "KVCache": lambda module: module.KVCache(),
}

Peaks = dict[tuple[str, str, str], dict[int, int]]


@pytest.fixture(scope="module")
def model(settings: Any) -> SmallModel:  # noqa: ARG001 - the device comes first
    return SmallModel()


@pytest.fixture(scope="module")
def peaks() -> Peaks:
    """Peaks by release, cache and barrier, then by the number of chunks."""
    return {}


@pytest.mark.benchmark(disable_gc=True)
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("barrier", ["barrier", "no barrier"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("release", RELEASES)
def test_prefill(
    release: str,
    cache: str,
    barrier: str,
    chunks: int,
    model: SmallModel,
    peaks: Peaks,
    benchmark: Any,
) -> None:
    """A prompt of so many chunks; flat with the barrier, and growing without it."""
    seen = peaks.setdefault((release, cache, barrier), {})

    def begin() -> tuple[tuple[Any, list[Any]], dict[str, Any]]:
        tokens = mx.arange(chunks * CHUNK + 1) % VOCABULARY
        mx.eval(tokens)
        mx.clear_cache()
        mx.reset_peak_memory()
        return (tokens, [CACHES[cache](RELEASES[release]) for _ in range(LAYERS)]), {}

    def fill(tokens: mx.array, caches: list[Any]) -> None:
        before = mx.get_active_memory()
        prefill(model, tokens, caches, CHUNK)
        seen[chunks] = mx.get_peak_memory() - before

    benchmark.group = f"prefill {release} {cache} {chunks}"
    if barrier == "barrier":
        benchmark.pedantic(fill, setup=begin)
    else:
        with patch("mlxkv._prefill.materialize"):
            benchmark.pedantic(fill, setup=begin)
    benchmark.extra_info[PEAK] = seen[chunks]
    if chunks == CHUNKS[-1] and cache == "RotatingKVCache" and CHUNKS[0] in seen:
        growth = seen[chunks] / seen[CHUNKS[0]]
        assert growth < 1.1 if barrier == "barrier" else growth > 2
