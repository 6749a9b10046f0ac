"""The port's batches: rows that are not there are refused, and no row ever turns into another."""

from __future__ import annotations

import copy

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.port_support import CONTRACTS, digest, snapshot

import mlxkv
from mlxkv import mlx_lm_0_31

CLASSES = pytest.mark.parametrize("name", ["BatchKVCache", "BatchRotatingKVCache"])
PROFILE = settings(max_examples=60, deadline=None)
SINGLE = {"BatchKVCache": "KVCache", "BatchRotatingKVCache": "RotatingKVCache"}

paddings = st.lists(st.integers(0, 3), min_size=1, max_size=3)
lengths_of_updates = st.lists(st.integers(0, 5), max_size=5)
windows = st.integers(1, 5)
steps = st.integers(1, 4)


def rows(batch, tokens, heads=2, head_dim=4, dtype=mx.float32):
    return mx.random.normal((batch, heads, tokens, head_dim)).astype(dtype)


def construct(contract, name, padding, window=4, step=2):
    window_of_ring = {"max_size": window} if name == "BatchRotatingKVCache" else {}
    cache = getattr(contract, name)(**window_of_ring, left_padding=padding)
    cache.step = step
    return cache


def batch_of(cache):
    return cache.left_padding.shape[0]


def tokens_of(cache):
    """The bytes of the tokens of one sequence that can be attended to, in temporal order."""
    if cache.empty():
        return b"", b""
    held = cache.keys.shape[2]
    all_rows = slice(None)
    spans = [(all_rows, all_rows, slice(cache.offset))]
    if hasattr(cache, "max_size"):
        spans = cache._retain(held, max(0, cache._idx - cache.max_size))
    return tuple(
        bytes(memoryview(mx.contiguous(mx.concatenate([buffer[s] for s in spans], axis=2))))
        if buffer.size
        else b""
        for buffer in (cache.keys, cache.values)
    )


@st.composite
def used_batches(draw, contract, name, window=None):
    """A batch after a few legal operations, with steps and windows small enough to wrap."""
    window = window or draw(windows)
    cache = construct(contract, name, draw(paddings), window, draw(steps))
    for tokens in draw(lengths_of_updates):
        try:
            cache.update_and_fetch(rows(batch_of(cache), tokens), rows(batch_of(cache), tokens))
            if draw(st.booleans()) and cache.is_trimmable():
                cache.trim(draw(st.integers(0, 3)))
            if draw(st.integers(0, 3)) == 0:
                cache.filter(draw(st.permutations(range(batch_of(cache)))))
        except mlxkv.CacheError:
            break
    if draw(st.integers(0, 3)) == 0:
        pad_right(cache, draw(st.lists(st.integers(0, 2), min_size=1, max_size=1)))
    return cache


def pad_right(cache, padding):
    padding = padding * batch_of(cache) if len(padding) == 1 else padding
    cache.prepare(right_padding=padding, lengths=[1] * len(padding))


def outside(batch):
    return st.one_of(st.integers(-(10**6), -batch - 1), st.integers(batch, 10**6))


forms = st.sampled_from([list, mx.array, lambda rows: mx.array(rows, mx.int64)])


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_filter_by_a_row_that_is_not_there_raises(contract, name, data):
    """A filter index out of range is an IndexError, where mlx reads past the buffer."""
    cache = data.draw(used_batches(contract, name))
    batch = batch_of(cache)
    inside = data.draw(st.lists(st.integers(-batch, batch - 1), max_size=3))
    chosen = data.draw(st.permutations([*inside, data.draw(outside(batch))]))
    before = snapshot(cache)
    with pytest.raises(mlxkv.RowIndexError) as caught:
        cache.filter(data.draw(forms)(chosen))
    assert isinstance(caught.value, IndexError)
    assert snapshot(cache) == before


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_extract_of_a_row_that_is_not_there_raises(contract, name, data):
    """An extract index out of range is an IndexError, where 0.31.3 reads past the paddings."""
    cache = data.draw(used_batches(contract, name))
    before = snapshot(cache)
    with pytest.raises(mlxkv.RowIndexError) as caught:
        cache.extract(data.draw(outside(batch_of(cache))))
    assert isinstance(caught.value, IndexError)
    assert snapshot(cache) == before


