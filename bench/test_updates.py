"""One update of each class, the port's and the release's.

The two sides take turns within one run, first the one, then the other: the load of a shared
machine falls on both, and the ratio within a turn is what counts. No handle on a buffer is held
across an evaluation, for it would make MLX copy what it writes in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from kvlockstep._contract import contract_of
from kvlockstep._settings import Settings
from kvlockstep._targets import load_target

# How each class is made for a context of that many tokens: rings and chunks are full with it.
CLASSES: dict[str, Callable[[type, int], Any]] = {
    "KVCache": lambda cls, _: cls(),
    "ConcatenateKVCache": lambda cls, _: cls(),
    "RotatingKVCache": lambda cls, context: cls(max_size=context),
    "ChunkedKVCache": lambda cls, context: cls(chunk_size=context),
    "QuantizedKVCache": lambda cls, _: cls(),
}
# Each side goes first as often as the other.
TURNS = [
    pytest.param(side, id=f"{side}-{turn}")
    for turn in range(8)
    for side in (("port", "reference") if turn % 2 else ("reference", "port"))
]
# In a timed round of dispatch, for one is too short for the clock and ends before a growth.
UPDATES = 8
SHORT = 64
# Evaluated together, as a model does: the hand-over to MLX's own thread weighs less.
LAYERS = 8
# Of decoding by the length of the context, fewer than the rows after which a buffer grows again.
ROUNDS = {256: 80, 4096: 8}

pytestmark = pytest.mark.benchmark(disable_gc=True)
in_turns = pytest.mark.parametrize("side", TURNS)
each_class = pytest.mark.parametrize("cache", CLASSES)
each_contract = pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])


@pytest.fixture
def make(release: str, cache: str, side: str, settings: Settings) -> Callable[[int], Any]:
    """Make an empty cache of that side for a context."""
    module = load_target(settings.target, release).module
    if not hasattr(module, cache):
        pytest.skip(f"{settings.target} has no {cache}")
    if side == "reference":
        module = contract_of(release).module
    return lambda context: CLASSES[cache](getattr(module, cache), context)


def rows(heads: int, tokens: int, head_dim: int) -> tuple[mx.array, mx.array]:
    """Keys and values that nobody else holds, evaluated."""
    shape = 1, heads, tokens, head_dim
    keys, values = mx.ones(shape, mx.float16), mx.ones(shape, mx.float16)
    mx.eval(keys, values)
    return keys, values


@in_turns
@pytest.mark.parametrize("tokens", [1, 16])
@each_class
@each_contract
def test_dispatch(
    make: Callable[[int], Any], release: str, cache: str, tokens: int, benchmark: Any
) -> None:
    """Python's share: updates of a decode or a prefill that are not evaluated."""
    keys, values = rows(1, tokens, 64)

    def refill() -> tuple[tuple[Any], dict[str, Any]]:
        filled = make(SHORT)
        mx.eval(filled.update_and_fetch(*rows(1, SHORT, 64)))
        return (filled.update_and_fetch,), {}

    def dispatch(update: Callable[[mx.array, mx.array], Any]) -> None:
        for _ in range(UPDATES):
            update(keys, values)

    benchmark.group = f"dispatch {release} {cache} {tokens}"
    benchmark.extra_info["updates"] = UPDATES
    benchmark.pedantic(dispatch, setup=refill, rounds=60, warmup_rounds=3)


@in_turns
@pytest.mark.parametrize("context", ROUNDS)
@each_class
@each_contract
def test_decode(
    make: Callable[[int], Any], release: str, cache: str, context: int, benchmark: Any
) -> None:
    """A token in a long context, evaluated; a chunked cache forgets first, as llama4 does."""
    layers = [make(context) for _ in range(LAYERS)]
    for layer in layers:
        mx.eval(layer.update_and_fetch(*rows(8, context, 128)))
    keys, values = rows(8, 1, 128)

    def decode() -> None:
        fetched = []
        for layer in layers:
            if hasattr(layer, "maybe_trim_front"):
                layer.maybe_trim_front()
            fetched.append(layer.update_and_fetch(keys, values))
        mx.eval(fetched)

    benchmark.group = f"decode {release} {cache} {context}"
    benchmark.extra_info["updates"] = LAYERS
    benchmark.pedantic(decode, rounds=ROUNDS[context], warmup_rounds=2)
