"""Undefined zones: what is never run on either side, and that it is no wider than it must be."""

from __future__ import annotations

import mlx.core as mx
import pytest
from property_tests.harness.ports import (
    construct,
    itself,
    lockstep_with,
    module_with,
    release_module,
    trace_of,
    update,
)

import kvreference
from kvlockstep import _gate, _undefined
from kvlockstep._check import as_text
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._gate import run_job
from kvlockstep._jobs import Job, JobReport
from kvlockstep._recipes import Literals, Rows, Slice
from kvlockstep._settings import Settings
from kvlockstep._steps import (
    Construct,
    Depends,
    Extract,
    Filter,
    Finalize,
    Made,
    Prepare,
    Quantize,
    SetItem,
    SetState,
    Trim,
    Update,
)
from kvlockstep._targets import Target
from kvlockstep._undefined import ZONES

RELEASES = OLD, NEW = kvreference.RELEASES
WIDE = Update(keys=Rows(shape=(1, 1, 1, 64)))
BATCH = construct("BatchKVCache", left_padding=(0, 0, 0)), update(2, batch=3)
RING = construct("BatchRotatingKVCache", max_size=8, left_padding=(0, 0)), update(2, batch=2)
ARRAYS = (
    construct("ArraysCache", size=2),
    SetItem(index=0, value=Rows(shape=(3, 2))),
    SetItem(index=1, value=Rows(shape=(3, 2))),
)
LISTED = (
    Construct(
        cache="CacheList",
        children=(
            Made(cache="ArraysCache", args={"size": 1}),
            Made(cache="CacheList", children=(
                Made(cache="BatchKVCache", args={"left_padding": (0, 0, 0)}),)),
        ),
    ),
    SetItem(slot="a.0", index=0, value=Rows(shape=(2, 2))),
    update(2, "a.1.0", batch=3),
)  # fmt: skip
PENDING = Prepare(lengths=(2, 1), right_padding=(0, 1))
FLOATING = *RING, Trim(n=1.5), PENDING
# A batch ring whose offset is floating, in a list.
NESTED_RING = (
    Construct(cache="CacheList", children=(
        Made(cache="BatchRotatingKVCache", args={"max_size": 8, "left_padding": (0, 0)}),)),
    update(2, "a.0", batch=2),
    Trim(n=1.5),
    PENDING,
)  # fmt: skip

