"""What is seen of logits and caches, exactly, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

ATTRIBUTES = ("state", "nbytes")
# Fields of mlx-lm's, and for some classes properties of the port's.
BUFFERS = ("keys", "values")


def seen(value: Any) -> Any:
    """An array's dtype, shape and bytes; a cache's class, fields, state and size in bytes.

    Of containers what they hold. Two of them are equal only where no byte differs.
    """
    if isinstance(value, mx.array):
        return ("array", str(value.dtype), value.shape, bytes(memoryview(value)))
    if isinstance(value, list | tuple):
        return (type(value).__name__, [seen(item) for item in value])
    if isinstance(value, bool | int | float | str | None):
        return (type(value).__name__, value)
    fields = {name: seen(item) for name, item in vars(value).items()}
    fields |= {name: seen(getattr(value, name)) for name in BUFFERS if hasattr(value, name)}
    for name in ATTRIBUTES:
        fields[f"{name}()"] = seen(getattr(value, name, "absent"))
    return (f"class {type(value).__name__}", fields)


def differences(expected: Any, got: Any, where: str = "") -> Iterator[str]:
    """Say where what was seen of mlx-lm's differs from the port's; fields of its own may be more.

    Each sentence names a place; nothing is said where all bytes are the same.
    """
    if expected == got:
        return
    if expected[0] != got[0] or expected[0] == "array":
        yield f"{where}: expected {_name(expected)}, got {_name(got)}{_bytes(expected, got)}"
    elif isinstance(expected[1], dict):
        for name, item in expected[1].items():
            if name in got[1]:
                yield from differences(item, got[1][name], f"{where}.{name}")
            else:
                yield f"{where}: no field {name}"
    elif isinstance(expected[1], list):
        if len(expected[1]) != len(got[1]):
            yield f"{where}: expected {len(expected[1])} items, got {len(got[1])}"
        for index, (one, other) in enumerate(zip(expected[1], got[1], strict=False)):
            yield from differences(one, other, f"{where}[{index}]")
    else:
        yield f"{where}: expected {expected[1]!r}, got {got[1]!r}"


def _name(value: Any) -> str:
    return f"{value[1]} {list(value[2])}" if value[0] == "array" else str(value[0])


def _bytes(expected: Any, got: Any) -> str:
    if expected[:3] != got[:3]:
        return ""
    places = [i for i, (a, b) in enumerate(zip(expected[3], got[3], strict=True)) if a != b]
    return f", {len(places)} bytes of {len(got[3])} other, the first at {places[0]}"


def classes(caches: list[Any]) -> str:
    """The classes of a model's caches, as `KVCache, CacheList(ArraysCache, KVCache)`."""
    return ", ".join(dict.fromkeys(map(_class, sorted(caches, key=_class))))


def _class(cache: Any) -> str:
    children = ", ".join(_class(child) for child in getattr(cache, "caches", ()))
    return f"{type(cache).__name__}({children})" if children else type(cache).__name__


def modules(caches: list[Any]) -> set[str]:
    """The modules of the classes of those caches and of the caches in them."""
    return {type(cache).__module__ for cache in caches}.union(
        *(modules(getattr(cache, "caches", ())) for cache in caches)
    )
