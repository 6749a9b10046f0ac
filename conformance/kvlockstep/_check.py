"""`check_target`: the gate as one call, for a user's own test suite."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from kvlockstep._floor import judge_coverage
from kvlockstep._gate import run_job
from kvlockstep._jobs import JobReport, jobs_of
from kvlockstep._options import OPTIONS, OptionError, settings_from
from kvlockstep._report import show
from kvlockstep._settings import Settings
from kvlockstep._targets import TargetError


class ConformanceError(AssertionError):
    """The target does not conform; the message is the report."""


def check_target(target: str, release: str | None = None, **options: Any) -> JobReport:
    """Run the gate on `target` in this process and return its report.

    `options` are those of the command line, by name: `cache`, `level`, `profile`, `steps`, `seed`,
    `ledger`, `traces`, `device`, `report`; `cache` takes one name or several.

    Raises `ConformanceError`, with the report as its message, if the target does not conform, and
    `TargetError` if it cannot be run at all.
    """
    if unknown := set(options) - {option.name for option in OPTIONS}:
        raise OptionError(f"check_target: unknown options {', '.join(sorted(unknown))}")
    caches = options.pop("cache", ())
    caches = (caches,) if isinstance(caches, str) else tuple(caches)
    releases = () if release is None else (release,)
    settings = settings_from({"target": target, "release": releases, "cache": caches, **options})
    report = JobReport()
    for job in jobs_of(settings):
        report.add(run_job(job, settings))
        if report.broken:
            raise TargetError("\n".join(report.broken))
    report.problems += judge_coverage(report, settings.target)
    if report.exit_status:
        raise ConformanceError(f"\n{as_text(report, settings)}")
    return report


def as_text(report: JobReport, settings: Settings) -> str:
    """Return the report as plain text."""
    out = io.StringIO()
    show(report, settings, Console(file=out, width=160, no_color=True))
    return out.getvalue()
