"""Caches as they were before a step: every field, every object, every byte."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import pytest
from property_tests.harness.failing import FAILING
from property_tests.harness.ports import play, release_module

from kvlockstep._memento import Memento, arrays_in, exchange
from kvlockstep._operations import OPERATIONS
from kvlockstep._side import walk
from kvlockstep._snapshots import freeze, settle
from kvreference import RELEASES


def runs(side, step) -> bool:
    """Run one more step on a side; tell whether it raised nothing."""
    try:
        OPERATIONS[type(step)].perform(side, step)
    except Exception:
        return False
    return True


def taken(*arrays: mx.array) -> dict:
    """Return what arrays hold now, by their ids."""
    contents = {id(array): freeze(array, "in-place") for array in arrays}
    settle(contents.values())
    return contents


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", FAILING)
def test_put_back_gives_every_field_its_object_and_content(case, release):
    """Fields, containers, array objects and bytes are as they were, whatever the step did."""
    before, failing, _ = FAILING[case]
    side = play(release, *before, step_size=4)
    caches = [cache for slot, root in side.slots.items() for _, cache in walk(slot, root)]
    contents = taken(*arrays_in(value for cache in caches for value in vars(cache).values()))
    was = [(dict(vars(cache)), [*map(repr, vars(cache).values())]) for cache in caches]
    memento = Memento(caches)

    assert not runs(side, failing)
    memento.put_back(contents)

    for cache, (fields, told) in zip(caches, was, strict=True):
        assert list(vars(cache)) == list(fields)
        assert [*map(repr, vars(cache).values())] == told or "object at" in str(told)
        for name, value in vars(cache).items():
            if isinstance(value, mx.array):
                assert value is fields[name]
            assert type(value) is type(fields[name])


@pytest.mark.parametrize("shape", [(4,), (2, 3), (0, 2), ()])
def test_array_gets_its_content_back_in_place(shape):
    """An array that was written into is the same object with the old bytes, NaNs and all."""
    cache = release_module().ArraysCache(1)
    cache[0] = mx.full(shape, float("nan")) if shape != () else mx.array(-0.0)
    array, contents = cache[0], taken(cache[0])
    memento = Memento([cache])

    array[...] = 5.0
    cache[0] = None
    cache.cache.append(3)
    memento.put_back(contents)

    assert cache.cache == [array]
    assert cache[0] is array
    assert taken(array)[id(array)].data == contents[id(array)].data


@pytest.mark.parametrize(
    "change",
    [lambda array: array.__isub__(1.5), lambda array: array.__iadd__(mx.ones((3, 2), mx.int32))],
    ids=["dtype", "shape"],
)
def test_array_that_changed_its_kind_in_place_is_replaced(change):
    """An array object that has another dtype or shape now cannot be filled: a new one is put."""
    cache = release_module().BatchKVCache([1, 0])
    array, contents = cache.offset, taken(cache.offset)
    memento = Memento([cache])

    change(array)
    assert (array.dtype, array.shape) != (mx.int32, (2,))
    memento.put_back(contents)

    assert (cache.offset.dtype, cache.offset.tolist()) == (mx.int32, [-1, 0])


def test_containers_are_copied_not_shared():
    """What a step does to a list, a dict or a deque of a cache leaves the memento alone."""
    module = release_module()
    lru, kv = module.LRUPromptCache(max_size=3), module.KVCache()
    lru.insert_cache("m", [1, 2], [kv])
    lru.insert_cache("m", [3], [kv], cache_type="user")
    memento, stats = Memento([lru]), lru.stats_by_type()

    lru.insert_cache("m", [1, 2, 4], [kv], cache_type="system")
    lru.trim_to(n_sequences=0)
    memento.put_back({})

    assert lru.stats_by_type() == stats
    assert len(lru) == 2
    assert lru.fetch_nearest_cache("m", [1, 2])[1] == []
    assert [lru._lru.pop() for _ in range(2)] == [("m", [1, 2]), ("m", [3])]


def test_field_that_a_step_added_is_gone():
    """A field that was not there before is not there again."""
    cache = release_module().KVCache()
    memento = Memento([cache])

    cache.extra, cache.offset = 1, 7
    del cache.keys
    memento.put_back({})

    assert list(vars(cache)) == ["keys", "values", "offset"]
    assert cache.offset == 0


def test_what_shares_an_array_that_cannot_be_put_back_gets_the_new_one_too():
    """An array that grew in place is exchanged in every cache and every handle that has it."""
    shared = mx.array([1])
    cache, peer = SimpleNamespace(padding=shared), SimpleNamespace(parts=[shared], other=shared)
    contents = taken(shared)
    memento = Memento([cache])
    shared += mx.array([1, 1])

    new = memento.put_back(contents)
    Memento([peer]).put_back({}, new)
    held = exchange((shared, [shared]), new)

    assert cache.padding.tolist() == [1]
    assert all(one is cache.padding for one in (peer.parts[0], peer.other, held[0], held[1][0]))


def test_an_empty_array_that_changed_its_dtype_gets_it_back():
    """Nothing to write, yet a type to put back."""
    cache = SimpleNamespace(offset=mx.zeros((0,), mx.int32))
    contents = taken(cache.offset)
    memento, was = Memento([cache]), cache.offset
    cache.offset -= 1.5

    assert memento.put_back(contents) == {}
    assert cache.offset is was
    assert was.dtype == mx.int32
