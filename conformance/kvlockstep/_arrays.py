"""Arrays from recipes, and bytes from arrays.

Each side of the lockstep gets fresh arrays, made from the same bytes: an array object that both
caches held would let one side's in-place write show in the other.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any, Literal

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from kvlockstep._recipes import AnyRecipe, Bits, Dtype, Literals, Rows, Slice

MAX_ELEMENTS = 1 << 24

# NumPy has no bfloat16: its bits travel as uint16.
_CARRIERS: dict[Dtype, npt.DTypeLike] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
}
# -0.0, infinities, quiet NaNs with payloads (one negative), a signalling NaN, the smallest and the
# largest subnormal, a negative subnormal, the largest finite number, 1.0.
_SPECIALS: dict[Dtype, npt.NDArray[np.unsignedinteger]] = {
    "float32": np.array(
        [0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7FFFFFFF, 0xFFC12345, 0x7F800001,
         0x00000001, 0x007FFFFF, 0x80000001, 0x7F7FFFFF, 0x3F800000], np.uint32),
    "float16": np.array(
        [0x8000, 0x7C00, 0xFC00, 0x7E01, 0x7FFF, 0xFE15, 0x7C01,
         0x0001, 0x03FF, 0x8001, 0x7BFF, 0x3C00], np.uint16),
    "bfloat16": np.array(
        [0x8000, 0x7F80, 0xFF80, 0x7FC1, 0x7FFF, 0xFFC5, 0x7F81,
         0x0001, 0x007F, 0x8001, 0x7F7F, 0x3F80], np.uint16),
}  # fmt: skip


class RecipeError(ValueError):
    """A recipe from which no array can be made: too large, or values that do not fit."""


@lru_cache(maxsize=256)
def carrier(recipe: AnyRecipe) -> npt.NDArray[np.generic]:
    """Return the recipe's elements as a NumPy array; bfloat16 as its bits in uint16.

    All sizes in the recipe's shape are numbers by now. Raises `RecipeError`.
    """
    shape = tuple(map(int, recipe.shape))
    if math.prod(shape) > MAX_ELEMENTS:
        raise RecipeError(f"an array of shape {shape}: expected at most {MAX_ELEMENTS} elements")
    match recipe:
        case Rows(start=start):
            return _rows(shape, recipe.dtype, start)
        case Bits(seed=seed):
            return _bits(shape, recipe.dtype, seed)
        case Literals(values=values):
            if len(values) != math.prod(shape):
                raise RecipeError(
                    f"a literal of shape {shape}: expected {math.prod(shape)} values, "
                    f"got {len(values)}"
                )
            return _encode(np.array(values, np.float64).reshape(shape), recipe.dtype)


def pass_as(array: mx.array, foreign: Literal["list", "numpy"] | None) -> Any:
    """Return an array as it is to be passed; for NumPy, which has no bfloat16, that as float32."""
    if foreign == "list":
        return array.tolist()
    if foreign == "numpy":
        return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)
    return array


def build(recipe: AnyRecipe) -> mx.array:
    """Return a fresh array."""
    array = mx.array(carrier(recipe).data)  # type: ignore[arg-type]
    return array.view(mx.bfloat16) if recipe.dtype == "bfloat16" else array


def build_item(item: Any, container: type = list) -> Any:
    """Return what an item of a trace stands for, its tuples as that kind of container."""
    if isinstance(item, tuple):
        return container(build_item(inner, container) for inner in item)
    if isinstance(item, Slice):
        return slice(item.start, item.stop, item.by)
    return build(item) if isinstance(item, AnyRecipe) else item


def numbers_in(value: Any) -> Any:
    """Return the numbers of an argument, those of an array in one flat list; else the value."""
    return build(value).reshape(-1).tolist() if isinstance(value, AnyRecipe) else value


def _rows(shape: tuple[int, ...], dtype: Dtype, start: int) -> npt.NDArray[np.generic]:
    return _counting(dtype)[start % 251 :][_row_numbers(shape)]


@lru_cache
def _counting(dtype: Dtype) -> npt.NDArray[np.generic]:
    """Return 1 .. 251 in the carrier of `dtype`, twice."""
    return _encode(np.tile(np.arange(1, 252, dtype=np.float64), 2), dtype)


@lru_cache(maxsize=1024)
def _row_numbers(shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """Return `(i + 3 * l) % 251` for row `i` of lane `l`; of rank 1 it is one lane of rows."""
    if not shape:
        return np.zeros((), np.intp)
    axis = max(len(shape) - 2, 0)
    lanes = math.prod(shape[:axis] + shape[axis + 1 :])
    lane = np.arange(lanes).reshape((*shape[:axis], 1, *shape[axis + 1 :]))
    row = np.arange(shape[axis]).reshape((-1, *(1,) * (len(shape) - axis - 1)))
    return (row + 3 * lane) % 251


def _bits(shape: tuple[int, ...], dtype: Dtype, seed: int) -> npt.NDArray[np.generic]:
    count = math.prod(shape)
    return _stream(dtype, seed, max(256, 1 << (count - 1).bit_length()))[:count].reshape(shape)


@lru_cache(maxsize=4096)
def _stream(dtype: Dtype, seed: int, count: int) -> npt.NDArray[np.generic]:
    """Return the first `count` elements for `seed`; more are the same ones and further ones."""
    kind = np.dtype(_CARRIERS[dtype])
    stream = hashlib.shake_128(f"{seed}".encode()).digest(count * kind.itemsize)
    if dtype == "bool":
        return (np.frombuffer(stream, np.uint8) & 1).astype(np.bool_)
    specials = _SPECIALS.get(dtype)
    if specials is None:
        return np.frombuffer(stream, kind.newbyteorder("<")).astype(kind)
    patterns = np.frombuffer(stream, specials.dtype.newbyteorder("<")).astype(specials.dtype)
    selectors = np.frombuffer(
        hashlib.shake_128(f"{seed} specials".encode()).digest(count), np.uint8
    )
    bits = np.where(selectors < 64, specials[selectors % len(specials)], patterns)
    return bits.view(kind)


def _encode(values: npt.NDArray[np.float64], dtype: Dtype) -> npt.NDArray[np.generic]:
    """Return `values` in the carrier of `dtype`; bfloat16 rounds toward zero."""
    with np.errstate(all="ignore"):
        if dtype == "bfloat16":
            return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(_CARRIERS[dtype])
