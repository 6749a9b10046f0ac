"""Runs of tokens: packed to five bytes a token where all are plain integers, else a list of them.

Two tokens are alike where a dict takes them for one key: the same object, or equal hashes and then
equal values, so 1, 1.0 and True are alike. A packed run keeps that they are of type int.
"""

from __future__ import annotations

import marshal
from contextlib import suppress
from operator import eq
from typing import Any, NamedTuple

from mlxkv._errors import UnhashableTokenError

Run = bytes | list[Any]

# marshal writes an int of 32 bits as "i" and four bytes, and nothing else so; it is the one way in
# CPython to tell at C speed that every entry of a list is an int and no bool or subclass. What it
# writes ahead of them is as long as one of them.
WIDTH = 5
_HEAD = WIDTH
# The first bytes of many such ints: a prefix of it is told sooner than counted.
_INTS = b"i" * (1 << 16)
# How many tokens are compared at once.
_BLOCK = 1 << 13


class Path(NamedTuple):
    """The tokens of a sequence, as far as they can be hashed: `size` of `run`, from `first` on."""

    run: Run
    size: int
    broken: bool = False
    first: int = 0

    def check(self, owner: object, operation: str, reached: int) -> None:
        """Raise `UnhashableTokenError` if what follows the tokens reached cannot be hashed."""
        if self.broken and reached == self.size:
            got = f"an unhashable one after {reached}"
            raise UnhashableTokenError(owner, operation, "hashable tokens", got)


def pack(tokens: list[Any]) -> Path:
    """The path of a list of any tokens; nothing of the list itself is kept."""
    size = len(tokens)
    if not tokens:
        return Path(b"", 0)
    if type(tokens[0]) is int:
        packed = _pack(tokens if type(tokens) is list else list(tokens))
        if packed is not None:
            return Path(packed, size, first=1)
    size = _count_hashable(tokens)
    return Path(tokens[:size], size, broken=size < len(tokens))


def _count_hashable(tokens: list[Any]) -> int:
    """How many tokens there are before the first that cannot be hashed."""
    hashes: list[int] = []
    with suppress(TypeError):
        hashes.extend(map(hash, tokens))
    return len(hashes)


def _pack(tokens: list[Any]) -> bytes | None:
    """The packed tokens behind one that is none, or None where not all are plain integers."""
    try:
        written = marshal.dumps(tokens, 2)
    except ValueError:
        return None
    if len(written) != _HEAD + WIDTH * len(tokens):
        return None
    types = written[_HEAD::WIDTH]
    return written if _INTS.startswith(types) or types.count(b"i") == len(tokens) else None


def size_of(run: Run) -> int:
    """How many tokens the run has."""
    return len(run) // WIDTH if isinstance(run, bytes) else len(run)


def unpack(run: Run) -> list[Any]:
    """The tokens of a run, as a new list."""
    if isinstance(run, bytes):
        head = b"[" + (len(run) // WIDTH).to_bytes(4, "little")
        tokens: list[Any] = marshal.loads(head + run)
        return tokens
    return run[:]


def token_at(run: Run, i: int) -> Any:
    """The token at i, an index from 0."""
    if isinstance(run, bytes):
        return int.from_bytes(run[i * WIDTH + 1 : (i + 1) * WIDTH], "little", signed=True)
    return run[i]


def cut(run: Run, start: int, end: int | None = None) -> Run:
    """The tokens from start to end, packed as they were."""
    if isinstance(run, bytes):
        return run[start * WIDTH : None if end is None else end * WIDTH]
    return run[start:end]


def join(runs: list[Run]) -> Run:
    """All the tokens of some runs, packed if every run is."""
    packed = [run for run in runs if isinstance(run, bytes)]
    if len(packed) == len(runs):
        return b"".join(packed)
    return [token for run in runs for token in unpack(run)]


def count_alike(stored: Run, run: Run, start: int) -> int:
    """How many tokens of `stored` go like those of `run` from `start` on; the first two do."""
    if isinstance(stored, bytes) and isinstance(run, bytes):
        view, offset = memoryview(stored), start * WIDTH
        size = min(len(stored), len(run) - offset) // WIDTH
        alike, block = 0, _BLOCK
        while block and alike < size:
            end = min(alike + block, size)
            if run.startswith(view[alike * WIDTH : end * WIDTH], offset + alike * WIDTH):
                alike = end
            else:
                block = (end - alike) // 2
        return alike
    ours, theirs = unpack(stored), unpack(cut(run, start, start + size_of(stored)))
    low, high = 1, len(theirs)
    if _alike(ours[:high], theirs):
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if _alike(ours[low:middle], theirs[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low


def _alike(ours: list[Any], theirs: list[Any]) -> bool:
    # Values are compared only where all hashes are equal, as in a dict.
    return all(map(eq, map(hash, ours), map(hash, theirs))) and ours == theirs
