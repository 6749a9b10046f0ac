"""`--seed`: the seed of the generated traces."""

from __future__ import annotations

import re

import pytest

ONE = ("--target=release:0.32.2", "--cache=functions", "--steps=300", "-k", "value")


def counts(ran) -> list[str]:
    """Return the rows of the table, up to the number of steps."""
    return re.findall(r"(?:causal|attention)_mask +│ +[\d,]+", ran.out)


@pytest.mark.parametrize("profile", ["ci", "deep"])
def test_same_seed_draws_the_same_traces(run_pytest, profile):
    """Two runs with the same seed reach the same cells; another seed reaches others."""
    first, again, other = (
        counts(run_pytest("lockstep", *ONE, f"--profile={profile}", f"--seed={seed}"))
        for seed in (3, 3, 4)
    )

    assert len(first) == 2
    assert first == again
    assert first != other


def test_header_shows_the_seed(run_pytest):
    """The header names the seed, 0 by default."""
    assert ", seed 0, " in run_pytest("surface").header
    assert ", seed 91, " in run_pytest("surface", "--seed=91").header


def test_no_number_is_refused(run_pytest):
    """What is no number is a usage error that names option and value."""
    ran = run_pytest("surface", "--seed=lucky")

    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "--seed: invalid int value: 'lucky'" in ran.out


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_SEED does the same, and is checked likewise."""
    monkeypatch.setenv("KVLOCKSTEP_SEED", "91")
    assert ", seed 91, " in run_pytest("surface").header

    monkeypatch.setenv("KVLOCKSTEP_SEED", "lucky")
    ran = run_pytest("surface")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "KVLOCKSTEP_SEED: expected int, got 'lucky'" in ran.out
