"""Addresses: slots, children of lists, and steps whose caches are not all there."""

from __future__ import annotations

import msgspec
import pytest
from property_tests.harness.ports import (
    RELEASE,
    construct,
    lockstep_with,
    release_module,
    trace_of,
    update,
)
from property_tests.harness.samples import TOLD

from kvlockstep._operations import OPERATIONS, destination, operands, present
from kvlockstep._prompt_steps import CanTrimPrompt, LruInsert, TrimPrompt
from kvlockstep._recipes import Rows
from kvlockstep._side import Side, walk
from kvlockstep._steps import (
    Construct,
    Copy,
    Extend,
    Extract,
    Fetch,
    Filter,
    GetItem,
    Made,
    Merge,
    OnSlot,
    Reload,
    SetItem,
    Transfer,
    Trim,
)
from kvlockstep._trace import TraceError, dumps, loads
from kvreference import RELEASES

RELEASED = release_module()
KV, ARRAYS = Made(cache="KVCache"), Made(cache="ArraysCache", args={"size": 2})
NESTED = Construct(cache="CacheList", children=(KV, Made(cache="CacheList", children=(ARRAYS, KV))))


@pytest.fixture
def side():
    """A side with a nested list in `a`, a single cache in `b`."""
    inner = RELEASED.CacheList(RELEASED.ArraysCache(2), RELEASED.KVCache())
    outer = RELEASED.CacheList(RELEASED.KVCache(), inner)
    return Side(RELEASED, {"a": outer, "b": RELEASED.KVCache()})


def test_addresses_name_children(side):
    """`a` is the slot's cache, `a.1` a child of the list, `a.1.0` a child of that child."""
    a = side.slots["a"]

    assert side.at("a") is a
    assert side.at("a.0") is a.caches[0]
    assert side.at("a.1") is a.caches[1]
    assert side.at("a.1.0") is a.caches[1].caches[0]
    assert side.at("a.1.1") is a.caches[1].caches[1]
    assert side.at("b") is side.slots["b"]


@pytest.mark.parametrize("address", ["c", "c.0", "a.2", "a.0.0", "a.1.2", "a.1.0.0", "b.0", "a.99"])
def test_nothing_is_at_other_addresses(side, address):
    """A slot that is empty, an index past the end, and a child of what is no list, are None."""
    assert side.at(address) is None


def test_several_addresses_leave_out_what_is_not_there(side):
    """The caches at several addresses are those that are there, in that order, twice if asked."""
    found = side.all_at(("b", "c", "a.1.1", "a.7", "b"))

    assert found == [side.slots["b"], side.at("a.1.1"), side.slots["b"]]


def test_list_that_is_none_any_more_has_no_children(side):
    """A list whose children were replaced by something else has none to be named."""
    side.slots["a"].caches = None

    assert side.at("a.0") is None
    assert [address for address, _ in walk("a", side.slots["a"])] == ["a"]


def test_walk_yields_every_cache_with_its_address(side):
    """A list is walked from the top, children in order, each under the address that names it."""
    walked = dict(walk("a", side.slots["a"]))

    assert list(walked) == ["a", "a.0", "a.1", "a.1.0", "a.1.1"]
    assert all(side.at(address) is cache for address, cache in walked.items())


def test_fetched_caches_get_numbered_slots(side):
    """What comes as a list goes into slots of one name, numbered, and no older slot is emptied."""
    first, second = RELEASED.KVCache(), RELEASED.KVCache()
    side.put_all("f", [first, second])
    side.put_all("f", [second])

    assert side.at("f0") is second
    assert side.at("f1") is second


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("mode", ["value", "in-place"])
def test_steps_run_on_children(release, mode):
    """Steps on children and nested children act on those, and are counted as their class."""
    steps = NESTED, update(2, slot="a.0"), SetItem(slot="a.1.0", index=1, value=Rows(shape=(1, 3)))
    steps = *steps, update(3, slot="a.1.1"), Trim(slot="a.1.1", n=1), GetItem(slot="a.1", index=0)

    run = lockstep_with(release=release).run(trace_of(*steps, mode=mode, step_size=4))

    assert run.divergences == []
    assert run.log == list(steps)
    assert {(cell.cache, cell.operation) for cell in run.cells} == {
        ("CacheList", "construct"), ("KVCache", "update"), ("ArraysCache", "set_item"),
        ("KVCache", "trim"), ("CacheList", "get_item"),
    }  # fmt: skip


