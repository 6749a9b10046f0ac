"""What the shrinker tries: simpler steps and simpler traces, each a trace too."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from property_tests.harness.ports import RELEASE, construct, trace_of, update

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Divergence, Run, Signature
from kvlockstep._generate import generate
from kvlockstep._recipes import MAX_DIMENSION
from kvlockstep._search import trace_bytes
from kvlockstep._shrink import shrink
from kvlockstep._simpler import SIMPLER_TRACES, merged, simpler_steps, with_other_numbers
from kvlockstep._steps import CausalMask, Mask, Quantize, Trim, Update
from kvlockstep._trace import dumps, loads

CONTRACT = contract_of(RELEASE)
caches = st.sampled_from([*CACHES, FUNCTIONS])
modes = st.sampled_from(["value", "in-place"])


def candidates(trace):
    """Yield every trace that the shrinker would try next."""
    for simpler in SIMPLER_TRACES:
        yield simpler(trace)
    for index, step in enumerate(trace.steps):
        for other in (*simpler_steps(step), *with_other_numbers(step)):
            yield trace.part([*trace.steps[:index], other, *trace.steps[index + 1 :]])
        for later in trace.steps[index + 1 : index + 3]:
            for both in merged(step, later):
                yield trace.part([both])


@settings(max_examples=40, deadline=None)
@given(data=trace_bytes(), cache=caches, mode=modes)
def test_what_the_shrinker_tries_are_traces(data, cache, mode):
    """Every candidate of the shrinker can be written, and read again as it is."""
    trace = generate(data, CONTRACT, cache, mode)
    trace = trace.part(trace.steps[:12])

    for candidate in candidates(trace):
        assert loads(dumps(candidate)) == candidate


@pytest.mark.parametrize(
    "steps",
    [
        (update(MAX_DIMENSION), update(MAX_DIMENSION)),
        (update(3_000), update(1_097)),
        (Trim(n=2**31 - 1), Trim(n=1)),
        (Trim(n=-(2**31)), Trim(n=-1)),
    ],
)
def test_shrunk_trace_stays_within_the_format(steps):
    """Two steps are not merged into one that no trace file may hold."""
    meant = Signature("0.32.2", "KVCache", "update", "keys")

    def amount(trace):
        rows = (s.keys.shape[2] if isinstance(s, Update) else s.n for s in trace.steps)
        return sum(rows)

    def run(trace):
        found = Divergence(meant, len(trace.steps) - 1, "keys", None, None, {})
        shows = amount(trace) == amount(trace_of(*steps))
        return Run(divergences=[found] if shows else [], log=list(trace.steps))

    small = shrink(trace_of(*steps), meant, run)

    assert amount(small) == amount(trace_of(*steps))
    assert loads(dumps(small)) == small


@pytest.mark.parametrize(("tokens", "fewer"), [(256, 2), (512, 4), (257, 3)])
def test_whole_growth_steps_become_short_ones(tokens, fewer):
    """What shows where the rows fill their buffer is told with a few rows in a short buffer."""
    meant = Signature("0.32.2", "KVCache", "update", "keys")

    def run(trace):
        held = sum(step.keys.shape[2] for step in trace.steps if isinstance(step, Update))
        shows = divmod(held, trace.step_size) == (tokens // 256, min(tokens % 256, 1))
        found = Divergence(meant, len(trace.steps) - 1, "keys", None, None, {})
        return Run(divergences=[found] * shows, log=list(trace.steps))

    small = shrink(trace_of(construct(), update(tokens)), meant, run)

    assert (small.step_size, small.steps[-1].keys.shape[2]) == (2, fewer)


@settings(max_examples=40, deadline=None)
@given(data=trace_bytes(), cache=caches)
def test_simpler_is_never_longer(data, cache):
    """A simpler trace has as many steps, and a simpler step stays the same operation."""
    trace = generate(data, CONTRACT, cache, "in-place")

    for simpler in SIMPLER_TRACES:
        changed = simpler(trace)
        assert [type(step) for step in changed.steps] == [type(step) for step in trace.steps]
    for step in trace.steps[:12]:
        assert {type(other) for other in simpler_steps(step)} <= {type(step)}


@pytest.mark.parametrize(
    ("step", "simplest"),
    [
        (Trim(n=37), Trim(n=1)),
        (Mask(n=5, window=3, return_array=True), Mask(n=5)),
        (Quantize(group_size=32, bits=8), Quantize()),
        (construct("RotatingKVCache", max_size=4, keep=2), construct("RotatingKVCache", keep=2)),
        (CausalMask(n=3, left_padding=(1, 2)), CausalMask(n=3)),
    ],
)
def test_arguments_are_made_simple(step, simplest):
    """Arguments come down to the simplest number, or to being left out."""
    tried = set()
    waiting = [step]
    while waiting:
        for other in simpler_steps(waiting.pop()):
            if (text := dumps(trace_of(other))) not in tried:
                tried.add(text)
                waiting.append(other)

    assert dumps(trace_of(simplest)) in tried


@pytest.mark.parametrize("name", ["keys_as", "values_as"])
def test_what_is_no_array_is_made_one(name):
    """An update of lists or NumPy arrays is tried with arrays."""
    step = replace(update(1), **{name: "numpy"})

    assert update(1) in simpler_steps(step)
