"""The tensors of an open file: single numbers, or all arrays, now or when they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeAlias

import mlx.core as mx

from mlxkv._files._errors import HeaderError, PromptCacheOSError
from mlxkv._files._header import Header, Source
from mlxkv._files._regular import DTYPES, Kind, Tensor
from mlxkv._words import is_on_cpu

# Up to that many bytes Python reads an array faster than MLX does, with its task for each.
_SMALL = 1 << 18
# A body that is no longer is read at once: it fits the processor's cache, and is memory that was
# used before, which an allocator gives from the first for no more than 128 KiB. Of a longer one
# each tensor is read by itself, into the room of the one before.
WINDOW = 120 << 10
# The same where a number is asked for now and then.
_FEW = 1 << 21
# NumPy has no bfloat16, and a bool of 2 is no other bit pattern to it.
_NUMPY = {
    **{"I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8", "U8": "u1", "U16": "u2", "U32": "u4"},
    **{"U64": "u8", "F16": "f2", "F32": "f4", "C64": "c8", "BOOL": "u1", "BF16": "u2"},
}
VIEWED = ("BOOL", "BF16")
# Of NumPy; and of MLX, which reads a longer one as another.
_RANK = 32
_LONGEST = (1 << 31) - 1

Fill: TypeAlias = Callable[[int, Sequence[Any], int], int]


class Body:
    """The bytes after the header, read as they are asked for; all at once if they are few."""

    def __init__(self, source: Source, begin: int, few: int = _FEW) -> None:
        self._source = source
        self._begin = begin
        self._nbytes = source.nbytes - begin
        self._few = few
        self._whole = b""
        # Which not every macOS has.
        self._fill: Fill = getattr(os, "preadv", _fill)
        self._copy = _copier()

    def read(self, start: int, size: int) -> bytes:
        """That many bytes. Raises `PromptCacheOSError`."""
        return self.read_texts(size, [start])[0]

    def read_texts(self, size: int, starts: Iterable[int]) -> list[bytes]:
        """That many bytes from each of these on. Raises `PromptCacheOSError`."""
        if self._nbytes <= self._few:
            whole = self._read_whole()
            return [whole[start : start + size] for start in starts]
        return self._read(size, starts)

    def read_alike(self, kind: Kind, starts: Iterable[int]) -> list[mx.array]:
        """The arrays of tensors of one kind that begin there, not evaluated if it is `VIEWED`.

        Raises `PromptCacheOSError`.
        """
        dtype, shape, size = kind
        copy, arrays = self._copy, []
        room = memoryview(self._room(size))
        ndarray, dtypes = _numpy()
        content = ndarray(shape, dtypes[dtype], room)
        if self._nbytes <= WINDOW:
            whole = self._read_whole()
            for start in starts:
                room[:] = whole[start : start + size]
                arrays.append(copy(content, copy=True))
        else:
            fill, fd, rooms, begin = self._fill, self._source.fd, [room], self._begin
            for start in starts:
                try:
                    count = fill(fd, rooms, begin + start)
                except OSError as error:
                    raise self._refusal(error) from error
                if count < size:
                    raise self._refusal(f"{count} of {size} bytes")
                arrays.append(copy(content, copy=True))
        return [array.view(DTYPES[dtype]) for array in arrays] if dtype in VIEWED else arrays

    def _read_whole(self) -> bytes:
        if not self._whole:
            (self._whole,) = self._read(self._nbytes, [0])
        return self._whole

    def _read(self, size: int, starts: Iterable[int]) -> list[bytes]:
        fd, begin = self._source.fd, self._begin
        try:
            texts = [os.pread(fd, size, begin + start) for start in starts]
        except (OSError, MemoryError) as error:
            raise self._refusal(error if isinstance(error, OSError) else str(error)) from error
        count = min(map(len, texts))
        if count < size:
            raise self._refusal(f"{count} of {size} bytes")
        return texts

    def _room(self, size: int) -> bytearray:
        try:
            return bytearray(size)
        except MemoryError as error:
            raise self._refusal(str(error)) from error

    def _refusal(self, got: str | OSError) -> PromptCacheOSError:
        return PromptCacheOSError(self._source.place, "tensors", "tensors that can be read", got)


def _fill(fd: int, rooms: Sequence[Any], at: int) -> int:
    """As `os.preadv`: fill the room with the bytes of a file from there on; say how many."""
    (room,) = rooms
    data = os.pread(fd, len(room), at)
    room[: len(data)] = data
    return len(data)


@cache
def _numpy() -> tuple[Any, dict[str, Any]]:
    """What makes an array over memory, and its dtypes; `VIEWED` ones are viewed as themselves."""
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    return np.ndarray, {name: np.dtype(code) for name, code in _NUMPY.items()}


def is_small(kinds: Iterable[Kind]) -> bool:
    """Whether Python may read the arrays: each is short, and NumPy and MLX have its shape."""
    for _, shape, size in kinds:
        if size > _SMALL or len(shape) > _RANK or (0 in shape and max(shape) > _LONGEST):
            return False
    return True


def _copier() -> Callable[..., mx.array]:
    """What makes an array of a NumPy array, with the bytes that it has now."""
    if hasattr(mx, "from_dlpack") and is_on_cpu():
        return mx.from_dlpack
    return _copy


def _copy(content: Any, *, copy: bool) -> mx.array:  # noqa: ARG001 - always a copy
    view: Any = memoryview(content)  # Which MLX takes sooner.
    return mx.array(view)


def read_arrays(body: Body, tensors: Iterable[Tensor]) -> dict[str, mx.array]:
    """The arrays of these tensors by name, evaluated. Raises `PromptCacheOSError`."""
    alike: dict[Kind, list[Tensor]] = {}
    for one in tensors:
        alike.setdefault(one.kind, []).append(one)
    arrays: dict[str, mx.array] = {}
    for kind, some in alike.items():
        made = body.read_alike(kind, [one.start for one in some])
        arrays |= zip([one.name for one in some], made, strict=True)
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
