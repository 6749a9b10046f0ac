"""What the harness finds between two releases of mlx-lm: every difference that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from property_tests.harness.ports import construct, trace_of, update

import kvreference
from kvlockstep._caches import CACHES
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._gate import run_job
from kvlockstep._jobs import Job, JobReport
from kvlockstep._settings import Settings
from kvlockstep._steps import Mask, Prepare, Transfer
from kvlockstep._targets import load_target
from kvlockstep._trace import AnyStep

# FACTS, "Releases": the rows of its table that are about these classes.
DIFFERENCES = [
    pytest.param("KVCache", "update", "state", id="state-holds-the-scalars"),
    pytest.param("KVCache", "construct", "state", id="state-of-an-empty-cache"),
    pytest.param("KVCache", "set_state", "raises ValueError", id="state-takes-the-offset"),
    pytest.param("RotatingKVCache", "update", "result[0]", id="a-ring-that-is-not-full"),
    pytest.param("ChunkedKVCache", "front_trim", "start_position", id="front-trim-by-valid-rows"),
    pytest.param("ArraysCache", "construct", "state", id="state-holds-the-paddings"),
    pytest.param("CacheList", "reload", "child: keys", id="state-of-a-list"),
    pytest.param("BatchKVCache", "extend", "keys", id="extend-with-an-empty-peer"),
    pytest.param("BatchRotatingKVCache", "reload", "rotated", id="rotated-restored"),
]
# Those that take several steps to come to, each with the shortest.
BATCH = construct("BatchKVCache", left_padding=(0,))
TRACES = [
    pytest.param(
        "mask/result",
        (
            construct("ArraysCache", size=1, left_padding=(1,)),
            Prepare(lengths=(1,)),
            Mask(n=2, bare=True),
        ),
        id="mask-of-both-paddings",
    ),
    pytest.param(
        "update/other cache: offset",
        (BATCH, replace(BATCH, slot="b"), update(256), Transfer(slot="b", source="a"), update(1)),
        id="offset-in-place",
    ),
]


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> JobReport:
    """Run 0.31.3 as a target against 0.32.2."""
    folder: Path = tmp_path_factory.mktemp("report")
    settings = Settings(target="release:0.31.3", steps=1500, report=folder)
    report = run_job(Job("surface", "0.32.2"), settings)
    for cache in CACHES:
        for mode in ("value", "in-place"):
            report.add(run_job(Job("lockstep", "0.32.2", cache, mode), settings))
    return report


@pytest.mark.parametrize(("cache", "operation", "field"), DIFFERENCES)
def test_finds_what_was_measured(drift: JobReport, cache: str, operation: str, field: str) -> None:
    """Each difference between the releases that FACTS lists shows, under a signature of its own."""
    assert ("0.32.2", cache, operation, field) in drift.undeclared


@pytest.mark.parametrize(("shown", "steps"), TRACES)
def test_finds_what_takes_several_steps(shown: str, steps: tuple[AnyStep, ...]) -> None:
    """A difference that a search seldom comes to shows in its trace."""
    target = load_target("release:0.31.3", "0.32.2")
    run = Lockstep(contract_of("0.32.2"), target).run(trace_of(*steps))
    assert shown in {f"{s.operation}/{s.field}" for s in run.signatures()}


def test_tells_what_is_lacking(drift: JobReport) -> None:
    """The method that 0.32 added is lacking in 0.31, and no divergence."""
    caches = kvreference.load("0.32.2").cache
    adding = {cache for cache in CACHES if hasattr(getattr(caches, cache), "keys_and_values")}
    assert {f"{cache}.keys_and_values" for cache in adding} <= drift.lacking
    assert not [s for s in drift.undeclared if s.operation == "fetch"]


def test_tells_other_parameters(drift: JobReport) -> None:
    """The surface check names `from_state`, which takes another number of arguments."""
    told = [problem for problem in drift.problems if "KVCache.from_state" in problem]
    assert any("expected parameters (state), got (state, meta_state)" in text for text in told)


def test_concatenate_is_the_same_in_both(drift: JobReport) -> None:
    """ConcatenateKVCache did not change between the releases."""
    assert not [s for s in drift.undeclared if s.cache == "ConcatenateKVCache"]


@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
def test_a_release_conforms_to_itself(release: str, tmp_path: Path) -> None:
    """The release against itself shows nothing, in either mode."""
    settings = Settings(target=f"release:{release}", steps=1000, report=tmp_path)
    total = JobReport()
    modes: tuple[Any, ...] = ("value", "in-place")
    for cache in CACHES:
        for mode in modes:
            total.add(run_job(Job("lockstep", release, cache, mode), settings))
    assert total.steps >= 10_000
    assert total.exit_status == 0
