"""Fixtures of the tests of the harness."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from property_tests.harness.ports import REPOSITORY, write_port

from kvlockstep._options import OPTIONS

_CONFORMANCE = REPOSITORY / "conformance"
_numbers = itertools.count()


@pytest.fixture(autouse=True, scope="module")
def _no_options_from_outside() -> Iterator[None]:
    """Keep options out that were meant for the run of which these tests are a part."""
    with pytest.MonkeyPatch.context() as patch:
        for option in OPTIONS:
            patch.delenv(option.variable, raising=False)
        yield


@pytest.fixture
def make_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return `make_port(body, ...)`: it writes a port under a fresh name; see `write_port`."""
    folder = tmp_path / "ports"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def make(body: str = "", **options: Any) -> str:
        return write_port(folder, f"port_{os.getpid()}_{next(_numbers)}", body, **options)

    return make


@dataclass
class Ran:
    """A run of pytest: its exit status, all that it printed, and the outcome of each test."""

    status: int = 0
    out: str = ""
    outcomes: dict[str, str] = field(default_factory=dict)

    @property
    def tests(self) -> list[str]:
        """The tests that ran, without their folders."""
        return list(self.outcomes)

    @property
    def flat(self) -> str:
        """All that it printed as one line, for what the report may wrap."""
        return " ".join(self.out.split())

    @property
    def lacking(self) -> set[str]:
        """What the report says that the target lacks."""
        told = self.flat.partition("lacking (not tested): ")[2]
        return set(re.match(r"[\w.]+(?:, [\w.]+)*", told)[0].split(", "))

    @property
    def header(self) -> str:
        """The plugin's line in the header."""
        return next(line for line in self.out.splitlines() if line.startswith("kvlockstep: "))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a test's outcome."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid.rpartition("/")[2]] = report.outcome


@pytest.fixture
def run_pytest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Return `run_pytest(kinds, *options)`: pytest on the gate's tests of these kinds.

    It runs in this process, a tenth of a second instead of one; its cache and the traces that it
    writes go to a folder of the test.
    """

    def run(kinds: str, *options: str) -> Ran:
        ran = Ran()
        out = io.StringIO()
        with (
            monkeypatch.context() as patch,
            redirect_stdout(out),
            redirect_stderr(out),
        ):
            if not any(option.startswith("--report") for option in options):
                patch.setenv("KVLOCKSTEP_REPORT", str(tmp_path / "report"))
            ran.status = int(pytest.main(_arguments(kinds, options, tmp_path), plugins=[ran]))
        ran.out = out.getvalue()
        return ran

    return run


@pytest.fixture
def run_pytest_process(tmp_path: Path) -> Callable[..., Ran]:
    """Return what does the same in a process of its own, where a test has to be there."""

    def run(kinds: str, *options: str) -> Ran:
        command = [sys.executable, "-m", "pytest", *_arguments(kinds, options, tmp_path)]
        environment = {**os.environ, "KVLOCKSTEP_REPORT": str(tmp_path / "report")}
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ran(done.returncode, done.stdout + done.stderr)

    return run


def _arguments(kinds: str, options: tuple[str, ...], folder: Path) -> list[str]:
    return [
        *(str(_CONFORMANCE / f"test_{kind}.py") for kind in kinds.split()),
        f"--rootdir={REPOSITORY}",
        f"--config-file={REPOSITORY / 'pyproject.toml'}",
        "-p",
        "no:faulthandler",
        "-p",
        "no:benchmark",
        "-o",
        f"cache_dir={folder / 'cache'}",
        *options,
    ]
