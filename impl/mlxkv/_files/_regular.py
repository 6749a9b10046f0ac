"""A header spelled as MLX spells it, proven right in one pass; any other is left to `_header`."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import mlx.core as mx
import msgspec

# What mlx writes.
DTYPES = {
    "BOOL": mx.bool_,
    **{"I8": mx.int8, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64},
    **{"U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64},
    **{"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32, "C64": mx.complex64},
}
# Names in a header, those of a tensor's fields too; 100 layers of 0.32 have some 10 000.
MAX_NAMES = 1 << 16
# Beyond that safetensors may count over.
_MOST = 1 << 62
_METADATA = b',"__metadata__":'
_SIZES = {name: dtype.size for name, dtype in DTYPES.items()}


class Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What the header says of one tensor: its span is counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    name: str = ""

    @property
    def start(self) -> int:
        return self.data_offsets[0]

    @property
    def nbytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Regular(NamedTuple):
    """The tensors by their names, which may overlap or leave gaps, and the metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def named(self) -> dict[str, Tensor]:
        """The tensors, each with its name."""
        for name, one in self.tensors.items():
            one.name = name
        return self.tensors


class Arranged(NamedTuple):
    """The order in which tensors lie in the file; of each which of the kinds it is, in its place
    among those that were given; and the bytes of the longest.
    """

    order: list[int]
    which: list[int]
    kinds: list[tuple[str, tuple[int, ...]]]
    longest: int


_tensors = msgspec.json.Decoder(dict[str, Tensor]).decode
_texts = msgspec.json.Decoder(dict[str, str]).decode


def parse(text: bytes) -> Regular | None:
    """The header of that text, None for one that is wrong, or right in some other spelling.

    Each name is there once: the text has one colon for each, and those of the metadata.
    """
    head, _, tail = text.partition(_METADATA)
    tail = tail.rstrip(b" ")
    # Escapes may hide colons, and JSON has a -0.
    if b"\\" in text or b"-" in head or tail[-1:] != b"}":
        return None
    try:
        tensors, metadata = _tensors(head + b"}"), _texts(tail[:-1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    colons = tail.count(b":")
    if colons != len(metadata):
        colons -= "".join(chain(metadata, metadata.values())).count(":")
    once = colons == len(metadata) and head.count(b":") == 4 * len(tensors) > 0
    if not once or 1 + len(metadata) + 4 * len(tensors) > MAX_NAMES or "__metadata__" in tensors:
        return None
    return Regular(tensors, metadata)


def arrange(tensors: list[Tensor], nbytes: int) -> Arranged | None:
    """How the tensors lie; None unless they fill that many bytes, without a gap."""
    spans = [one.data_offsets for one in tensors]
    order = sorted(range(len(spans)), key=spans.__getitem__)
    known: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
    which = [0] * len(spans)
    at = 0
    for i in order:
        one, (start, end) = tensors[i], spans[i]
        kind = one.dtype, one.shape
        found = known.get(kind)
        if found is None:
            found = known[kind] = len(known), _size(*kind)
        which[i], size = found
        if start != at or end - start != size:
            return None
        at = end
    longest = max((size for _, size in known.values()), default=0)
    return Arranged(order, which, list(known), longest) if at == nbytes else None


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor; more than any file has where they cannot be told."""
    if dtype not in _SIZES:
        return _MOST
    size = _SIZES[dtype]
    for length in shape:
        size *= length
        if size >= _MOST:
            return _MOST
    return size
