"""What the tests of prompt-cache files share: the two contracts, each with its release."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kvreference
from mlxkv import mlx_lm_0_31, mlx_lm_0_32


class Contract(NamedTuple):
    """A release, its cache module, the port's package, and the generation of its files."""

    release: str
    reference: Any
    port: Any
    generation: str


def contract_of(release: str) -> Contract:
    port = {"0.31.3": mlx_lm_0_31, "0.32.2": mlx_lm_0_32}[release]
    return Contract(release, kvreference.load(release).cache, port, release[:4])


@pytest.fixture(scope="session", params=["0.31.3", "0.32.2"])
def contract(request: pytest.FixtureRequest) -> Contract:
    return contract_of(request.param)


@pytest.fixture
def both(tmp_path: Path) -> tuple[str, str]:
    """A path for the release's file and one for the port's."""
    return str(tmp_path / "release.safetensors"), str(tmp_path / "port.safetensors")
