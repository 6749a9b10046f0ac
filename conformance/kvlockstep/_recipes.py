"""Array recipes: arrays in a trace are a shape, a dtype and a fill, not bytes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_DIMENSION = 4096

Relative = Annotated[
    str,
    Meta(
        pattern=r"^(offset|capacity|room|rows|window|step|batch)([+-][0-9]{1,4})?$(?!\n)",
        description="a size of the reference's cache before the step, plus or minus a number",
    ),
]
Dimension = Annotated[int, Meta(ge=0, le=MAX_DIMENSION)]
Size = Dimension | Relative
Count = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Dtype = Literal["float32", "float16", "bfloat16", "int32", "uint32", "uint8", "bool", "complex64"]
Shape = Annotated[tuple[Size, ...], Meta(max_length=6)]


class Recipe(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="fill",
    kw_only=True,
):
    """An array to be made: `shape`, `dtype` and, in the subclasses, what fills it."""

    shape: Shape
    dtype: Dtype = "float32"


class Rows(Recipe, frozen=True, tag="rows", kw_only=True):
    """Each row on the sequence axis carries its token's id, `start`, `start + 1`, ...

    Row `i` of lane `l` (the row-major index over all other axes) holds
    `(start + i + 3 * l) % 251 + 1`: exact in every dtype, and never zero.
    """

    start: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Bits(Recipe, frozen=True, tag="bits", kw_only=True):
    """Raw bit patterns: NaN payloads, infinities, -0.0 and subnormals among them.

    SHAKE-128 of "<seed>" gives the patterns, little-endian, and SHAKE-128 of "<seed> specials" one
    selector byte an element; for the floating dtypes, a selector below 64 puts special value number
    `selector % 12` there (see `_arrays.py` for the twelve).
    """

    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0


class Literals(Recipe, frozen=True, tag="literal", kw_only=True):
    """The values themselves, flat and row-major, for tiny arrays."""

    values: Annotated[tuple[float | int, ...], Meta(max_length=256)]


AnyRecipe = Rows | Bits | Literals


class Slice(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="fill",
    tag="slice",
    kw_only=True,
):
    """No array: a slice of rows, `by` of which are gone forward at a time."""

    start: int | None = None
    stop: int | None = None
    by: int | None = None


# What a caller may pass where a number, rows or counts belong, as it stands.
_One = AnyRecipe | Slice | int | float | bool | str | None
Given = AnyRecipe | Slice | int | float | bool | str | tuple[_One | tuple[_One, ...], ...]
# One item of a `state`: an array, a scalar, a name, nothing, or a list or tuple of such items.
_Leaf = AnyRecipe | int | bool | str | None
_Inner = AnyRecipe | int | bool | str | None | tuple[_Leaf, ...]
_Middle = AnyRecipe | int | bool | str | None | tuple[_Inner, ...]
StateItem = AnyRecipe | int | bool | str | None | tuple[_Middle, ...]
