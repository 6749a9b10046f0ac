"""A supervisor that forks workers that save in a loop, and kills each at a random moment.

As a program: `kills.py <path> <kills> <seed>` prints a line of JSON for each kill. It imports MLX
once and never computes with it, so that its forks can. A worker first loads what the one before
left and saves once, after which no temporary file may be left; then it saves until it is killed.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxkv import mlx_lm_0_31, mlx_lm_0_32

PORTS = (mlx_lm_0_31, mlx_lm_0_32)
ROWS = 512
PATIENCE = 30.0


class Counter:
    """Two numbers that the worker writes and its parent reads once it is dead."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    def write(self, begun: int, done: int) -> None:
        self._memory[:] = struct.pack("<qq", begun, done)

    def read(self) -> tuple[int, int]:
        begun, done = struct.unpack("<qq", self._memory[:])
        return begun, done


def temporaries(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if one.name.startswith("."))


def worker(path: Path, counter: Counter, number: int, pipe: int) -> None:
    """Load, save once, tell, and save until the end."""
    port = PORTS[number % 2]
    before = version(port, path)
    save(port, path, counter, counter.read()[0] + 1)
    told = {"found": before, "left": temporaries(path)}
    os.write(pipe, json.dumps(told).encode())
    while True:
        save(port, path, counter, counter.read()[0] + 1)


def version(port: Any, path: Path) -> int:
    """The number that all rows and the metadata of the file are; -1 where they are not."""
    (cache,), metadata = port.load_prompt_cache(str(path), return_metadata=True)
    number = int(metadata["version"])
    rows = cache.state[0]
    same = mx.all(rows == number % 1000).item() and cache.offset == ROWS
    return number if same else -1


def save(port: Any, path: Path, counter: Counter, number: int) -> None:
    """Save a cache of that number over the file."""
    cache = port.KVCache()
    rows = mx.full((1, 2, ROWS, 64), number % 1000, mx.float32)
    cache.update_and_fetch(rows, rows)
    mx.eval(cache.keys, cache.values)
    counter.write(number, counter.read()[1])
    port.save_prompt_cache(str(path), [cache], {"version": str(number)})
    counter.write(number, number)


def forked(work: Any) -> int:
    """The id of a child that does that and ends."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(1)


def main(file: str, kills: str, seed: str) -> None:
    """The supervisor."""
    path, chance, counter = Path(file), random.Random(int(seed)), Counter()
    os.waitpid(forked(lambda: save(PORTS[1], path, counter, 1)), 0)
    for number in range(int(kills)):
        bounds = counter.read()
        reading, writing = os.pipe()
        child = forked(lambda: worker(path, counter, number, writing))  # noqa: B023
        os.close(writing)
        try:
            ready = select.select([reading], [], [], PATIENCE)[0]
            told = os.read(reading, 1 << 16) if ready else b""
            time.sleep(chance.random() * 0.02)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
        line = {"bounds": bounds, "at": counter.read(), "temporaries": temporaries(path)}
        print(json.dumps({**line, **json.loads(told or b"{}")}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
