"""What was seen, kept so that it cannot change any more.

MLX updates in place: an array object kept from before a step shows what the step wrote. So an
array is kept as a `Snapshot`, and its bytes are taken either at once (in-place mode: everything
seen after a step is evaluated together) or at the end of the trace (value mode: a second handle
on the lazy array is immune to later writes, and one evaluation serves all steps).

Bytes, never values: -0.0 equals 0.0, and NaN payloads vanish in a comparison of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, methodcaller
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from msgspec import Struct

from kvlockstep._trace import Mode

# What a port may raise and be told of it. `SystemExit` too: a process that a port could end would
# end with the status that the port says, and 0 stands for "conforms".
CAUGHT = (Exception, SystemExit)

_VOLATILE = re.compile(r"0x[0-9a-f]+|\b(?:\w+\.)+(?=[A-Z])")


class Snapshot(Struct, eq=False, gc=False):
    """An array as it was: `dtype`, `shape` and, once settled, its raw bytes in `data`.

    Where MLX could not evaluate it, or what was to be evaluated with it, the error is in `failed`.
    """

    handle: mx.array | None
    dtype: mx.Dtype
    shape: tuple[int, ...]
    data: bytes = b""
    failed: str = ""

    def settle(self, failed: str) -> None:
        """Take the bytes of the array, evaluated unless that `failed`, and let go of it."""
        if self.handle is not None:
            self.data = b"" if failed else bytes_of(self.handle)
            self.handle, self.failed = None, failed

    def array(self) -> mx.array:
        """Return a new array with this content."""
        if self.handle is not None:
            return self.handle[...]
        flat = mx.array(np.frombuffer(self.data, np.uint8))
        return flat.view(self.dtype).reshape(self.shape)


def bytes_of(array: mx.array) -> bytes:
    """Return the raw bytes of an array; on CUDA MLX's buffer of none may be no address."""
    return bytes(memoryview(array)) if array.size else b""  # type: ignore[arg-type]


def bytes_of_all(arrays: Iterable[mx.array]) -> Iterator[bytes]:
    """Return the raw bytes of one array after another."""
    if mx.default_device().type == mx.cpu:
        return map(memoryview.tobytes, map(memoryview, arrays))  # type: ignore[arg-type]
    return map(bytes_of, arrays)


def settled(array: mx.array, failed: str) -> Snapshot:
    """Return a snapshot with the bytes of an array, evaluated unless that `failed`."""
    snapshot = Snapshot(array, array.dtype, array.shape)
    snapshot.settle(failed)
    return snapshot


class Raised(Struct, frozen=True, eq=False):
    """An error that an operation or an attribute raised; `module` is where, if that is known."""

    error: Exception | SystemExit
    module: str = ""

    @classmethod
    def of(cls, error: Exception | SystemExit) -> Raised:
        """The error without its traceback, and the module of the innermost code."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        module = "" if place is None else place.tb_frame.f_globals["__name__"]
        return cls(error.with_traceback(None), module)

    @property
    def kind(self) -> str:
        """The name of the error's class."""
        return type(self.error).__name__

    @property
    def message(self) -> str:
        """The error's text without what differs from run to run: addresses and module names."""
        return _VOLATILE.sub("", str(self.error))


class Sequenced(Struct, frozen=True, eq=False):
    """A container and what was in it; the container's type is visible to callers."""

    kind: type
    items: list[Any]


def freeze(value: Any, mode: Mode) -> Any:
    """Return `value` with its arrays as snapshots, and its containers as `Sequenced`."""
    if type(value) is mx.array:
        return Snapshot(value[...] if mode == "value" else value, value.dtype, value.shape)
    if isinstance(value, (tuple, list)):
        return Sequenced(type(value), [freeze(item, mode) for item in value])
    if isinstance(value, dict):
        return Sequenced(type(value), [freeze(pair, mode) for pair in value.items()])
    return value


class Field(NamedTuple):
    """Something to see of a cache: an attribute, or with `()` in its name what a method returns.

    `path` is its name as the start of a path; `is_derived` tells whether the cache stores it.
    """

    name: str
    path: tuple[str]
    read: Callable[[Any], Any]
    is_derived: bool


def field_of(name: str, is_derived: bool) -> Field:
    """Return the field with this name."""
    read = methodcaller(name[:-2]) if name.endswith("()") else attrgetter(name)
    return Field(name, (name,), read, is_derived)


def look(cache: Any, read: Callable[[Any], Any]) -> Any:
    """Return what a field of a cache holds. An error is a value too."""
    try:
        return read(cache)
    except CAUGHT as error:
        return Raised(error.with_traceback(None))


def snapshots_in(*values: Any) -> Iterator[Snapshot]:
    """Yield the snapshots in frozen values."""
    for value in values:
        if isinstance(value, Snapshot):
            yield value
        elif isinstance(value, Sequenced):
            yield from snapshots_in(*value.items)


def evaluate(arrays: Sequence[mx.array | None]) -> str:
    """Evaluate arrays together; return the error if that cannot be done.

    They are to be of one side. Where MLX cannot evaluate one of them it does not say which, and
    what it leaves in the others is undefined: all have the error, and the trace cannot go on.
    """
    try:
        mx.eval(arrays)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def settle(snapshots: Iterable[Snapshot]) -> str:
    """Evaluate snapshots together and take their bytes; return the error as `evaluate` does."""
    waiting = [snapshot for snapshot in snapshots if snapshot.handle is not None]
    failed = evaluate([snapshot.handle for snapshot in waiting])
    for snapshot in waiting:
        snapshot.settle(failed)
    return failed
