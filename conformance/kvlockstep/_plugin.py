"""The hooks and fixtures of the pytest plugin.

A test that takes a fixture `<kind>_job` (`surface_job`, `lockstep_job`, ...) runs once for each job
of that kind; `gate` runs the job and fails the test with what it found.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

from kvlockstep._cannot_run import CANNOT_RUN
from kvlockstep._floor import judge_coverage
from kvlockstep._gate import run_job, use_device
from kvlockstep._jobs import HERE, Job, JobReport, Kind, jobs_of
from kvlockstep._options import OPTIONS, OptionError, settings_from
from kvlockstep._report import header, show
from kvlockstep._settings import Settings
from kvlockstep._targets import TargetError, load_target
from kvlockstep._workers import cores, pin

_SEEDS = "0.31.3"

SETTINGS = pytest.StashKey[Settings]()
_jobs = pytest.StashKey[list[Job]]()
_report = pytest.StashKey[JobReport]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a run."""
    group = parser.getgroup("kvlockstep", "conformance of ports of mlx-lm's KV caches")
    for option in OPTIONS:
        extra: dict[str, Any] = {"choices": option.choices} if option.choices else {}
        group.addoption(
            f"--{option.name}",
            action="append" if option.repeatable else "store",
            default=None,
            type=option.kind,
            help=f"{option.help} [{option.variable}]",
            **extra,
        )


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, and put an xdist worker on a core of its own."""
    try:
        given = {option.name: config.getoption(option.name) for option in OPTIONS}
        config.stash[SETTINGS] = settings_from(given)
    except OptionError as error:
        raise pytest.UsageError(str(error)) from error
    total = config.stash[_report] = JobReport()
    config.pluginmanager.register(_Collector(total))
    worker = getattr(config, "workerinput", None)
    if worker is not None and worker["workercount"] <= len(cores()):
        pin(cores()[int(worker["workerid"].removeprefix("gw"))])


def pytest_sessionstart(session: pytest.Session) -> None:
    """Under xdist, see before any worker starts whether the gate can run at all."""
    config = session.config
    if config.getoption("dist", "no") == "no" or hasattr(config, "workerinput"):
        return
    asked = [Path(arg.partition("::")[0]).resolve() for arg in config.args]
    if any(path in (HERE, *HERE.parents) or HERE in path.parents for path in asked):
        _jobs_of(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Print target, contract, release, level, profile and seed."""
    try:
        return [header(config.stash[SETTINGS])]
    except CANNOT_RUN as error:
        return [f"kvlockstep: {error}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes `<kind>_job` each job of that kind."""
    for kind in get_args(Kind):
        name = f"{kind}_job"
        if name in metafunc.fixturenames:
            jobs = [job for job in _jobs_of(metafunc.config) if job.kind == kind]
            metafunc.parametrize(name, jobs, ids=[_name(job) for job in jobs])


def _jobs_of(config: pytest.Config) -> list[Job]:
    if _jobs not in config.stash:
        settings = config.stash[SETTINGS]
        try:
            config.stash[_jobs] = list(jobs_of(settings))
            for job in config.stash[_jobs]:
                load_target(settings.target, job.release)
            use_device(settings)
        except CANNOT_RUN as error:
            pytest.exit(f"could not run: {error}", returncode=2)
    return config.stash[_jobs]


def _name(job: Job) -> str:
    if job.kind == "corpus":
        return f"{job.release}-{Path(job.name).stem}"
    return str(job)


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Callable[[Job], None]:
    """Return a function that runs a job of the gate and fails the test with what it found."""

    def run(job: Job) -> None:
        report = run_job(job, request.config.stash[SETTINGS])
        payload = base64.b64encode(pickle.dumps(report)).decode()
        request.node.user_properties.append(("kvlockstep", payload))
        texts = [found.text for found in report.found] + report.problems + report.broken
        if report.exit_status:
            pytest.fail("\n\n".join(texts), pytrace=False)

    return run


@pytest.fixture
def port(pytestconfig: pytest.Config) -> Any:
    """Return the target's module for 0.31.3, for the scenarios of the seeds."""
    settings = pytestconfig.stash[SETTINGS]
    try:
        target = load_target(settings.target, _SEEDS)
    except TargetError as error:
        pytest.skip(f"the target does not follow {_SEEDS}: {error}")
    if not target.seeds:
        pytest.skip(f"{settings.target} does not declare the seeds' additions to mlx-lm")
    return target.module


class _Collector:
    """Adds up what the jobs found, from this process or from xdist's workers."""

    def __init__(self, total: JobReport) -> None:
        self.total = total

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "kvlockstep":
                    self.total.add(pickle.loads(base64.b64decode(str(value))))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Exit with 2 where the target could not be driven at all, 1 below the coverage floor."""
        self.total.problems += judge_coverage(self.total, session.config.stash[SETTINGS].target)
        if self.total.problems and session.exitstatus == 0:
            session.exitstatus = 1
        if self.total.broken:
            session.exitstatus = 2


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table; the divergences stand with the tests that failed on them."""
    total = config.stash[_report]
    if total.cells:
        terminalreporter.section("kvlockstep")
        width = None if terminalreporter.isatty else 120
        table = replace(total, found=[])
        show(table, config.stash[SETTINGS], Console(width=width))
