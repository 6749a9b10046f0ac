"""The safetensors header of a file: which tensors and which metadata, before any is loaded."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from safetensors import SafetensorError, safe_open

from mlxkv._files._errors import HeaderError, Place, PromptCacheOSError

# What mlx writes. The largest header of a real model is some 100 kB, plus the user's metadata.
DTYPES = {
    "BOOL": mx.bool_,
    **{"I8": mx.int8, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64},
    **{"U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64},
    **{"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32, "C64": mx.complex64},
}
MAX_HEADER = 1 << 24
# Names in a header, those of a tensor's fields too; 100 layers of 0.32 have some 10 000.
MAX_NAMES = 1 << 16


@dataclass(frozen=True)
class Tensor:
    """What the header says of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].size

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Header:
    """The tensors by name and the metadata of one file, and its length in bytes."""

    place: Place
    nbytes: int
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Source:
    """An open file, and the path by which it is opened again, whatever was renamed meanwhile."""

    place: Place
    fd: int
    path: str
    nbytes: int


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Open a regular file; never waits. Raises `PromptCacheOSError`."""
    name = os.fspath(path)
    place = Place(name)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, TypeError) as error:
        got = error if isinstance(error, OSError) else str(error)
        raise PromptCacheOSError(place, "file", "a file that can be opened", got) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PromptCacheOSError(place, "file", "a regular file", kind_of(found.st_mode))
        again = f"/dev/fd/{fd}"
        yield Source(place, fd, again if os.path.exists(again) else name, found.st_size)  # noqa: PTH110
    finally:
        os.close(fd)


def kind_of(mode: int) -> OSError | str:
    """What stands there instead of a regular file."""
    if stat.S_ISDIR(mode):
        return OSError(errno.EISDIR, "a directory")
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_header(source: Source) -> Header:
    """Read the header; the safetensors package checks it against the length of the file.

    Raises `HeaderError` for what is no safetensors file, is too short or too long for its tensors,
    names one twice, or has a dtype that mlx does not write; `PromptCacheOSError`.
    """
    place = source.place
    _check_text(place, _read_text(source))
    try:
        with safe_open(source.path, "mlx") as file:
            metadata = dict(file.metadata() or {})
            described = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(one.get_shape()) for name, one in described.items()}
            dtypes = {name: str(one.get_dtype()) for name, one in described.items()}
    except (OSError, MemoryError) as error:
        got = error if isinstance(error, OSError) else str(error)
        raise PromptCacheOSError(place, "header", "a readable file", got) from error
    except SafetensorError as error:
        raise HeaderError(place, "header", "a whole safetensors file", str(error)) from error
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise HeaderError(place, f"tensor {name}", f"one of {', '.join(DTYPES)}", dtype)
    tensors = {name: Tensor(name, dtypes[name], shapes[name]) for name in sorted(shapes)}
    return Header(place, source.nbytes, tensors, metadata)


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


def _read_text(source: Source) -> bytes:
    """The header's bytes, once their number is known to be reasonable."""
    place = source.place
    try:
        prefix = os.pread(source.fd, 8, 0)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > source.nbytes - 8:
            got = f"{source.nbytes} bytes"
            raise HeaderError(place, "header", f"a file of at least {8 + length} bytes", got)
        if length > MAX_HEADER:
            expected = f"a header of at most {MAX_HEADER} bytes"
            raise HeaderError(place, "header", expected, str(length))
        return os.pread(source.fd, length, 8)
    except OSError as error:
        raise PromptCacheOSError(place, "header", "a readable file", error) from error


def _check_text(place: Place, text: bytes) -> None:
    """Raise where JSON has a name twice, the last of which would count, or a name too many."""
    found = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found += len(pairs)
        if found > MAX_NAMES:
            raise HeaderError(place, "header", f"at most {MAX_NAMES} names", "more")
        entries: dict[str, Any] = {}
        for name, entry in pairs:
            if name in entries:
                raise HeaderError(place, "header", "each name once", f"{name[:80]!r} twice")
            entries[name] = entry
        return entries

    try:
        entries = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, HeaderError):
            raise
        raise HeaderError(place, "header", "JSON", str(error)) from error
    if not isinstance(entries, dict):
        raise HeaderError(place, "header", "a JSON object", type(entries).__name__)
    fields = {"dtype", "shape", "data_offsets"}
    for name, entry in entries.items():
        if name != "__metadata__" and (not isinstance(entry, dict) or entry.keys() != fields):
            got = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
            raise HeaderError(place, f"tensor {name}", "dtype, shape and data_offsets", got)
