"""Arrays from recipes: what the trace format promises about their bytes, computed independently."""

from __future__ import annotations

import hashlib
import math
from itertools import product
from typing import get_args

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.harness.ports import lockstep_with, release_module, trace_of

from kvlockstep._arrays import MAX_ELEMENTS, RecipeError, build, carrier, pass_as
from kvlockstep._recipes import Bits, Dtype, Literals, Rows
from kvlockstep._steps import Construct, Update

DTYPES = get_args(Dtype)
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
# The twelve special values, in the order of `_arrays.py`: sign, exponent all ones, mantissa.
SPECIALS = {
    "float32": (
        "80000000 7f800000 ff800000 7fc00001 7fffffff ffc12345 "
        "7f800001 00000001 007fffff 80000001 7f7fffff 3f800000"
    ),
    "float16": "8000 7c00 fc00 7e01 7fff fe15 7c01 0001 03ff 8001 7bff 3c00",
    "bfloat16": "8000 7f80 ff80 7fc1 7fff ffc5 7f81 0001 007f 8001 7f7f 3f80",
}
MANTISSA = {"float32": 23, "float16": 10, "bfloat16": 7}

small_shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


def raw(array: mx.array) -> bytes:
    """Return the bytes of an array."""
    mx.eval(array)
    return bytes(memoryview(array))


def patterns(recipe) -> np.ndarray:
    """Return the bit patterns of a floating array."""
    kind = np.uint32 if recipe.dtype == "float32" else np.uint16
    return np.frombuffer(raw(build(recipe)), kind)


def row_ids(shape: tuple[int, ...], start: int) -> list[int]:
    """Return what `Rows` promises, element by element, in row-major order."""
    axis = max(len(shape) - 2, 0)
    ids = []
    lanes: dict[tuple[int, ...], int] = {}
    for index in product(*map(range, shape)):
        rest = index[:axis] + index[axis + 1 :]
        lane = lanes.setdefault(rest, _row_major(rest, shape[:axis] + shape[axis + 1 :]))
        ids.append((start + (index[axis] if index else 0) + 3 * lane) % 251 + 1)
    return ids


def _row_major(index: tuple[int, ...], shape: tuple[int, ...]) -> int:
    return sum(i * math.prod(shape[axis + 1 :]) for axis, i in enumerate(index))


def documented_bits(seed: int, dtype: str, count: int) -> bytes:
    """Return what `Bits` promises, from its docstring and the table above."""
    width = WIDTHS[dtype]
    stream = hashlib.shake_128(f"{seed}".encode()).digest(count * width)
    selectors = hashlib.shake_128(f"{seed} specials".encode()).digest(count)
    specials = [int(text, 16).to_bytes(width, "little") for text in SPECIALS[dtype].split()]
    return b"".join(
        specials[selector % 12] if selector < 64 else stream[i * width : (i + 1) * width]
        for i, selector in enumerate(selectors)
    )


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bool"])
@settings(max_examples=40, deadline=None)
@given(shape=small_shapes, start=st.integers(0, 1_000_000))
def test_rows_carry_their_ids_exactly(dtype, shape, start):
    """Each row holds `(start + i + 3 * l) % 251 + 1`, exact in every dtype."""
    array = build(Rows(shape=shape, dtype=dtype, start=start))

    assert array.shape == shape
    assert str(array.dtype) == f"mlx.core.{dtype}"
    seen = np.array(array.astype(mx.complex64)).flatten().tolist()
    assert seen == [complex(number) for number in row_ids(shape, start)]


def test_rows_of_bool_are_all_true():
    """A bool holds no id, and no row of it is zero."""
    assert mx.all(build(Rows(shape=(1, 2, 300, 2), dtype="bool"))).item()


def test_no_row_is_zero_and_neighbours_differ():
    """A row is never zero, and no two rows of a lane within 251 are the same."""
    ids = build(Rows(shape=(1, 1, 251, 1), dtype="uint8")).flatten().tolist()

    assert sorted(ids) == list(range(1, 252))


@pytest.mark.parametrize("dtype", WIDTHS)
def test_bits_hold_what_breaks_comparisons_of_values(dtype):
    """NaN payloads, quiet and signalling, infinities, -0.0 and subnormals are all among them."""
    bits = patterns(Bits(shape=(4096,), dtype=dtype, seed=0))
    mantissa = MANTISSA[dtype]
    width = 8 * WIDTHS[dtype]
    sign, fraction = bits >> (width - 1), bits & ((1 << mantissa) - 1)
    exponent = (bits >> mantissa) & ((1 << (width - 1 - mantissa)) - 1)
    largest = (1 << (width - 1 - mantissa)) - 1
    quiet = fraction >> (mantissa - 1) == 1
    nan = (exponent == largest) & (fraction != 0)

    assert np.any(nan & quiet & (fraction != 1 << (mantissa - 1)))
    assert np.any(nan & ~quiet)
    assert np.any(nan & (sign == 1))
    assert {0, 1} <= set(sign[(exponent == largest) & (fraction == 0)].tolist())
    assert np.any((sign == 1) & (exponent == 0) & (fraction == 0))
    assert {0, 1} <= set(sign[(exponent == 0) & (fraction != 0)].tolist())


