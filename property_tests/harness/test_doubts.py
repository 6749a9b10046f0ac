"""Divergences that do not show again when their trace is replayed."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import (
    OFFSET_TOO_HIGH,
    RELEASE,
    construct,
    itself,
    trace_of,
    update,
)

from kvlockstep import _tally
from kvlockstep._jobs import Job, JobReport
from kvlockstep._settings import Settings
from kvlockstep._tally import Tally


@pytest.mark.parametrize("lost", ["at once", "while it shrank"])
def test_divergence_that_does_not_show_again(lost, make_port, monkeypatch, tmp_path):
    """What chance has a part in, memory that nobody wrote for one, is told and ends no run."""
    settings = Settings(target=make_port(OFFSET_TOO_HIGH), report=tmp_path / "report")
    report = JobReport()
    tally = Tally(Job("lockstep", RELEASE, "KVCache"), settings, report)
    tally.run(trace_of(construct(), update(1)))
    assert len(tally.shortest) == 1
    if lost == "at once":
        monkeypatch.setattr(tally, "engine", itself(RELEASE))
    else:
        monkeypatch.setattr(_tally, "shrink", lambda *_: trace_of(construct()))

    tally.explain()

    assert len(report.found) == len(report.problems) == 1
    assert "did not show again when its trace was replayed" in report.problems[0]
    assert not settings.report.exists()
