"""Steps on batches and on several caches: what each does, seen on a release alone."""

from __future__ import annotations

import mlx.core as mx
import pytest
from property_tests.harness.ports import construct, play, release_module, update

from kvlockstep._arrays import build
from kvlockstep._operations import OPERATIONS, operands
from kvlockstep._recipes import Literals, Rows
from kvlockstep._sizes import resolve, sizes_of
from kvlockstep._steps import (
    Advance,
    Construct,
    Extend,
    Extract,
    Filter,
    Finalize,
    GetItem,
    Made,
    Merge,
    Prepare,
    SetItem,
    SetState,
    Transfer,
    Trim,
    Update,
)
from kvreference import RELEASES

pytestmark = pytest.mark.parametrize("release", RELEASES)
BATCHES = "BatchKVCache", "BatchRotatingKVCache"
ROW = Literals(shape=(), dtype="int32", values=(1,))


def batch(cache: str = "BatchKVCache", slot: str = "a", padding: tuple[int, ...] = (1, 0)):
    """Return the construction of a batch with this left padding."""
    more = {"max_size": 4} if "Rotating" in cache else {}
    return construct(cache, slot, **more, left_padding=padding)


def content(array: mx.array) -> tuple:
    """Return an array as dtype, shape and bytes."""
    return array.dtype, array.shape, bytes(memoryview(mx.contiguous(array)))


def same(one: mx.array, other: mx.array) -> bool:
    """Tell whether two arrays are the same to the byte."""
    return content(one) == content(other)


def rows(step: Update) -> tuple[mx.array, mx.array]:
    """Return the arrays of an update."""
    return build(step.keys), build(step.values)


def play_on(side, step) -> None:
    """Run one more step on a side."""
    resolved = resolve(step, sizes_of(side.at(operands(step)[0])))
    OPERATIONS[type(step)].perform(side, resolved)


@pytest.mark.parametrize("cache", BATCHES)
def test_extend_appends_the_rows_of_the_peer(release, cache):
    """The peer's batch rows come behind the cache's own, and the peer stays."""
    one, two = update(2, batch=2), update(2, "b", start=40)
    side = play(release, batch(cache), batch(cache, "b", (0,)), one, two, Extend())

    a, b = side.slots["a"], side.slots["b"]
    assert side.returned is None
    assert a.offset.tolist() == [1, 2, 2]
    assert a.left_padding.tolist() == [1, 0, 0]
    assert same(a.keys[:2, :, :2], rows(one)[0])
    assert same(a.keys[2:, :, :2], rows(two)[0])
    assert same(a.values[2:, :, :2], rows(two)[1])
    assert b.offset.tolist() == [2]


def test_extend_with_itself(release):
    """A cache may be its own peer: its rows are doubled."""
    side = play(release, batch(), update(2, batch=2), Extend(peer="a"))

    assert side.slots["a"].offset.tolist() == [1, 2, 1, 2]
    assert side.slots["a"].keys.shape[0] == 4


@pytest.mark.parametrize(
    ("single", "args"), [("KVCache", {}), ("RotatingKVCache", {"max_size": 4})]
)
def test_merge_makes_a_batch_of_the_class(release, single, args):
    """Caches of one sequence become the rows of a batch, padded on the left; they stay."""
    one, two = update(3, "s"), update(1, "t", start=9)
    steps = construct(single, "s", **args), construct(single, "t", **args), one, two
    side = play(release, *steps, Merge(slot="s", peers=("t",)))

    m = side.slots["m"]
    assert type(m).__name__ == f"Batch{single}"
    assert m.left_padding.tolist() == [0, 2]
    assert m.offset.tolist() == [3, 1]
    assert same(m.keys[:1], rows(one)[0])
    assert same(m.keys[1:, :, 2:], rows(two)[0])
    assert same(m.values[1:, :, 2:], rows(two)[1])
    assert not mx.any(m.keys[1:, :, :2]).item()
    assert [side.slots[slot].offset for slot in "st"] == [3, 1]


def test_merge_goes_by_the_order_of_its_peers(release):
    """Rows come in the order of the addresses, the step's own cache first, doubles twice."""
    steps = [construct(slot=slot) for slot in "stu"]
    steps += [update(length, slot) for length, slot in enumerate("stu", 1)]
    side = play(release, *steps, Merge(slot="u", peers=("s", "u", "t"), to="a"))

    assert side.slots["a"].offset.tolist() == [3, 1, 3, 2]


def test_merge_of_lists_merges_their_children(release):
    """Lists are merged child by child, arrays into arrays of a batch."""
    made = Made(cache="ArraysCache", args={"size": 1}), Made(cache="KVCache")
    steps = [Construct(slot=slot, cache="CacheList", children=made) for slot in "st"]
    array = Rows(shape=(1, 3), start=5)
    steps += [SetItem(slot=f"{slot}.0", index=0, value=array) for slot in "st"]
    side = play(release, *steps, update(2, "s.1"), Merge(slot="s", peers=("t",)))

    arrays, batched = side.slots["m"].caches
    assert same(arrays[0], mx.concatenate([build(array)] * 2))
    assert type(batched).__name__ == "BatchKVCache"
    assert batched.offset.tolist() == [2, 0]