@CONTRACTS
@CLASSES
@pytest.mark.parametrize(
    "indices",
    [
        *(None, 0, (0,), "0", [], [0.0], [True], [None], [[0]], [1 << 70], range(1)),
        *(slice("0"), mx.array(0), mx.array([0.0])),
    ],
)
def test_filter_by_what_are_no_rows_raises(contract, name, indices):
    """Rows are named by integers in a list, an array or a slice; anything else is refused."""
    cache = construct(contract, name, [0, 1])
    cache.update_and_fetch(rows(2, 3), rows(2, 3))
    before = snapshot(cache)
    with pytest.raises(mlxkv.RowSelectionError):
        cache.filter(indices)
    assert snapshot(cache) == before


@CONTRACTS
@CLASSES
def test_extract_of_the_last_row_by_minus_one_raises(contract, name):
    """Row -1 is refused, for mlx-lm extracts a cache without any row there; -2 works in both."""
    cache = construct(contract, name, [0, 0])
    cache.update_and_fetch(rows(2, 3), rows(2, 3))
    with pytest.raises(mlxkv.RowIndexError):
        cache.extract(-1)
    assert tokens_of(cache.extract(-2)) == tokens_of(cache.extract(0))


@st.composite
def bad_operations(draw, contract, name, window):
    """An operation that at least some batch must refuse, and a peer, if it takes one."""
    peer = draw(used_batches(contract, name, draw(st.sampled_from([window, window + 1]))))
    heads, head_dim = draw(st.sampled_from([(2, 4), (3, 4), (2, 1), (1, 8)]))
    kind = draw(st.sampled_from(["extend", "single", "other", "update", "prepare", "state"]))
    single = getattr(contract, SINGLE[name])(*([window] if "Rotating" in name else []))
    other = next(other for other in SINGLE if other != name)
    numbers = draw(st.lists(st.integers(-1, 2), max_size=4))
    pair = [rows(draw(st.integers(1, 3)), draw(st.integers(0, 3)), heads, head_dim) for _ in "kv"]
    if kind == "extend" and peer.empty():
        peer.update_and_fetch(*[rows(batch_of(peer), 2, heads, head_dim) for _ in "kv"])
    return {
        "extend": (lambda cache: cache.extend(peer), peer),
        "single": (lambda cache: cache.extend(single), single),
        "other": (lambda cache: cache.extend(construct(contract, other, [0])), None),
        "update": (lambda cache: cache.update_and_fetch(*pair), None),
        "prepare": (
            lambda cache: cache.prepare(
                left_padding=draw(st.sampled_from([None, numbers])),
                right_padding=numbers,
                lengths=draw(st.sampled_from([None, numbers])),
            ),
            None,
        ),
        "state": (lambda cache: setattr(cache, "state", (*pair, *[mx.array([0])] * 2)), None),
    }[kind]


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_failure_changes_neither_the_batch_nor_its_peer(contract, name, data):
    """Whatever raises leaves every field, byte and object of both as they were."""
    window = data.draw(windows)
    cache = data.draw(used_batches(contract, name, window))
    operation, peer = data.draw(bad_operations(contract, name, window))
    caches = [cache] if peer is None else [cache, peer]
    before = [snapshot(one) for one in caches]
    try:
        operation(cache)
    except mlxkv.CacheError:
        assert [snapshot(one) for one in caches] == before


