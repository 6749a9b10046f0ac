"""`--profile`: how long to search, and who draws the traces."""

from __future__ import annotations

import pytest

from kvlockstep import _search


@pytest.mark.parametrize(
    ("profile", "steps"), [("smoke", "500"), ("ci", "30,000"), ("deep", "1,000,000")]
)
def test_header_shows_profile_and_steps(run_pytest, profile, steps):
    """The header names the profile and its steps."""
    ran = run_pytest("surface", f"--profile={profile}")

    assert f"profile {profile} ({steps} steps each)" in ran.header


def test_ci_is_the_default(run_pytest):
    """Without the option the profile is `ci`."""
    assert "profile ci (30,000 steps each)" in run_pytest("surface").header


def test_smoke_runs_its_steps(run_pytest):
    """The profile's steps are what a job runs, where `--steps` does not say otherwise."""
    options = ("--target=release:0.32.2", "--cache=functions", "-k", "value")

    ran = run_pytest("lockstep", *options, "--profile=smoke")

    steps = int(ran.out.partition(" jobs, ")[2].partition(" steps")[0])
    assert 500 <= steps < 500 + 64


def test_deep_draws_without_hypothesis(run_pytest, monkeypatch):
    """`deep` draws its traces with the seeded generator."""

    def refuse(*_):
        raise AssertionError("Hypothesis was asked")

    monkeypatch.setattr(_search, "_search_with_hypothesis", refuse)
    options = ("--target=release:0.32.2", "--cache=functions", "-k", "value", "--steps=20")

    assert run_pytest("lockstep", *options, "--profile=deep").status == 0
    assert run_pytest("lockstep", *options, "--profile=ci").status == 1


def test_unknown_one_is_refused(run_pytest):
    """Another profile is a usage error that lists those there are."""
    ran = run_pytest("surface", "--profile=nightly")

    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "--profile: invalid choice: 'nightly' (choose from " in ran.out


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_PROFILE does the same, and is checked likewise."""
    monkeypatch.setenv("KVLOCKSTEP_PROFILE", "smoke")
    assert "profile smoke" in run_pytest("surface").header

    monkeypatch.setenv("KVLOCKSTEP_PROFILE", "nightly")
    ran = run_pytest("surface")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    expected = "KVLOCKSTEP_PROFILE: expected one of smoke, ci, deep, got 'nightly'"
    assert expected in ran.out
