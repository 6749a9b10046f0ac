"""What all benches share: the gate's options, one core, and one cache limit for both sides."""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from kvlockstep._contract import contract_of
from kvlockstep._gate import use_device
from kvlockstep._options import OPTIONS, OptionError, settings_from
from kvlockstep._settings import Settings
from kvlockstep._targets import TargetError, load_target
from kvlockstep._workers import cores, pin

# For the modules beside the benches, which worker processes import too.
sys.path.insert(0, str(Path(__file__).parent))

from limits import COUNTED, DEFAULT
from pairs import Pair

RELEASE = "0.32.2"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the benches."""
    group = parser.getgroup("benches")
    group.addoption(
        "--quick", action="store_true", help="the first length only, and one cache limit"
    )
    group.addoption(
        "--cache-limit",
        help=f"MiB of freed buffers that MLX may keep, or {DEFAULT}, in all benches (default: "
        f"{COUNTED}, and where buffers are big {DEFAULT} beside it)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Never collect garbage in what is measured; on a CPU, count what is done and not what waits.

    Seconds of the core, of all threads of this process: what others run on it does not count, but
    for what they take of its caches. A GPU, and a disk, are waited for.
    """
    try:
        use_device(_settings_of(config))
    except TargetError as error:
        raise pytest.UsageError(str(error)) from error
    limit = config.getoption("cache_limit")
    if limit is not None and limit != DEFAULT and not limit.isdecimal():
        raise pytest.UsageError(f"--cache-limit: expected MiB or {DEFAULT}, got {limit!r}")
    config.option.benchmark_disable_gc = True
    if _settings_of(config).device == "cpu" and not _was_given(config, "--benchmark-timer"):
        config.option.benchmark_timer = "time.process_time"
    config.addinivalue_line("markers", "lengths(*lengths, tiny): what `length` runs through")
    config.addinivalue_line("markers", "both_limits: also with the allocator's own cache limit")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run through lengths, cache limits and releases, or just try one where nothing is measured."""
    config, mark = metafunc.config, metafunc.definition.get_closest_marker
    measured = not config.getoption("benchmark_disable")
    if (lengths := mark("lengths")) is not None:
        chosen = lengths.args if measured else (lengths.kwargs["tiny"],)
        metafunc.parametrize("length", chosen[:1] if config.getoption("quick") else chosen)
    if mark("both_limits") is not None and measured:
        asked = config.getoption("cache_limit") or (COUNTED if config.getoption("quick") else None)
        limits = (asked,) if asked else (COUNTED, DEFAULT)
        metafunc.parametrize("cache_limit", limits, indirect=True)
    if "release" in metafunc.fixturenames:
        metafunc.parametrize("release", _settings_of(config).releases or (RELEASE,))


@pytest.fixture(scope="session")
def all_cores() -> list[int]:
    """The cores that this process was given, before it put itself on one of them."""
    return cores()


@pytest.fixture(scope="session", autouse=True)
def settings(pytestconfig: pytest.Config, all_cores: list[int]) -> Settings:
    """The target and the device asked for; MLX is set up, and this process sits on one core."""
    settings = _settings_of(pytestconfig)
    use_device(settings)
    pin(all_cores[-1])
    # What pytest holds is no garbage of ours: it is not to be looked through again and again.
    gc.collect()
    gc.freeze()
    return settings


@pytest.fixture
def cache_limit(request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:  # noqa: ARG001
    """What MLX may keep of freed buffers, the same for both sides."""
    asked = request.config.getoption("cache_limit") or getattr(request, "param", COUNTED)
    before = mx.set_cache_limit(_default_limit() if asked == DEFAULT else int(asked) << 20)
    mx.clear_cache()
    yield asked
    mx.set_cache_limit(before)
    mx.clear_cache()


@pytest.fixture
def size(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """Choose between a real size and a tiny one, where nothing is measured."""
    return lambda full, tiny: tiny if pytestconfig.getoption("benchmark_disable") else full


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, release: str, cache_limit: str, settings: Settings
) -> Pair:
    """Measures the target and the release, each in `--benchmark-min-rounds` runs at least."""
    benchmark = request.getfixturevalue("benchmark")
    benchmark.group = _first_line(request.module)
    benchmark.extra_info |= {"work": _first_line(request.function), "cache_limit": cache_limit}
    benchmark.extra_info["release"] = release
    port = load_target(settings.target, release).module
    option = request.config.getoption
    turns, seconds = -(-option("benchmark_min_rounds") // 2), float(option("benchmark_max_time"))
    return Pair(benchmark, port, contract_of(release).module, turns, seconds)


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
        "cores": os.cpu_count(),
        "load": os.getloadavg()[2],
        "default_cache_limit": _default_limit(),
    }


_own_limit: list[int] = []


def _default_limit() -> int:
    """The cache limit that MLX begins with."""
    if not _own_limit:
        _own_limit.append(mx.set_cache_limit(0))
        mx.set_cache_limit(_own_limit[0])
    return _own_limit[0]


def _was_given(config: pytest.Config, option: str) -> bool:
    return any(str(word).startswith(option) for word in config.invocation_params.args)


def _first_line(documented: Any) -> str:
    return documented.__doc__.partition("\n")[0]


def _settings_of(config: pytest.Config) -> Settings:
    try:
        return settings_from({option.name: config.getoption(option.name) for option in OPTIONS})
    except OptionError as error:
        raise pytest.UsageError(str(error)) from error
