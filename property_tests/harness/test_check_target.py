"""`check_target`: the gate as one call, for a user's own test suite."""

from __future__ import annotations

import inspect
import pickle

import pytest
from property_tests.harness.ports import (
    CANNOT_BE_MADE,
    RELEASE,
    TRIM_SAYS_TOO_MANY,
    construct,
    trace_of,
)

import kvlockstep
from kvlockstep import ConformanceError, JobReport, TargetError, TraceError, check_target
from kvlockstep._options import OPTIONS, OptionError
from kvlockstep._steps import Trim
from kvlockstep._trace import write


@pytest.fixture
def options(tmp_path):
    """Options of a short run: one class, one trace of the corpus, a few steps."""
    write(trace_of(construct(), Trim(n=1)), tmp_path / "corpus" / "trim.json")
    return {
        "cache": "KVCache",
        "steps": 20,
        "traces": tmp_path / "corpus",
        "report": tmp_path / "report",
    }


def test_conforming_target_returns_its_report(options):
    """A target that conforms: the report of all jobs is returned, declared divergences counted."""
    report = check_target("release:0.32.2", **options)

    assert isinstance(report, JobReport)
    assert report.exit_status == 0
    assert report.jobs == len(["surface", "smoke", "corpus", "value", "in-place"])
    assert report.steps >= 2 * 20
    assert set(report.cells) == {RELEASE}
    assert {cell.cache for cell in report.cells[RELEASE]} >= {"KVCache"}
    assert report.arcs[RELEASE]


def test_release_chooses_the_contract(options):
    """`release` is the release to compare with."""
    report = check_target("py:mlxkv", "0.31.3", **options)

    assert set(report.cells) == {"0.31.3"}


def test_cache_takes_one_name_or_several(options, tmp_path):
    """`cache` is one name, or a list of them."""
    (tmp_path / "none").mkdir()
    options |= {"cache": ["ConcatenateKVCache", "functions"], "traces": tmp_path / "none"}

    report = check_target("release:0.32.2", **options)

    caches = {cell.cache for cell in report.cells[RELEASE]}
    assert caches == {"ConcatenateKVCache", "functions"}
    assert report.jobs == len(["surface", "smoke"]) + 2 * 2


def test_broken_port_raises_with_the_report(make_port, options):
    """A port that does not conform fails the test, with the report as the message."""
    target = make_port(TRIM_SAYS_TOO_MANY)

    with pytest.raises(ConformanceError) as info:
        check_target(target, **options)

    text = str(info.value)
    assert isinstance(info.value, AssertionError)
    assert "0.32.2/KVCache/trim/result\n  1. a = KVCache()\n  2. a: trim 1\n" in text
    assert f"{target} does not conform" in text
    assert "state classes reached" in text
    assert [path.name for path in options["report"].iterdir()] == [
        "0.32.2-KVCache-trim-result.json"
    ]


def test_declared_divergence_is_no_failure(make_port, options, tmp_path):
    """What a ledger declares passes, and is counted in the report."""
    target = make_port(TRIM_SAYS_TOO_MANY)
    ledger = tmp_path / "ledger.toml"
    fields = {"id": "x", "releases": [RELEASE], "cache": "KVCache", "operation": "trim"}
    fields |= {"field": "result", "reference": "0", "port": "1", "why": "w", "source": "s"}
    fields["witness"] = "corpus/trim.json"
    lines = [f"{name} = {value!r}" for name, value in fields.items()]
    head = ["version = 1", f"target = {target!r}", "[[divergence]]"]
    ledger.write_text("\n".join(head + lines))

    report = check_target(target, ledger=str(ledger), **options)

    assert report.exit_status == 0
    assert {entry for _, entry in report.declared} == {"x"}
    assert sum(report.declared.values()) >= 2


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("py:no_such_module", "target module 'no_such_module' cannot be imported"),
        ("no target", "target 'no target': expected py:MODULE"),
        ("py:json", "has no cache class"),
    ],
)
def test_target_that_cannot_be_run_raises(target, told, options):
    """A target that cannot be driven at all is a `TargetError`, not a failed check."""
    with pytest.raises(TargetError) as info:
        check_target(target, **options)

    assert told in str(info.value)


def test_class_that_cannot_be_made_raises(make_port, options):
    """A class that cannot be constructed is the adapter's fault."""
    with pytest.raises(TargetError, match="The adapter, not the cache, is wrong"):
        check_target(make_port(CANNOT_BE_MADE), **options)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("steps", 0, "steps: expected 1 or more, got 0"),
        ("steps", "many", "steps: expected a whole number, got 'many'"),
        ("seed", 1.5, "seed: expected a whole number, got 1.5"),
        ("level", "bytes", "level: expected one of state, buffer, got 'bytes'"),
        ("profile", "nightly", "profile: expected one of smoke, ci, deep, got 'nightly'"),
        ("device", "tpu", "device: expected one of cpu, gpu, got 'tpu'"),
        ("speed", 1, "check_target: unknown options speed"),
    ],
)
def test_bad_option_raises(option, value, told, options):
    """An option that does not fit says its name, what was expected and what came."""
    with pytest.raises(OptionError) as info:
        check_target("release:0.32.2", **{**options, option: value})

    assert str(info.value) == told


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("cache", "PagedKVCache", "cache 'PagedKVCache'"), ("release", "9.9.9", "release '9.9.9'")],
)
def test_unknown_names_raise(option, value, told, options):
    """An unknown class or release is a `TargetError` that quotes it."""
    with pytest.raises(TargetError) as info:
        check_target("release:0.32.2", **{**options, option: value})

    assert f"{told}: expected " in str(info.value)


def test_bad_trace_raises(options):
    """A file of the corpus that is no trace is named."""
    (options["traces"] / "bad.json").write_text("{}")

    with pytest.raises(TraceError, match=r"bad\.json: "):
        check_target("release:0.32.2", **options)


def test_environment_fills_in_what_is_not_given(options, monkeypatch):
    """An option that is not given comes from its environment variable."""
    monkeypatch.setenv("KVLOCKSTEP_CACHE", "ConcatenateKVCache")
    del options["cache"]

    report = check_target("release:0.32.2", **options)

    assert {cell.cache for cell in report.cells[RELEASE]} == {"ConcatenateKVCache"}


def test_docstring_names_every_option():
    """The docstring lists the options that the call takes."""
    described = inspect.getdoc(check_target)

    missing = [option.name for option in OPTIONS if f"`{option.name}`" not in described]
    assert set(missing) <= {"target", "release"}


def test_report_travels_between_processes(options):
    """A report is a value: it can be pickled, and reports add up."""
    report = check_target("release:0.32.2", **options)
    total = JobReport()

    for _ in range(2):
        total.add(pickle.loads(pickle.dumps(report)))

    assert total.steps == 2 * report.steps
    assert total.cells[RELEASE].total() == 2 * report.cells[RELEASE].total()
    assert total.arcs == report.arcs


def test_package_exports_what_a_user_needs():
    """The package has what its `__all__` says, and nothing private is in it."""
    assert set(kvlockstep.__all__) == {
        "ConformanceError",
        "JobReport",
        "TargetError",
        "Trace",
        "TraceError",
        "check_target",
    }
    assert all(hasattr(kvlockstep, name) for name in kvlockstep.__all__)
