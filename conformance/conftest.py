"""Fixtures of the seed's scenarios."""

from __future__ import annotations

from typing import Any

import pytest
from conformance.seed_support import restored

# Wheels of others are installed there, with tests of their own.
collect_ignore_glob = ["ports/*"]


@pytest.fixture
def trimmed(port: Any) -> Any:
    """A cache of chunk size 4 that held rows 0 to 5 and was front-trimmed: 2 to 5 are left."""
    cache = restored(port, 4, 0, 1, 2, 3, 4, 5)
    cache.maybe_trim_front()
    return cache
