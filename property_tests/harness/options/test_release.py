"""`--release`: the release to compare with."""

from __future__ import annotations

import pytest

SURFACE = "test_surface.py::test_surface[{}]"


@pytest.mark.parametrize("release", ["0.31.3", "0.32.2"])
def test_chooses_one(run_pytest, release):
    """The header names the release, and only its jobs run."""
    ran = run_pytest("surface", f"--release={release}")

    assert f", release {release}, level" in ran.header
    assert ran.tests == [SURFACE.format(release)]


def test_is_repeatable(run_pytest):
    """Given twice, both releases are compared with, in the order given."""
    ran = run_pytest("surface", "--release=0.32.2", "--release=0.31.3")

    assert ", release 0.32.2, 0.31.3, level" in ran.header
    assert ran.tests == [SURFACE.format("0.32.2"), SURFACE.format("0.31.3")]


def test_all_of_our_ports_contracts(run_pytest):
    """`all` stands for each contract that the target says it follows."""
    ran = run_pytest("surface", "--release=all")

    assert ran.tests == [SURFACE.format("0.31.3"), SURFACE.format("0.32.2")]
    assert ran.status == 0


def test_all_for_a_target_with_one_contract(run_pytest, make_port):
    """`all` stands for each pinned release where the target follows one only."""
    ran = run_pytest("surface", f"--target={make_port()}", "--release=all")

    assert ", contract 0.32.2, release 0.31.3, 0.32.2, level" in ran.header


def test_another_than_the_targets_own(run_pytest):
    """A release may be compared with another one; header and surface show that they differ."""
    ran = run_pytest("surface", "--target=release:0.31.3", "--release=0.32.2")

    assert "target release:0.31.3, contract 0.31.3, release 0.32.2, level" in ran.header
    assert ran.outcomes == {SURFACE.format("0.32.2"): "failed"}
    assert "surface 0.32.2: " in ran.out


def test_unknown_one_cannot_run(run_pytest):
    """A release that is not pinned is quoted, beside what is expected; exit status 2."""
    ran = run_pytest("surface", "--release=9.9.9")

    assert ran.status == 2
    expected = "release '9.9.9': expected all, path:DIR or one of 0.28.0, "
    assert f"could not run: {expected}" in ran.out
    assert ran.tests == []


def test_one_that_the_target_does_not_follow_cannot_run(run_pytest):
    """A release for which the target has no module is named, beside its contracts."""
    ran = run_pytest("surface", "--release=path:/nowhere/mlx-lm")

    assert ran.status == 2
    assert "expected one of its contracts 0.31.3, 0.32.2, got release 'path:/nowhere" in ran.out


def test_working_copy_that_is_not_there_cannot_run(run_pytest):
    """A path without mlx-lm is named; exit status 2."""
    ran = run_pytest("smoke", "--target=release:0.32.2", "--release=path:/nowhere/mlx-lm")

    assert ran.status == 2
    assert "/nowhere/mlx-lm" in ran.out


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_RELEASE does the same, several separated by commas."""
    monkeypatch.setenv("KVLOCKSTEP_RELEASE", "0.32.2, 0.31.3")

    assert run_pytest("surface").tests == [SURFACE.format("0.32.2"), SURFACE.format("0.31.3")]
