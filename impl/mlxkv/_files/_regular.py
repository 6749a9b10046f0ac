"""A header spelled as MLX spells it, proven right in one pass; any other is left to `_header`."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple, TypeAlias

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

# A dtype, a shape and the bytes.
Kind: TypeAlias = tuple[str, tuple[int, ...], int]


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

    @property
    def kind(self) -> Kind:
        return self.dtype, self.shape, self.nbytes

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Regular(NamedTuple):
    """The tensors by their names; of each its first byte and its kind; the bytes of all, None where
    they overlap or leave gaps; and the metadata, still JSON.
    """

    tensors: dict[str, Tensor]
    starts: list[int]
    kinds: list[Kind]
    nbytes: int | None
    metadata: bytes

    def named(self) -> dict[str, Tensor]:
        """The tensors, each with its name."""
        for name, one in self.tensors.items():
            one.name = name
        return self.tensors

    def fills(self, nbytes: int) -> bool:
        """Whether the tensors are that many bytes without a gap, and each as many as it has."""
        return self.nbytes == nbytes and all(map(is_sound, self.kinds))


_tensors = msgspec.json.Decoder(dict[str, Tensor]).decode
_texts = msgspec.json.Decoder(dict[str, str]).decode


def parse(text: bytes) -> Regular | None:
    """The header of that text, None for one that is wrong, or right in some other spelling.

    Each tensor is there once: the text has one colon for each name. Of the metadata it is known
    only that they have no backslash.
    """
    head, _, tail = text.partition(_METADATA)
    tail = tail.rstrip(b" ")
    # Escapes may hide colons, and JSON has a -0.
    if b"\\" in text or b"-" in head or tail[-1:] != b"}":
        return None
    try:
        tensors = _tensors(head + b"}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    once = head.count(b":") == 4 * len(tensors) > 0
    if not once or "__metadata__" in tensors:
        return None
    spans = [one.data_offsets for one in tensors.values()]
    kinds = [
        (one.dtype, one.shape, end - start)
        for one, (start, end) in zip(tensors.values(), spans, strict=True)
    ]
    starts, ends = zip(*sorted(spans), strict=True)
    whole = starts[0] == 0 and starts[1:] == ends[:-1]
    nbytes = ends[-1] if whole else None
    return Regular(tensors, [start for start, _ in spans], kinds, nbytes, tail[:-1])


def parse_texts(text: bytes) -> dict[str, str] | None:
    """The metadata of a text without backslashes, None for a wrong one, or with a name twice."""
    try:
        texts = _texts(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    colons = text.count(b":")
    if colons != len(texts):
        colons -= "".join(chain(texts, texts.values())).count(":")
    return texts if colons == len(texts) else None


def is_sound(kind: Kind) -> bool:
    """Whether the bytes are those of the dtype and the shape, and can be told."""
    dtype, shape, nbytes = kind
    size = _SIZES.get(dtype, 0)
    for length in shape:
        size *= length
        if size >= _MOST:
            return False
    return size == nbytes and dtype in _SIZES
