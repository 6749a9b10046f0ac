"""Buffers that are part of longer ones are those of the release, seldom looked at or often.

The gate looks at a cache after every step, which ends a span. Here steps go on unseen, and what an
update returns is compared each time.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property_tests.port_support import digest

import kvreference
from mlxkv import NegativeSizeError, NotAnIntegerError, mlx_lm_0_31, mlx_lm_0_32

PORTS = {"0.31.3": mlx_lm_0_31, "0.32.2": mlx_lm_0_32}
HEAD_DIM = 4

# On a GPU what is written to may still be in use, and MLX then copies it.
on_a_cpu = pytest.mark.skipif(
    mx.default_device().type != mx.cpu, reason="memory is exact on a CPU only"
)
each_release = pytest.mark.parametrize("release", PORTS)

updates = st.tuples(st.just("update"), st.integers(0, 6) | st.just(1))
trims = st.tuples(st.just("trim"), st.integers(0, 4))
fronts = st.tuples(st.just("front"), st.none())
keeps = st.tuples(st.just("keep"), st.none())
# Most of these end a span.
seldom = st.one_of(
    st.tuples(st.just("hold"), st.none()),
    st.tuples(st.just("assign"), st.sampled_from(["keys", "values"])),
    st.tuples(st.just("write"), st.sampled_from(["keys", "values"])),
    st.tuples(st.just("copy"), st.sampled_from([copy.copy, copy.deepcopy])),
    st.tuples(st.just("reserve"), st.integers(0, 40)),
    st.tuples(st.just("look"), st.sampled_from(["keys", "values", "nbytes", "state"])),
    st.tuples(st.just("change"), st.sampled_from([mx.float16, mx.bfloat16, mx.float32])),
)
plain = st.one_of(updates, updates, updates, trims, keeps, seldom)
forgetting = st.one_of(updates, updates, fronts, fronts, trims, keeps, seldom)


def of_any_length(steps: Any) -> Any:
    """Lists whose length is drawn first: those of Hypothesis have six items on average."""
    return st.integers(1, 40).flatmap(lambda n: st.lists(steps, min_size=n, max_size=n))


class Both:
    """The port's cache and the release's, and what somebody holds of each."""

    def __init__(self, release: str, name: str, step: int, *args: int) -> None:
        self.port = getattr(PORTS[release], name)(*args)
        self.reference = getattr(kvreference.load(release).cache, name)(*args)
        self.port.step = self.reference.step = step
        self.dtype = mx.float32
        self.held: list[tuple[Any, Any]] = []
        self.last: tuple[Any, Any] = (), ()
        self.fed = 0

    def update(self, tokens: int) -> None:
        self.fed += 1
        numbers = mx.arange(2 * tokens * HEAD_DIM).reshape(1, 2, tokens, HEAD_DIM)
        rows = (numbers + self.fed / 64).astype(self.dtype)
        pairs = [(copy.copy(rows), -rows) for _ in range(2)]
        self.last = (), ()
        got = self.port.update_and_fetch(*pairs[0])
        expected = self.reference.update_and_fetch(*pairs[1])
        assert seen(got) == seen(expected)
        self.last = got, expected

    def keep(self, _: None) -> None:
        """Hold what the last update returned."""
        self.held.append(self.last)

    def front(self, _: None) -> None:
        for cache in (self.port, self.reference):
            cache.maybe_trim_front()

    def trim(self, tokens: int) -> None:
        assert self.port.trim(tokens) == self.reference.trim(tokens)

    def hold(self, _: None) -> None:
        if not self.reference.empty():
            self.held.append((self.port.keys, self.reference.keys))

    def assign(self, name: str) -> None:
        """As mlx-lm's pipelined models do: `cache.keys = mx.depends(cache.keys, ...)`."""
        for cache in (self.port, self.reference):
            if not cache.empty():
                setattr(cache, name, mx.depends(getattr(cache, name), mx.zeros(1)))

    def write(self, name: str) -> None:
        """Into the buffer, from outside."""
        for cache in (self.port, self.reference):
            if not cache.empty():
                getattr(cache, name)[:, :, :1] = 99

    def copy(self, how: Any) -> None:
        self.port, self.reference = how(self.port), how(self.reference)

    def reserve(self, tokens: int) -> None:
        self.port.reserve(tokens)

    def look(self, name: str) -> None:
        if not self.reference.empty():
            assert seen(getattr(self.port, name)) == seen(getattr(self.reference, name))

    def change(self, dtype: mx.Dtype) -> None:
        self.dtype = dtype

    def run(self, steps: list[tuple[str, Any]]) -> None:
        for name, argument in steps:
            getattr(self, name)(argument)
            assert self.port.offset == self.reference.offset
            if getattr(self.reference, "start_position", 0) > self.reference.offset:
                return  # In 0.31.3, after a trim past the rows in use: the port raises from now on.
        for got, expected in self.held:
            assert seen(got) == seen(expected)
        for name in ("keys", "values", "nbytes"):
            self.look(name)


def seen(tree: Any) -> Any:
    return [seen(one) for one in tree] if isinstance(tree, list | tuple) else digest(tree)


