"""Promises of a length: steps of the target's alone, which show in nothing."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from property_tests.harness.ports import (
    RELEASE,
    construct,
    itself,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._caches import CACHES
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._generate import generate
from kvlockstep._search import seeded_bytes
from kvlockstep._shrink import shrink
from kvlockstep._steps import Reserve
from kvlockstep._targets import load_target
from kvlockstep._trace import dumps, loads

KV = release_module().KVCache
PROMISED: list[int] = []


class Promising(KV):
    """Notes what it is promised, and nothing else."""

    def reserve(self, tokens: int) -> str:
        PROMISED.append(tokens)
        return "noted"


Promising.__name__ = "KVCache"


@pytest.fixture(autouse=True)
def _forget() -> None:
    PROMISED.clear()


def test_target_that_declares_it_is_promised() -> None:
    """It hears the number of tokens, and what it returns is nobody's business."""
    run = lockstep_with(Promising, reserves=True).run(trace_of(construct(), Reserve(tokens=5)))

    assert PROMISED == [5]
    assert run.steps == 2
    assert run.divergences == []


@pytest.mark.parametrize(
    ("tokens", "promised"),
    [("offset+5", 8), ("offset-9", 0), ("capacity+1", 257), ("capacity+9999", 2048)],
)
def test_size_is_the_reference_s_and_no_less_than_0(tokens: str, promised: int) -> None:
    """A relative length is a number by the time that the target hears it."""
    steps = construct(), update(3), Reserve(tokens=tokens)
    run = lockstep_with(Promising, reserves=True).run(trace_of(*steps))

    assert [promised] == PROMISED
    assert run.log[-1] == Reserve(tokens=promised)


def test_target_that_does_not_declare_it_is_left_alone() -> None:
    """A method of that name may mean anything there."""
    run = lockstep_with(Promising).run(trace_of(construct(), Reserve(tokens=5)))

    assert PROMISED == []
    assert run.log[-1] is None
    assert run.lacking == set()


def test_class_without_it_is_left_alone() -> None:
    """So is a release, and a class that takes no promise beside those that do, which is told."""
    steps = construct("RotatingKVCache", max_size=4), Reserve(tokens=5), update(1)
    runs = [engine.run(trace_of(*steps)) for engine in (itself(), lockstep_with(reserves=True))]

    assert [[step is None for step in run.log] for run in runs] == [[False, True, False]] * 2
    assert [run.divergences for run in runs] == [[], []]
    assert [run.lacking for run in runs] == [set(), {"RotatingKVCache.reserve"}]


def test_promise_that_fails_is_a_difference() -> None:
    """No reference raises there."""

    class KVCache(KV):
        def reserve(self, tokens: int) -> None:
            raise ValueError(tokens)

    run = lockstep_with(KVCache, reserves=True).run(trace_of(construct(), Reserve(tokens=5)))

    assert shown(run) == [(1, "raises ValueError")]


def test_promise_that_shows_is_a_difference() -> None:
    """What is promised shows in no buffer; the shortest trace keeps the promise, if it must."""

    class KVCache(KV):
        def reserve(self, tokens: int) -> None:
            self.step = tokens

    engine = lockstep_with(KVCache, level="buffer", reserves=True)
    trace = trace_of(construct(), update(2), Reserve(tokens=9), Reserve(tokens=3), update(256))
    run = engine.run(trace)

    assert shown(run) == [(4, "keys")]
    short = shrink(trace, run.divergences[0].signature, engine.run)
    assert short.steps[:2] == (construct(), Reserve(tokens=1))
    assert len(short.steps) == 3
    assert loads(dumps(short)) == short


@pytest.mark.parametrize("cache", CACHES)
def test_promises_are_drawn(cache: str) -> None:
    """In some traces of caches that grow without end, half of which are looked at last."""
    contract, looks = contract_of(RELEASE), Counter[str]()
    for data in islice(seeded_bytes(2), 200):
        trace = generate(data, contract, cache, "in-place")
        if any(isinstance(step, Reserve) for step in trace.steps):
            looks[trace.look] += 1

    if cache in ("KVCache", "ChunkedKVCache", "BatchKVCache"):
        assert min(looks["always"], looks["last"]) > 3
        assert looks.total() < 60
    else:
        assert not looks


@pytest.mark.parametrize("cache", ["KVCache", "ChunkedKVCache", "BatchKVCache"])
def test_our_port_is_promised_lengths(cache: str) -> None:
    """The gate on our port takes the fast path that a promise opens."""
    engine = Lockstep(contract_of(RELEASE), load_target("py:mlxkv", RELEASE))
    runs = [
        engine.run(generate(data, engine.contract, cache, "value"))
        for data in islice(seeded_bytes(2), 60)
    ]

    assert sum(isinstance(step, Reserve) for run in runs for step in run.log) > 2
