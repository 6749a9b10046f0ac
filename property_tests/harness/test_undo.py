"""A failed step is undone on the reference, and both sides go on together."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
from property_tests.harness.failing import FAILING
from property_tests.harness.ports import (
    construct,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._contract import contract_of
from kvlockstep._divergence import Signature
from kvlockstep._engine import Lockstep
from kvlockstep._jobs import LEDGER
from kvlockstep._ledger import Ledger
from kvlockstep._prompt_steps import TrieAdd, TrieGet, TriePopPrefixes, TrieSearch
from kvlockstep._recipes import Rows
from kvlockstep._steps import Copy, Extend, Extract, Fetch, Hold, Merge, Trim, Update
from kvlockstep._targets import load_target
from kvlockstep._trace import Mode
from kvreference import RELEASES

MODES = get_args(Mode)
RELEASED = release_module()
KV = RELEASED.KVCache


def parts(*things):
    """Yield the caches among the arguments of a method, and all those inside them."""
    for thing in things:
        if isinstance(thing, (list, tuple)):
            yield from parts(*thing)
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            yield thing
            yield from parts(getattr(thing, "caches", ()))


def own(cache) -> dict:
    """Return the fields of a cache, those left out that hold other caches."""
    return {name: value for name, value in vars(cache).items() if name != "caches"}


def transactional(cls: type, *methods: str) -> type:
    """Return a class whose methods leave their caches as they were when they raise."""

    def wrap(name: str):
        def method(self, *args, **named):
            kept = [(cache, copy.deepcopy(own(cache))) for cache in parts(self, args)]
            try:
                return getattr(super(port, self), name)(*args, **named)
            except Exception:
                for cache, fields in kept:
                    vars(cache).update(fields)
                raise

        return method

    port = type(cls.__name__, (cls,), {name: wrap(name) for name in methods})
    return port


def engine(release: str, *methods: str, only: tuple[str, ...] = (), **promises):
    """Return the engine for a port that undoes its failed methods, on all classes or some."""
    module = release_module(release)
    names = only or ("KVCache", "BatchKVCache", "BatchRotatingKVCache", "CacheList", "TokenBuffer",
                     "PromptTrie", "LRUPromptCache", "ArraysCache")  # fmt: skip
    classes = [
        transactional(
            getattr(module, name),
            *(method for method in methods if hasattr(getattr(module, name), method)),
        )
        for name in names
    ]
    promises = {"transactional": True, "level": "buffer", **promises}
    return lockstep_with(*classes, release=release, **promises)


METHODS = "extend", "trim", "filter", "prepare", "update_and_fetch", "insert_cache"


def half_done(case: str, mode: str, **fields):
    """Return the trace of a case, and the index of the step that fails."""
    before, failing, after = FAILING[case]
    return trace_of(*before, failing, *after, mode=mode, step_size=4, **fields), len(before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", FAILING)
def test_failed_step_is_undone(case, release, mode):
    """What a failing release left half changed is told, undone, and both sides go on together."""
    trace, failing = half_done(case, mode)

    run = engine(release, *METHODS).run(trace)

    assert shown(run) == [(failing, "half changed")]
    assert None not in run.log
    assert len(run.log) == len(trace.steps)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
def test_buffers_that_are_not_compared_are_put_back_too(release, mode):
    """At level `state` a spare row that a failed step wrote into is as it was when it shows."""
    failing = FAILING["update that wrote the keys"][1]
    steps = construct(), update(3), Trim(n=1), failing, Trim(n=-1), update(1, start=8)
    trace = trace_of(*steps, mode=mode, step_size=4)

    run = engine(release, "update_and_fetch", level="state").run(trace)

    assert [found for found in shown(run) if found[0] > 3] == []
    assert None not in run.log


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", FAILING)
def test_target_that_undoes_nothing_is_caught(case, release, mode):
    """A port that promises to undo its failed steps and does not is found at that very step."""
    trace, failing = half_done(case, mode)

    run = lockstep_with(release=release, transactional=True, level="buffer").run(trace)

    assert shown(run)[0] == (failing, "half changed")
    assert [index for index, field in shown(run) if field != "half changed"][:1] == [failing]


@pytest.mark.parametrize("mode", MODES)
def test_target_that_forgets_its_peer_is_caught(mode):
    """A port that puts itself back and not its peer differs in the peer."""
    trace, failing = half_done("extend that put its peer in order", mode)

    class BatchRotatingKVCache(release_module().BatchRotatingKVCache):
        def extend(self, other):
            kept = dict(vars(self))
            try:
                super().extend(other)
            except Exception:
                vars(self).update(kept)
                raise

    run = lockstep_with(BatchRotatingKVCache, transactional=True, level="buffer").run(trace)

    assert shown(run)[0] == (failing, "half changed")
    assert shown(run)[1][1].startswith("peer: ")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
def test_refused_step_is_undone_on_the_reference(release, mode):
    """Where the target alone raises, the reference is put back: peers and new caches too."""
    module = release_module(release)

    class BatchKVCache(module.BatchKVCache):
        def extend(self, other):
            if other.left_padding.size > 1:
                raise ValueError("not that many")
            super().extend(other)

        def extract(self, idx):
            if idx == 1:
                raise IndexError("no such row")
            return super().extract(idx)

    steps = [construct("BatchKVCache", slot, left_padding=(0, 1)) for slot in "ab"]
    steps += [update(2, batch=2), update(3, "b", batch=2), Extend(), update(1, batch=2)]
    steps += [Extract(index=1), update(1, "e"), update(1, "b", batch=2), Extract(index=0)]
    run = lockstep_with(BatchKVCache, release=release, transactional=True, level="buffer").run(
        trace_of(*steps, mode=mode)
    )

    assert shown(run) == [(4, "raises ValueError"), (6, "raises IndexError")]
    assert [index for index, step in enumerate(run.log) if step is None] == [7]


@pytest.mark.parametrize("mode", MODES)
def test_held_handles_are_undone_with_their_caches(mode):
    """A handle on a buffer that a failed step wrote into shows the bytes of before."""

    class KVCache(release_module().KVCache):
        def update_and_fetch(self, keys, values):
            if keys.shape != values.shape:
                raise ValueError("head_dim")
            return super().update_and_fetch(keys, values)

    steps = construct(), update(3), Hold(what="state"), Hold(what="copy")
    failing = FAILING["update that wrote the keys"][1]
    trace = trace_of(*steps, failing, update(1, start=7), mode=mode, step_size=4)
    careful = lockstep_with(KVCache, transactional=True, level="buffer", errors="raises")

    assert shown(careful.run(trace)) == [(4, "half changed")]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_out_of_sight_is_undone(mode):
    """A trie that lost values before it failed has them again, in the order that it had."""
    paths = (1,), (1, 2), (1, 2, 3), (1, 2, 4)
    steps = [construct("PromptTrie"), *(TrieAdd(tokens=path, value=len(path)) for path in paths)]
    steps += [TriePopPrefixes(tokens=(1, 2, 9))]
    failing = len(steps) - 1
    steps += [TrieGet(tokens=path) for path in paths]
    steps += [TrieSearch(tokens=(1, 9)), TriePopPrefixes(tokens=(1, 2, 3))]

    run = engine("0.32.2", "pop_prefixes", only=("PromptTrie",)).run(trace_of(*steps, mode=mode))

    assert run.divergences == []
    assert run.steps == len(steps)
    careless = lockstep_with(transactional=True).run(trace_of(*steps, mode=mode))
    assert shown(careless)[0][0] > failing


def test_half_changed_says_what_and_keeps_both():
    """Of a reference left half changed the first field is told, as it was and as it is."""
    run = engine("0.32.2", "trim").run(
        half_done("trim of a list whose second child cannot", "value")[0]
    )

    (found,) = run.divergences
    assert found.signature.cache == "CacheList"
    assert found.signature.operation == "trim"
    assert found.where


def test_failed_merge_leaves_nothing_in_its_place():
    """After a failed merge there is nothing where it was to go, on either side."""
    steps = construct(slot="s"), construct("RotatingKVCache", "t", max_size=4), update(1, "s")
    steps = *steps, Merge(slot="t", peers=("s",), to="s"), update(1, "s"), update(1, "t")
    run = engine("0.32.2").run(trace_of(*steps))

    assert run.divergences == []
    assert [step is None for step in run.log] == [False, False, False, False, True, False]


# The steps of our own port, and of ports that promise nothing.


def undeclared(run) -> set[Signature]:
    """Return what our ledger does not declare."""
    ledger = Ledger.read(LEDGER)
    return {found.signature for found in run.divergences if ledger.declares(found) is None}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
def test_transactional_target_goes_on_after_an_error(release, mode):
    """Good updates after a failed one run in lockstep with a reference that was put back."""
    failing = Update(keys=Rows(shape=(1, 2, 3, 2)), values=Rows(shape=(1, 2, 3, 3)))
    steps = construct(), update(3), failing, update(2, start=7), failing, Trim(n=1), update(4)
    engine = Lockstep(contract_of(release), load_target("py:mlxkv", release))

    run = engine.run(trace_of(*steps, mode=mode, step_size=4))

    assert run.steps == len(steps)
    assert undeclared(run) == set()
    changed = [index for index, field in shown(run) if field == "half changed"]
    assert changed[:1] == [2]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
def test_rows_that_a_failing_release_wrote_are_put_back(release, mode):
    """Where the release wrote the keys in place before it failed, it goes on without them."""
    failing = Update(
        keys=Rows(shape=(1, 2, 1, 2), start=50), values=Rows(shape=(1, 2, 1, 3), start=50)
    )
    steps = construct(), update(3), failing, Fetch(), Copy(), update(2, slot="b", start=9)
    steps = *steps, failing, update(1, start=20)
    engine = Lockstep(contract_of(release), load_target("py:mlxkv", release))
    engine.level = "buffer"

    run = engine.run(trace_of(*steps, mode=mode, step_size=8))

    assert undeclared(run) == set()
    assert (2, "half changed") in shown(run)
    assert run.log[-1] == steps[-1]


def test_transactional_target_is_held_to_it():
    """A target that promises transactions and leaves its offset moved is caught in the field."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            self.offset += 1
            if keys.shape[1] != values.shape[1]:
                raise ValueError("heads")
            self.offset -= 1
            return super().update_and_fetch(keys, values)

    failing = Update(keys=Rows(shape=(1, 2, 1, 2)), values=Rows(shape=(1, 1, 1, 2)))
    trace = trace_of(construct(), update(2), failing, update(1))

    run = lockstep_with(KVCache, transactional=True, errors="raises").run(trace)

    assert (2, "offset") in shown(run)
    assert run.steps == 3


