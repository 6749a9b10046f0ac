"""What a target lacks is skipped, noted, and no difference."""

from __future__ import annotations

from property_tests.harness.ports import construct, lockstep_with, trace_of, update

from kvlockstep._caches import FUNCTIONS
from kvlockstep._steps import CausalMask, Mask, Trim


def test_class_that_is_lacking_is_skipped():
    """Steps on a class that the target lacks do nothing, and the class is noted."""
    engine = lockstep_with(lacks=("RotatingKVCache",))
    steps = construct("RotatingKVCache", max_size=4), update(1), construct(slot="b")

    run = engine.run(trace_of(*steps, update(1, slot="b")))

    assert run.lacking == {"RotatingKVCache"}
    assert [step is None for step in run.log] == [True, True, False, False]
    assert run.divergences == []


def test_operation_that_is_lacking_is_skipped():
    """A method that the target's class lacks is noted, and the other steps run."""

    class KVCache:
        def __init__(self):
            self.keys = None

        def update_and_fetch(self, keys, values):
            return keys, values

    run = lockstep_with(KVCache, level="state").run(
        trace_of(construct(), Trim(n=1), update(1), Mask(n=1))
    )

    assert run.lacking == {"KVCache.trim", "KVCache.make_mask"}
    assert [step is None for step in run.log] == [False, True, False, True]
    assert run.divergences == []


def test_function_that_is_lacking_is_skipped():
    """A mask function that the target lacks is noted."""
    run = lockstep_with(lacks=("create_causal_mask",)).run(trace_of(CausalMask(n=2)))

    assert run.lacking == {f"{FUNCTIONS}.create_causal_mask"}
    assert run.steps == 0


def test_attribute_that_is_lacking_is_noted():
    """An attribute that the target's class lacks is not compared, and noted."""

    class KVCache:
        step = 256

        def __init__(self):
            self.offset = 0

    engine = lockstep_with(KVCache, level="state")
    run = engine.run(trace_of(construct()))

    assert run.divergences == []
    assert {"KVCache.state", "KVCache.nbytes"} <= engine.lacking
