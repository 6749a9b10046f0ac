"""Copying caches."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from material import CLASSES, filled
from pairs import Pair

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.mark.parametrize("name", CLASSES)
def test_deepcopy(pair: Pair, name: str, size: Any) -> None:
    """A deep copy of a list of 32 caches with 64 tokens each; Python alone."""

    def prepare(cache: Any) -> Callable[[], Any]:
        layers = filled(cache, name, size(32, 2), 64, 1, 64)
        mx.eval([layer.state for layer in layers])
        return lambda: copy.deepcopy(layers)

    pair(prepare)
