"""The bytes of a safetensors file, taken apart and put together without MLX or safetensors."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx


class Raw(NamedTuple):
    """A tensor as it stands in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Case:
    """A hostile file: what is wrong with it, and its bytes, or how it is made at a path.

    `legal` is the reason where it is a file after all that some cache could have been saved as.
    """

    kind: str
    name: str
    content: Any
    legal: str = ""


@dataclass(frozen=True)
class Parts:
    """The tensors and metadata of a file, in order."""

    generation: str
    cls: str
    tensors: dict[str, Raw]
    metadata: dict[str, str]
    fields: dict[str, str] = field(default_factory=dict)  # A scalar's field: its place.

    def but(
        self, tensors: dict[str, Raw | None] | None = None, meta: dict[str, Any] | None = None
    ) -> bytes:
        """The file with some entries replaced, or left out where the value is None."""
        all_tensors = {**self.tensors, **(tensors or {})}
        metadata = {**self.metadata, **(meta or {})}
        return pack(
            {name: one for name, one in all_tensors.items() if one is not None},
            {name: one for name, one in metadata.items() if one is not None},
        )


def entries(tensors: dict[str, Raw]) -> dict[str, Any]:
    """The header's entries, the data one after the other."""
    listed, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        offsets = [at, at + len(data)]
        listed[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        at += len(data)
    return listed


def pack(tensors: dict[str, Raw], metadata: Any) -> bytes:
    """A file, whatever it says."""
    header = {"__metadata__": metadata, **entries(tensors)}
    return frame(json.dumps(header), b"".join(one.data for one in tensors.values()))


def frame(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A header, its length, or another one, and the data."""
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def unpack(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def raw(array: mx.array) -> Raw:
    """An array as MLX saves it."""
    file = io.BytesIO()
    mx.save_safetensors(file, {"x": array})
    header, data = unpack(file.getvalue())
    return Raw(header["x"]["dtype"], tuple(header["x"]["shape"]), data)


SIZES = {"BOOL": 1, "F16": 2, "I32": 4, "F32": 4, "U32": 4, "I64": 8, "U64": 8}


def zeros(dtype: str, *shape: int) -> Raw:
    return Raw(dtype, shape, bytes(SIZES[dtype] * prod(shape)))


def number(value: Any, dtype: str = "I32", *shape: int) -> Raw:
    """A scalar of 0.32, or several of it."""
    code = {"I32": "i", "I64": "q", "U64": "Q", "F32": "f", "BOOL": "?"}[dtype]
    return Raw(dtype, shape, struct.pack(f"<{code}", value) * prod(shape))


def of_0_32(cls: str, state: tuple[tuple[str, Any], ...]) -> Parts:
    """A file of 0.32: arrays, integers, booleans, strings and None, by their paths."""
    tensors: dict[str, Raw] = {}
    metadata = {"0.model": "m", "1.0": cls, "2.0": ""}
    fields = {}
    for place, value in state:
        path, _, name = place.partition(" ")
        kind = {int: "scalar", bool: "scalar", str: "string", type(None): "none"}.get(type(value))
        if kind is None:
            tensors[path] = raw(value)
            continue
        if isinstance(value, str):
            tensors[path] = raw(mx.array([ord(one) for one in value]))
        else:
            dtype = "BOOL" if value is True or value is False else "I32"
            tensors[path] = zeros("F32", 0) if value is None else number(value, dtype)
        i = (len(metadata) - 3) // 2 + 1
        metadata |= {f"2.{i}.0": path, f"2.{i}.1": kind}
        if kind == "scalar":
            fields[name] = path
    return Parts("0.32", cls, tensors, metadata, fields)
