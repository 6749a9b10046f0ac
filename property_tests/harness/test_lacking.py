"""What a target lacks is skipped, noted, and no difference."""

from __future__ import annotations

from property_tests.harness.ports import (
    construct,
    lockstep_with,
    release_module,
    trace_of,
    update,
)

from kvlockstep._caches import FUNCTIONS
from kvlockstep._steps import (
    CausalMask,
    Construct,
    Depends,
    Hold,
    Made,
    Mask,
    Merge,
    Reload,
    Transfer,
    Trim,
)


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


def test_operation_that_a_child_lacks_is_skipped():
    """A list hands its operations on: what its children lack, it need not do."""

    class RotatingKVCache:
        def __init__(self, max_size, keep=0):
            self.max_size, self.keep = max_size, keep

    ring = Made(cache="RotatingKVCache", args={"max_size": 4})
    lists = [Construct(slot=s, cache="CacheList", children=(ring,)) for s in ("a", "b")]
    nested = Construct(slot="c", cache="CacheList", children=(lists[0].made,))
    engine = lockstep_with(RotatingKVCache, level="state")

    run = engine.run(trace_of(*lists, nested, Merge(peers=("b",)), Merge(slot="c"), Trim(n=1)))

    assert run.lacking == {"RotatingKVCache.merge", "RotatingKVCache.trim"}
    assert [step is None for step in run.log] == [False] * 3 + [True] * 3


def test_field_that_a_step_needs_and_the_target_lacks():
    """A step that takes a field which the target's class keeps elsewhere is skipped, and noted."""

    class KVCache:
        def __init__(self):
            self._rows = None

        def update_and_fetch(self, keys, values):
            return keys, values

    steps = construct(), update(1), Depends(), Hold(what="state"), Hold(what="result")
    run = lockstep_with(KVCache, level="state").run(trace_of(*steps))

    assert run.lacking == {"KVCache.keys", "KVCache.state"}
    assert [step is None for step in run.log] == [False, False, True, True, False]
    assert run.divergences == []


def test_fields_behind_properties_and_slots_are_compared():
    """Public attributes are compared wherever they are kept; private ones are not looked for."""

    class KVCache:
        __slots__ = ("_inner",)
        wrong = 0

        def __init__(self):
            self._inner = release_module().KVCache()

        def update_and_fetch(self, keys, values):
            return self._inner.update_and_fetch(keys, values)

        def trim(self, n):
            return self._inner.trim(n)

        @property
        def offset(self):
            return self._inner.offset + self.wrong

        @property
        def state(self):
            return self._inner.state

        @state.setter
        def state(self, value):
            self._inner.state = value

        @classmethod
        def from_state(cls, state):
            new = cls()
            new.state = state
            return new

    class Wrong(KVCache):
        __slots__ = ()
        wrong = 1

    Wrong.__name__ = "KVCache"
    steps = construct(), update(3), Trim(n=1), Reload(to="b"), update(1, slot="b"), Transfer()

    engine = lockstep_with(KVCache, level="state")
    run = engine.run(trace_of(*steps))
    found = lockstep_with(Wrong, level="state").run(trace_of(*steps)).divergences

    assert run.divergences == []
    assert run.steps == len(steps)
    assert "KVCache.offset" not in engine.lacking
    assert [one.signature.field for one in found] == ["offset"]
