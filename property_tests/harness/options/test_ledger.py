"""`--ledger`: the ledger of declared divergences."""

from __future__ import annotations

from pathlib import Path

import pytest
from property_tests.harness.ports import TRIM_SAYS_TOO_MANY, construct, trace_of

from kvlockstep._ledger import Entry, add_entry
from kvlockstep._steps import Trim

RUN = ("--cache=KVCache", "--steps=60")


def declare(target: str, folder: Path) -> Path:
    """Write a ledger for `target` that declares what the broken port shows, and its witness."""
    path = folder / "ledger.toml"
    entry = Entry(
        id="one-too-many",
        releases=("0.32.2",),
        cache="KVCache",
        operation="trim",
        field="result",
        reference="0",
        port="1",
        why="a test",
        source="this test",
        witness="traces/one-too-many.json",
    )
    add_entry(path, entry, trace_of(construct(), Trim(n=1)), target)
    return path


def test_declared_divergence_passes(run_pytest, make_port, tmp_path):
    """What the ledger declares is counted and passes, and its entries are jobs."""
    target = make_port(TRIM_SAYS_TOO_MANY)
    ledger = declare(target, tmp_path)

    ran = run_pytest("ledger lockstep", f"--target={target}", *RUN, f"--ledger={ledger}")

    assert ran.status == 0
    assert "test_ledger.py::test_ledger[0.32.2-one-too-many]" in ran.tests
    assert "1 declared signatures (1 ledger entries), 0 undeclared" in ran.flat


def test_no_ledger_applies_to_another_port(run_pytest, make_port):
    """Without the option, a port that is not ours has no ledger."""
    ran = run_pytest("ledger", f"--target={make_port(TRIM_SAYS_TOO_MANY)}", "--collect-only")

    assert "test_ledger[NOTSET]" in ran.out


def test_ours_applies_to_our_port(run_pytest):
    """Without the option, our ledger's entries are judged for our port."""
    ran = run_pytest("ledger", "-k", "chunked-trim-negative")

    assert ran.outcomes == {
        f"test_ledger.py::test_ledger[{release}-chunked-trim-negative]": "passed"
        for release in ("0.31.3", "0.32.2")
    }


def test_stale_entry_fails(run_pytest, make_port, tmp_path):
    """An entry whose witness no longer shows its divergence fails the gate."""
    target = make_port()

    ran = run_pytest("ledger", f"--target={target}", f"--ledger={declare(target, tmp_path)}")

    assert ran.status == pytest.ExitCode.TESTS_FAILED
    expected = "ledger entry 'one-too-many' is stale for 0.32.2: expected its witness to show"
    assert f"{expected} 0.32.2/KVCache/trim/result, got no divergence" in ran.out


@pytest.mark.parametrize(
    ("entry", "problem"),
    [('releases = ["0.32.9"]', "0.32.9"), ('cache = "PagedKVCache"', "PagedKVCache")],
)
def test_entry_that_no_job_can_match_fails(run_pytest, make_port, tmp_path, entry, problem):
    """An entry of an unknown release or class fails the run; a typo would hide it for ever."""
    target = make_port(TRIM_SAYS_TOO_MANY)
    ledger = declare(target, tmp_path)
    name = entry.partition(" ")[0]
    lines = ledger.read_text().splitlines()
    ledger.write_text("\n".join(entry if line.startswith(name) else line for line in lines))

    ran = run_pytest("ledger", f"--target={target}", f"--ledger={ledger}")

    assert ran.status == 2
    assert f"could not run: ledger entry 'one-too-many': {name}: expected " in ran.out
    assert f"got '{problem}'" in ran.out


def test_ledger_of_another_target_cannot_run(run_pytest, make_port, tmp_path):
    """A ledger says whose divergences it declares; for another target the run ends with 2."""
    target = make_port(TRIM_SAYS_TOO_MANY)
    ledger = declare("py:another_port", tmp_path)

    ran = run_pytest("ledger", f"--target={target}", f"--ledger={ledger}")

    assert ran.status == 2
    expected = f"{ledger}: expected a ledger for {target}, got one for py:another_port"
    assert f"could not run: {expected}" in ran.out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("version = ", "Invalid value"),
        ("version = 2\ntarget = 'py:x'", "expected ledger version 1, got 2"),
        ("version = 1\ntarget = 'py:x'\nallow = []", "unknown field `allow`"),
    ],
)
def test_bad_file_cannot_run(run_pytest, tmp_path, text, problem):
    """A ledger that cannot be read is named, with what is wrong; exit status 2."""
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)

    ran = run_pytest("ledger", f"--ledger={path}")

    assert ran.status == 2
    assert "could not run: " in ran.out
    assert str(path) in ran.out
    assert problem in ran.out


def test_environment_variable(run_pytest, make_port, tmp_path, monkeypatch):
    """KVLOCKSTEP_LEDGER does the same."""
    target = make_port(TRIM_SAYS_TOO_MANY)
    monkeypatch.setenv("KVLOCKSTEP_LEDGER", str(declare(target, tmp_path)))

    ran = run_pytest("ledger", f"--target={target}")

    assert ran.outcomes == {"test_ledger.py::test_ledger[0.32.2-one-too-many]": "passed"}
