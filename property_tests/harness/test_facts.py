"""Facts of a step: what a ledger entry's `when` may refer to, of a cache and of its peers."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import construct, lockstep_with, release_module, trace_of, update

from kvlockstep._prompt_steps import TrieAdd, TrieSearch
from kvlockstep._recipes import Literals, Rows
from kvlockstep._steps import (
    Construct,
    Extend,
    Extract,
    Filter,
    Made,
    Merge,
    Prepare,
    SetItem,
    Trim,
)

RELEASED = release_module()
BATCH = construct("BatchKVCache", left_padding=(1, 0))
OTHER = construct("BatchKVCache", "b", left_padding=(0, 2, 1))


def facts_when(cls: str, method: str, *steps) -> dict:
    """Return the facts of the last step, which a port refuses."""

    def refuse(*_, **__):
        raise KeyError(method)

    base = getattr(RELEASED, cls)
    static = method in ("merge", "from_state")
    port = type(cls, (base,), {method: classmethod(refuse) if static else refuse})
    run = lockstep_with(port, level="buffer").run(trace_of(*steps, step_size=4))

    found, *_ = run.divergences
    assert found.index == len(steps) - 1
    return found.facts


def test_extend_knows_both_caches():
    """Of an extend the sizes of the cache and of its peer are known, and the states of both."""
    steps = BATCH, OTHER, update(2, batch=2), update(5, "b", batch=3), Trim(slot="b", n=1)
    facts = facts_when("BatchKVCache", "extend", *steps, Extend())

    assert facts["peer"] == "b"
    assert (facts["batch"], facts["peer_batch"]) == (2, 3)
    assert (facts["offset"], facts["peer_offset"]) == (2, 4)
    assert (facts["capacity"], facts["peer_capacity"]) == (4, 8)
    assert facts["states"] == ["spare", "trimmed"]


def test_merge_knows_the_states_of_all():
    """Of a merge the states of all caches are known, in their order; sizes of the first peer."""
    steps = [construct(slot=slot) for slot in "stu"]
    steps += [update(1, "s"), update(4, "u"), Merge(slot="u", peers=("t", "x", "s"))]
    facts = facts_when("KVCache", "merge", *steps)

    assert facts["states"] == ["full", "empty", "spare"]
    assert facts["peers"] == ("t", "s")
    assert (facts["offset"], facts["peer_offset"]) == (4, 0)


def test_numbers_of_an_array_are_known_and_its_shape():
    """Of an array given as numbers they are known in one list, and its shape; of a list too."""
    table = Literals(shape=(2, 1), dtype="int32", values=(0, 1))
    facts = facts_when("BatchKVCache", "filter", BATCH, Filter(indices=table))
    assert (facts["indices"], facts["indices_shape"]) == ([0, 1], (2, 1))

    prepared = Prepare(left_padding=table, lengths=(3, 2, 1))
    facts = facts_when("BatchKVCache", "prepare", BATCH, prepared)
    assert (facts["left_padding"], facts["left_padding_shape"]) == ([0, 1], (2, 1))
    assert (facts["lengths"], facts["lengths_shape"]) == ((3, 2, 1), (3,))
    assert (facts["right_padding"], facts["right_padding_shape"]) == (None, ())


def test_slice_is_known_by_its_rows():
    """Of a slice the rows that it takes are known."""
    backwards = Filter(slot="b", indices=(-1, -9, -1), as_slice=True)
    assert facts_when("BatchKVCache", "filter", OTHER, backwards)["indices"] == [2, 1, 0]


def test_operation_without_a_peer_has_no_peers_sizes():
    """A step on one cache has its arguments, its sizes and its state, and nothing of a peer."""
    facts = facts_when("BatchKVCache", "filter", BATCH, Filter(indices=("batch-1",), as_list=True))

    assert facts["indices"] == (1,)
    assert facts["as_list"] is True
    assert facts["states"] == ["empty"]
    assert not any(name.startswith("peer") for name in facts)
    extracted = facts_when("BatchKVCache", "extract", BATCH, update(1, batch=2), Extract(index=1))
    assert (extracted["index"], extracted["position"]) == (1, 1)


def test_caches_of_arrays_tell_the_shapes_of_their_slots():
    """Shapes of slots are known, None for an empty one, for the cache and its peer."""
    steps = [construct("ArraysCache", slot, size=2) for slot in "ab"]
    steps += [SetItem(slot="b", index=1, value=Rows(shape=(3, 2))), Extend()]
    facts = facts_when("ArraysCache", "extend", *steps)

    assert facts["slot_shapes"] == [[None, None], [None, (3, 2)]]


def test_lists_tell_what_is_inside():
    """Of a list the classes, state classes and batch rows of all that is inside are known."""
    children = (
        Made(cache="KVCache"),
        Made(cache="CacheList", children=(Made(cache="ArraysCache", args={"size": 1}),)),
    )
    made = Construct(cache="CacheList", children=children)
    array = SetItem(slot="a.1.0", index=0, value=Rows(shape=(4, 2)))
    steps = made, update(3, "a.0"), Trim(slot="a.0", n=1), array, Trim(n=2)
    facts = facts_when("CacheList", "trim", *steps)

    assert facts["leaves"] == [["KVCache: trimmed", "CacheList: filled", "ArraysCache: filled"]]
    assert facts["leaf_batches"] == [[1, 4, 4]]


@pytest.mark.parametrize("fed", [2, 5])
def test_trim_knows_whether_it_may(fed):
    """Of a trim it is known what the reference's `is_trimmable()` said before it."""
    steps = construct("RotatingKVCache", max_size=4), update(fed), Trim(n=1)

    assert facts_when("RotatingKVCache", "trim", *steps)["trimmable"] == (fed < 4)


def test_look_up_knows_the_tokens_of_the_trace():
    """Of a step on prompts the tokens that the trace has named so far are known, its own too."""
    steps = construct("PromptTrie"), TrieAdd(tokens=(1, 2)), TrieSearch(tokens=(7,))
    facts = facts_when("PromptTrie", "search", *steps)

    assert facts["tokens"] == (7,)
    assert facts["tokens_so_far"] == {1, 2, 7}
    assert facts["model"] == "m"
