"""The safetensors header of a file: which tensors and which metadata, before any is loaded."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open

from mlxkv._files._errors import HeaderError, Place, PromptCacheOSError
from mlxkv._files._regular import DTYPES, MAX_NAMES, Regular, Tensor, parse, parse_texts

# The largest header of a real model is some 100 kB, plus the user's metadata.
MAX_HEADER = 1 << 24
_FIELDS = {"dtype", "shape", "data_offsets"}

_Found: TypeAlias = tuple[dict[str, Tensor], dict[str, str]]


@dataclass(frozen=True)
class Header:
    """The tensors by name and the metadata of one file, its length and where its tensors begin."""

    place: Place
    nbytes: int
    begin: int
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Source:
    """An open file, and the path by which it is opened again, whatever was renamed meanwhile."""

    place: Place
    fd: int
    nbytes: int

    @property
    def path(self) -> str:
        again = f"/dev/fd/{self.fd}"
        return again if os.path.exists(again) else self.place.file  # noqa: PTH110


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
        yield Source(place, fd, found.st_size)
    finally:
        os.close(fd)


def kind_of(mode: int) -> OSError | str:
    """What stands there instead of a regular file."""
    if stat.S_ISDIR(mode):
        return OSError(errno.EISDIR, "a directory")
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_header(source: Source) -> Header:
    """Read and check the header. Raises `HeaderError`, `PromptCacheOSError`."""
    text = read_text(source)
    return check_header(source, text, parse(text))


def check_header(source: Source, text: bytes, parsed: Regular | None) -> Header:
    """The header of that text, checked against the length of the file.

    The safetensors package checks it, unless it could be `parsed` and its tensors fill the file.
    Raises `HeaderError` for what is no safetensors file, is too short or too long for its tensors,
    names one twice, or has a dtype that mlx does not write; `PromptCacheOSError`.
    """
    begin = 8 + len(text)
    found = None
    if parsed is not None and parsed.fills(source.nbytes - begin):
        found = _look_at(parsed)
    tensors, metadata = found or _judge(source, text)
    return Header(source.place, source.nbytes, begin, dict(sorted(tensors.items())), metadata)


def _look_at(parsed: Regular) -> _Found | None:
    """The tensors and the metadata, None where these are wrong, or more than are read."""
    metadata = parse_texts(parsed.metadata)
    if metadata is None or 1 + len(metadata) + 4 * len(parsed.tensors) > MAX_NAMES:
        return None
    return parsed.named(), metadata


def _judge(source: Source, text: bytes) -> _Found:
    """The tensors and the metadata of a header that safetensors takes."""
    place = source.place
    entries = _parse_text(place, text)
    try:
        with safe_open(source.path, "mlx"):
            pass  # Opening it is the check.
    except (OSError, MemoryError) as error:
        got = error if isinstance(error, OSError) else str(error)
        raise PromptCacheOSError(place, "header", "a readable file", got) from error
    except SafetensorError as error:
        raise HeaderError(place, "header", "a whole safetensors file", str(error)) from error
    metadata = entries.pop("__metadata__", None) or {}
    tensors = {}
    for name in sorted(entries):
        entry = entries[name]
        dtype, (start, end) = entry["dtype"], entry["data_offsets"]
        if dtype not in DTYPES:
            raise HeaderError(place, f"tensor {name}", f"one of {', '.join(DTYPES)}", dtype)
        tensors[name] = Tensor((start, end), dtype, tuple(entry["shape"]), name)
    return tensors, metadata


def read_text(source: Source) -> bytes:
    """The header's bytes, once their number is known to be reasonable.

    Raises `HeaderError`, `PromptCacheOSError`.
    """
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


def _parse_text(place: Place, text: bytes) -> dict[str, Any]:
    """The entries by name. Raises where JSON has a name twice, the last of which would count, or a
    name too many, and where a tensor has other fields than three.
    """
    found = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found += len(pairs)
        if found > MAX_NAMES:
            raise HeaderError(place, "header", f"at most {MAX_NAMES} names", "more")
        entries = dict(pairs)
        if len(entries) < len(pairs):
            got = f"{_repeated(pairs)[:80]!r} twice"
            raise HeaderError(place, "header", "each name once", got)
        return entries

    try:
        entries = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, HeaderError):
            raise
        raise HeaderError(place, "header", "JSON", str(error)) from error
    if not isinstance(entries, dict):
        raise HeaderError(place, "header", "a JSON object", type(entries).__name__)
    for name, entry in entries.items():
        if name != "__metadata__" and (not isinstance(entry, dict) or entry.keys() != _FIELDS):
            got = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
            raise HeaderError(place, f"tensor {name}", "dtype, shape and data_offsets", got)
    return entries


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    """The first name that was there before."""
    first: dict[str, int] = {}
    return next(name for i, (name, _) in enumerate(pairs) if first.setdefault(name, i) < i)
