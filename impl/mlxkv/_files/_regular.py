"""A header spelled as MLX spells it, proven right in one pass; any other is left to `_header`."""

from __future__ import annotations

from collections.abc import Iterable
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

    data_offsets: tuple[int, int]
    dtype: str
    shape: tuple[int, ...]
    name: str = ""

    @property
    def start(self) -> int:
        return self.data_offsets[0]

    @property
    def nbytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Arranged(NamedTuple):
    """Of each tensor its first byte, its end, its place among those that were given and its kind,
    as they lie in the file; of each which of the kinds it is, in its place; and the bytes of the
    longest, and of all.
    """

    spans: list[tuple[int, int, int, int]]
    which: tuple[int, ...]
    kinds: list[tuple[str, tuple[int, ...]]]
    longest: int
    nbytes: int


class Regular(NamedTuple):
    """The tensors by their names, how they lie, None if they overlap or leave gaps, and the
    metadata.
    """

    tensors: dict[str, Tensor]
    arranged: Arranged | None
    metadata: dict[str, str]

    def named(self) -> dict[str, Tensor]:
        """The tensors, each with its name."""
        for name, one in self.tensors.items():
            one.name = name
        return self.tensors

    def fills(self, nbytes: int) -> bool:
        """Whether the tensors are that many bytes, without a gap."""
        return self.arranged is not None and self.arranged.nbytes == nbytes


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
    return Regular(tensors, _arrange(tensors.values()), metadata)


def _arrange(tensors: Iterable[Tensor]) -> Arranged | None:
    """How the tensors lie; None unless each begins where another one ends."""
    known: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
    spans, which = [], []
    for i, one in enumerate(tensors):
        start, end = one.data_offsets
        kind = one.dtype, one.shape
        found = known.get(kind)
        if found is None:
            found = known[kind] = len(known), _size(*kind)
        number, size = found
        if end - start != size:
            return None
        spans.append((start, end, i, number))
        which.append(number)
    spans.sort()
    at = 0
    for start, end, _, _ in spans:
        if start != at:
            return None
        at = end
    longest = max(size for _, size in known.values())
    return Arranged(spans, tuple(which), list(known), longest, at)


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
