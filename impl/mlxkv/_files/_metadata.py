"""The user's metadata: checked before it is saved, and read back as mlx-lm reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlx.utils import tree_flatten, tree_unflatten

from mlxkv._files._errors import LayoutError, NotSavableError, Place
from mlxkv._files._layers import tell

_MAX_PARTS = 64
_MAX_INDEX = 4096


def flatten_metadata(place: Place, metadata: Any, prefix: str) -> dict[str, str]:
    """The entries of a dictionary, or a list, of strings, as "<prefix>.<key>".

    Raises `NotSavableError` for what mlx cannot save, where two entries get one name, of which
    mlx-lm would drop the first, and for names that `unflatten_metadata` would not read.
    """
    entries = tree_flatten(metadata, f".{prefix}")
    flat = dict(entries)
    for name, value in flat.items():
        if not isinstance(value, str):
            raise NotSavableError(place, f"metadata {name!r}", "a string", repr(value))
        for text in (name, value):
            try:
                text.encode()
            except UnicodeEncodeError:
                got = ascii(text)
                raise NotSavableError(place, f"metadata {name!r}", "text", got) from None
    if len(flat) < len(entries):
        got = f"{len(entries)} entries, {len(flat)} names"
        raise NotSavableError(place, "metadata", "a name of its own for each entry", got)
    if (wrong := _unreadable(name.partition(".")[2] for name in flat)) is not None:
        raise NotSavableError(place, "metadata", *wrong)
    return flat


def unflatten_metadata(place: Place, flat: dict[str, str]) -> Any:
    """What mlx-lm's load function returns for these entries: dots nest, whole numbers make lists.

    Raises `LayoutError` where that would fill the memory or never end.
    """
    if not flat:
        return {}
    if (wrong := _unreadable(flat)) is not None:
        raise LayoutError(place, "metadata", *wrong)
    return tree_unflatten(list(flat.items()))


def _unreadable(flat: Iterable[str]) -> tuple[str, str] | None:
    """What was expected of such names and what came, None where they can be read."""
    ends: dict[str, str] = {}
    nodes: dict[tuple[str, ...], set[str]] = {}
    for name in flat:
        parts = name.split(".", _MAX_PARTS)
        if len(parts) > _MAX_PARTS:
            return f"names of up to {_MAX_PARTS} parts", tell(name)
        # mlx-lm takes a dot at the end for an empty part, and never comes to an end with both.
        other = ends.setdefault(name.rstrip("."), name)
        if other != name:
            return "one of the two", f"{tell(other)}, {tell(name)}"
        for depth, part in enumerate(parts):
            nodes.setdefault(tuple(parts[:depth]), set()).add(part)
    for parts_of_one in nodes.values():
        # Numbers alone make a list, with an entry for each number below.
        numbers = [one for part in parts_of_one if (one := _as_index(part)) is not None]
        count = len(parts_of_one)
        if len(numbers) == count and max(numbers) > max(_MAX_INDEX, count):
            some = tell(max(parts_of_one, key=len))
            return f"numbers up to {_MAX_INDEX}, or others beside them", some
    return None


def _as_index(part: str) -> int | None:
    """The number that mlx-lm reads there, None for none."""
    try:
        return int(part)
    except ValueError:
        # One of so many digits is read by a Python that has no limit.
        return 1 << 64 if len(part) > 4000 and part.strip().isdigit() else None
