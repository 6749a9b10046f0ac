"""Prompt-cache files.

A file is warm in the system's cache when it is read, but what is saved goes to the disk, and its
seconds are those of the clock. Only the port flushes what it saves, which the release leaves to the
system: beside the release stands a plain write of the same bytes, flushed too.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from limits import COUNTED
from material import CLASSES, SEQUENCES, filled, rows
from pairs import Pair

LAYERS = 32
NUMPY = {"F16": "f2", "F32": "f4", "I32": "i4", "U32": "u4", "BOOL": "u1"}

by_the_clock = pytest.mark.benchmark(timer=time.perf_counter)
large_sizes = pytest.mark.lengths(32, 256, tiny=8)


@once
def large(cache: Any, megabytes: int) -> list[Any]:
    """Eight caches of that many MiB together, 8 heads of 128, with no row to spare."""
    made = [cache.KVCache() for _ in range(8)]
    for one in made:
        mx.eval(one.update_and_fetch(*rows(1, 8, 32 * megabytes, 128)))
    return made


@pytest.fixture
def file(length: int, tmp_path: Path) -> Iterator[Path]:
    """Where a file of so many MiB goes; the caches in it go when it does."""
    yield tmp_path / f"{length}.safetensors"
    large.cache_clear()
    (tmp_path / f"{length}.safetensors").unlink(missing_ok=True)


def loading_small(file: Path, name: str, size: Any) -> Callable[[Any], Callable[[], Any]]:
    """The loading of many small layers, evaluated."""
    names = list(SEQUENCES) if name == "mixed" else [name]

    def prepare(cache: Any) -> Callable[[], Any]:
        if not file.exists():
            count = size(LAYERS, len(names))
            some = [filled(cache, one, -(-count // len(names)), 64, 1, 64) for one in names]
            layers = [layer for together in zip(*some, strict=True) for layer in together]
            cache.save_prompt_cache(str(file), layers[:count])
            del some, layers
            mx.clear_cache()  # Their buffers are longer than those that a load asks for.
        return load_evaluated(cache, file)

    return prepare


def load_evaluated(cache: Any, file: Path) -> Callable[[], Any]:
    def load() -> list[Any]:
        layers = cache.load_prompt_cache(str(file))
        mx.eval([layer.state for layer in layers])
        return layers

    return load


small_files = pytest.mark.parametrize("name", [*CLASSES, "mixed"])


@small_files
def test_load_small(pair: Pair, name: str, size: Any, tmp_path: Path) -> None:
    """Load 32 layers of 64 tokens, evaluated; each side reads the same file."""
    pair(loading_small(tmp_path / "prompt.safetensors", name, size))


@small_files
def test_load_small_floor(pair: Pair, name: str, size: Any, tmp_path: Path) -> None:
    """The least that any load does: decode the header, and read a file known by heart into arrays.

    One of MLX's own for each tensor but the scalars, so that a cache can be written in place; what
    the header says is not looked at, nothing is checked, and no cache is made.
    """
    file = tmp_path / "prompt.safetensors"
    load = loading_small(file, name, size)

    def prepare(cache: Any) -> Callable[[], Any]:
        load(cache)
        known = list(known_tensors(file))
        return lambda: list(read_arrays(file, known))

    pair(prepare, load)


class Entry(msgspec.Struct, gc=False):
    """What a header says of a tensor; nothing of its metadata."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    data_offsets: tuple[int, ...] = ()


decode = msgspec.json.Decoder(dict[str, Entry]).decode

# What is read at once: it stays in the processor's cache, and its memory is used again.
WINDOW = 120 << 10


@dataclass
class Part:
    """Some bytes of a file, and where in them arrays begin, with their dtypes and shapes."""

    first: int
    size: int = 0
    arrays: list[tuple[int, Any, Any]] = field(default_factory=list)