@each_release
@settings(max_examples=300, deadline=None)
@given(
    step=st.integers(1, 4),
    promise=st.integers(0, 40),
    steps=of_any_length(plain),
)
# What is held of a full buffer shows the next write in place.
@example(4, 9, [("update", 4), ("keep", None), ("trim", 2), ("update", 1)])
def test_standard_cache(release: str, step: int, promise: int, steps: list[Any]) -> None:
    """A standard cache whose length was announced, rightly or not, is that of the release."""
    both = Both(release, "KVCache", step)
    both.reserve(promise)
    both.run(steps)


@each_release
@settings(max_examples=300, deadline=None)
@given(
    step=st.integers(1, 4),
    chunk=st.integers(1, 8),
    promise=st.integers(0, 40),
    steps=of_any_length(forgetting),
)
# Rows that were written in place and trimmed are spare rows of zeros after the next growth.
@example(4, 4, 0, [("update", 4), ("update", 1), ("front", None), *[("update", 1)] * 3,
                   ("trim", 2), ("front", None), ("update", 1)])  # fmt: skip
def test_chunked_cache(release: str, step: int, chunk: int, promise: int, steps: list[Any]) -> None:
    """A chunked cache that forgets as it decodes is that of the release."""
    both = Both(release, "ChunkedKVCache", step, chunk)
    both.reserve(promise)
    both.run(steps)


def rows(tokens: int) -> tuple[mx.array, mx.array]:
    keys = mx.ones((1, 2, tokens, 64), mx.float16)
    values = -keys
    mx.eval(keys, values)
    return keys, values


@on_a_cpu
@each_release
def test_a_promise_is_kept_without_copies(release: str) -> None:
    """From the first update on memory is what was promised, and no update takes more."""
    cache = PORTS[release].KVCache()
    cache.reserve(8192)
    mx.eval(cache.update_and_fetch(*rows(512)))
    pair = rows(512)
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(15):
        mx.eval(cache.update_and_fetch(*pair))
    assert mx.get_peak_memory() <= held + pair[0].nbytes
    assert cache.nbytes == 2 * 8192 * 2 * 64 * 2


@on_a_cpu
def test_forgetting_holds_no_more_than_the_release() -> None:
    """A chunked cache of 0.32.2 decodes within the memory that the release's takes."""
    peaks = []
    for module in (mlx_lm_0_32, kvreference.load("0.32.2").cache):
        cache = module.ChunkedKVCache(1024)
        mx.eval(cache.update_and_fetch(*rows(1024)))
        pair = rows(1)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for _ in range(600):
            cache.maybe_trim_front()
            mx.eval(cache.update_and_fetch(*pair))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] <= peaks[1]


@on_a_cpu
def test_forgetting_copies_once_in_256_tokens() -> None:
    """In between the rows are written in place: nothing is allocated that is as long as a chunk."""
    cache = mlx_lm_0_32.ChunkedKVCache(1024)
    mx.eval(cache.update_and_fetch(*rows(1024)))
    pair = rows(1)
    copies = 0
    for _ in range(1024):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        cache.maybe_trim_front()
        mx.eval(cache.update_and_fetch(*pair))
        copies += mx.get_peak_memory() - before > 1024 * 64
    assert copies == 4


@each_release
def test_asking_for_the_buffers_ends_the_promise(release: str) -> None:
    """They are the cache's own then: what is written into them from outside stays."""
    cache = PORTS[release].KVCache()
    cache.reserve(600)
    cache.update_and_fetch(*rows(3))
    cache.keys[:, :, 1] = 7
    assert cache.update_and_fetch(*rows(1))[0][0, 0, :, 0].tolist() == [1, 7, 1, 1]
    assert cache.keys.shape == (1, 2, 256, 64)


@each_release
def test_a_pickle_of_a_reserved_cache_decodes_alike(release: str) -> None:
    """What is pickled are the buffers of the release, and none of the room beyond."""
    cache = PORTS[release].KVCache()
    cache.reserve(600)
    cache.update_and_fetch(*rows(300))
    twin = pickle.loads(pickle.dumps(cache))
    assert twin.keys.shape == cache.keys.shape
    assert seen(twin.update_and_fetch(*rows(300))) == seen(cache.update_and_fetch(*rows(300)))


@each_release
@pytest.mark.parametrize("tokens", [1 << 31, 1 << 62, 10**30])
def test_a_promise_that_no_array_holds(release: str, tokens: int) -> None:
    """The update that would make it real fails, and the cache goes on with a smaller one."""
    cache = PORTS[release].KVCache()
    cache.reserve(tokens)
    with pytest.raises((OverflowError, RuntimeError)):
        cache.update_and_fetch(*rows(1))
    assert cache.empty()
    assert cache.offset == 0
    cache.reserve(0)
    assert cache.update_and_fetch(*rows(1))[0].shape[2] == 1


@each_release
@pytest.mark.parametrize(("tokens", "error"), [(-1, NegativeSizeError), (2.5, NotAnIntegerError)])
def test_no_length(release: str, tokens: Any, error: type[Exception]) -> None:
    """What is no number of tokens is refused, and the promise before it stands."""
    cache = PORTS[release].KVCache()
    cache.reserve(600)
    with pytest.raises(error, match=r"KVCache\.reserve: expected"):
        cache.reserve(tokens)
    cache.update_and_fetch(*rows(1))
    assert cache._keys.shape[2] == 600
