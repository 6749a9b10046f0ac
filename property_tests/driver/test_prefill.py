"""`prefill`: chunk boundaries, the barrier between chunks, quantization on the way."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from property_tests.driver.mock import Mock, held, is_pending, stored

from mlxkv import (
    CacheError,
    EmptyPromptError,
    NotQuantizableError,
    QuantizationError,
    TokensError,
    mlx_lm_0_31,
    mlx_lm_0_32,
    prefill,
)


def counting(cls: type) -> Any:
    """A class of that cache that counts its barriers, and notes what it saw at each."""

    class Counting(cls):
        calls = 0
        more_than_state = False

        def materialize(self) -> None:
            self.calls += 1
            rows = self.state[0].shape[2] if cls.__module__.startswith(mlx_lm_0_31.__name__) else 0
            self.more_than_state |= self.keys.shape[2] > (rows or self.offset)
            super().materialize()

    return Counting


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6, 7, 100])
def test_all_of_the_prompt(contract: ModuleType, step: int) -> None:
    """Every layer holds the whole prompt, in order, whatever the chunks were."""
    prompt = [1, 2, 3, 4, 5, 6, 7]
    cache = [contract.KVCache(), contract.KVCache()]
    prefill(Mock(), prompt, cache, step)
    assert [one.offset for one in cache] == [7, 7]
    assert [held(one) for one in cache] == [prompt, prompt]


@pytest.mark.parametrize(
    ("tokens", "step", "lengths"),
    [
        (7, 3, [3, 3, 1]),
        (7, 2, [2, 2, 2, 1]),
        (7, 4, [4, 2, 1]),
        (7, 6, [6, 1]),
        (7, 7, [6, 1]),
        (4, 8, [3, 1]),
        (2, 8, [1, 1]),
        (1, 8, [1]),
        (5000, 2048, [2048, 2048, 903, 1]),
    ],
)
def test_chunk_boundaries(tokens: int, step: int, lengths: list[int]) -> None:
    """All tokens but the last in chunks, then the last one: as `generate_step` goes."""
    model = Mock()
    prefill(model, list(range(tokens)), [], step)
    assert model.lengths == lengths


def test_the_default_chunk() -> None:
    """A chunk is 2048 tokens unless another size is given."""
    model = Mock()
    prefill(model, list(range(2050)), [])
    assert model.lengths == [2048, 1, 1]


@pytest.mark.parametrize("step", [0, -1, -100])
def test_a_step_below_one_is_one(contract: ModuleType, step: int) -> None:
    """A step of 0, with which mlx-lm never ends, still makes progress."""
    model, cache = Mock(), [contract.KVCache()]
    prefill(model, [1, 2, 3], cache, step)
    assert model.lengths == [1, 1, 1]
    assert cache[0].offset == 3


@pytest.mark.parametrize(("tokens", "step", "chunks"), [(7, 2, 3), (4, 8, 1), (1, 8, 0)])
def test_a_barrier_for_each_layer_and_chunk(
    contract: ModuleType, tokens: int, step: int, chunks: int
) -> None:
    """`materialize` is called once a layer and leading chunk, and not for the last token."""
    cache = [counting(contract.KVCache)() for _ in range(3)]
    prefill(Mock(), list(range(1, tokens + 1)), cache, step)
    assert [one.calls for one in cache] == [chunks] * 3
    assert {one.offset for one in cache} == {tokens}


def test_the_graph_ends_with_the_chunk(contract: ModuleType) -> None:
    """When a chunk begins nothing of the one before it is left to evaluate, nor at the end."""
    model = Mock()
    cache = [contract.KVCache(), contract.RotatingKVCache(max_size=4, keep=2)]
    prefill(model, list(range(9)), cache, 2)
    assert model.pending == [False] * 5
    assert not any(is_pending(*stored(one)) for one in cache)


def test_the_live_ring_and_not_its_state(contract: ModuleType) -> None:
    """The barrier of a ring with spare rows evaluates the ring, of which the state is a part."""
    cache = [counting(contract.RotatingKVCache)(max_size=4, keep=2)]
    model = Mock()
    prefill(model, [i % 7 for i in range(9)], cache, 1)
    assert cache[0].calls == 8
    assert cache[0].more_than_state
    assert model.pending == [False] * 9
    assert cache[0].offset == 9


def test_caches_without_a_barrier_of_their_own() -> None:
    """mlx-lm's own caches, which have no `materialize`, have their buffers evaluated too."""
    from kvreference import load  # noqa: PLC0415 - only here

    for release in ("0.31.3", "0.32.2"):
        classes = load(release).cache
        model, cache = Mock(), [classes.KVCache(), classes.RotatingKVCache(4)]
        prefill(model, list(range(9)), cache, 2)
        assert model.pending == [False] * 5
        nested = classes.CacheList(classes.ArraysCache(2), classes.KVCache())

        def update(tokens: mx.array, cache: list[Any]) -> mx.array:
            cache[0][0][1] = tokens * 2
            return mx.zeros((*tokens.shape, 5))

        prefill(update, [1, 2, 3], [nested], 1)
        assert not is_pending(nested[0][1])


