"""Which token is in which row of a buffer, read off its bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import mlx.core as mx

from kvlockstep._arrays import build
from kvlockstep._recipes import AnyRecipe
from kvlockstep._snapshots import Snapshot
from kvlockstep._steps import SetItem, SetState, Update
from kvlockstep._trace import AnyStep

_CASTS = (mx.float32, mx.float16, mx.bfloat16)


class Labels:
    """Names for the rows of buffers: tokens are numbered as the trace feeds them."""

    def __init__(self, log: Iterable[AnyStep | None]) -> None:
        self._names: dict[bytes, set[int]] = {}
        token = 0
        for recipes in _fed(log):
            rows = 0
            for recipe in recipes:
                shape = recipe.shape
                if len(shape) < 2 or math.prod(int(size) for size in shape) == 0:
                    continue
                rows = max(rows, int(shape[-2]))
                self._learn(recipe, token)
            token += rows

    def _learn(self, recipe: AnyRecipe, token: int) -> None:
        array = build(recipe)
        kinds = _CASTS if array.dtype in _CASTS else (array.dtype,)
        for dtype in kinds:
            cast = array.astype(dtype)
            for position, row in _rows(tuple(cast.shape), cast.itemsize, _bytes(cast)):
                self._names.setdefault(row, set()).add(token + position)

    def of(self, snapshot: Snapshot) -> str | None:
        """Return the token in each row, e.g. `0 1 7 · ?`; None for what has no rows.

        `·` is a row of zeros, `?` a row that nobody fed. Lanes that disagree are shown as `0|3`.
        """
        if len(snapshot.shape) < 3 or not snapshot.data:
            return None
        itemsize = len(snapshot.data) // math.prod(snapshot.shape)
        seen: dict[int, list[set[int] | str]] = {}
        for position, row in _rows(snapshot.shape, itemsize, snapshot.data):
            zero = "·" if not any(row) else "?"
            seen.setdefault(position, []).append(self._names.get(row) or zero)
        return " ".join(_name(seen[position]) for position in sorted(seen))


def _name(lanes: list[set[int] | str]) -> str:
    tokens = [lane for lane in lanes if isinstance(lane, set)]
    if len(tokens) == len(lanes) and (common := set.intersection(*tokens)):
        return str(min(common))
    names = dict.fromkeys(str(min(lane)) if isinstance(lane, set) else lane for lane in lanes)
    return "|".join(names)


def _fed(log: Iterable[AnyStep | None]) -> Iterator[list[AnyRecipe]]:
    for step in log:
        if isinstance(step, Update):
            yield [step.keys] if step.values is None else [step.keys, step.values]
        elif isinstance(step, SetState):
            yield [item for item in step.state if isinstance(item, AnyRecipe)]
        elif isinstance(step, SetItem) and isinstance(step.value, AnyRecipe):
            yield [step.value]


def _bytes(array: mx.array) -> bytes:
    mx.eval(array)
    return bytes(memoryview(array))  # type: ignore[arg-type]


def _rows(shape: tuple[int, ...], itemsize: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the position on the sequence axis and the bytes of every row, lane by lane."""
    width = shape[-1] * itemsize
    for number in range(math.prod(shape[:-1])):
        yield number % shape[-2], data[number * width : (number + 1) * width]
