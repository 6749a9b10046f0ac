"""Several caches in lockstep: they go on decoding after they met, and pairs are counted."""

from __future__ import annotations

from typing import get_args

import pytest
from property_tests.harness.ports import (
    construct,
    itself,
    lockstep_with,
    release_module,
    trace_of,
    update,
)

from kvlockstep._divergence import Pair
from kvlockstep._prompt_steps import TrimPrompt
from kvlockstep._recipes import Rows
from kvlockstep._steps import (
    Construct,
    Copy,
    Extend,
    Extract,
    Fetch,
    Filter,
    Finalize,
    Made,
    Mask,
    Merge,
    Prepare,
    Reload,
    SetItem,
    Transfer,
    Trim,
)
from kvlockstep._trace import Mode
from kvreference import RELEASES

MODES = get_args(Mode)
RELEASED = release_module()
KV = Made(cache="KVCache")
RING = Made(cache="RotatingKVCache", args={"max_size": 4})
LIST = Construct(cache="CacheList", children=(KV, KV))
BATCH, OTHER = (construct("BatchKVCache", slot, left_padding=(1, 0)) for slot in "ab")


def rings(*fed: int):
    """Return rings of one sequence in slots s, t, u that were fed so many tokens, one by one."""
    for slot, number in zip("stu", fed, strict=False):
        yield construct("RotatingKVCache", slot, max_size=4)
        yield from (update(1, slot, start=20 * number + i) for i in range(number))


def batch_ring(slot: str, *fed: int):
    """Return a batch ring and updates of so many tokens each."""
    yield construct("BatchRotatingKVCache", slot, max_size=4, left_padding=(1, 0))
    for number, tokens in enumerate(fed):
        yield update(tokens, slot, start=9 * number, batch="batch")


