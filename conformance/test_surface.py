"""The target has what the release has, under the same names."""

from collections.abc import Callable
from typing import Any


def test_surface(surface_job: Any, gate: Callable[[Any], None]) -> None:
    """The target has what the release has, under the same names."""
    gate(surface_job)