DIVIDES, READS = "divides by a group size of 0", "filter with an index"
EXTRACTS, ROLLS = "BatchKVCache.extract", "after trim(1.5)"
OLD_EXTRACTS = "BatchRotatingKVCache.extract"
THIRD = Literals(shape=(1,), dtype="int32", values=(3,))
NOTHING, ONE_BIT = "array that has none", "with bits=1"
# Rows that are none: no tokens, no heads, no batch, no values.
NONE = [Update(keys=Rows(shape=shape)) for shape in ((1, 1, 0, 64), (1, 0, 2, 64), (0, 1, 2, 64))]
NONE.append(Update(keys=Rows(shape=(1, 1, 2, 64)), values=Rows(shape=(1, 1, 0, 64))))
QUANTIZED = construct("QuantizedKVCache", group_size=32)
STEPS, DEPENDS = "a slice's step of 0", "mx.depends of no arrays"
RING_OF_ONE = construct("RotatingKVCache", max_size=4)
TABLE = Literals(shape=(2, 1), dtype="int32", values=(0, 3))
# What enters a zone, by the reason: steps of which the last one is left out, in these releases.
INSIDE = [
    (DIVIDES, (construct(), WIDE, Quantize(group_size=0)), RELEASES),
    (DIVIDES, (construct("QuantizedKVCache", group_size=0), WIDE), RELEASES),
    *((NOTHING, (QUANTIZED, WIDE, none), RELEASES) for none in NONE),
    (NOTHING, (construct(), NONE[1], Quantize(group_size=32)), RELEASES),
    (ONE_BIT, (construct("QuantizedKVCache", bits=1), WIDE), RELEASES),
    (ONE_BIT, (construct(), WIDE, Quantize(bits=1)), RELEASES),
    (DEPENDS, (construct(), SetState(state=((), (), 0)), Depends()), (NEW,)),
    (DEPENDS, (RING_OF_ONE, SetState(state=((), ()), as_list=True), Depends()), (OLD,)),
    (READS, (*BATCH, Filter(indices=(3,))), RELEASES),
    (READS, (*BATCH, Filter(indices=(0, -4), as_list=True)), RELEASES),
    (READS, (*BATCH, Filter(indices=("batch",))), RELEASES),
    (READS, (*RING, Filter(indices=(2, 0))), RELEASES),
    (READS, (*ARRAYS, Filter(indices=(0, 3))), RELEASES),
    (READS, (*LISTED, Filter(indices=(2,))), RELEASES),
    (READS, (construct("BatchKVCache", left_padding=(1,)), Filter(indices=(1,))), RELEASES),
    (READS, (*BATCH, Filter(indices=TABLE)), RELEASES),
    (STEPS, (*BATCH, Filter(indices=(0, 3, 0), as_slice=True)), RELEASES),
    *((READS, (*ARRAYS, Filter(indices=(), given=rows)), RELEASES) for rows in (3, (0, (-4,)))),
    (READS, (*ARRAYS, Filter(indices=(), given=THIRD)), RELEASES),
    (READS, (*ARRAYS, Filter(indices=(), given=Rows(shape=(1,), dtype="int32"))), RELEASES),
    (STEPS, (*ARRAYS, Filter(indices=(), given=Slice(by=0))), RELEASES),
    (EXTRACTS, (*BATCH, Extract(index=3)), (OLD,)),
    (EXTRACTS, (*BATCH, Extract(index=0, given=3)), (OLD,)),
    (EXTRACTS, (*BATCH, Extract(index="batch")), (OLD,)),
    (EXTRACTS, (*BATCH, Extract(index=-4)), (OLD,)),
    (EXTRACTS, (*LISTED, Extract(index=2)), (OLD,)),
    # Up to 0.31.1 only, which the gate does not compare with.
    (OLD_EXTRACTS, (*RING, Extract(index=2)), ()),
    (ROLLS, (*FLOATING, update(2, batch=2)), RELEASES),
    (ROLLS, (*FLOATING, Finalize()), RELEASES),
    (ROLLS, (*NESTED_RING, Finalize()), RELEASES),
]
# The nearest neighbours outside: all of these steps run.
OUTSIDE = [
    (construct(), WIDE, Quantize(group_size=32)),
    (construct(), WIDE, Quantize(group_size=1)),
    (construct("QuantizedKVCache", group_size=1), WIDE),
    (construct("QuantizedKVCache", group_size=0), Trim(n=1)),
    (QUANTIZED, WIDE),
    (construct("QuantizedKVCache", bits=2), WIDE),
    (construct(), WIDE, Quantize(bits=2)),
    (construct(), NONE[0]),
    (construct(), Depends()),
    (construct(), WIDE, Depends()),
    (QUANTIZED, WIDE, Depends()),
    (construct(), Quantize(group_size=32)),
    (*BATCH, Filter(indices=(2, -3))),
    (*BATCH, Filter(indices=())),
    (*ARRAYS, Filter(indices=(), given=Slice(stop=9, by=-1))),
    (*ARRAYS, Filter(indices=(), given=(0, (2,), None))),
    (*BATCH, Extract(index=9, given=1)),
    (*RING, Filter(indices=(1, -2), as_list=True)),
    (*BATCH, Filter(indices=(0, 7, 2), as_slice=True)),
    (*BATCH, Filter(indices=(0, 0), as_slice=True)),
    (*ARRAYS, Filter(indices=(2, 0, 0, -3))),
    (*LISTED, Filter(indices=(1, -2))),
    (*LISTED, Filter(slot="a.1", indices=(2,))),
    (construct("BatchKVCache", left_padding=(1,)), Filter(indices=(0, -1))),
    (*BATCH, Extract(index=2)),
    (*BATCH, Extract(index=-3)),
    (*RING, Extract(index=2)),
    (*ARRAYS, Extract(index=7)),
    (*LISTED, Extract(slot="a.0", index=5)),
    (*FLOATING[:-1], update(2, batch=2)),
    (*FLOATING[:-1], Finalize()),
    (*FLOATING, Trim(n=0)),
    (*RING, Trim(n=1), PENDING, update(2, batch=2), Finalize()),
    (*BATCH, Trim(n=1.5), Prepare(right_padding=(0, 1, 1), lengths=(1, 1, 1)), Finalize()),
]


@pytest.fixture(autouse=True)
def _as_on_cuda(monkeypatch):
    """What is left out on CUDA is left out here."""
    monkeypatch.setattr(_undefined, "_is_on_cuda", lambda: True)


def told(steps) -> str:
    """Name a case by its last steps."""
    return " ".join(type(step).__name__ for step in steps)


@pytest.mark.parametrize("mode", ["value", "in-place"])
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("reason", "steps", "releases"), INSIDE)
def test_step_into_a_zone_is_left_out(reason, steps, releases, release, mode):
    """A step into a zone is neither run nor counted as one; it is counted with its reason."""
    run = itself(release).run(trace_of(*steps, mode=mode))

    inside = release in releases
    assert (run.log[-1] is None) == inside
    assert None not in run.log[:-1]
    assert run.steps == len(steps) - inside
    assert [reason in found for found in run.undefined] == [True] * inside
    assert run.undefined.total() == inside
    assert run.divergences == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("steps", OUTSIDE, ids=map(told, OUTSIDE))
def test_step_beside_a_zone_is_run(steps, release):
    """The neighbours of a zone are run, whatever they do: errors are compared too."""
    run = itself(release).run(trace_of(*steps))

    assert None not in run.log
    assert run.undefined.total() == 0
    assert run.divergences == []


