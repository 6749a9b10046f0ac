"""`--cache`: a cache class, or the mask functions."""

from __future__ import annotations

import pytest

from kvlockstep._caches import CACHES, FUNCTIONS

ONE = ("--target=release:0.32.2", "--steps=10")
LOCKSTEP = "test_lockstep.py::test_lockstep[0.32.2-{}-{}]"


@pytest.mark.parametrize("cache", ["ConcatenateKVCache", FUNCTIONS])
def test_chooses_one(run_pytest, cache):
    """Only its lockstep jobs run, in both modes, and only it stands in the table."""
    ran = run_pytest("lockstep", *ONE, f"--cache={cache}")

    assert ran.outcomes == {
        LOCKSTEP.format(cache, "value"): "passed",
        LOCKSTEP.format(cache, "in-place"): "passed",
    }
    assert f"│ {cache} " in ran.out
    assert all(f"│ {other} " not in ran.out for other in {*CACHES, FUNCTIONS} - {cache})


def test_is_repeatable(run_pytest):
    """Given twice, both are tested, in the order given."""
    ran = run_pytest(
        "lockstep", *ONE, "--cache=functions", "--cache=ConcatenateKVCache", "-k", "value"
    )

    expected = [LOCKSTEP.format(cache, "value") for cache in ("functions", "ConcatenateKVCache")]
    assert ran.tests == expected


def test_all_by_default(run_pytest):
    """Without the option every class is tested, and the mask functions."""
    ran = run_pytest("lockstep", *ONE, "--collect-only", "-q")

    lines = [line for line in ran.out.splitlines() if "::" in line]
    assert len(lines) == 2 * (len(CACHES) + 1)
    assert all(any(f"-{name}-" in line for line in lines) for name in (*CACHES, FUNCTIONS))


def test_narrows_the_ledger(run_pytest):
    """Only the ledger's entries for that class are judged."""
    ran = run_pytest("ledger", "--cache=ConcatenateKVCache", "--collect-only", "-q")

    entries = [line for line in ran.out.splitlines() if "::test_ledger[" in line]
    assert entries
    assert all("-concatenate-" in entry for entry in entries)


def test_unknown_one_cannot_run(run_pytest):
    """A class that the harness does not know is quoted, beside those that it does."""
    ran = run_pytest("lockstep", "--cache=PagedKVCache")

    assert ran.status == 2
    known = ", ".join((*CACHES, FUNCTIONS))
    assert f"could not run: cache 'PagedKVCache': expected one of {known}" in ran.out


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_CACHE does the same, several separated by commas."""
    monkeypatch.setenv("KVLOCKSTEP_CACHE", "functions,ConcatenateKVCache")

    ran = run_pytest("lockstep", *ONE, "-k", "value")

    expected = [LOCKSTEP.format(cache, "value") for cache in ("functions", "ConcatenateKVCache")]
    assert ran.tests == expected
