"""A line for each architecture at the end."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what each architecture did, from what its test recorded."""
    reports = [
        (report, seen)
        for name in ("passed", "failed")
        for report in terminalreporter.stats.get(name, ())
        if "architecture" in (seen := dict(report.user_properties))
    ]
    if not reports:
        return
    terminalreporter.section("architectures")
    for report, seen in sorted(reports, key=lambda pair: str(pair[1]["architecture"]).lower()):
        mark = "FAILED " if report.failed else ""
        terminalreporter.write_line(
            f"{seen['architecture']:<22} {report.duration:5.1f} s  "
            f"{mark}{seen['result']:<10}  {seen['about']}"
        )
    passed = [seen["result"] for report, seen in reports if not report.failed]
    terminalreporter.write_line(
        f"{passed.count('same bytes')} with the same bytes, "
        f"{passed.count('cannot run')} that cannot run, {len(reports) - len(passed)} failed"
    )
