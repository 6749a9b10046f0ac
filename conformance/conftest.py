"""Fixtures of the seed's scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conformance.seed_support import restored

from kvlockstep._plugin import SETTINGS
from kvlockstep._settings import DEFAULT_TARGET

# Wheels of others are installed there, with tests of their own.
collect_ignore_glob = ["ports/*"]

# They are about mlxkv's own, whatever the target.
_OURS = ("test_real_sizes.py", "test_reserved.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what says nothing of the target."""
    others = config.stash[SETTINGS].target != DEFAULT_TARGET
    return True if others and collection_path.name in _OURS else None


@pytest.fixture
def trimmed(port: Any) -> Any:
    """A cache of chunk size 4 that held rows 0 to 5 and was front-trimmed: 2 to 5 are left."""
    cache = restored(port, 4, 0, 1, 2, 3, 4, 5)
    cache.maybe_trim_front()
    return cache
