"""The user's metadata: checked before it is saved, and read back as mlx-lm reads it."""

from __future__ import annotations

from typing import Any

from mlx.utils import tree_flatten, tree_unflatten

from mlxkv._files._errors import LayoutError, NotSavableError, Place
from mlxkv._files._layers import tell

_MAX_PARTS = 64
_MAX_INDEX = 4096


def flatten_metadata(place: Place, metadata: Any, prefix: str) -> dict[str, str]:
    """The entries of a dictionary, or a list, of strings, as "<prefix>.<key>".

    Raises `NotSavableError` for what mlx cannot save, and where two entries get one name, of
    which mlx-lm would drop the first.
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
    return flat


def unflatten_metadata(place: Place, flat: dict[str, str]) -> Any:
    """What mlx-lm's load function returns for these entries: dots nest, whole numbers make lists.

    Raises `LayoutError` where that would fill the memory or never end.
    """
    if not flat:
        return {}
    ends: dict[str, str] = {}
    for name in flat:
        parts = name.split(".")
        if len(parts) > _MAX_PARTS or any(map(_too_large, parts)):
            expected = f"up to {_MAX_PARTS} parts, numbers up to {_MAX_INDEX}"
            raise LayoutError(place, "metadata", expected, tell(name))
        # mlx-lm takes a dot at the end for an empty part, and never comes to an end with both.
        other = ends.setdefault(name.rstrip("."), name)
        if other != name:
            raise LayoutError(place, "metadata", "one of the two", f"{tell(other)}, {tell(name)}")
    return tree_unflatten(list(flat.items()))


def _too_large(part: str) -> bool:
    try:
        return int(part) > _MAX_INDEX
    except ValueError:
        return len(part) > 4000 and part.strip().isdigit()
