"""The tensors of an open file: single numbers, or all arrays, now or when they are needed."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from operator import attrgetter
from typing import Any, TypeVar

import mlx.core as mx

from mlxkv._files._errors import HeaderError, PromptCacheOSError
from mlxkv._files._header import Header, Source
from mlxkv._files._regular import DTYPES, Tensor
from mlxkv._words import is_on_cpu

# Up to that many bytes Python reads an array faster than MLX does, with its task for each.
_SMALL = 1 << 18
# Read and copied at once: it fits the processor's cache, and is memory that was used before, which
# an allocator gives from the first for no more than 128 KiB. With longer tensors it is the second.
_WINDOWS = (120 << 10, 1 << 18)
# Of a body that is no longer, all is read for a number.
_WHOLE = 1 << 21
# NumPy has no bfloat16, and a bool of 2 is no other bit pattern to it.
_NUMPY = {
    **{"I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8", "U8": "u1", "U16": "u2", "U32": "u4"},
    **{"U64": "u8", "F16": "f2", "F32": "f4", "C64": "c8", "BOOL": "u1", "BF16": "u2"},
}
VIEWED = ("BOOL", "BF16")
# Of NumPy; and of MLX, which reads a longer one as another.
_RANK = 32
_LONGEST = (1 << 31) - 1

Span = TypeVar("Span", bound=tuple[int, ...])


class Body:
    """The bytes after the header, read as they are asked for; with `keep`, small ones once."""

    def __init__(self, source: Source, begin: int, keep: bool = True) -> None:
        self._source = source
        self._begin = begin
        self._nbytes = source.nbytes - begin
        self._keep = keep and self._nbytes <= _WHOLE
        self._whole = bytearray()

    def read(self, start: int, size: int) -> bytearray:
        """That many bytes. Raises `PromptCacheOSError`."""
        if not self._keep:
            return self._fill(self._room(size), start, size)
        if not self._whole:
            self._whole = self._fill(self._room(self._nbytes), 0, self._nbytes)
        return self._whole[start : start + size]

    def windows(self, spans: list[Span], longest: int) -> Iterator[tuple[list[Span], bytearray]]:
        """The tensors that lie in some part of the body, and its bytes, until the next part.

        The spans are sorted; each begins with where its tensor begins and ends, and `longest` is
        the longest of them. Raises `PromptCacheOSError`.
        """
        length = max(_WINDOWS[longest > _WINDOWS[0]], longest)
        ends = [span[1] for span in spans]
        room = self._room(min(length, max(ends, default=0)))
        at = 0
        while at < len(spans):
            start = spans[at][0]
            end = bisect_right(ends, start + length)
            yield spans[at:end], self._fill(room, start, ends[end - 1] - start)
            at = end

    def _room(self, size: int) -> bytearray:
        try:
            return bytearray(size)
        except MemoryError as error:
            raise self._refusal(str(error)) from error

    def _fill(self, room: bytearray, start: int, size: int) -> bytearray:
        try:
            count = _read_into(memoryview(room)[:size], self._source.fd, self._begin + start)
        except OSError as error:
            raise self._refusal(error) from error
        if count < size:
            raise self._refusal(f"{count} of {size} bytes")
        return room

    def _refusal(self, got: str | OSError) -> PromptCacheOSError:
        return PromptCacheOSError(self._source.place, "tensors", "tensors that can be read", got)


def _read_into(room: memoryview, fd: int, at: int) -> int:
    """Fill the room with the bytes of a file from there on; returns how many there were."""
    if hasattr(os, "preadv"):  # Which not every macOS has.
        return os.preadv(fd, [room], at)
    data = os.pread(fd, len(room), at)
    room[: len(data)] = data
    return len(data)


@cache
def numpy_dtypes() -> dict[str, Any]:
    """What NumPy takes the bytes of each dtype for; `VIEWED` ones are viewed as themselves."""
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    return {name: np.dtype(code) for name, code in _NUMPY.items()}


def is_small(longest: int, shapes: Iterable[tuple[int, ...]]) -> bool:
    """Whether Python may read the arrays: the longest is short, and NumPy and MLX have all shapes.

    `longest` is in bytes.
    """
    return longest <= _SMALL and not any(
        len(one) > _RANK or (0 in one and max(one) > _LONGEST) for one in shapes
    )


def copier() -> Callable[[Any], mx.array]:
    """What makes an array of a NumPy array, with the bytes that it has now."""
    if hasattr(mx, "from_dlpack") and is_on_cpu():
        return partial(mx.from_dlpack, copy=True)
    return _copy


def _copy(content: Any) -> mx.array:
    view: Any = memoryview(content)  # Which MLX takes sooner.
    return mx.array(view)


def read_arrays(body: Body, tensors: Iterable[Tensor]) -> dict[str, mx.array]:
    """The arrays of these tensors by name, evaluated. Raises `PromptCacheOSError`."""
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    order = sorted(tensors, key=attrgetter("data_offsets"))
    longest = max((one.nbytes for one in order), default=0)
    dtypes, copy = numpy_dtypes(), copier()
    arrays: dict[str, mx.array] = {}
    spans = [(*one.data_offsets, i) for i, one in enumerate(order)]
    for some, room in body.windows(spans, longest):
        for start, _, i in some:
            tensor = order[i]
            content = np.ndarray(tensor.shape, dtypes[tensor.dtype], room, start - some[0][0])
            array = copy(content)
            viewed = tensor.dtype in VIEWED
            arrays[tensor.name] = array.view(DTYPES[tensor.dtype]) if viewed else array
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
