"""What the driver's tests share."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from mlxkv import mlx_lm_0_31, mlx_lm_0_32


@pytest.fixture(params=[mlx_lm_0_31, mlx_lm_0_32], ids=["0.31.3", "0.32.2"])
def contract(request: Any) -> ModuleType:
    """The port's package of either release."""
    module: ModuleType = request.param
    return module
