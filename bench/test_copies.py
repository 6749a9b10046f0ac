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

each_class = pytest.mark.parametrize("name", CLASSES)

_new = object.__new__


@each_class
def test_deepcopy(pair: Pair, name: str, size: Any) -> None:
    """A deep copy of a list of 32 caches with 64 tokens each; Python alone."""

    def prepare(cache: Any) -> Callable[[], Any]:
        layers = layers_of(cache, name, size)
        return lambda: copy.deepcopy(layers)

    pair(prepare)


class Bare:
    """The arrays of a cache and its children: what every copy has to make anew, and no more."""

    __slots__ = ("arrays", "children")

    def __init__(self, cache: Any) -> None:
        self.arrays = arrays_of(list(vars(cache).values()))
        self.children = list(map(Bare, getattr(cache, "caches", ())))

    def __deepcopy__(self, memo: dict[int, Any]) -> Bare:
        """One of new handles on the arrays; what two fields share, the copies share."""
        twin = _new(Bare)
        twin.arrays = [memo.setdefault(id(array), array.__copy__()) for array in self.arrays]
        twin.children = [child.__deepcopy__(memo) for child in self.children]
        return twin


@each_class
def test_deepcopy_floor(pair: Pair, name: str, size: Any) -> None:
    """The same of bare objects with as many arrays, which check nothing."""

    def bare(cache: Any) -> Callable[[], Any]:
        layers = list(map(Bare, layers_of(cache, name, size)))
        return lambda: copy.deepcopy(layers)

    def whole(cache: Any) -> Callable[[], Any]:
        layers = layers_of(cache, name, size)
        return lambda: copy.deepcopy(layers)

    pair(bare, whole)


def layers_of(cache: Any, name: str, size: Any) -> list[Any]:
    """The caches to copy, evaluated."""
    layers = filled(cache, name, size(32, 2), 64, 1, 64)
    mx.eval([layer.state for layer in layers])
    return layers


def arrays_of(parts: list[Any] | tuple[Any, ...]) -> list[mx.array]:
    """The arrays among some fields, and in lists and tuples there."""
    found = []
    for part in parts:
        if isinstance(part, mx.array):
            found.append(part)
        elif isinstance(part, list | tuple):
            found += arrays_of(part)
    return found
