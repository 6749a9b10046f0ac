"""The layout of mlx-swift-lm: as mlx-lm's up to 0.31, but states and meta_states are flat lists.

An empty cache has no tensors. A rotating cache has five, six or seven fields, a quantized one four
and flat tensors; lists and arrays describe themselves in their fields. Read in KVCache.swift.
"""

from __future__ import annotations

from typing import Any

from mlxkv._files._errors import FieldError, LayoutError, Place, UnknownClassError
from mlxkv._files._layers import MAX_DEPTH, Content, Layer, count, dense, tell, tensor
from mlxkv._files._python import (
    KV,
    check_saved_rows,
    check_start,
    counts_of,
)
from mlxkv._files._rules import check_buffers, check_parts, check_ring

CLASSES = (
    "ArraysCache",
    "CacheList",
    "ChunkedKVCache",
    "KVCache",
    "KVCacheSimple",
    "MambaCache",
    "QuantizedKVCache",
    "RotatingKVCache",
)
ORIGINS = ("modelNative", "requested")
WRAPPED = {"true": True, "false": False}


class Swift:
    """The reader of one layer of mlx-swift-lm's."""

    def __init__(self, _content: Content) -> None:
        pass

    def layer(self, place: Place, node: Any, meta: Any) -> Layer:
        """Read the layer of that place's class. Raises `PromptCacheError`."""
        tensors = [] if node is None else dense(place, "tensors", node)
        arrays = [tensor(place, str(i), one) for i, one in enumerate(tensors)]
        texts = dense(place, "meta_state", meta)
        for text in texts:
            if not isinstance(text, str):
                raise LayoutError(place, "meta_state", "texts", tell(text))
        return self._read(place, arrays, texts)

    def _read(self, place: Place, arrays: list[Any], meta: list[Any]) -> Layer:
        match place.cache:
            case "KVCache" | "KVCacheSimple":
                return self._standard(place, arrays, meta)
            case "RotatingKVCache":
                return self._rotating(place, arrays, meta)
            case "QuantizedKVCache":
                return self._quantized(place, arrays, meta)
            case "ChunkedKVCache":
                return self._chunked(place, arrays, meta)
            case "ArraysCache" | "MambaCache":
                return self._arrays(place, arrays, meta)
            case "CacheList":
                return self._list(place, arrays, meta)
        raise UnknownClassError(place, "class", f"one of {', '.join(CLASSES)}", tell(place.cache))

    def _standard(self, place: Place, arrays: list[Any], meta: list[Any]) -> Layer:
        if meta != [""]:
            raise FieldError(place, "meta_state", "['']", str(meta))
        fields, rows = _pair(place, arrays)
        return Layer("KVCache", fields | {"offset": rows}, spelled=place.cache)

    def _rotating(self, place: Place, arrays: list[Any], meta: list[Any]) -> Layer:
        if not 5 <= len(meta) <= 7:
            raise LayoutError(place, "meta_state", "5 to 7 fields", str(len(meta)))
        fields, rows = _pair(place, arrays)
        counts, extras = _counts(place, meta[:5], "keep max_size step offset _idx")
        fields |= counts
        if len(meta) > 5:
            if meta[5] not in ORIGINS:
                raise FieldError(place, "capacity_origin", " or ".join(ORIGINS), tell(meta[5]))
            extras["capacity_origin"] = meta[5]
        check_ring(place, fields, rows, cut=True, offset="offset")
        if len(meta) > 6:
            wrapped = fields["_idx"] < min(rows, fields["offset"])
            if WRAPPED.get(meta[6]) is not wrapped:
                expected = f"{str(wrapped).lower()} with _idx {fields['_idx']} of {rows} rows"
                raise FieldError(place, "wrapped", expected, tell(meta[6]))
        return Layer("RotatingKVCache", fields, extras=extras)

    def _quantized(self, place: Place, arrays: list[Any], meta: list[Any]) -> Layer:
        counts, extras = _counts(place, meta, "step offset group_size bits")
        if len(arrays) == 4:
            expected = "6 tensors, biases too, which mlx-lm needs"
            raise FieldError(place, "tensors", expected, "4, of a mode without biases")
        if arrays:
            if len(arrays) != 6:
                raise LayoutError(place, "tensors", "6, or none", str(len(arrays)))
            fields = {"keys": tuple(arrays[:3]), "values": tuple(arrays[3:])} | counts
            rows = check_parts(place, fields).rows
        else:
            fields, rows = {"keys": None, "values": None} | counts, 0
        check_saved_rows(place, fields, rows)
        return Layer("QuantizedKVCache", fields, extras=extras)

    def _chunked(self, place: Place, arrays: list[Any], meta: list[Any]) -> Layer:
        if len(meta) != 2:
            raise LayoutError(place, "meta_state", "chunk_size, start_position", str(len(meta)))
        fields, rows = _pair(place, arrays)
        chunk_size = None if meta[0] == "None" else count(place, "chunk_size", meta[0])
        start = count(place, "start_position", meta[1])
        check_start(place, start)
        fields |= {"chunk_size": chunk_size, "start_position": start, "offset": rows}
        return Layer("ChunkedKVCache", fields)

    def _arrays(self, place: Place, arrays: list[Any], meta: list[Any]) -> Layer:
        """Slots in use by number; "" for a file from before there were numbers."""
        slots: list[Any]
        if meta == [""]:
            if place.cache == "MambaCache" and len(arrays) != 2:
                expected = "2 slots, for the file does not say which"
                raise LayoutError(place, "tensors", expected, str(len(arrays)))
            slots = list(arrays)
        else:
            if not 2 <= len(meta) <= 4:
                raise LayoutError(place, "meta_state", "2 to 4 fields, or ''", str(len(meta)))
            size = count(place, "slots", meta[0])
            used = _numbers(place, "slots in use", meta[1])
            if len(used) != len(arrays) or used != sorted(set(used)):
                expected = f"{len(arrays)} slots in use, in order"
                raise FieldError(place, "slots in use", expected, tell(meta[1]))
            if size > 1024 or any(slot >= size for slot in used):
                raise FieldError(place, "slots", "those in use, at most 1024", meta[0])
            if any(meta[2:]):
                expected = "none: mlx-lm files of one sequence have none"
                raise FieldError(place, "left_padding, lengths", expected, str(meta[2:]))
            slots = [None] * size
            for slot, array in zip(used, arrays, strict=True):
                slots[slot] = array
        fields = {"cache": tuple(slots), "left_padding": None, "lengths": None}
        return Layer("ArraysCache", fields, spelled=place.cache)

    def _list(self, place: Place, arrays: list[Any], meta: list[Any]) -> Layer:
        """Each child in turn: its class, the number of its tensors and fields, and the fields."""
        if place.layer.count(".") > MAX_DEPTH:
            raise LayoutError(place, "class", f"at most {MAX_DEPTH} lists in lists", "more")
        children = []
        size = count(place, "children", meta[0] if meta else "")
        at, used = 1, 0
        for i in range(min(size, len(meta))):
            if at + 3 > len(meta):
                break
            child = place.child(i, meta[at])
            tensors = count(child, "tensors", meta[at + 1])
            fields = count(child, "meta_state", meta[at + 2])
            at += 3
            if used + tensors > len(arrays) or at + fields > len(meta):
                expected = f"{tensors} tensors and {fields} fields"
                got = f"{len(arrays) - used} and {len(meta) - at} left"
                raise LayoutError(child, "child", expected, got)
            own = arrays[used : used + tensors]
            children.append(self._read(child, own, meta[at : at + fields]))
            at, used = at + fields, used + tensors
        if len(children) != size or at != len(meta) or used != len(arrays):
            expected = f"{size} children, all tensors and fields theirs"
            got = f"{len(children)}, {len(arrays) - used} and {len(meta) - at} left over"
            raise LayoutError(place, "children", expected, got)
        return Layer("CacheList", children=tuple(children))


def _pair(place: Place, arrays: list[Any]) -> tuple[dict[str, Any], int]:
    """Keys and values, None in an empty cache, and their rows."""
    if not arrays:
        return {"keys": None, "values": None}, 0
    if len(arrays) != 2:
        raise LayoutError(place, "tensors", "2, or none", str(len(arrays)))
    fields = dict(zip(KV, arrays, strict=True))
    return fields, check_buffers(place, **fields).rows


def _counts(place: Place, meta: list[Any], names: str) -> tuple[dict[str, Any], dict[str, str]]:
    return counts_of(place, {str(i): text for i, text in enumerate(meta)}, names)


def _numbers(place: Place, name: str, text: str) -> list[int]:
    return [count(place, name, one) for one in text.split(",")] if text else []