def known_tensors(file: Path) -> Iterator[Part]:
    """All of the file, but for the scalars, in parts that are read at once."""
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    scalars = set(header.pop("__metadata__").values())
    part = Part(begin)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = (begin + offset for offset in entry["data_offsets"])
        if end - part.first > WINDOW:
            yield part
            part = Part(start)
        part.size = end - part.first
        if name not in scalars:
            part.arrays.append(
                (start - part.first, np.dtype(NUMPY[entry["dtype"]]), entry["shape"])
            )
    yield part


def read_arrays(file: Path, known: list[Part]) -> Iterator[mx.array]:
    room = memoryview(bytearray(max(part.size for part in known)))
    on_cpu = mx.default_device().type == mx.cpu
    copy: Any = mx.from_dlpack if on_cpu else lambda content, **_: mx.array(content)
    with file.open("rb", buffering=0) as raw:
        decode(raw.read(int.from_bytes(raw.read(8), "little")))
        for part in known:
            raw.seek(part.first)
            raw.readinto(room[: part.size])
            for start, dtype, shape in part.arrays:
                yield copy(np.ndarray(shape, dtype, room, start), copy=True)


def saving(file: Path, length: int) -> Callable[[Any], Callable[[], Any]]:
    """The saving of large caches to a file of the side's own."""

    def prepare(cache: Any) -> Callable[[], Any]:
        layers = large(cache, length)
        file.unlink(missing_ok=True)
        return lambda: cache.save_prompt_cache(str(file), layers)

    return prepare


def loading(file: Path, length: int) -> Callable[[Any], Callable[[], Any]]:
    """The loading of large caches, evaluated."""

    def prepare(cache: Any) -> Callable[[], Any]:
        if not file.exists():
            cache.save_prompt_cache(str(file), large(cache, length))
            large.cache_clear()
        return load_evaluated(cache, file)

    return prepare


@by_the_clock
@large_sizes
def test_save(pair: Pair, length: int, file: Path) -> None:
    """Save large caches; only the port flushes."""
    pair(saving(file, length))


@by_the_clock
@large_sizes
def test_save_and_write(pair: Pair, length: int, file: Path) -> None:
    """Save large caches, against a plain write of the same bytes, flushed."""

    def write(cache: Any) -> Callable[[], Any]:
        cache.save_prompt_cache(str(file), large(cache, length))
        content = file.read_bytes()
        file.unlink()

        def run() -> None:
            with file.open("wb", buffering=0) as raw:
                raw.write(content)
                os.fsync(raw.fileno())

        return run

    pair(saving(file, length), write, other="plain write")


@large_sizes
def test_load(pair: Pair, length: int, file: Path) -> None:
    """Load large caches, evaluated; each side reads the same file."""
    pair(loading(file, length))


@pytest.mark.both_limits
@large_sizes
def test_load_and_read(pair: Pair, length: int, cache_limit: str, file: Path) -> None:
    """Load large caches, evaluated, against a plain read of the same file.

    Into the memory of the last read where MLX keeps its buffers; where not, into new memory.
    """
    pair(loading(file, length), reading(file, cache_limit), other="plain read")


@pytest.mark.both_limits
@large_sizes
def test_load_and_read_floor(pair: Pair, length: int, cache_limit: str, file: Path) -> None:
    """MLX's own loading of the same arrays, evaluated, against the same plain read."""
    load = loading(file, length)

    def prepare(cache: Any) -> Callable[[], Any]:
        load(cache)

        def run() -> list[mx.array]:
            loaded: Any = mx.load(str(file))
            arrays = list(loaded.values())
            mx.eval(arrays)
            return arrays

        return run

    pair(prepare, reading(file, cache_limit), other="plain read")


def reading(file: Path, cache_limit: str) -> Callable[[Any], Callable[[], Any]]:
    """A plain read of the whole file."""
    used = bytearray()

    def read(_: Any) -> Callable[[], Any]:
        size = file.stat().st_size
        if not used:
            used.extend(file.read_bytes())

        def run() -> None:
            room = used if cache_limit == COUNTED else mmap.mmap(-1, size)
            with file.open("rb", buffering=0) as raw:
                raw.readinto(room)

        return run

    return read