@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
def test_every_class_is_materialized(release: str) -> None:
    """Lists, arrays and batches have nothing left to evaluate after their barrier."""
    module = {"0.31.3": mlx_lm_0_31, "0.32.2": mlx_lm_0_32}[release]
    rows = mx.ones((1, 1, 3, 64)) * 2
    one, ring = module.KVCache(), module.RotatingKVCache(max_size=8)
    for made in (one, ring):
        made.update_and_fetch(rows, rows)
    arrays = module.ArraysCache(2)
    arrays[1] = rows * 3
    padded = [module.BatchKVCache([0, 0]), module.BatchRotatingKVCache(8, [0, 0])]
    for made in padded:
        made.prepare(lengths=[2, 3], right_padding=[1, 0])
        made.update_and_fetch(*[mx.ones((2, 1, 3, 64))] * 2)
    caches = [
        *padded,
        arrays,
        module.CacheList(one, ring),
        module.CacheList(module.ArraysCache(1), module.KVCache()),
        module.KVCache.merge([one, one]),
        module.RotatingKVCache.merge([ring, ring]),
        one.to_quantized(),
        module.KVCache(),
        module.RotatingKVCache(max_size=8),
        module.ChunkedKVCache(8),
        module.QuantizedKVCache(),
        module.BatchKVCache([0, 1]),
        module.BatchRotatingKVCache(8, [0, 1]),
    ]
    for cache in caches:
        cache.materialize()
        assert not is_pending(*arrays_of(cache)), type(cache).__name__


def arrays_of(held: Any) -> list[mx.array]:
    """Every array below an object, wherever it is kept."""
    if isinstance(held, mx.array):
        return [held]
    inside = held if isinstance(held, list | tuple) else getattr(held, "__dict__", {}).values()
    return [array for item in inside for array in arrays_of(item)]


def test_the_last_logits(contract: ModuleType) -> None:
    """Those of the last token are returned, evaluated, one row of the vocabulary."""

    def model(tokens: mx.array, cache: list[Any]) -> mx.array:
        Mock()(tokens, cache)
        return mx.broadcast_to(tokens[..., None] * 1.5, (*tokens.shape, 5))

    logits = prefill(model, [1, 2, 3, 4], [contract.KVCache()], 2)
    assert logits.tolist() == [[6.0] * 5]
    assert not is_pending(logits)