@pytest.mark.parametrize(
    "steps", [steps for reason, steps, _ in INSIDE if reason in (NOTHING, ONE_BIT)]
)
def test_zone_of_cuda_is_none_on_a_cpu(steps, monkeypatch):
    """What MLX gets wrong on CUDA it does right on a CPU, and there it is run."""
    monkeypatch.undo()
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        run = itself(NEW).run(trace_of(*steps))
    finally:
        mx.set_default_device(before)

    assert None not in run.log
    assert run.undefined.total() == 0


def test_every_zone_has_a_step_into_it():
    """No zone is without a step that enters it, nor without a neighbour of each kind."""
    beside = {type(step) for steps in OUTSIDE for step in steps}
    for zone in ZONES:
        into = {type(steps[-1]) for reason, steps, _ in INSIDE if reason in zone.reason}
        assert {*zone.operations} <= into
        assert {*zone.operations} <= beside
        assert {*zone.releases} <= {*kvreference.PINNED}


@pytest.mark.parametrize(("reason", "steps", "releases"), [case for case in INSIDE if case[2]])
def test_neither_side_is_called(reason, steps, releases, monkeypatch):
    """In a zone neither the reference nor the target is called."""
    name = type(steps[-1]).__name__
    method = {"Quantize": "to_quantized", "Update": "update_and_fetch"}.get(name, name.lower())
    module = release_module(releases[-1])
    calls = []

    def counting(original):
        def counted(*args, **named):
            calls.append(reason)
            return original(*args, **named)

        return counted

    for cls in vars(module).values():
        if isinstance(cls, type) and method in vars(cls):
            monkeypatch.setattr(cls, method, counting(vars(cls)[method]))
    engine = itself(releases[-1])
    engine.run(trace_of(*steps[:-1]))
    without = len(calls)
    engine.run(trace_of(*steps))

    assert len(calls) == 2 * without


@pytest.mark.parametrize("contract", [None, OLD, NEW, "path:somewhere"])
def test_zone_of_one_release_holds_for_either_side(contract):
    """A zone of one release holds if the reference or the target follows it, or may follow it."""
    module = module_with(release=NEW)
    steps = *BATCH, Extract(index=3)

    engine = Lockstep(contract_of(NEW), Target("py:port", module, contract))
    older = Lockstep(contract_of(OLD), Target("py:port", module_with(release=OLD), NEW))

    assert (engine.run(trace_of(*steps)).undefined.total() == 1) == (contract != NEW)
    assert older.run(trace_of(*steps)).undefined.total() == 1


@pytest.mark.parametrize("contract", [None, "0.31.1", "0.28.4", "0.31.2", OLD, NEW])
def test_zone_of_older_releases(contract):
    """A zone that only older releases have holds for a target that follows one, or may."""
    engine = Lockstep(contract_of(NEW), Target("py:port", module_with(release=NEW), contract))

    run = engine.run(trace_of(*RING, Extract(index=2)))

    told = any(OLD_EXTRACTS in reason for reason in run.undefined)
    assert told == (contract in (None, "0.31.1", "0.28.4"))


def test_port_is_free_to_raise_in_a_zone():
    """A port that raises where the release would read anything is not asked to."""

    class BatchKVCache(release_module().BatchKVCache):
        def filter(self, batch_indices):
            if max(batch_indices.tolist(), default=0) >= self.offset.size:
                raise IndexError("no such row")
            super().filter(batch_indices)

    steps = *BATCH, Filter(indices=(3,)), Filter(indices=(2,)), update(1)

    run = lockstep_with(BatchKVCache).run(trace_of(*steps))

    assert run.divergences == []
    assert [step is None for step in run.log] == [False, False, True, False, False]


def test_report_shows_every_zone_once_with_its_count():
    """Each reason stands in the report once, with how often it was met, 0 included."""
    report = JobReport()
    reason = ZONES[-1].reason
    report.undefined[reason] = 1234

    text = " ".join(as_text(report, Settings(target=f"release:{NEW}")).split())

    for zone in ZONES:
        times = "1,234" if zone.reason == reason else "0"
        line = f"never run on the reference, {times} steps left out: {zone.reason}"
        assert text.count(line) == 1


def test_counts_of_zones_add_up():
    """Reports add up what they left out, by reason."""
    total = JobReport()
    for steps in (INSIDE[0][1], INSIDE[2][1], INSIDE[3][1]):
        total.add(JobReport(undefined=itself(NEW).run(trace_of(*steps)).undefined))

    assert sorted(total.undefined.values()) == [1, 2]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_witness_in_a_zone_of_a_gpu_is_not_judged(device, monkeypatch):
    """What was left out on a GPU does not make a ledger entry stale; on a CPU it does."""
    monkeypatch.setattr(_gate, "use_device", lambda _: None)
    settings = Settings(device=device)

    report = run_job(Job("ledger", NEW, "quantized-update-unlike-lengths"), settings)

    assert report.undefined.total() == 1
    assert ["is stale" in problem for problem in report.problems] == [True] * (device == "cpu")
