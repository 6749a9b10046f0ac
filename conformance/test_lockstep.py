"""Generated traces show no undeclared divergence."""

from collections.abc import Callable
from typing import Any


def test_lockstep(lockstep_job: Any, gate: Callable[[Any], None]) -> None:
    """Generated traces show no undeclared divergence."""
    gate(lockstep_job)