@CONTRACTS
@pytest.mark.parametrize("side", ["cache", "peer"])
def test_extend_that_fails_leaves_a_ring_unordered(contract, side):
    """A ring that an extend would have put into temporal order stays as it was if that fails."""
    ring = construct(contract, "BatchRotatingKVCache", [0, 1], window=2)
    for _ in range(3):
        ring.update_and_fetch(rows(2, 1), rows(2, 1))
    wide = construct(contract, "BatchRotatingKVCache", [0], window=2)
    wide.update_and_fetch(rows(1, 2, heads=3), rows(1, 2, heads=3))
    before = snapshot(ring), snapshot(wide)
    with pytest.raises(mlxkv.ShapeError):
        ring.extend(wide) if side == "cache" else wide.extend(ring)
    assert (snapshot(ring), snapshot(wide)) == before
    assert ring.rotated


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_filter_keeps_the_rows_it_names(contract, name, data):
    """The rows of a filtered batch are those that were named, in that order."""
    cache = data.draw(used_batches(contract, name))
    batch = batch_of(cache)
    chosen = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=4))
    try:
        before = [tokens_of(cache.extract(row)) for row in range(batch)]
        cache.filter(chosen)
    except mlxkv.CacheError:
        return
    after = [tokens_of(cache.extract(row)) for row in range(len(chosen))]
    assert after == [before[row] for row in chosen]


@CONTRACTS
@CLASSES
@PROFILE
@given(data=st.data())
def test_extend_appends_every_row(contract, name, data):
    """The rows of an extended batch are its own, then those of its peer."""
    window = data.draw(windows)
    cache = data.draw(used_batches(contract, name, window))
    peer = data.draw(used_batches(contract, name, window))
    try:
        before = [tokens_of(c.extract(row)) for c in (cache, peer) for row in range(batch_of(c))]
        cache.extend(peer)
    except mlxkv.CacheError:
        return
    assert [tokens_of(cache.extract(row)) for row in range(batch_of(cache))] == before


@CONTRACTS
@CLASSES
@PROFILE
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_merge_then_extract_gives_each_cache_back(contract, name, counts):
    """What was merged comes out again, row by row."""
    caches = []
    for count in counts:
        single = getattr(contract, SINGLE[name])(*([4] if "Rotating" in name else []))
        if count:
            single.update_and_fetch(rows(1, count), rows(1, count))
        caches.append(single)
    merged = type(caches[0]).merge(caches)
    assert type(merged) is getattr(contract, name)
    if not merged.empty():
        extracted = [merged.extract(row) for row in range(len(caches))]
        assert [tokens_of(one) for one in extracted] == [tokens_of(one) for one in caches]
        assert [one.offset for one in extracted] == counts


@CONTRACTS
@CLASSES
@PROFILE
@given(counts=st.lists(st.integers(1, 4), min_size=2, max_size=3), data=st.data())
def test_right_padded_prompts_become_left_padded(contract, name, counts, data):
    """After finalize each row holds its own prompt, none of the padding, however it was cut."""
    longest = max(counts)
    prompts = [rows(1, count) for count in counts]
    padded = mx.concatenate(
        [
            mx.concatenate([prompt, mx.full((1, 2, longest - count, 4), 9.0)], axis=2)
            for prompt, count in zip(prompts, counts, strict=True)
        ],
        axis=0,
    )
    cache = construct(contract, name, [0] * len(counts), window=8)
    cache.prepare(lengths=counts, right_padding=[longest - count for count in counts])
    cut = data.draw(st.integers(0, longest))
    for part in (padded[:, :, :cut], padded[:, :, cut:]):
        if part.shape[2] != 1 or name == "BatchKVCache" or len(set(counts)) == 1:
            cache.update_and_fetch(part, part)
        else:
            with pytest.raises(mlxkv.PendingPaddingError):
                cache.update_and_fetch(part, part)
            return
    cache.finalize()
    cache.update_and_fetch(mx.zeros((len(counts), 2, 1, 4)), mx.zeros((len(counts), 2, 1, 4)))
    for row, prompt in enumerate(prompts):
        one = cache.extract(row)
        assert one.offset == counts[row] + 1
        assert mx.array_equal(one.keys[:, :, : counts[row]], prompt)


@CONTRACTS
@CLASSES
def test_pending_padding_is_not_given_to_other_rows(contract, name):
    """Until finalize, rows cannot be picked, joined or taken out from under their padding."""
    cache = construct(contract, name, [0, 0], window=8)
    cache.prepare(right_padding=[0, 2], lengths=[3, 1])
    cache.update_and_fetch(rows(2, 3), rows(2, 3))
    before = snapshot(cache)
    for operation in (
        lambda: cache.filter([1, 0]),
        lambda: cache.filter([0]),
        lambda: cache.extend(construct(contract, name, [0], window=8)),
        lambda: construct(contract, name, [0], window=8).extend(cache),
        lambda: cache.extract(1),
    ):
        with pytest.raises(mlxkv.PendingPaddingError):
            operation()
    assert snapshot(cache) == before
    assert cache.extract(0).offset == 3
    cache.filter([0, 1])
    cache.finalize()
    assert cache.left_padding.tolist() == [0, 2]


