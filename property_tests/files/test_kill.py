"""A process that is killed while it saves: the old file or the new one, and no other, for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from property_tests.files import kills

KILLS = 200
SEED = 4


def test_kills_at_random_moments(tmp_path: Path) -> None:
    """Each of 200 leaves the file before it or after it, whole; the next save removes the rest."""
    path = tmp_path / "cache.safetensors"
    command = [sys.executable, kills.__file__, str(path), str(KILLS), str(SEED)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=300
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == KILLS
    for line in lines:
        begun, completed = line["bounds"]  # When the worker before was killed.
        assert line["found"] in (completed, begun), line
        assert line["left"] == [], line
    inside = sum(line["at"][0] > line["at"][1] for line in lines)
    torn = sum(bool(line["temporaries"]) for line in lines)
    new = sum(line["found"] > line["bounds"][1] for line in lines)
    print(f"{KILLS} kills, {inside} in a save, {torn} left a temporary file, {new} were renamed")
    assert all(len(line["temporaries"]) <= 1 for line in lines)
    assert inside >= KILLS // 2
    assert torn >= KILLS // 4