@pytest.mark.parametrize("cache", BATCHES)
@pytest.mark.parametrize("index", [1, "batch-1"])
def test_extract_takes_one_row_out(release, cache, index):
    """One batch row becomes a cache of one sequence without its padding; the batch stays."""
    fed = update(3, batch=2)
    side = play(release, batch(cache, padding=(0, 2)), fed, Extract(index=index))

    single, a = side.slots["e"], side.slots["a"]
    assert type(single).__name__ == cache.removeprefix("Batch")
    assert single.offset == 1
    assert same(single.keys, rows(fed)[0][1:, :, 2:])
    assert same(single.values, rows(fed)[1][1:, :, 2:])
    assert a.offset.tolist() == [3, 1]


@pytest.mark.parametrize("cache", BATCHES)
@pytest.mark.parametrize("as_list", [False, True])
def test_filter_keeps_the_rows_that_are_named(release, cache, as_list):
    """Rows are kept in the order of the indices, relative and negative ones too, none unasked."""
    fed = update(2, batch=3)
    indices = ("batch-1", 0, -2)
    side = play(
        release, batch(cache, padding=(0, 1, 0)), fed, Filter(indices=indices, as_list=as_list)
    )

    a = side.slots["a"]
    assert a.offset.tolist() == [2, 2, 1]
    assert same(a.keys[:, :, :2], rows(fed)[0][mx.array([2, 0, 1])])


def test_indices_are_an_array_or_a_list(release):
    """Indices are an int32 array, as mlx-lm's batch generator has it, or a list."""
    seen = []
    for as_list in (False, True):
        side = play(release, batch())
        side.slots["a"].filter = seen.append
        step = Filter(indices=("batch-1",), as_list=as_list)
        play_on(side, step)

    assert seen[0].dtype == mx.int32
    assert [seen[0].tolist(), seen[1]] == [[1], [1]]
    assert type(seen[1]) is list


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"indices": ROW}, mx.array(1)),
        ({"indices": ROW, "as_list": True}, 1),
        ({"indices": ("batch-1",), "as_slice": True}, slice(1)),
        ({"indices": (0, 2, 1, 9), "as_slice": True}, slice(0, 2, 1)),
        ({"indices": (), "as_slice": True}, slice(None)),
    ],
)
def test_indices_are_what_no_list_is(release, given, seen):
    """Indices are an array of any rank, what is in it, or a slice."""
    side, rows = play(release, batch()), []
    side.slots["a"].filter = rows.append
    play_on(side, Filter(**given))

    assert type(rows[0]) is type(seen)
    assert rows[0] == seen


def test_merge_of_a_bare_cache(release):
    """A bare merge is given the cache, and no list."""
    with pytest.raises(TypeError, match="not iterable"):
        play(release, construct(), Merge(bare=True))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_prepare_fits_the_batch(release, size):
    """With `fit` the numbers are cut or repeated to as many as the batch has rows."""
    side = play(release, batch(padding=(0,) * size))
    seen = []
    side.slots["a"].prepare = lambda **given: seen.append(given)
    step = Prepare(lengths=(3, 2, 1), right_padding=(0, 1, 2), fit=True)

    play_on(side, step)
    play_on(side, Prepare(lengths=(3, 2, 1), right_padding=(0, 1, 2)))
    play_on(side, Prepare(left_padding=(7,), fit=True))

    fitted = [(3, 2, 1)[i % 3] for i in range(size)]
    assert seen[0] == {"lengths": fitted, "right_padding": [3 - length for length in fitted]}
    assert seen[1] == {"lengths": [3, 2, 1], "right_padding": [0, 1, 2]}
    assert seen[2] == {"left_padding": [7] * size}


@pytest.mark.parametrize("cache", BATCHES)
def test_prepare_then_finalize_moves_the_padding_to_the_left(release, cache):
    """Padding on the right of a prefill becomes padding on the left."""
    fed = update(3, batch=2)
    prepare = Prepare(lengths=(3, 1), right_padding=(0, 2), fit=True)
    side = play(release, batch(cache, padding=(0, 0)), prepare, fed, Finalize())

    a = side.slots["a"]
    assert a.left_padding.tolist() == [0, 2]
    assert a.offset.tolist() == [3, 1]
    assert same(a.keys[1, :, 2], rows(fed)[0][1, :, 0])


def test_transfer_gives_one_cache_the_state_of_another(release):
    """A cache gets the other's state, in 0.31 its meta_state too; arrays are shared, not copied."""
    ring = construct("RotatingKVCache", max_size=4, keep=1)
    other = construct("RotatingKVCache", "b", max_size=6)
    fed = update(3, "b")
    side = play(release, ring, other, fed, Transfer())

    a, b = side.slots["a"], side.slots["b"]
    assert (a.keep, a.max_size, a.offset, a._idx) == (0, 6, 3, 3)
    assert same(a.keys, b.keys)
    assert (a.keys is b.keys) == (release != "0.31.3" or b.offset == b.keys.shape[2])


