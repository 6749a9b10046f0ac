"""Writing a prompt-cache file: all that can fail without the disk fails before it is touched."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from mlxkv._errors import CacheError
from mlxkv._files._atomic import replacing
from mlxkv._files._errors import NotSavableError, Place, PromptCacheOSError
from mlxkv._files._header import MAX_HEADER, kind_of
from mlxkv._files._regular import DTYPES, MAX_NAMES
from mlxkv._files._slices import sliced, write_slices
from mlxkv._words import is_on_cpu

_SAVABLE = frozenset(DTYPES.values())
# Up to that many bytes MLX copies faster than Python finds its way through slices.
_COPIED = 4 << 20


def target_of(file_name: Any) -> str:
    """The path that is written: with `.safetensors`, which MLX appends, and links followed.

    Raises `NotSavableError` for something other than a path.
    """
    try:
        path = os.fspath(file_name)
    except TypeError:
        path = None
    if not isinstance(path, str) or "\0" in path:
        raise NotSavableError(Place(repr(file_name)), "file", "a path", repr(file_name))
    if not path.endswith(".safetensors"):
        path += ".safetensors"
    return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114


def states_of(place: Place, caches: Any, read: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    """The caches as a list, and what `read` takes of each. Raises `NotSavableError`."""
    try:
        every = list(caches)
    except TypeError:
        got = type(caches).__name__
        raise NotSavableError(place, "cache", "a list of caches", got) from None
    states = []
    for i, cache in enumerate(every):
        try:
            states.append(read(cache))
        except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as error:
            at = place.child(i, type(cache).__name__)
            expected = "a cache with a state"
            got = str(error)
            if isinstance(error, CacheError):
                expected, got = error.expected, error.got
            raise NotSavableError(at, "state", expected, got) from error
    return every, states


def flatten_states(place: Place, every: list[Any], states: list[Any]) -> list[tuple[str, Any]]:
    """The leaves of the states by their names in the file, each checked if it is an array."""
    leaves: Any = tree_flatten(states)
    for name, leaf in leaves:
        if isinstance(leaf, mx.array) and leaf.dtype not in _SAVABLE:
            at = place_of(place, every, name)
            raise NotSavableError(at, f"tensor {name}", "a dtype that MLX saves", str(leaf.dtype))
    return list(leaves)


def place_of(place: Place, every: list[Any], name: str) -> Place:
    """The layer that a leaf belongs to."""
    index = int(name.partition(".")[0])
    return place.child(index, type(every[index]).__name__)


def write(
    target: str, arrays: dict[str, mx.array], metadata: Iterable[tuple[str, str]] | dict[str, str]
) -> None:
    """Evaluate the arrays on this thread, then replace the file as a whole.

    Raises `NotSavableError`, before anything is written, and `PromptCacheOSError`.
    """
    place = Place(target)
    metadata = dict(metadata)
    _check_header(place, arrays, metadata)
    check_target(place, target)
    arrays = _with_own_numbers(arrays)
    evaluate(place, arrays)
    try:
        with replacing(target) as writer:
            in_place = sliced(arrays) > _COPIED and write_slices(writer, arrays, metadata)
            if not in_place:
                mx.save_safetensors(cast(Any, writer), arrays, metadata)
    except OSError as error:
        raise PromptCacheOSError(place, "file", "a file that can be written", error) from error


def _with_own_numbers(arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    """The arrays; on a GPU each of rank 0 is one that is no element of a longer array.

    Such an element MLX makes dense before it saves it, and with 0.32.4 on CUDA the copy of rank 0
    is garbage: here the copy has rank 1.
    """
    if is_on_cpu():
        return arrays
    return {name: one if one.ndim else _alone(one) for name, one in arrays.items()}


def _alone(number: mx.array) -> mx.array:
    return mx.contiguous(number.reshape(1)).reshape(())


def _check_header(place: Place, arrays: dict[str, mx.array], metadata: dict[str, str]) -> None:
    """Raise for more names and text than are read again."""
    names = len(metadata) + 4 * len(arrays) + 1
    if names > MAX_NAMES:
        expected = f"at most {MAX_NAMES} names of tensors, their fields and metadata"
        raise NotSavableError(place, "header", expected, str(names))
    length = 256 * len(arrays)
    characters = sum(map(len, metadata)) + sum(map(len, metadata.values()))
    if length + 6 * (characters + len(metadata)) > MAX_HEADER:  # As none is longer than \u0000.
        length += len(json.dumps(metadata, ensure_ascii=False).encode())
    if length > MAX_HEADER:
        expected = f"a header of at most {MAX_HEADER} bytes"
        raise NotSavableError(place, "metadata", expected, str(length))


def evaluate(place: Place, arrays: dict[str, mx.array]) -> None:
    """Evaluate the arrays on this thread, whose streams they must be of, if they are not yet."""
    try:
        mx.eval(list(arrays.values()))
    except RuntimeError as error:
        expected = (
            "evaluated arrays, or ones of this thread: call materialize() where they are made"
        )
        raise NotSavableError(place, "state", expected, str(error)) from error


def check_target(place: Place, target: str) -> None:
    """Raise where something other than a file stands there; a directory of no such name is seen."""
    try:
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(target).st_mode  # noqa: PTH116
            if not stat.S_ISREG(mode):
                got = kind_of(mode)
                raise PromptCacheOSError(place, "file", "a regular file, or none", got)
    except OSError as error:
        if isinstance(error, PromptCacheOSError):
            raise
        raise PromptCacheOSError(place, "file", "a file that can be written", error) from error
