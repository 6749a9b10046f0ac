"""Reading a state that a caller or a file hands in: all of it is checked before any is kept."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

import mlx.core as mx

from mlxkv._errors import (
    ArrayTypeError,
    MetaStateError,
    RankError,
    StateArityError,
    StateError,
    StateScalarError,
)


def unpack(cache: object, state: Iterable[Any], names: str) -> tuple[Any, ...]:
    """The entries of a state, as many as there are names."""
    try:
        entries = tuple(state)
    except TypeError:
        raise StateError(cache, "state", f"({names})", repr(state)) from None
    if len(entries) != len(names.split()):
        raise StateArityError(cache, "state", f"({names})", f"{len(entries)} entries")
    return entries


def check_array(cache: object, name: str, array: mx.array) -> None:
    """Raise unless it is an array of rank 4. Keys and values are never compared (seed tests)."""
    if not isinstance(array, mx.array):
        raise ArrayTypeError(cache, "state", f"an mx.array as {name}", type(array).__name__)
    if array.ndim != 4:
        expected = f"{name} of rank 4 (batch, n_kv_heads, tokens, head_dim)"
        raise RankError(cache, "state", expected, str(array.shape))


def check_arrays(cache: object, keys: mx.array, values: mx.array) -> None:
    """Raise unless both are arrays of rank 4."""
    check_array(cache, "keys", keys)
    check_array(cache, "values", values)


def check_parts(cache: object, name: str, parts: Any) -> None:
    """Raise unless it is a list or tuple of packed rows, scales and biases, of rank 4 each."""
    if not isinstance(parts, list | tuple):
        got = type(parts).__name__
        raise ArrayTypeError(cache, "state", f"three arrays as {name}", got)
    if len(parts) != 3:
        raise StateArityError(cache, "state", f"three arrays as {name}", f"{len(parts)}")
    for i, part in enumerate(parts):
        check_array(cache, f"{name}[{i}]", part)


def check_scalars(cache: object, low: int = 0, **scalars: Any) -> None:
    """Raise unless every scalar is an integer of at least `low`."""
    for name, scalar in scalars.items():
        if not isinstance(scalar, int):
            raise StateScalarError(cache, "state", f"an integer as {name}", repr(scalar))
        if scalar < low:
            raise StateScalarError(cache, "state", f"{name} of at least {low}", str(scalar))


def check_range(cache: object, name: str, scalar: int, high: int) -> None:
    """Raise unless the scalar lies in [0, high], the rows of the buffers."""
    if not 0 <= scalar <= high:
        expected = f"{name} in [0, {high}], the rows of the keys"
        raise StateScalarError(cache, "state", expected, str(scalar))


def unpack_meta(cache: object, meta_state: Any, names: str) -> tuple[Any, ...]:
    """The fields of a 0.31 meta_state, as many as there are names. A string is no list of them."""
    if isinstance(meta_state, str) or not isinstance(meta_state, Iterable):
        raise MetaStateError(cache, "meta_state", f"({names})", repr(meta_state))
    fields = tuple(meta_state)
    if len(fields) != len(names.split()):
        raise MetaStateError(cache, "meta_state", f"({names})", f"{len(fields)} fields")
    return fields


def parse_count(cache: object, name: str, field: Any, low: int = 0) -> int:
    """One field, a decimal string as files have it or an integer: at least `low`."""
    try:
        count = int(field) if isinstance(field, str) else index(field)
    except (TypeError, ValueError):
        raise MetaStateError(cache, "meta_state", f"an integer as {name}", repr(field)) from None
    if count < low:
        raise MetaStateError(cache, "meta_state", f"{name} of at least {low}", str(count))
    return count


def check_slots(cache: object, slots: Any) -> None:
    """Raise unless it is a list or tuple of arrays and Nones."""
    if not isinstance(slots, list | tuple):
        raise StateError(cache, "state", "a list of slots", repr(slots))
    for i, slot in enumerate(slots):
        check_optional(cache, f"slot {i}", slot)


def check_optional(cache: object, name: str, array: Any) -> None:
    """Raise unless it is an array or None."""
    if array is not None and not isinstance(array, mx.array):
        got = type(array).__name__
        raise ArrayTypeError(cache, "state", f"an mx.array or None as {name}", got)