def test_target_without_transactions_must_leave_what_the_release_leaves():
    """Without the promise, a target is compared with the release as its error left it."""

    class KVCache(KV):
        def update_and_fetch(self, keys, values):
            before = self.offset
            try:
                return super().update_and_fetch(keys, values)
            except Exception:
                self.offset = before + 40
                raise

    failing = Update(keys=Rows(shape=(1, 2, 1, 2)), values=Rows(shape=(1, 1, 1, 3)))
    trace = trace_of(construct(), update(2), failing)

    assert lockstep_with().run(trace).divergences == []
    assert shown(lockstep_with(KVCache).run(trace)) == [(2, "offset")]


def test_cache_made_by_one_side_only_is_dropped():
    """After a construction that one side refuses, no step runs on the slot."""

    class RotatingKVCache(RELEASED.RotatingKVCache):
        def __init__(self, max_size, keep=0):
            if max_size < 4:
                raise ValueError("too small")
            super().__init__(max_size, keep)

    steps = construct("RotatingKVCache", max_size=2), update(1), Fetch()
    run = lockstep_with(RotatingKVCache).run(trace_of(*steps))

    assert shown(run) == [(0, "raises ValueError")]
    assert run.log[1:] == [None, None][: len(run.log) - 1]
    assert run.steps == 1
