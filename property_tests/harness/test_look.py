"""Traces whose caches are looked at only when they have ended."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from property_tests.harness.ports import (
    construct,
    itself,
    lockstep_with,
    release_module,
    shown,
    trace_of,
    update,
)

from kvlockstep._explain import tell_trace
from kvlockstep._recipes import Rows
from kvlockstep._shrink import shrink
from kvlockstep._steps import SetState, Trim, Update
from kvlockstep._trace import Mode, dumps, loads

KV = release_module().KVCache
STEPS = construct(), update(2), update(1), update(3), Trim(n=1), update(1)
# Keys of another number of heads.
WRONG = Update(keys=Rows(shape=(1, 3, 1, 2)), values=Rows(shape=(1, 2, 1, 2)))

each_mode = pytest.mark.parametrize("mode", get_args(Mode))


class Lazy(KV):
    """Keeps new rows aside, and forgets the first of them unless it is looked at in between."""

    def __init__(self) -> None:
        super().__init__()
        self.unseen = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "state":
            fields = object.__getattribute__(self, "__dict__")
            if fields["unseen"] > 1:
                fields["keys"] = fields["keys"] * 0
            fields["unseen"] = 0
        return super().__getattribute__(name)

    def update_and_fetch(self, keys: Any, values: Any) -> Any:
        self.unseen += 1
        return super().update_and_fetch(keys, values)


Lazy.__name__ = "KVCache"


@each_mode
def test_what_looking_hides_is_found(mode: Mode) -> None:
    """A fault that a look after each step heals shows when the trace has ended."""
    engine = lockstep_with(Lazy, level="state")

    assert engine.run(trace_of(*STEPS, mode=mode)).divergences == []
    run = engine.run(trace_of(*STEPS, mode=mode, look="last"))

    assert shown(run)[0] == (5, "state[0]")


def test_what_looking_shows_is_told_by_its_step() -> None:
    """A difference that shows in its step is told there, not where the trace ends."""

    class KVCache(KV):
        def trim(self, n: int) -> int:
            trimmed = super().trim(n)
            self.offset += 1
            return trimmed

    engine = lockstep_with(KVCache, level="buffer")

    assert shown(engine.run(trace_of(*STEPS, look="last")))[0] == (4, "offset")


def test_results_are_compared_at_every_step() -> None:
    """What an operation returns is compared when it returns, looked at or not."""

    class KVCache(KV):
        def trim(self, n: int) -> int:
            return super().trim(n) + 1

    assert shown(lockstep_with(KVCache).run(trace_of(*STEPS, look="last"))) == [(4, "result")]


@pytest.mark.parametrize("known", [True, False])
def test_how_a_step_ended_is_told_without_another_run(known: bool) -> None:
    """An error that is meant is known by its step as it is: the trace is run once."""
    made = []

    class KVCache(KV):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def update_and_fetch(self, keys: Any, values: Any) -> Any:
            if keys.shape[1] != 2:
                raise OverflowError
            return super().update_and_fetch(keys, values)

    engine = lockstep_with(KVCache, errors="type", transactional=True)
    trace = trace_of(construct(), update(2), WRONG, update(1), look="last")
    run = engine.run(trace, lambda _: known)

    assert shown(run) == [(2, "raises OverflowError, not ValueError")]
    assert len(made) == (1 if known else 2)


@each_mode
def test_the_release_beside_itself(mode: Mode) -> None:
    """Nothing differs, a failed step and one without anything to do among them."""
    steps = *STEPS, SetState(state=(None,)), update(1), Trim(slot="z", n=1)
    run = itself().run(trace_of(*steps, mode=mode, look="last"))

    assert run.divergences == []
    assert run.steps == len(steps) - 1


def test_a_failed_step_is_undone_all_the_same() -> None:
    """Beside a transactional target a failing release is put back to what it held unseen."""

    class KVCache(KV):
        def update_and_fetch(self, keys: Any, values: Any) -> Any:
            if keys.shape[1] != 2:
                raise ValueError("heads")
            return super().update_and_fetch(keys, values)

    engine = lockstep_with(KVCache, level="buffer", errors="raises", transactional=True)
    run = engine.run(trace_of(construct(), update(2), WRONG, update(1), look="last"))

    assert shown(run) == [(2, "half changed")]


def test_the_shortest_trace_looks_last_only_where_it_must() -> None:
    """A shrunk trace says so where the fault is hidden by looking, and else does without."""
    engine = lockstep_with(Lazy, level="state")
    trace = trace_of(*STEPS, look="last")
    found = engine.run(trace).divergences[0].signature

    short = shrink(trace, found, engine.run)

    assert short.look == "last"
    assert len(short.steps) == 3
    assert "caches looked at when the trace has ended" in tell_trace(short)
    assert loads(dumps(short)) == short


def test_a_look_at_the_end_is_left_out_where_it_need_not_be() -> None:
    """A fault that always shows shrinks to a trace that is looked at after every step."""

    class KVCache(KV):
        def trim(self, n: int) -> int:
            return super().trim(n) + 1

    engine = lockstep_with(KVCache)
    trace = trace_of(*STEPS, look="last")
    found = engine.run(trace).divergences[0].signature

    assert shrink(trace, found, engine.run).look == "always"