ON_A = [words for words, step in TOLD.items() if isinstance(step, OnSlot) and operands(step)]


@pytest.mark.parametrize("sample", ON_A)
def test_step_on_a_missing_child_does_nothing(sample):
    """A step of any kind on an address without a cache does nothing, and is not counted."""
    slots = "b", "a.2", "a.1.2", "a.0.0", "a.1.0.1", "b.0"
    steps = [msgspec.structs.replace(TOLD[sample], slot=slot) for slot in slots]

    run = lockstep_with().run(trace_of(NESTED, *steps))

    assert run.log == [NESTED, *(None,) * len(slots)]
    assert run.steps == 1
    assert run.divergences == []


@pytest.mark.parametrize("other", ["c", "a.2", "a.1.0.0"])
@pytest.mark.parametrize("kind", ["extend", "transfer"])
def test_step_without_its_peer_does_nothing(kind, other):
    """An extend or a transfer whose other cache is not there does nothing."""
    step = Extend(peer=other) if kind == "extend" else Transfer(source=other)

    assert lockstep_with().run(trace_of(NESTED, step)).log == [NESTED, None]


def test_merge_goes_without_the_peers_that_are_not_there():
    """A merge of three caches of which one is missing merges two, and the log says which."""
    steps = construct(slot="s"), construct(slot="t"), Merge(slot="s", peers=("x", "t", "s.0"))

    run = lockstep_with().run(trace_of(*steps, update(1, slot="m")))

    assert run.log[2] == Merge(slot="s", peers=("t",))
    assert run.divergences == []
    assert run.steps == 4


def test_lists_of_caches_go_without_those_that_are_not_there():
    """What takes a list of caches is given those that are there, none if there is none."""
    steps = CanTrimPrompt(slots=("x", "a.1.1", "y")), TrimPrompt(slots=("x",), n=1)
    steps = NESTED, *steps, construct("LRUPromptCache", slot="l")
    insert = LruInsert(slot="l", tokens=(1,), caches=("a.0", "x"))

    run = lockstep_with().run(trace_of(*steps, insert))

    assert run.log[1] == CanTrimPrompt(slots=("a.1.1",))
    assert run.log[2] == TrimPrompt(slots=(), n=1)
    assert run.log[4] == LruInsert(slot="l", tokens=(1,), caches=("a.0",))
    assert run.divergences == []


@pytest.mark.parametrize("step", TOLD.values(), ids=TOLD)
def test_present_leaves_a_step_with_all_its_caches_alone(step):
    """A step all of whose caches are there runs as it is."""
    assert present(step, lambda _: True) == step


@pytest.mark.parametrize("step", TOLD.values(), ids=TOLD)
def test_every_address_of_a_step_is_an_operand_or_a_destination(step):
    """What a step acts on, takes and makes is known: nothing else in it names a cache."""
    named = {"slot", "peer", "source", "peers", "caches", "slots"} & {*step.__struct_fields__}
    addresses = [getattr(step, name) for name in step.__struct_fields__ if name in named]
    flat = [one for held in addresses for one in (held if isinstance(held, tuple) else (held,))]

    if isinstance(step, Construct):
        assert (operands(step), destination(step)) == ((), step.slot)
        return
    assert list(operands(step)) == flat
    makes = isinstance(getattr(step, "to", None), str)
    several = OPERATIONS[type(step)].name in ("make_prompt_cache", "lru_fetch")
    assert destination(step) == (step.to if makes and not several else None)


