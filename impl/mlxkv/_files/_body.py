"""The tensors of an open file: single numbers, or all arrays, now or when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import mlx.core as mx

from mlxkv._files._errors import HeaderError, PromptCacheOSError
from mlxkv._files._header import DTYPES, Header, Source, Tensor

# Up to that many bytes Python reads a file faster than MLX does, with its task for each array.
_SMALL = 16 << 20
# Read and copied at once, so that it is in the processor's cache; and a file read as a whole.
_WINDOW = 1 << 18
_WHOLE = 1 << 21
# NumPy has no bfloat16, and a bool of 2 is no other bit pattern to it.
_NUMPY = {
    **{"I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8", "U8": "u1", "U16": "u2", "U32": "u4"},
    **{"U64": "u8", "F16": "f2", "F32": "f4", "C64": "c8", "BOOL": "u1", "BF16": "u2"},
}
_VIEWED = ("BOOL", "BF16")
# Of NumPy; and of MLX, which reads a longer one as another.
_RANK = 32
_LONGEST = (1 << 31) - 1


class Body:
    """The bytes after the header, read as they are asked for."""

    def __init__(self, source: Source, header: Header) -> None:
        self._source = source
        self._begin = header.begin
        self.nbytes = header.nbytes - header.begin
        self._whole: memoryview | None = None

    def read(self, start: int, size: int) -> memoryview:
        """That many bytes, of a small file from one read of all. Raises `PromptCacheOSError`."""
        if self.nbytes > _WHOLE:
            return self._read(start, size)
        if self._whole is None:
            self._whole = self._read(0, self.nbytes)
        return self._whole[start : start + size]

    def _read(self, start: int, size: int) -> memoryview:
        expected = "tensors that can be read"
        try:
            data = os.pread(self._source.fd, size, self._begin + start)
        except (OSError, MemoryError) as error:
            got = error if isinstance(error, OSError) else str(error)
            raise PromptCacheOSError(self._source.place, "tensors", expected, got) from error
        if len(data) < size:
            got = f"{len(data)} of {size} bytes"
            raise PromptCacheOSError(self._source.place, "tensors", expected, got)
        return memoryview(data)


def is_small(header: Header) -> bool:
    """Whether Python may read the arrays: a few bytes, in shapes that NumPy and MLX both have."""
    return header.nbytes <= _SMALL and not any(
        len(one.shape) > _RANK or (not one.nbytes and max(one.shape) > _LONGEST)
        for one in header.tensors.values()
    )


def read_arrays(body: Body, tensors: Iterable[Tensor]) -> dict[str, mx.array]:
    """The arrays of these tensors by name, evaluated. Raises `PromptCacheOSError`."""
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    dtypes = {name: np.dtype(code) for name, code in _NUMPY.items()}
    arrays: dict[str, mx.array] = {}
    window, first, end = memoryview(b""), 0, 0
    for tensor in sorted(tensors, key=attrgetter("start")):
        if tensor.start + tensor.nbytes > end:
            first = tensor.start
            window = body.read(first, max(tensor.nbytes, min(_WINDOW, body.nbytes - first)))
            end = first + len(window)
        content: Any = np.ndarray(tensor.shape, dtypes[tensor.dtype], window, tensor.start - first)
        array = mx.array(content)
        arrays[tensor.name] = array.view(DTYPES[tensor.dtype]) if tensor.dtype in _VIEWED else array
    mx.eval(list(arrays.values()))
    return arrays


def load_arrays(source: Source, header: Header) -> dict[str, mx.array]:
    """The file's arrays, not yet read: nothing is allocated. Raises `HeaderError`."""
    loaded: Any
    try:
        loaded = mx.load(source.path, format="safetensors", return_metadata=True)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        expected = "a file that mlx loads"
        raise HeaderError(source.place, "header", expected, str(error)) from error
    arrays, metadata = loaded
    for name, tensor in header.tensors.items():
        array = arrays.get(name)
        if array is None or array.shape != tensor.shape or array.dtype != DTYPES[tensor.dtype]:
            got = "none" if array is None else f"{array.dtype} {list(array.shape)}"
            raise HeaderError(
                source.place, f"tensor {name}", f"{tensor}, as the header has it", got
            )
    if len(arrays) != len(header.tensors) or metadata != header.metadata:
        expected = "the tensors and metadata that safetensors finds"
        raise HeaderError(source.place, "header", expected, "others in mlx")
    return dict(arrays)
