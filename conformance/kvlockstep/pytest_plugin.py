"""The pytest plugin: the gate's jobs as tests. Switch it on with `-p kvlockstep.pytest_plugin`."""

from kvlockstep._plugin import (
    gate,
    port,
    pytest_addoption,
    pytest_configure,
    pytest_generate_tests,
    pytest_report_header,
    pytest_sessionstart,
    pytest_terminal_summary,
)

__all__ = [
    "gate",
    "port",
    "pytest_addoption",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_report_header",
    "pytest_sessionstart",
    "pytest_terminal_summary",
]
