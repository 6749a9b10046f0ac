"""`--level`: how much is compared.

With 0.31.3 as the contract: the `state` of 0.32.2 has the spare rows too.
"""

from __future__ import annotations

import pytest

# A port whose spare rows hold other bytes: seen only by who looks at the physical buffers.
DIRTY_SPARE = """
class KVCache(release.KVCache):
    def update_and_fetch(self, keys, values):
        result = super().update_and_fetch(keys, values)
        self.keys[..., self.offset :, :] = 7
        return result
"""
RUN = ("--cache=KVCache", "--steps=60")


def test_header_shows_the_level(run_pytest):
    """The header names the level: the one asked for, or the one that the target offers."""
    assert ", level state, " in run_pytest("surface", "--level=state").header
    assert ", level buffer, " in run_pytest("surface").header


def test_spare_capacity_is_seen_at_level_buffer_only(run_pytest, make_port):
    """Other bytes in the spare rows are a divergence at level buffer, and none at level state."""
    target = "--target=" + make_port(DIRTY_SPARE, release="0.31.3")

    state = run_pytest("lockstep", target, *RUN, "--level=state")
    buffer = run_pytest("lockstep", target, *RUN, "--level=buffer")

    assert state.status == 0
    assert buffer.status == pytest.ExitCode.TESTS_FAILED
    assert "0.31.3/KVCache/update/keys" in buffer.out


def test_default_is_what_the_target_declares(run_pytest, make_port):
    """Without the option the target's own declaration counts."""
    target = "--target=" + make_port(DIRTY_SPARE, release="0.31.3", level="buffer")

    assert run_pytest("lockstep", target, *RUN).status == pytest.ExitCode.TESTS_FAILED
    assert run_pytest("lockstep", target, *RUN, "--level=state").status == 0


def test_unknown_one_is_refused(run_pytest):
    """Another level is a usage error that lists those there are."""
    ran = run_pytest("surface", "--level=bytes")

    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "--level: invalid choice: 'bytes' (choose from " in ran.out


def test_environment_variable(run_pytest, monkeypatch):
    """KVLOCKSTEP_LEVEL does the same, and is checked likewise."""
    monkeypatch.setenv("KVLOCKSTEP_LEVEL", "state")
    assert ", level state, " in run_pytest("surface").header

    monkeypatch.setenv("KVLOCKSTEP_LEVEL", "bytes")
    ran = run_pytest("surface")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "KVLOCKSTEP_LEVEL: expected one of state, buffer, got 'bytes'" in ran.out