@pytest.mark.parametrize("dtype", WIDTHS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 700))
def test_bits_are_as_documented(dtype, seed, count):
    """The bit patterns follow the documented rule, computed here without the harness."""
    assert raw(build(Bits(shape=(count,), dtype=dtype, seed=seed))) == documented_bits(
        seed, dtype, count
    )


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [
        ("float32", "fd28becdf4f1ee6d"),
        ("float16", "87e9d8429d738b5c"),
        ("bfloat16", "68fb55759c035bfa"),
        ("int32", "235d296ee917575d"),
        ("uint32", "235d296ee917575d"),
        ("uint8", "df6741db1b1a151f"),
        ("bool", "59d9f74b75e83960"),
        ("complex64", "cb363d582e1d33f7"),
    ],
)
def test_bits_stay_the_same_for_ever(dtype, digest):
    """A trace file replays with the same bytes in every version: a digest for one seed."""
    array = build(Bits(shape=(2, 3, 40, 5), dtype=dtype, seed=20))

    assert hashlib.sha256(raw(array)).hexdigest()[:16] == digest


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500), one=st.integers(0, 600), other=st.integers(0, 600))
def test_shorter_bits_are_a_prefix_of_longer_ones(dtype, seed, one, other):
    """For a seed, fewer elements are the first ones of more: what shrinking relies on."""
    short, long = sorted((one, other))
    whole = raw(build(Bits(shape=(long,), dtype=dtype, seed=seed)))
    part = raw(build(Bits(shape=(short,), dtype=dtype, seed=seed)))

    assert whole[: len(part)] == part


def test_other_seeds_give_other_bits():
    """The seed decides the bits, and nothing else does."""
    streams = {raw(build(Bits(shape=(8,), seed=seed))) for seed in range(50)}

    assert len(streams) == 50


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float32", (-0.0, 1.5), "00000080 0000c03f"),
        ("float16", (-0.0, 1.5), "0080 003e"),
        ("bfloat16", (-0.0, 1.5), "0080 c03f"),
        ("int32", (-1, 3), "ffffffff 03000000"),
        ("uint8", (255, 1), "ff 01"),
        ("bool", (0, 2), "00 01"),
    ],
)
def test_literal_holds_its_values(dtype, values, expected):
    """A literal's values stand in the array, in row-major order, -0.0 as it is."""
    array = build(Literals(shape=(1, 2), dtype=dtype, values=values))

    assert raw(array) == bytes.fromhex(expected)


@pytest.mark.parametrize(("shape", "count"), [((2,), 1), ((2,), 3), ((), 2), ((0, 4), 1)])
def test_literal_with_another_number_of_values_is_refused(shape, count):
    """A literal says how many values its shape wants, and how many came."""
    with pytest.raises(RecipeError, match=rf"expected {math.prod(shape)} values, got {count}"):
        carrier(Literals(shape=shape, values=(1.0,) * count))


@pytest.mark.parametrize("recipe", [Rows, Bits])
def test_too_large_an_array_is_refused(recipe):
    """An array of more elements than the limit is refused before it is made."""
    with pytest.raises(RecipeError, match=f"expected at most {MAX_ELEMENTS} elements"):
        carrier(recipe(shape=(4096, 4096, 2)))


@pytest.mark.parametrize(
    "recipe", [Rows(shape=(1, 1, 2, 2)), Bits(shape=(4,)), Literals(shape=(1,), values=(1.0,))]
)
def test_every_array_is_a_new_one(recipe):
    """Two arrays of one recipe share nothing: a write into one is not seen in the other."""
    one, other = build(recipe), build(recipe)
    mx.eval(one, other)
    before = raw(other)

    one[...] = 77
    mx.eval(one)

    assert one is not other
    assert raw(one) != before
    assert raw(other) == before
    assert raw(build(recipe)) == before


def test_each_side_gets_arrays_of_its_own():
    """Reference and target are never given the same array object."""
    given: dict[str, list[int]] = {"reference": [], "target": []}
    kept = []
    release = release_module()
    own = release.KVCache.update_and_fetch

    class KVCache(release.KVCache):
        def update_and_fetch(self, keys, values):
            given["target"] += [id(keys), id(values)]
            kept.append((keys, values))
            return own(self, keys, values)

    def watched(self, keys, values):
        given["reference"] += [id(keys), id(values)]
        kept.append((keys, values))
        return own(self, keys, values)

    recipe = Rows(shape=(1, 1, 2, 2))
    trace = trace_of(Construct(cache="KVCache"), *(Update(keys=recipe, values=recipe),) * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release.KVCache, "update_and_fetch", watched)
        run = lockstep_with(KVCache).run(trace)

    assert run.steps == 3
    assert len(given["reference"]) == len(given["target"]) == 4
    assert len({*given["reference"], *given["target"]}) == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_passed_as_something_else(dtype):
    """A list and a NumPy array hold the numbers of the array, and no bfloat16 is lost."""
    array = build(Rows(shape=(1, 2, 3, 1), dtype=dtype, start=7))

    as_list, as_numpy = pass_as(array, "list"), pass_as(array, "numpy")

    assert pass_as(array, None) is array
    assert type(as_list) is list
    assert type(as_numpy) is np.ndarray
    assert mx.array_equal(mx.array(as_list).astype(array.dtype), array)
    assert mx.array_equal(mx.array(as_numpy).astype(array.dtype), array)