@CONTRACTS
def test_columns_that_were_never_stored_are_not_dropped(contract):
    """A filter of rows that are padded past the columns stored would make the index negative."""
    cache = construct(contract, "BatchKVCache", [1, 2])
    before = snapshot(cache)
    with pytest.raises(mlxkv.BatchStateError):
        cache.filter([0, 1])
    assert snapshot(cache) == before
    cache.update_and_fetch(rows(2, 2), rows(2, 2))
    cache.filter([1])
    assert (cache.size(), cache.left_padding.tolist(), cache.offset.tolist()) == (0, [0], [0])


@CONTRACTS
@CLASSES
@pytest.mark.parametrize("single_tokens", [0, 1, 6])
def test_a_restored_batch_goes_on(contract, name, single_tokens):
    """A batch made from a state finalizes and decodes as the one it was taken from."""
    cache = construct(contract, name, [0, 1])
    cache.update_and_fetch(rows(2, 2), rows(2, 2))
    for _ in range(single_tokens):
        cache.update_and_fetch(rows(2, 1), rows(2, 1))
    cache = copy.deepcopy(cache)
    meta = [cache.meta_state] if contract is mlx_lm_0_31 else []
    restored = type(cache).from_state(copy.deepcopy(cache.state), *meta)
    restored.step = cache.step
    assert getattr(restored, "rotated", None) == getattr(cache, "rotated", None)
    for tokens in (1, 3, 1):
        new = rows(2, tokens)
        masks = [digest(one.make_mask(tokens)) for one in (cache, restored)]
        assert masks[0] == masks[1]
        pairs = [one.update_and_fetch(new, new) for one in (cache, restored)]
        assert [digest(x) for x in pairs[0]] == [digest(x) for x in pairs[1]]
        restored.finalize()


@CONTRACTS
@CLASSES
@pytest.mark.parametrize(
    "padding", [[], [-1], [1.5], 3, None, ["a"], [[0]], mx.array([1], mx.uint8)]
)
def test_paddings_are_counts(contract, name, padding):
    """A batch is made of one integer of at least 0 for each of its rows."""
    with pytest.raises(mlxkv.PaddingError):
        construct(contract, name, padding)


@CONTRACTS
@pytest.mark.parametrize("name", ["KVCache", "RotatingKVCache"])
def test_merge_takes_caches_of_its_class(contract, name):
    """No cache at all, or one of another class or window, cannot become a row of a batch."""
    window = [3] if name == "RotatingKVCache" else []
    one = getattr(contract, name)(*window)
    with pytest.raises(mlxkv.NothingError):
        one.merge([])
    with pytest.raises(mlxkv.PeerError):
        one.merge([one, contract.ChunkedKVCache(4)])
    if window:
        with pytest.raises(mlxkv.WindowError):
            one.merge([one, contract.RotatingKVCache(4)])


@CONTRACTS
@CLASSES
@pytest.mark.parametrize("field", ["left_padding", "offset", "keys", "values"])
@pytest.mark.parametrize("more", [True, False])
def test_fields_of_other_rows_that_a_caller_assigned(contract, name, field, more):
    """Rows are not looked for past the shorter of arrays that a caller made unlike."""
    cache = construct(contract, name, [0, 0, 0])
    cache.update_and_fetch(rows(3, 2), rows(3, 2))
    array = getattr(cache, field)
    setattr(cache, field, mx.concatenate([array, array]) if more else array[:2])
    before = snapshot(cache)

    for call in (lambda: cache.extract(1), lambda: cache.filter([0, 1])):
        with pytest.raises(mlxkv.BatchStateError, match="as many batch rows"):
            call()
    assert snapshot(cache) == before