def test_progress() -> None:
    """The tokens done and all of them: before, after each chunk, and at the end."""
    seen: list[tuple[int, int]] = []
    prefill(Mock(), list(range(7)), [], 3, lambda *done: seen.append(done))
    assert seen == [(0, 7), (3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize(
    "tokens", [[1, 2, 3], (1, 2, 3), mx.array([1, 2, 3]), np.array([1, 2, 3]), range(1, 4)]
)
def test_tokens_of_any_sequence(contract: ModuleType, tokens: Any) -> None:
    """A list, a tuple, an array of either library and a range are the same prompt."""
    cache = [contract.KVCache()]
    prefill(Mock(), tokens, cache)
    assert held(cache[0]) == [1, 2, 3]


@pytest.mark.parametrize("tokens", [[], (), mx.array([], mx.int32)])
def test_an_empty_prompt(contract: ModuleType, tokens: Any) -> None:
    """It is refused before the model is run."""
    model, cache = Mock(), [contract.KVCache()]
    with pytest.raises(EmptyPromptError, match="at least one token") as refused:
        prefill(model, tokens, cache)
    assert isinstance(refused.value, ValueError)
    assert model.lengths == []
    assert cache[0].empty()


@pytest.mark.parametrize(
    "tokens", [None, 3, "12", [1.5], ["1"], [[1, 2]], mx.array([[1, 2]]), mx.array([1.0]), [2**70]]
)
def test_no_tokens(tokens: Any) -> None:
    """Anything but integers in one dimension is refused before the model is run."""
    model = Mock()
    with pytest.raises(TokensError, match="integers in one dimension"):
        prefill(model, tokens, [])
    assert model.lengths == []


def test_quantized_from_a_token_on(contract: ModuleType) -> None:
    """A cache is replaced in the list after the chunk that takes it to the start token."""
    seen: list[type] = []

    class Watching(Mock):
        def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
            seen.append(type(cache[0]))
            return super().__call__(tokens, cache)

    options = {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 4}
    cache = [contract.KVCache()]
    prefill(Watching(), list(range(8)), cache, 3, **options)
    plain, quantized = contract.KVCache, contract.QuantizedKVCache
    assert seen == [plain, plain, quantized, quantized]
    assert isinstance(cache[0], quantized)
    assert (cache[0].offset, cache[0].bits, cache[0].group_size) == (8, 4, 32)


@pytest.mark.parametrize(("start", "quantized"), [(0, True), (7, True), (8, True), (9, False)])
def test_the_start_token(contract: ModuleType, start: int, quantized: bool) -> None:
    """The offset has to reach it, with the last token if need be."""
    cache = [contract.KVCache()]
    options = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": start}
    prefill(Mock(), list(range(8)), cache, 3, **options)
    assert isinstance(cache[0], contract.QuantizedKVCache) is quantized
    assert not is_pending(*arrays_of(cache))


def test_the_default_start() -> None:
    """Without a start it is token 5000, as for mlx-lm's tool."""
    cache = [mlx_lm_0_32.KVCache()]
    prefill(Mock(), list(range(4999)), cache, kv_bits=8, kv_group_size=32)
    assert type(cache[0]) is mlx_lm_0_32.KVCache
    prefill(Mock(), [1], cache, kv_bits=8, kv_group_size=32)
    assert type(cache[0]) is mlx_lm_0_32.QuantizedKVCache


@pytest.mark.parametrize(
    ("cls", "options", "error"),
    [
        ("RotatingKVCache", {"kv_bits": 4, "quantized_kv_start": 5}, NotQuantizableError),
        ("KVCache", {"kv_bits": 7, "quantized_kv_start": 5}, QuantizationError),
        (
            "KVCache",
            {"kv_bits": 4, "kv_group_size": 48, "quantized_kv_start": 5},
            QuantizationError,
        ),
        ("KVCache", {"kv_bits": 0, "quantized_kv_start": 5}, QuantizationError),
        ("KVCache", {"kv_bits": 4, "kv_group_size": 0, "quantized_kv_start": 5}, QuantizationError),
    ],
)
def test_what_cannot_be_quantized(
    contract: ModuleType, cls: str, options: dict[str, int], error: type[CacheError]
) -> None:
    """It is refused before the model is run, where mlx-lm fails after thousands of tokens."""
    model = Mock()
    arguments = {"max_size": 64} if cls == "RotatingKVCache" else {}
    cache = [getattr(contract, cls)(**arguments)]
    with pytest.raises(error):
        prefill(model, list(range(8)), cache, 2, **options)
    assert model.lengths == []
    prefill(model, list(range(4)), cache, 2, **options)
    assert cache[0].offset == 4


def test_going_on(contract: ModuleType) -> None:
    """A second prompt follows the first one in the same caches."""
    cache = [contract.KVCache()]
    prefill(Mock(), [1, 2, 3], cache, 2)
    prefill(Mock(), [4, 5], cache, 2)
    assert held(cache[0]) == [1, 2, 3, 4, 5]
