"""`--report`: where traces of divergences are written."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import OFFSET_TOO_HIGH

from kvlockstep._trace import read

RUN = ("--cache=KVCache", "--steps=60", "-k", "value")
FILE = "0.32.2-KVCache-update-offset.json"


def test_shortest_trace_is_written(run_pytest, make_port, tmp_path):
    """The shortest trace of a divergence is a file there, and the failure prints its replay."""
    target = make_port(OFFSET_TOO_HIGH)
    folder = tmp_path / "not" / "yet"

    ran = run_pytest("lockstep", f"--target={target}", *RUN, f"--report={folder}")

    assert ran.status == pytest.ExitCode.TESTS_FAILED
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert [type(step).__name__ for step in read(folder / FILE).steps] == ["Construct", "Update"]
    assert f"kvlockstep replay {folder / FILE} --target={target} --release=0.32.2" in ran.out


def test_nothing_is_written_where_nothing_is_found(run_pytest, make_port, tmp_path):
    """A run that finds nothing does not make the folder."""
    ran = run_pytest("lockstep", f"--target={make_port()}", *RUN, f"--report={tmp_path / 'report'}")

    assert ran.status == 0
    assert not (tmp_path / "report").exists()


def test_environment_variable(run_pytest, make_port, tmp_path, monkeypatch):
    """KVLOCKSTEP_REPORT does the same, and the option outranks it."""
    monkeypatch.setenv("KVLOCKSTEP_REPORT", str(tmp_path / "unused"))
    target = make_port(OFFSET_TOO_HIGH)

    run_pytest("lockstep", f"--target={target}", *RUN, f"--report={tmp_path / 'used'}")

    assert (tmp_path / "used" / FILE).exists()
    assert not (tmp_path / "unused").exists()


def test_ends_with_the_table(run_pytest, make_port):
    """The terminal report has the table of operations, and the verdict."""
    target = make_port(OFFSET_TOO_HIGH)

    ran = run_pytest("lockstep", f"--target={target}", *RUN)

    assert "state classes reached" in ran.out
    assert "0 declared signatures (0 ledger entries), 1 undeclared" in ran.flat