def test_new_cache_takes_the_place_of_what_was_there():
    """A destination is a slot: what it held, children included, cannot be named any more."""
    steps = NESTED, construct(slot="b"), update(1, slot="b"), Copy(slot="b", to="a")

    run = lockstep_with().run(trace_of(*steps, update(1, slot="a.0"), update(1, slot="a")))

    assert run.log[4] is None
    assert run.log[5] is not None
    assert run.divergences == []


def test_children_can_be_merged_extended_and_extracted():
    """A child is a cache like any other: as the one acted on, as a peer, and as a source."""
    batch = Made(cache="BatchKVCache", args={"left_padding": (0,)})
    steps = [Construct(cache="CacheList", children=(batch, KV, KV)), update(2, slot="a.0")]
    steps += [
        update(3, slot="a.1"),
        Merge(slot="a.1", peers=("a.2",)),
        Extend(slot="a.0", peer="m"),
    ]
    steps += [
        Extract(slot="a.0", index="batch-1"),
        Copy(slot="a.1", to="b"),
        Reload(slot="a.0", to="c"),
    ]
    steps += [
        Transfer(slot="a.2", source="a.1"),
        Fetch(slot="a.2"),
        Filter(slot="a.0", indices=(2,)),
    ]

    run = lockstep_with().run(trace_of(*steps))

    assert run.divergences == []
    assert run.steps == len(steps)


@pytest.mark.parametrize(
    "address",
    [
        "a.",
        "a.100",
        "a..0",
        "a.0.1.2.3.4",
        "A",
        "a.x",
        "a.-1",
        "",
        "a.0\n",
        "a.٣",
        "abcdefghijklmnopq",
    ],
)
def test_other_addresses_are_refused(address):
    """A reader takes a slot's name and up to four indices below a hundred, nothing else."""
    text = dumps(trace_of(Trim(n=1), Trim(slot="a.0.1.2.99", n=1)))
    assert loads(text).steps[1].slot == "a.0.1.2.99"

    with pytest.raises(TraceError, match=r"regex.*steps\[1\]\.slot"):
        loads(text.replace('"a.0.1.2.99"', msgspec.json.encode(address).decode()))


@pytest.mark.parametrize(
    "step",
    [
        '{"op": "construct", "cache": "KVCache", "slot": "b.0"}',
        '{"op": "copy", "to": "b.0"}',
        '{"op": "merge", "to": "b.0"}',
        '{"op": "extract", "index": 0, "to": "b.0"}',
        '{"op": "lru_fetch", "tokens": [], "to": "b0"}',
    ],
)
def test_new_caches_go_into_slots_only(step):
    """A step cannot put a cache into the place of a child, nor number what has a number."""
    text = dumps(trace_of(Trim(n=1)))

    with pytest.raises(TraceError, match="regex"):
        loads(text.replace('{"op": "trim", "n": 1}', step))
    assert loads(text.replace('{"op": "trim", "n": 1}', step.replace(".0", "").replace("b0", "b")))


def test_difference_in_a_child_is_told_as_the_childs():
    """A child that differs after a step on its list is told as a child, its list as a list."""

    class KVCache(RELEASED.KVCache):
        def trim(self, n):
            trimmed = super().trim(n)
            self.offset -= 1
            return trimmed

    engine = lockstep_with(KVCache)
    trace = trace_of(Construct(cache="CacheList", children=(KV,)), update(3, slot="a.0"))

    on_list = engine.run(trace.part([*trace.steps, Trim(n=1)]))
    on_child = engine.run(trace.part([*trace.steps, Trim(slot="a.0", n=1)]))

    assert [str(one) for one in on_list.signatures()] == [f"{RELEASE}/CacheList/trim/child: offset"]
    assert {str(one) for one in on_child.signatures()} == {f"{RELEASE}/KVCache/trim/offset"}