def test_set_item_and_get_item(release):
    """A slot for arrays is given a fresh array or None, and gives back what it holds."""
    array = Rows(shape=("batch", 3), start=2)
    steps = construct("ArraysCache", size=2, left_padding=(1, 0)), SetItem(index=-1, value=array)
    side = play(release, *steps, GetItem(index=1))

    a = side.slots["a"]
    assert a.cache[0] is None
    assert side.returned is a.cache[1]
    assert same(a.cache[1], build(Rows(shape=(2, 3), start=2)))
    play_on(side, SetItem(index=1, value=None))
    assert a.cache == [None, None]


def test_get_item_of_a_list_is_its_child(release):
    """A list gives the child itself."""
    children = Made(cache="KVCache"), Made(cache="ConcatenateKVCache")
    side = play(release, Construct(cache="CacheList", children=children), GetItem(index=-1))

    assert side.returned is side.at("a.1")


def test_advance_counts_lengths_down(release):
    """What was prepared is counted down, and gone after finalize."""
    steps = construct("ArraysCache", size=1), Prepare(lengths=(5, 3)), Advance(n=2)
    side = play(release, *steps)

    assert side.slots["a"].lengths.tolist() == [3, 1]
    play_on(side, Finalize())
    assert side.slots["a"].lengths is None


def test_state_may_be_lists_all_the_way_down(release):
    """With `as_list` a state is assigned as a file has it: lists, none of them a tuple."""
    array = Literals(shape=(1, 2), values=(1, 2))
    state = ((array, None), None, None) if release != "0.31.3" else (array, None)
    for as_list in (False, True):
        step = SetState(state=state, as_list=as_list)
        side = play(release, construct("ArraysCache", size=2), step)
        held = side.slots["a"].cache
        assert type(held) is (list if as_list else tuple)
        assert held[0].tolist() == [[1, 2]]


# Sizes.


def test_batch_is_the_fewest_rows_of_any_array(release):
    """`batch` is the batch rows of a cache, of lists the fewest of any child, 1 where none is."""
    two = batch(padding=(0, 1))
    assert sizes_of(play(release, two).slots["a"])["batch"] == 2
    assert sizes_of(play(release, construct()).slots["a"])["batch"] == 1
    assert sizes_of(play(release, construct(), update(1, batch=3)).slots["a"])["batch"] == 3
    array = SetItem(index=1, value=Rows(shape=(4, 2)))
    assert sizes_of(play(release, construct("ArraysCache", size=2), array).slots["a"])["batch"] == 4
    children = (
        Made(cache="BatchKVCache", args={"left_padding": (0, 0, 0)}),
        Made(
            cache="CacheList", children=(Made(cache="BatchKVCache", args={"left_padding": (0,)}),)
        ),
    )
    listed = play(release, Construct(cache="CacheList", children=children))
    assert sizes_of(listed.slots["a"])["batch"] == 1
    assert sizes_of(listed.at("a.0"))["batch"] == 3


def test_sizes_of_a_batch_are_whole_numbers(release):
    """A batch counts its tokens in arrays; its sizes are numbers: what was fed, rows, room."""
    for cache, window in zip(BATCHES, (0, 4), strict=True):
        side = play(release, batch(cache), update(3, batch=2), Trim(n=1), step_size=4)
        sizes = sizes_of(side.slots["a"])
        assert {type(size) for size in sizes.values()} == {int}
        assert (sizes["offset"], sizes["position"], sizes["window"]) == (2, 2, window)
        assert sizes["room"] == sizes["capacity"] - 2


@pytest.mark.parametrize(
    ("step", "resolved"),
    [
        (Filter(indices=("batch-1", 0, "batch")), Filter(indices=(2, 0, 3))),
        (Extract(index="batch-1"), Extract(index=2)),
        (
            SetItem(index=0, value=Rows(shape=("batch", 2))),
            SetItem(index=0, value=Rows(shape=(3, 2))),
        ),
        (SetItem(index=0, value=None), SetItem(index=0, value=None)),
        (update(1, batch="batch+1"), update(1, batch=4)),
        (
            SetState(state=((Rows(shape=("batch",)), None), 2)),
            SetState(state=((Rows(shape=(3,)), None), 2)),
        ),
        (Prepare(lengths=(1, 2), fit=True), Prepare(lengths=(1, 2, 1))),
        (Prepare(lengths=(), fit=True), Prepare(lengths=())),
        (Trim(n="batch"), Trim(n=3)),
    ],
)
def test_relative_sizes_become_numbers(release, step, resolved):
    """Each argument that may be relative is resolved by the sizes of the reference's cache."""
    side = play(release, batch(padding=(0, 0, 0)))

    assert resolve(step, sizes_of(side.slots["a"])) == resolved
    assert release_module(release) is side.module
