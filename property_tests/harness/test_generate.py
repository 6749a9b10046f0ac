"""The generator: what it reaches, and that the shrinker's candidates are traces too."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.harness.ports import RELEASE, construct, trace_of, update

from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Divergence, Run, Signature
from kvlockstep._engine import Lockstep
from kvlockstep._explain import tell_step, tell_trace
from kvlockstep._generate import generate
from kvlockstep._operations import OPERATIONS
from kvlockstep._search import search, seeded_bytes, trace_bytes
from kvlockstep._shrink import shrink
from kvlockstep._simpler import SIMPLER_TRACES, merged, simpler_steps, with_other_numbers
from kvlockstep._targets import load_target
from kvlockstep._trace import (
    MAX_DIMENSION,
    Bits,
    CausalMask,
    Construct,
    Mask,
    Quantize,
    Rows,
    Trim,
    Update,
    dumps,
    loads,
)
from kvreference import RELEASES

CONTRACT = contract_of(RELEASE)
caches = st.sampled_from([*CACHES, FUNCTIONS])
modes = st.sampled_from(["value", "in-place"])


def traces(cache: str, mode: str = "in-place", number: int = 400, release: str = RELEASE):
    """Return generated traces on a class."""
    contract = contract_of(release)
    return [generate(data, contract, cache, mode) for data in islice(seeded_bytes(2), number)]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("cache", CACHES)
def test_every_operation_of_a_class_is_drawn(cache, release):
    """Within some hundred traces each operation that the class has in the release is drawn."""
    drawn = {
        OPERATIONS[type(step)].name
        for trace in traces(cache, release=release)
        for step in trace.steps
    }
    members = contract_of(release).surfaces[cache].members
    has = {
        operation.name
        for operation in OPERATIONS.values()
        if operation.member is None or operation.member in members
    }

    assert {"construct", *CACHES[cache].operations} & has <= drawn <= has


@pytest.mark.parametrize("cache", CACHES)
def test_every_state_of_a_class_is_reached(cache):
    """Within some hundred traces updates meet each state of the class that an update can meet."""
    engine = Lockstep(CONTRACT, load_target(f"release:{RELEASE}", RELEASE))
    states = {
        cell.state
        for trace in traces(cache, "value", 150)
        for cell in engine.run(trace).cells
        if cell.operation == "update" and cell.cache == cache
    }

    expected = {"empty", "full", "trimmed"}
    if cache != "ConcatenateKVCache":
        expected |= {"RotatingKVCache": {"filling", "wrapped"}}.get(cache, {"spare"})
    assert expected <= states


@pytest.mark.parametrize("cache", CACHES)
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


def test_hypothesis_search_goes_on_past_one_round():
    """A search with Hypothesis is not over after its first round of examples."""
    seen = set()

    def visit(data: bytes) -> bool:
        seen.add(data)
        return len(seen) < 450

    search("hypothesis", 0, visit)

    assert len(seen) == 450


# What the shrinker tries.


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


# Plain words.


def test_every_operation_can_be_told():
    """Each operation has words of its own, without the name of its class."""
    drawn = {}
    for cache in (*CACHES, FUNCTIONS):
        for trace in [*traces(cache, number=120), *traces(cache, number=120, release="0.31.3")]:
            drawn |= {type(step): step for step in trace.steps}
    told = {kind: tell_step(step) for kind, step in drawn.items()}

    assert set(told) == set(OPERATIONS)
    assert len(set(told.values())) == len(told)
    assert all(isinstance(text, str) and f"{kind.__name__}(" not in text.replace("KVCache(", "")
               for kind, text in told.items())  # fmt: skip


def test_a_trace_is_told_step_by_step():
    """A trace is numbered lines and its settings."""
    trace = trace_of(construct(), update(2), Trim(n="offset-1"), step_size=4, mode="in-place")

    assert tell_trace(trace).splitlines() == [
        "  1. a = KVCache()",
        "  2. a: update with 2 tokens, float32 [1, 2, 2, 2]",
        "  3. a: trim offset-1",
        "     growth step 4, in-place mode",
    ]
