"""A fuzz target: whatever the bytes of a prompt-cache file, it loads or is refused, typed and soon.

`python fuzz/fuzz_prompt_cache.py [libFuzzer's options] [corpus directory]`; `make fuzz` runs it for
three minutes. The seeds are files of every generation and class; the mutator changes the header as
JSON most of the time, for bytes changed blindly seldom leave a header that can be read.
"""

from __future__ import annotations

import json
import math
import os
import random
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import atheris
import mlx.core as mx

with atheris.instrument_imports(include=["mlxkv"]):
    import mlxkv
    import mlxkv.mlx_lm_0_31
    import mlxkv.mlx_lm_0_32

SECONDS = 5.0
LONGEST_MESSAGE = 4096
FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
PATH = FOLDER / "cache.safetensors"
OUT = FOLDER / "out.safetensors"

_LARGEST = 4096
_SIZES = {"BOOL": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4, "U32": 4, "I64": 8, "C64": 8}
_TEXTS = ("", "0", "1", "3", "4", "9", "-1", "1.5", "256", "True", "None", "scalar", "string")
_NUMBERS = (0, 1, 2, 3, 4, 5, 8, 9, 16, 64, 255, 1 << 31, 1 << 62, -1)
_CLASSES = ("KVCache", "RotatingKVCache", "QuantizedKVCache", "ChunkedKVCache", "ArraysCache")
_MORE = ("MambaCache", "BatchKVCache", "BatchRotatingKVCache", "CacheList", "ConcatenateKVCache")


def test_one_input(data: bytes) -> None:
    """Read, inspect, load in both contracts; and convert what can be read."""
    PATH.write_bytes(data)
    start = time.perf_counter()
    refused: list[bool] = []
    for function in (
        mlxkv.read_prompt_cache,
        mlxkv.mlx_lm_0_31.load_prompt_cache,
        mlxkv.mlx_lm_0_32.load_prompt_cache,
    ):
        try:
            loaded: Any = function(str(PATH))
        except mlxkv.PromptCacheError as error:
            refused.append(True)
            if len(str(error)) > LONGEST_MESSAGE:
                raise RuntimeError("a message without end") from error
        else:
            refused.append(False)
            if isinstance(loaded, list):
                mx.eval([cache.nbytes for cache in loaded if isinstance(cache.nbytes, mx.array)])
    try:
        inspection = mlxkv.inspect_prompt_cache(PATH)
    except mlxkv.PromptCacheError:
        refused.append(True)
    else:
        json.dumps(inspection.as_data())
        refused.append(bool(inspection.problems))
    if refused[0] != refused[3] or not set(refused[1:3]) <= {refused[0], True}:
        raise RuntimeError(f"read, load, load and inspect disagree: {refused}")
    if not refused[0]:
        for to in ("0.31", "0.32"):
            _convert(to)
    if time.perf_counter() - start > SECONDS:
        raise RuntimeError("too slow")


def _convert(to: str) -> None:
    """What was written must load again."""
    try:
        mlxkv.convert_prompt_cache(PATH, to, OUT, drop=("step", "capacity_origin"))
    except mlxkv.PromptCacheError:
        return
    mlxkv.read_prompt_cache(OUT, to)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change an entry of the header, or a few bytes of the file."""
    chance = random.Random(seed)
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))
    if not isinstance(header, dict) or not header or chance.random() < 0.2:
        return bytes(atheris.Mutate(data, max_size))
    rest = data[8 + length :]
    for _ in range(chance.choice((1, 1, 2, 4))):
        _bend(header, chance)
    if chance.random() < 0.8:
        rest = _refit(header, rest, chance)
    text = json.dumps(header).encode()
    changed = struct.pack("<Q", len(text)) + text + rest
    return changed if len(changed) <= max_size else bytes(atheris.Mutate(data, max_size))


def _refit(header: dict[str, Any], data: bytes, chance: random.Random) -> bytes:
    """Give every tensor as many bytes as its shape says, so that its fields are looked at."""
    rest = b""
    for name in sorted(header):
        entry = header[name]
        if name == "__metadata__" or not isinstance(entry, dict):
            continue
        try:
            start, end = entry["data_offsets"]
            size = _SIZES.get(entry["dtype"], 1) * math.prod(entry["shape"])
            own = data[start:end]
        except (KeyError, TypeError, ValueError):
            continue
        if not isinstance(size, int) or not 0 <= size <= _LARGEST:
            continue
        own = (own + bytes(size))[:size]
        if size in (1, 4, 8) and chance.random() < 0.2:
            own = chance.choice((0, 1, 3, 4, 5, 9, 99, 255)).to_bytes(size, "little")
        entry["data_offsets"] = [len(rest), len(rest) + size]
        rest += own
    return rest


def _bend(header: dict[str, Any], chance: random.Random) -> None:
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and metadata and chance.random() < 0.6:
        name = chance.choice(sorted(metadata))
        text = metadata[name]
        match chance.randrange(4):
            case 0:
                del metadata[name]
            case 1:
                metadata[_rename(name, chance)] = text
            case _:
                metadata[name] = chance.choice((*_TEXTS, *_CLASSES, *_MORE, _near(text, chance)))
        return
    names = sorted(name for name in header if name != "__metadata__")
    if not names:
        return
    name = chance.choice(names)
    entry = header[name]
    match chance.randrange(5):
        case 0:
            del header[name]
        case 1:
            header[_rename(name, chance)] = entry
        case 2 if isinstance(entry, dict):
            entry["dtype"] = chance.choice(
                ("F16", "F32", "I32", "I64", "U32", "BOOL", "BF16", "C64")
            )
        case _ if isinstance(entry, dict) and isinstance(entry.get("shape"), list):
            shape = entry["shape"]
            if shape and chance.random() < 0.8:
                shape[chance.randrange(len(shape))] = chance.choice(_NUMBERS)
            else:
                shape.insert(0, chance.choice(_NUMBERS))


def _rename(name: str, chance: random.Random) -> str:
    parts = name.split(".")
    match chance.randrange(3):
        case 0:
            parts.append(chance.choice("012x"))
        case 1:
            parts.pop()
        case _:
            parts[chance.randrange(len(parts))] = chance.choice(("0", "1", "2", "3", "7", "", "00"))
    return ".".join(parts)


def _near(text: Any, chance: random.Random) -> str:
    if isinstance(text, str) and text.isdecimal() and len(text) < 20:
        return str(int(text) + chance.choice((-1, 1, 100)))
    return str(text) + chance.choice(("", " ", "x", "\0", "0"))


def seeds() -> str:
    """A folder with a valid file of every generation and class."""
    from property_tests.files import hostile_fields  # noqa: PLC0415

    folder = FOLDER / "seeds"
    folder.mkdir()
    for i, parts in enumerate((hostile_fields.olds() | hostile_fields.news()).values()):
        (folder / f"{i}.safetensors").write_bytes(parts.but())
    return str(folder)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    arguments = [*sys.argv, "-max_len=8192", "-timeout=20", "-rss_limit_mb=4096", seeds()]
    atheris.Setup(arguments, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()
