"""The layout of mlx-lm 0.32: everything is a tensor, metadata [user, classes, scalars].

Numbers are tensors of rank 0, strings of code points, None of shape [0]; `scalars` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlxkv._files._errors import FieldError, LayoutError, Place, UnknownClassError
from mlxkv._files._header import Header
from mlxkv._files._layers import (
    Const,
    Content,
    Layer,
    check_numbers,
    dense,
    grow,
    number_of,
    numbers_of,
    tell,
    tensor,
    within,
)
from mlxkv._files._regular import Tensor
from mlxkv._files._rules import (
    EMPTY,
    Buffers,
    check_buffers,
    check_chunk,
    check_padding,
    check_parts,
    check_ring,
    check_rotated,
    check_up_to,
    columns_of_ring,
)

# The state of each class, in order; all but the arrays are integers.
STATES = {
    "BatchKVCache": "keys values offset left_padding _idx",
    "BatchRotatingKVCache": "keys values offset left_padding max_size _offset _idx rotated",
    "ChunkedKVCache": "keys values offset chunk_size start_position",
    "ConcatenateKVCache": "keys values",
    "KVCache": "keys values offset",
    "QuantizedKVCache": "keys values offset group_size bits",
    "RotatingKVCache": "keys values offset keep max_size _idx",
}
CLASSES = sorted((*STATES, "ArraysCache", "CacheList"))
_STATES = {cache: (f"state ({names})", names.split()) for cache, names in STATES.items()}
_TENSORS = ("keys", "values", "left_padding")
_LONGEST_NAME = 64
KINDS = {
    "scalar": "an integer: I32, I64 or BOOL of rank 0",
    "string": "a class name",
    "none": "an empty tensor, for None",
}


def read_leaves(
    place: Place, header: Header, content: Content, scalars: list[tuple[str, str]]
) -> dict[str, Any]:
    """The tree of tensors, with the value of each that the file lists as a scalar.

    Raises `LayoutError`, `FieldError`.
    """
    leaves: dict[str, Any] = dict(header.tensors)
    kinds: dict[str, str] = {}
    for i, (name, kind) in enumerate(_listed(place, scalars), 1):
        leaf = leaves.get(name) if isinstance(name, str) else None
        if leaf is None or name in kinds:
            got = "one that is listed twice" if leaf is not None else "none"
            raise LayoutError(place, f"scalar {i}", f"a tensor {tell(name)}", got)
        check_kind(place, leaf, kind)
        kinds[name] = kind
    for name, kind in kinds.items():
        leaf = leaves[name]
        leaves[name] = constant(place, leaf, kind, content.read(leaf))
    return grow(place, "tensor", leaves.items())


def _listed(place: Place, scalars: list[tuple[str, str]]) -> Iterator[tuple[Any, Any]]:
    """The name and kind of each, from 2.<n>.0 and 2.<n>.1 after a 2.0. Raises `LayoutError`."""
    found, count = dict(scalars), len(scalars) // 2
    try:
        pairs = [(found[f"2.{n}.0"], found[f"2.{n}.1"]) for n in range(1, count + 1)]
        complete = found["2.0"] == "" and len(found) == 1 + 2 * count
    except KeyError:
        complete = False
    if complete:
        yield from pairs
        return
    listed = grow(place, "metadata", scalars).get("2")
    for i, entry in enumerate(dense(place, "scalars", listed)):
        if i:
            name, kind = dense(place, f"scalar {i}", entry, 2)
            yield name, kind
        elif entry != "":
            raise LayoutError(place, "scalar 0", "''", tell(entry))


def check_kind(place: Place, leaf: Tensor, kind: Any) -> None:
    """Raise unless the tensor can be a scalar of that kind: a small one."""
    match kind:
        case "scalar":
            fits = not leaf.shape and leaf.dtype in ("I32", "I64", "BOOL")
        case "none":
            fits = leaf.shape == (0,)
        case "string":
            fits = len(leaf.shape) == 1 and leaf.shape[0] <= _LONGEST_NAME
        case _:
            raise LayoutError(place, f"tensor {leaf.name}", "scalar, string or none", tell(kind))
    if not fits:
        raise FieldError(place, f"tensor {leaf.name}", KINDS[kind], str(leaf))


def constant(place: Place, leaf: Tensor, kind: str, data: bytes) -> Const:
    """What a tensor of these bytes says, that the file lists as a scalar. Raises `FieldError`."""
    if kind == "none":
        return Const(None)
    if kind == "scalar":
        return Const(number_of(data, leaf.dtype))
    name = f"tensor {leaf.name}"
    check_numbers(place, name, leaf)
    points = numbers_of(data, leaf.dtype)
    if not all(32 <= point < 127 for point in points):
        raise FieldError(place, name, "a class name", str(points))
    return Const("".join(map(chr, points)))


class Scalars:
    """The reader of one layer of 0.32."""

    def __init__(self, content: Content) -> None:
        self.content = content

    def layer(self, place: Place, node: Any) -> Layer:
        """Read the layer of that place's class. Raises `PromptCacheError`."""
        match place.cache:
            case "CacheList":
                return self._list(place, node)
            case "ArraysCache":
                return self._arrays(place, node)
        if place.cache not in STATES:
            expected = f"one of {', '.join(CLASSES)}"
            raise UnknownClassError(place, "class", expected, tell(place.cache))
        state, names = _STATES[place.cache]
        entries = dense(place, state, node, len(names))
        fields = {
            name: self._field(place, name, entry)
            for name, entry in zip(names, entries, strict=True)
        }
        self._check(place, fields)
        return Layer(place.cache, fields)

    def _field(self, place: Place, name: str, entry: Any) -> Any:
        if name in _TENSORS or (name == "offset" and place.cache.startswith("Batch")):
            return self._buffer(place, name, entry)
        if not isinstance(entry, Const):
            raise LayoutError(place, name, "a scalar", tell(entry))
        value = entry.value
        if name == "rotated":
            if type(value) is not bool:
                raise FieldError(place, name, "True or False", str(entry))
        elif (type(value) is not int or value < 0) and (name != "chunk_size" or value is not None):
            raise FieldError(place, name, "an integer of at least 0", str(entry))
        return value

    def _buffer(self, place: Place, name: str, entry: Any) -> Any:
        """A tensor, three of a quantized cache, or None."""
        if isinstance(entry, Const):
            if entry.value is not None:
                raise FieldError(place, name, "a tensor or None", str(entry))
            return None
        if place.cache == "QuantizedKVCache":
            parts = enumerate(dense(place, name, entry, 3))
            return tuple(tensor(place, f"{name}[{i}]", one) for i, one in parts)
        return tensor(place, name, entry)

    def _check(self, place: Place, fields: dict[str, Any]) -> None:
        """Raise unless the fields can have come about together."""
        if place.cache == "QuantizedKVCache":
            for name in ("group_size", "bits"):
                if not fields[name]:
                    raise FieldError(place, name, "an integer of at least 1", "0")
        buffers = self._buffers(place, fields)
        match place.cache:
            case "KVCache" | "QuantizedKVCache":
                check_up_to(place, "offset", fields["offset"], buffers.rows)
            case "ConcatenateKVCache":
                fields["offset"] = buffers.rows
            case "ChunkedKVCache":
                check_chunk(place, fields, buffers.rows)
            case "RotatingKVCache":
                check_ring(place, fields, buffers.rows, cut=False, offset="offset")
            case "BatchKVCache":
                check_up_to(place, "_idx", fields["_idx"], buffers.rows)
                check_padding(place, self.content, fields, buffers, fields["_idx"])
            case "BatchRotatingKVCache":
                check_ring(place, fields, buffers.rows, cut=False, offset="_offset")
                check_rotated(place, fields, buffers.rows)
                columns = columns_of_ring(fields, buffers.rows)
                check_padding(place, self.content, fields, buffers, columns)

    def _buffers(self, place: Place, fields: dict[str, Any]) -> Buffers:
        keys, values = fields["keys"], fields["values"]
        if (keys is None) != (values is None):
            some, other = ("values", "keys") if values is None else ("keys", "values")
            raise FieldError(place, some, f"a tensor, as the {other}", "None")
        if keys is None:
            return EMPTY
        if place.cache == "QuantizedKVCache":
            return check_parts(place, fields)
        return check_buffers(place, keys, values)

    def _arrays(self, place: Place, node: Any) -> Layer:
        """Slots, left_padding and lengths; without any slot there is no entry for them."""
        if isinstance(node, dict):
            node = {"0": {}} | node
        slots, *counts = dense(place, "state (cache left_padding lengths)", node, 3)
        slots = dense(place, "cache", slots)
        cache = tuple(self._buffer(place, f"cache[{i}]", one) for i, one in enumerate(slots))
        fields: dict[str, Any] = {"cache": cache}
        for name, entry in zip(("left_padding", "lengths"), counts, strict=True):
            fields[name] = one = self._buffer(place, name, entry)
            if one is not None:
                self.content.numbers(place, name, one)
        return Layer("ArraysCache", fields)

    def _list(self, place: Place, node: Any) -> Layer:
        children = []
        for i, entry in enumerate([] if node is None else dense(place, "children", node)):
            pair = within(place, f"child {i} (state, class name)", entry, 2)
            name = pair.get("1")
            if not isinstance(name, Const) or not isinstance(name.value, str):
                raise LayoutError(place, f"child {i}", "a class name", tell(name))
            children.append(self.layer(place.child(i, name.value), pair.get("0")))
        return Layer("CacheList", children=tuple(children))
