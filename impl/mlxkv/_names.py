"""Finding a cache class by the name that a prompt-cache file has."""

from __future__ import annotations

from typing import Any, TypeVar

from mlxkv._errors import UnknownCacheError

C = TypeVar("C")

# The names of the Rust port (seed test chunked_from_state_roundtrip).
ALIASES = {
    "ChunkedKvCache": "ChunkedKVCache",
    "ConcatenateKvCache": "ConcatenateKVCache",
    "KvCache": "KVCache",
    "QuantizedKvCache": "QuantizedKVCache",
    "RotatingKvCache": "RotatingKVCache",
    "StandardKvCache": "KVCache",
}


def find_class(name: Any, classes: dict[str, C]) -> C:
    """The class of that mlx-lm name, or of its alias; raises `UnknownCacheError`."""
    found = classes.get(ALIASES.get(name, name))
    if found is None:
        raise UnknownCacheError("from_state", "name", f"one of {', '.join(classes)}", repr(name))
    return found
