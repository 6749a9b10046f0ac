"""The generator: what it draws, and what it reaches."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.harness.ports import RELEASE

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._generate import generate
from kvlockstep._operations import OPERATIONS
from kvlockstep._prompt_steps import LruInsert, LruTrim, TrieSearch
from kvlockstep._recipes import Bits, Rows
from kvlockstep._search import _spell, search, seeded_bytes, trace_bytes
from kvlockstep._source import HEAD_BYTES, STEP_BYTES, steps_in
from kvlockstep._steps import (
    Construct,
    Extend,
    Extract,
    Filter,
    Mask,
    Merge,
    Prepare,
    SetItem,
    Trim,
    Update,
)
from kvlockstep._targets import load_target
from kvreference import RELEASES

CONTRACT = contract_of(RELEASE)
caches = st.sampled_from([*CACHES, FUNCTIONS])
modes = st.sampled_from(["value", "in-place"])


@lru_cache
def engine_of(release: str) -> Lockstep:
    """Return the engine for a release against itself."""
    return Lockstep(contract_of(release), load_target(f"release:{release}", release))


@lru_cache(maxsize=32)
def traces(cache: str, mode: str = "in-place", number: int = 400, release: str = RELEASE):
    """Return generated traces on a class."""
    contract = contract_of(release)
    return [generate(data, contract, cache, mode) for data in islice(seeded_bytes(2), number)]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("cache", CACHES)
def test_every_operation_of_a_class_is_drawn(cache, release):
    """Within some hundred traces each operation that the class has in the release is drawn."""
    # Caches of one sequence are merged where batches are under test.
    on = [cache, f"Batch{cache}"] if "merge" in CACHES[cache].operations else [cache]
    drawn = {
        OPERATIONS[type(step)].name
        for one in on
        if one in CACHES
        for trace in traces(one, release=release)
        for step in trace.steps
    }
    members = contract_of(release).surfaces[cache].members
    has = {
        operation.name
        for operation in OPERATIONS.values()
        if operation.member is None or operation.member in members
    }

    assert {"construct", *CACHES[cache].operations} & has <= drawn


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("cache", [*CACHES, FUNCTIONS])
def test_most_of_what_is_drawn_runs(cache, release):
    """Two steps of three and more act on a cache that is there and has such an operation."""
    engine = engine_of(release)
    runs = [engine.run(trace) for trace in traces(cache, "value", 25, release)]

    assert sum(run.steps for run in runs) > sum(len(run.log) for run in runs) * 2 / 3


@pytest.mark.parametrize("cache", CACHES)
def test_every_state_of_a_class_is_reached(cache):
    """Within some dozen traces a cache of the class has been in each of its states."""
    engine = engine_of(RELEASE)
    waiting = set(CACHES[cache].states)
    for trace in traces(cache, "value", 150):
        waiting -= {cell.state for cell in engine.run(trace).cells if cell.cache == cache}
        if not waiting:
            break

    assert waiting == set()


@pytest.mark.parametrize("cache", [name for name, kind in CACHES.items() if kind.fed])
def test_boundaries_and_odd_arguments_are_drawn(cache):
    """Relative sizes, no tokens, other ranks and dtypes, raw bits and both layouts are drawn."""
    updates = [step for trace in traces(cache) for step in trace.steps if isinstance(step, Update)]
    tokens = {step.keys.shape[2] for step in updates if len(step.keys.shape) == 4}

    assert {0, 1, "room", "room+1", "room-1", "window", "window+1"} <= tokens
    assert {len(step.keys.shape) for step in updates} > {4}
    assert {step.keys.dtype for step in updates} >= {"float32", "float16", "bfloat16", "int32"}
    assert {type(step.keys) for step in updates} == {Rows, Bits}
    assert any(step.values is None for step in updates)
    assert any(step.values and step.values.shape != step.keys.shape for step in updates)
    assert {step.keys_as for step in updates} == {None, "list", "numpy"}
    assert {step.values_as for step in updates} == {None, "list", "numpy"}


def steps_on(cache: str, kind: type) -> list:
    """Return the steps of a kind that are drawn for a class."""
    return [step for trace in traces(cache) for step in trace.steps if isinstance(step, kind)]


@pytest.mark.parametrize("cache", ["BatchKVCache", "BatchRotatingKVCache"])
def test_boundaries_of_batches_are_drawn(cache):
    """Rows from either end, twice, none and outside; uneven padding; peers of every sort."""
    filters = {index for step in steps_on(cache, Filter) for index in step.indices}
    prepares = steps_on(cache, Prepare)
    merges = steps_on(cache, Merge)

    assert {0, 1, "batch-1", -1, 2} <= filters
    assert {step.indices for step in steps_on(cache, Filter)} >= {(), (0, 0)}
    assert {0, 1, "batch-1", "batch", -1} <= {step.index for step in steps_on(cache, Extract)}
    assert {bool(step.left_padding) for step in prepares} == {True, False}
    assert any(step.right_padding and step.fit for step in prepares)
    assert any(step.right_padding and not step.fit for step in prepares)
    assert {("a", "b"), ("b", "a"), ("a", "a"), ("a", "m"), ("a", "e")} <= {
        (step.slot, step.peer) for step in steps_on(cache, Extend)
    }
    assert {1, 2, 3} <= {1 + len(step.peers) for step in merges}
    assert {step.to for step in merges} == {"m", "a", "b"}
    assert {"batch"} <= {step.keys.shape[0] for step in steps_on(cache, Update)}
    assert {"a", "b", "s", "t", "u", "e", "m"} <= {step.slot for step in steps_on(cache, Update)}


def test_lists_of_every_sort_are_drawn():
    """Lists are empty, of one class, mixed and nested, and their children are updated."""
    made = steps_on("CacheList", Construct)
    kinds = {tuple(child.cache for child in step.children) for step in made}
    updated = {step.slot for step in steps_on("CacheList", Update)}

    assert {(), ("KVCache", "KVCache"), ("ArraysCache", "KVCache")} <= kinds
    assert any("CacheList" in one for one in kinds)
    assert {"a.0", "a.1", "b.1", "a.0.0", "m.0"} <= updated
    assert {"a.0", "a.1.1"} <= {step.slot for step in steps_on("CacheList", SetItem)}


def test_odd_queries_are_drawn():
    """Empty queries, one token, shared prefixes, equal but different tokens, several models."""
    asked = steps_on("PromptTrie", TrieSearch)
    tokens = {step.tokens for step in asked}
    kinds = {type(token) for step in asked for token in step.tokens}

    assert {(), (1,), (1, 2), (1, 2, 3)} <= tokens
    assert {int, bool, float, str, type(None)} <= kinds
    assert {"m", "n", None, 7} <= {step.model for step in asked}


def test_insertions_and_fetches_of_every_sort_are_drawn():
    """Lists of none, one and two caches, fetched ones too, of every type and one unknown."""
    inserted = steps_on("LRUPromptCache", LruInsert)
    trims = steps_on("LRUPromptCache", LruTrim)

    assert {step.cache_type for step in inserted} == {"assistant", "user", "system", "tool"}
    assert {(), ("s",), ("s", "t"), ("f0",)} <= {step.caches for step in inserted}
    assert {None, 0, 1, -1} <= {step.n_sequences for step in trims}
    assert {None, 0, -1} <= {step.n_bytes for step in trims}
    assert any(step.slot == "f0" for step in steps_on("LRUPromptCache", Update))
    sizes = {step.args["max_size"] for step in steps_on("LRUPromptCache", Construct)
             if step.cache == "LRUPromptCache"}  # fmt: skip
    assert {0, 1, 3} <= sizes


def test_illegal_arguments_are_drawn():
    """Trims past both ends, fractions, and windows of 0 are drawn beside legal ones."""
    steps = [step for trace in traces("RotatingKVCache") for step in trace.steps]
    trims = {step.n for step in steps if isinstance(step, Trim)}
    sizes = {step.args["max_size"] for step in steps if isinstance(step, Construct)}

    assert {0, 1, -1, 1.5, 1000, "offset", "offset+1", "window"} <= trims
    assert {0, 1, 2, 4, 16} <= sizes
    assert {None, 0, "window"} <= {step.window for step in steps if isinstance(step, Mask)}


def test_several_caches_are_used_at_once():
    """Some traces work on several slots."""
    used = [
        len({step.slot for step in trace.steps if isinstance(step, Update)})
        for trace in traces("KVCache")
    ]

    assert {1, 2, 3} <= set(used)


@settings(max_examples=60, deadline=None)
@given(data=trace_bytes(), cache=caches, mode=modes)
def test_same_bytes_are_the_same_trace(data, cache, mode):
    """A trace depends on its bytes only."""
    one, two = (generate(data, CONTRACT, cache, mode) for _ in range(2))

    assert one == two
    assert one.mode == mode


@pytest.mark.parametrize("engine", ["hypothesis", "seeded"])
def test_search_is_repeatable_and_ends(engine):
    """A search visits the same bytes for the same seed, until the visitor has had enough."""

    def visited(seed: int, number: int) -> list[bytes]:
        seen: list[bytes] = []

        def visit(data: bytes) -> bool:
            seen.append(data)
            return len(seen) < number

        search(engine, seed, visit)
        return seen

    first = visited(3, 60)
    assert len(first) == 60
    assert visited(3, 60) == first
    assert visited(3, 30) == first[:30]
    assert visited(4, 60) != first
    assert len(set(first)) > 50


def test_search_draws_traces_of_every_length():
    """Whoever draws the bytes, short traces and long ones come in about equal numbers."""
    for engine in ("hypothesis", "seeded"):
        lengths: list[int] = []

        def visit(data: bytes, lengths: list[int] = lengths) -> bool:
            assert any(data)
            lengths.append(steps_in(data))
            return len(lengths) < 200

        search(engine, 0, visit)
        counts = Counter(lengths)
        assert {min(counts), max(counts)} == {3, 64}
        assert min(counts.values()) > 5


def test_one_changed_word_changes_one_step():
    """What Hypothesis draws stands for steps one by one, so that a part of it can be kept."""
    words = bytes(range(40))
    data = _spell(words)
    changed = _spell(words[:21] + b"\xff" + words[22:])

    assert len(data) == HEAD_BYTES + STEP_BYTES * 7
    assert [i // STEP_BYTES for i in range(len(data)) if data[i] != changed[i]] == [5] * STEP_BYTES


def test_hypothesis_search_goes_on_past_one_round():
    """A search with Hypothesis is not over after its first round of examples."""
    seen = set()

    def visit(data: bytes) -> bool:
        seen.add(data)
        return len(seen) < 450

    search("hypothesis", 0, visit)

    assert len(seen) == 450
