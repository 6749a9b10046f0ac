"""What was seen, kept so that it cannot change any more.

MLX updates in place: an array object kept from before a step shows what the step wrote. So an
array is kept as a `Snapshot`, and its bytes are taken either at once (in-place mode: everything
seen after a step is evaluated together) or at the end of the trace (value mode: a second handle
on the lazy array is immune to later writes, and one evaluation serves all steps).

Bytes, never values: -0.0 equals 0.0, and NaN payloads vanish in a comparison of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from kvlockstep._trace import Mode

_VOLATILE = re.compile(r"0x[0-9a-f]+|\b(?:\w+\.)+(?=[A-Z])")


_PLAIN = frozenset({int, bool, float, str, type(None)})


class Snapshot:
    """An array as it was: `dtype`, `shape` and, once settled, its raw bytes in `data`.

    Where MLX could not evaluate it, or what was to be evaluated with it, the error is in `failed`.
    """

    __slots__ = ("data", "dtype", "failed", "handle", "shape")

    def __init__(self, handle: mx.array) -> None:
        self.dtype = handle.dtype
        self.shape: tuple[int, ...] = handle.shape
        self.handle: mx.array | None = handle
        self.data: bytes = b""
        self.failed = ""

    def array(self) -> mx.array:
        """Return a new array with this content."""
        if self.handle is not None:
            return self.handle[...]
        flat = mx.array(np.frombuffer(self.data, np.uint8))
        return flat.view(self.dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Raised:
    """An error that an operation or an attribute raised."""

    error: Exception

    @property
    def kind(self) -> str:
        """The name of the error's class."""
        return type(self.error).__name__

    @property
    def message(self) -> str:
        """The error's text without what differs from run to run: addresses and module names."""
        return _VOLATILE.sub("", str(self.error))


class Sequenced:
    """A container and what was in it; the container's type is visible to callers."""

    __match_args__ = ("kind", "items")
    __slots__ = ("items", "kind")

    def __init__(self, kind: type, items: list[Any]) -> None:
        self.kind = kind
        self.items = items


class Camera:
    """Takes snapshots of one side during one step, one an array object."""

    def __init__(self, mode: Mode) -> None:
        self._lazy = mode == "value"
        # The array is kept beside its snapshot: an id is only unique while its object lives.
        self._taken: dict[int, tuple[mx.array, Snapshot]] = {}

    def take(self, value: Any) -> Any:
        """Return `value` frozen: arrays as snapshots, containers as `Sequenced`."""
        kind = type(value)
        if kind is mx.array:
            known = self._taken.get(id(value))
            if known is None:
                snapshot = Snapshot(value[...] if self._lazy else value)
                known = self._taken[id(value)] = value, snapshot
            return known[1]
        if isinstance(value, (tuple, list)):
            take = self.take
            items = [item if type(item) in _PLAIN else take(item) for item in value]
            return Sequenced(kind, items)
        if isinstance(value, dict):
            return Sequenced(kind, [self.take((key, item)) for key, item in value.items()])
        return value

    def contents(self) -> dict[int, Snapshot]:
        """Return the snapshots by the id of the array object that they were taken of."""
        return {key: snapshot for key, (_, snapshot) in self._taken.items()}

    def forget(self) -> None:
        """Drop the handles on the live arrays, so that MLX may write into their buffers."""
        self._taken.clear()


def look(cache: Any, fields: Sequence[str], camera: Camera) -> list[Any]:
    """Return the frozen values of `fields`; a name with `()` is called. Errors are values too."""
    seen = []
    for name in fields:
        try:
            value = getattr(cache, name[:-2])() if name[-1] == ")" else getattr(cache, name)
        except Exception as error:
            value = Raised(error.with_traceback(None))
        seen.append(value if type(value) in _PLAIN else camera.take(value))
    return seen


def snapshots_in(value: Any) -> Iterator[Snapshot]:
    """Yield the snapshots in a frozen value."""
    if isinstance(value, Snapshot):
        yield value
    elif isinstance(value, Sequenced):
        for item in value.items:
            yield from snapshots_in(item)


def settle(snapshots: Iterable[Snapshot]) -> bool:
    """Evaluate all snapshots together and take their bytes; tell whether that could be done.

    They are to be of one side. Where MLX cannot evaluate one of them it does not say which, and
    what it leaves in the others is undefined: all have the error, and the trace cannot go on.
    """
    waiting = [
        (snapshot, handle) for snapshot in snapshots if (handle := snapshot.handle) is not None
    ]
    failed = ""
    try:
        mx.eval([handle for _, handle in waiting])
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    for snapshot, handle in waiting:
        snapshot.handle = None
        snapshot.failed = failed
        if not failed:
            snapshot.data = bytes(memoryview(handle))  # type: ignore[arg-type]
    return not failed
