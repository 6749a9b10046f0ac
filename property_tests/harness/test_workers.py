"""Worker processes: pinned, one for each core, and not the end of the run when one dies."""

from __future__ import annotations

import json
import os

import pytest
from property_tests.harness.ports import DIES, RELEASE

from kvlockstep._jobs import Job
from kvlockstep._settings import Settings
from kvlockstep._workers import cores, run_jobs

CAN_PIN = hasattr(os, "sched_setaffinity")
SMOKE = Job("smoke", RELEASE)

# A port that writes down on which cores its process may run.
TELLS_ITS_CORES = """
import json, os, pathlib

class KVCache(release.KVCache):
    def update_and_fetch(self, keys, values):
        path = pathlib.Path({folder!r}, f"{{os.getpid()}}.json")
        path.write_text(json.dumps(sorted(os.sched_getaffinity(0))))
        return super().update_and_fetch(keys, values)
"""


@pytest.fixture
def affinities(make_port, tmp_path):
    """Return `affinities(workers)`: it runs jobs and returns each worker's cores."""
    folder = tmp_path / "cores"
    folder.mkdir()
    target = make_port(TELLS_ITS_CORES.format(folder=str(folder)))

    def run(workers: int) -> list[list[int]]:
        jobs = [SMOKE] * (2 * workers)
        reports = [report for _, report in run_jobs(jobs, Settings(target=target), workers)]
        assert [report.exit_status for report in reports] == [0] * len(jobs)
        return [json.loads(path.read_text()) for path in folder.iterdir()]

    return run


@pytest.mark.skipif(not CAN_PIN, reason="this system cannot pin")
def test_workers_are_pinned(affinities):
    """With a core for each, every worker runs on one core, and no two on the same."""
    workers = min(2, len(cores()))

    seen = affinities(workers)

    assert 1 <= len(seen) <= workers
    assert all(len(own) == 1 and own[0] in cores() for own in seen)
    assert len({own[0] for own in seen}) == len(seen)


@pytest.mark.skipif(not CAN_PIN, reason="this system cannot pin")
def test_more_workers_than_cores_are_not_pinned(affinities):
    """With fewer cores than workers none is pinned, and none waits for a core for ever."""
    seen = affinities(len(cores()) + 1)

    assert seen
    assert all(own == cores() for own in seen)


def test_process_that_dies_is_reported(make_port):
    """A target that kills its process ends in a report that says so, with exit status 2."""
    settings = Settings(target=make_port(DIES))

    reports = dict(run_jobs([SMOKE, Job("surface", RELEASE)], settings, 1))

    report = reports[SMOKE]
    assert report.exit_status == 2
    assert report.broken == [f"smoke {RELEASE}: the process died: did it crash?"]
    assert len(reports) == 2


def test_every_job_is_reported_once(make_port):
    """Each job comes back with its own report, in whatever order."""
    jobs = [SMOKE, Job("surface", RELEASE), Job("lockstep", RELEASE, "functions")]
    settings = Settings(target=make_port(), steps=20)

    reports = dict(run_jobs(jobs, settings, 1))

    assert set(reports) == set(jobs)
    assert [reports[job].steps >= 20 for job in jobs] == [False, False, True]
    assert all(report.jobs == 1 and report.exit_status == 0 for report in reports.values())


def test_cores_are_those_of_this_process():
    """The cores are those that this process may use, not all of the machine."""
    if CAN_PIN:
        assert cores() == sorted(os.sched_getaffinity(0))
    else:
        assert cores() == list(range(os.cpu_count() or 1))