PREFILL = Prepare(lengths=(3, 1), right_padding=(0, 2), fit=True)
SCENARIOS = {
    "rings of every length": [
        *rings(0, 3, 7), Merge(slot="s", peers=("t", "u")), *(update(1, "m", batch=3),) * 3,
        Extract(slot="m", index=2), update(1, "e"), update(3, "e"),
    ],
    "a concatenating prefill longer than the window": [
        *rings(0, 2), update(6, "s"), Merge(slot="s", peers=("t",)), update(1, "m", batch=2),
        Mask(slot="m", n=1), update(3, "m", batch=2), Mask(slot="m", n=3),
    ],
    "rotated with a fresh peer": [
        *batch_ring("a", 3, 1, 1, 1), *batch_ring("b", 2), Extend(), update(1, batch=4),
        Extend(slot="b", peer="a"), Filter(slot="b", indices=("batch-1", 0)),
    ],
    "an empty peer, either way": [
        BATCH, OTHER, update(2, batch=2), Extend(), Extend(slot="b", peer="a"),
        update(1, batch=4), update(1, "b", batch=6), Fetch(), Mask(slot="b", n=2),
    ],
    "trimmed and extended": [
        BATCH, OTHER, update(4, batch=2), update(3, "b", batch=2), Trim(n=3), Extend(),
        Filter(indices=(3, 0)), update(2, batch=2), Extract(index=1), update(2, "e"),
    ],
    "padding pending across other operations": [
        BATCH, PREFILL, update(3, batch=2), Mask(n=1), Copy(), Filter(indices=(1, 0)),
        Finalize(), update(1, batch=2), Finalize(slot="b"), Extend(),
    ],
    "padding pending in a ring": [
        *batch_ring("a"), PREFILL, update(3, batch=2), update(2, batch=2), Finalize(),
        update(1, batch=2), Extract(index=1), update(1, "e"),
    ],
    "lists of mixed children": [
        *(Construct(slot=slot, cache="CacheList", children=(
            Made(cache="ArraysCache", args={"size": 1}),
            Made(cache="CacheList", children=(KV, RING)),
        )) for slot in "st"),
        update(2, "s.1.0"), update(6, "s.1.1"), update(1, "t.1.1"),
        *(SetItem(slot=f"{slot}.0", index=0, value=Rows(shape=(1, 2))) for slot in "st"),
        Merge(slot="s", peers=("t",)), update(1, "m.1.1", batch=2), Extract(slot="m", index=0),
        update(1, "e.1.1"), Filter(slot="m", indices=(1,)), Extend(slot="m", peer="m"),
    ],
    "a state of another cache": [
        *rings(5, 2), Transfer(slot="t", source="s"), update(1, "t"), update(1, "s"),
        Copy(slot="t"), Reload(slot="t", to="u"), Transfer(slot="t", source="t"), update(2, "u"),
    ],
    "several caches trimmed at once": [
        *rings(3, 2), LIST, update(2, "a.0"), update(3, "a.1"),
        TrimPrompt(slots=("s", "a", "t"), n=1), update(1, "s"), update(1, "a.1"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_release_conforms_to_itself(scenario, release, mode):
    """Caches that meet go on in lockstep with themselves; every step has its caches."""
    steps = [s for s in SCENARIOS[scenario] if not (type(s) is Fetch and release == "0.31.3")]

    run = itself(release).run(trace_of(*steps, mode=mode, step_size=2))

    assert run.divergences == []
    assert None not in run.log


# A fault that only a later step can show, and the scenario that shows it.
FAULTS = {
    "rings of every length": ("BatchRotatingKVCache", "_offset"),
    "rotated with a fresh peer": ("BatchRotatingKVCache", "rotated"),
    "trimmed and extended": ("BatchKVCache", "left_padding"),
    "padding pending across other operations": ("BatchKVCache", "_right_padding"),
    "padding pending in a ring": ("BatchRotatingKVCache", "_lengths"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", FAULTS)
def test_field_that_a_copy_forgets_is_found_later(scenario, mode):
    """A port that drops one field now and then is found through the values, at level state too."""
    name, field = FAULTS[scenario]
    fresh = {"rotated": False, "_offset": 0}.get(field)

    class Forgetful(getattr(RELEASED, name)):
        def filter(self, batch_indices):
            super().filter(batch_indices)
            vars(self)[field] = self.left_padding * 0 if field == "left_padding" else fresh

        def finalize(self):
            vars(self)[field] = self.left_padding * 0 if field == "left_padding" else fresh
            super().finalize()

        def update_and_fetch(self, keys, values):
            if field in ("_offset", "rotated"):
                vars(self)[field] = fresh
            return super().update_and_fetch(keys, values)

    Forgetful.__name__ = name
    engine = lockstep_with(Forgetful, level="state")

    assert engine.run(trace_of(*SCENARIOS[scenario], mode=mode, step_size=2)).divergences


# Pairs.


def test_pairs_are_counted():
    """An extend and a merge are counted by the state of the cache and that of each peer."""
    steps = BATCH, OTHER, Extend(), update(2, "b", batch=2), Extend(), Extend(slot="b", peer="b")
    singles = construct(slot="s"), construct(slot="t"), update(1, "s"), update(2, "t")

    run = itself().run(
        trace_of(*steps, *singles, Merge(slot="t", peers=("s", "t", "x")), step_size=2)
    )

    assert dict(run.pairs) == {
        Pair("BatchKVCache", "extend", "empty", "empty"): 1,
        Pair("BatchKVCache", "extend", "empty", "full"): 1,
        Pair("BatchKVCache", "extend", "full", "full"): 1,
        Pair("KVCache", "merge", "full", "spare"): 1,
        Pair("KVCache", "merge", "full", "full"): 1,
    }


def test_peer_of_another_class_makes_no_pair():
    """A peer of another class is run with and compared, but is no pair of states."""
    steps = BATCH, construct("BatchRotatingKVCache", "b", max_size=4, left_padding=(0,)), Extend()

    run = itself().run(trace_of(*steps))

    assert run.log[2] == Extend()
    assert run.pairs.total() == 0


def test_operations_without_peers_make_no_pair():
    """What takes other caches for another reason is no pair: a transfer, a list to trim."""
    steps = (
        construct(),
        construct(slot="b"),
        update(1),
        Transfer(),
        TrimPrompt(slots=("a", "b"), n=1),
    )

    assert itself().run(trace_of(*steps)).pairs.total() == 0


def test_empty_merge_is_a_cell_and_no_pair():
    """A merge of one cache has no peer."""
    run = itself().run(trace_of(construct(), update(1), Merge()))

    assert run.pairs.total() == 0
    assert {cell.state for cell in run.cells if cell.operation == "merge"} == {"spare"}
