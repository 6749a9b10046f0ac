"""The target can be driven at all."""

from collections.abc import Callable
from typing import Any


def test_smoke(smoke_job: Any, gate: Callable[[Any], None]) -> None:
    """The target can be driven at all."""
    gate(smoke_job)
