"""What all benches share: the gate's options, one core, and one cache limit for both sides."""

from __future__ import annotations

import gc
import platform
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from kvlockstep._gate import use_device
from kvlockstep._options import settings_from
from kvlockstep._settings import Settings
from kvlockstep._workers import cores, pin

# For `steps`, which worker processes import too.
sys.path.insert(0, str(Path(__file__).parent))

# The default follows the chip's memory, and copies of buffers beyond it are 2 to 7 times slower.
CACHE_LIMIT = 1 << 30


@pytest.fixture(scope="session")
def all_cores() -> list[int]:
    """The cores that this process was given, before it put itself on one of them."""
    return cores()


@pytest.fixture(scope="session", autouse=True)
def settings(pytestconfig: pytest.Config, all_cores: list[int]) -> Settings:
    """The target and the device asked for; MLX is set up, and this process sits on one core."""
    settings = _settings_of(pytestconfig)
    use_device(settings)
    mx.set_cache_limit(CACHE_LIMIT)
    pin(all_cores[-1])
    # What pytest holds is no garbage of ours: it is not to be looked through again and again.
    gc.collect()
    gc.freeze()
    return settings


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Say what the numbers depend on, and leave out the name of the host."""
    settings = _settings_of(config)
    use_device(settings)
    machine_info.pop("node", None)
    machine_info |= {
        "chip": getattr(mx, "device_info", dict)().get("device_name", platform.processor()),
        "mlx": mx.__version__,
        "target": settings.target,
        "device": settings.device,
        "cache_limit": CACHE_LIMIT,
    }


def _settings_of(config: pytest.Config) -> Settings:
    return settings_from({name: config.getoption(name) for name in ("target", "device")})
