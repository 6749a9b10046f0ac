"""Pytest's own options work on the gate's tests."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import CANNOT_BE_MADE, OFFSET_TOO_HIGH

RUN = ("--cache=KVCache", "--cache=functions", "--steps=60")
BROKEN = OFFSET_TOO_HIGH
ALL = [
    f"test_lockstep.py::test_lockstep[0.32.2-{cache}-{mode}]"
    for cache in ("KVCache", "functions")
    for mode in ("value", "in-place")
]


def test_k_chooses_jobs(run_pytest, make_port):
    """`-k` chooses jobs by their ids."""
    ran = run_pytest("lockstep", f"--target={make_port()}", *RUN, "-k", "functions and value")

    assert ran.outcomes == {ALL[2]: "passed"}


def test_x_stops_at_the_first_failure(run_pytest, make_port):
    """`-x` runs nothing after the first job that fails."""
    ran = run_pytest("lockstep", f"--target={make_port(BROKEN)}", *RUN, "-x")

    assert ran.outcomes == {ALL[0]: "failed"}


def test_lf_runs_what_failed(run_pytest, make_port):
    """`--lf` runs the jobs that failed last time."""
    target = f"--target={make_port(BROKEN)}"
    first = run_pytest("lockstep", target, *RUN)
    again = run_pytest("lockstep", target, *RUN, "--lf")

    assert first.outcomes == dict(zip(ALL, ["failed", "failed", "passed", "passed"], strict=True))
    assert again.outcomes == {ALL[0]: "failed", ALL[1]: "failed"}


def test_workers_report_to_the_first_process(run_pytest_process, make_port):
    """With `-n 2` the table adds up what both workers found, and failures are told."""
    target = make_port(BROKEN)

    ran = run_pytest_process("lockstep", f"--target={target}", *RUN, "-n2")

    assert ran.status == pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 2 passed" in ran.out
    assert "0.32.2/KVCache/update/offset" in ran.out
    assert f"{target} does not conform: 4 jobs, " in ran.flat
    assert "│ functions " in ran.out


def test_workers_exit_with_2_for_a_bad_adapter(run_pytest_process, make_port):
    """With `-n 2` too, a target that cannot be driven at all ends with exit status 2."""
    ran = run_pytest_process("smoke", f"--target={make_port(CANNOT_BE_MADE)}", "-n2")

    assert ran.status == 2
    assert "The adapter, not the cache, is wrong." in ran.out


def test_workers_exit_with_2_for_a_missing_module(run_pytest_process):
    """With `-n 2` too, a missing module is named and ends with exit status 2."""
    ran = run_pytest_process("smoke", "--target=py:no_such_module", "-n2")

    assert ran.status == 2
    assert "could not run: target module 'no_such_module' cannot be imported" in ran.out
