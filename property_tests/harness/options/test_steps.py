"""`--steps`: how many steps for each release, cache and mode."""

from __future__ import annotations

import pytest

ONE = ("--target=release:0.32.2", "--cache=ConcatenateKVCache")


def test_header_shows_steps(run_pytest):
    """The header tells the steps for each release, cache and mode."""
    ran = run_pytest("surface", *ONE, "--steps=1234")

    assert "profile ci (1,234 steps each)" in ran.header
    assert ran.status == 0


def test_search_ends_with_the_trace_that_reaches_them(run_pytest):
    """A job runs at least as many steps, and no trace more than it needs."""
    ran = run_pytest("lockstep", *ONE, "--steps=40")

    steps = int(ran.out.partition(" jobs, ")[2].partition(" steps")[0])
    assert 2 * 40 <= steps < 2 * (40 + 3 * 64)


@pytest.mark.parametrize("number", ["0", "-3"])
def test_fewer_than_one_is_refused(run_pytest, number):
    """Less than one step is a usage error that says what is expected."""
    ran = run_pytest("surface", f"--steps={number}")

    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert f"steps: expected 1 or more, got {number}" in ran.out


def test_no_number_is_refused(run_pytest):
    """What is no number is a usage error that names option and value."""
    ran = run_pytest("surface", "--steps=many")

    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "--steps: invalid int value: 'many'" in ran.out


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_STEPS does the same, and the option outranks it."""
    monkeypatch.setenv("KVLOCKSTEP_STEPS", "77")

    assert "(77 steps each)" in run_pytest("surface", *ONE).header
    assert "(78 steps each)" in run_pytest("surface", *ONE, "--steps=78").header


def test_environment_variable_that_is_no_number(run_pytest, monkeypatch):
    """KVLOCKSTEP_STEPS that is no number is a usage error that names it."""
    monkeypatch.setenv("KVLOCKSTEP_STEPS", "many")

    ran = run_pytest("surface", *ONE)

    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "KVLOCKSTEP_STEPS: expected int, got 'many'" in ran.out
