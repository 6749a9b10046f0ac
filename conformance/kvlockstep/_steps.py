"""Steps: one operation each, with its arguments, on named slots.

The next operation on a cache goes here; what is done with prompts is in `_prompt_steps.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import mlx.core as mx
from msgspec import Meta, Struct

from kvlockstep._arrays import build_item, numbers_in
from kvlockstep._recipes import (
    MAX_DIMENSION,
    AnyRecipe,
    Count,
    Dimension,
    Given,
    Relative,
    Size,
    StateItem,
)

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,15}$(?!\n)")]
Address = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,15}(\.[0-9]{1,2}){0,4}$(?!\n)")]
Addresses = Annotated[tuple[Address, ...], Meta(max_length=16)]
Index = Count | Relative
# What a caller may take for one: of these a release takes none.
OddIndex = Index | bool | float
Window = Annotated[int, Meta(ge=-16, le=MAX_DIMENSION)]
# Batch rows that a trace can name one by one.
MAX_ROWS = 16
Paddings = Annotated[tuple[Count, ...], Meta(max_length=MAX_ROWS)]
# A class's own `meta_state` of 0.31, or a list's: the names of its children, and theirs.
_MetaLeaf = str | tuple[str, ...]
_MetaInner = str | tuple[_MetaLeaf, ...]
MetaItem = str | tuple[_MetaInner, ...]
# Numbers, one a row: a list of them, or an array.
Numbers = Paddings | AnyRecipe
Argument = Given | None
Held = Literal["state", "result", "inputs", "copy"]
Foreign = Literal["list", "numpy"]


class Step(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="op",
    kw_only=True,
):
    """One operation with its arguments. `op` in the file names the subclass."""


class OnSlot(Step, frozen=True, kw_only=True):
    """A step on the cache at `slot`; without one there, the step does nothing.

    An address is a slot's name, and for a child of a list its index: `a.0`, `a.1.0`.
    """

    slot: Address = "a"


class Made(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A cache to be made: `cache(*children, **args)`."""

    cache: str
    args: dict[str, Argument] = {}
    children: tuple[Made, ...] = ()


class Construct(OnSlot, frozen=True, tag="construct", kw_only=True):
    """Put `cache(*children, **args)` into the slot."""

    slot: Name = "a"
    cache: str
    args: dict[str, Argument] = {}
    children: tuple[Made, ...] = ()

    @property
    def made(self) -> Made:
        """The cache to be made."""
        return Made(cache=self.cache, args=self.args, children=self.children)


class Update(OnSlot, frozen=True, tag="update", kw_only=True):
    """`update_and_fetch(keys, values)`; without `values`, keys are passed as both.

    `keys_as` and `values_as`: the same numbers in nested lists, or as a NumPy array.
    """

    keys: AnyRecipe
    values: AnyRecipe | None = None
    keys_as: Foreign | None = None
    values_as: Foreign | None = None


class Fetch(OnSlot, frozen=True, tag="fetch", kw_only=True):
    """`keys_and_values()` (0.32)."""


class Trim(OnSlot, frozen=True, tag="trim", kw_only=True):
    """`trim(n)`."""

    n: Count | float | Relative


class FrontTrim(OnSlot, frozen=True, tag="front_trim", kw_only=True):
    """`maybe_trim_front()`."""


class Mask(OnSlot, frozen=True, tag="mask", kw_only=True):
    """`make_mask(n, window_size=window, return_array=return_array)`; `bare`, with `n` alone."""

    n: Dimension
    window: Window | Relative | None = None
    return_array: bool = False
    bare: bool = False


class SetState(OnSlot, frozen=True, tag="set_state", kw_only=True):
    """`cache.state = state`, a tuple; `as_list`, lists all the way down, as a file has it.

    With `bare`, that number instead, which is no state.
    """

    state: Annotated[tuple[StateItem, ...], Meta(max_length=12)]
    as_list: bool = False
    bare: int | None = None


class SetMetaState(OnSlot, frozen=True, tag="set_meta_state", kw_only=True):
    """`cache.meta_state = values` (0.31), or one string, which is no list of them."""

    values: Annotated[tuple[_MetaInner, ...], Meta(max_length=12)] | str


class Depends(OnSlot, frozen=True, tag="depends", kw_only=True):
    """`cache.keys = mx.depends(cache.keys, ...)`, as mlx-lm's pipelined models do."""


class Reserve(OnSlot, frozen=True, tag="reserve", kw_only=True):
    """`reserve(tokens)` on the target, if it declares such a promise; nothing on the reference.

    A promise of a length shows in nothing.
    """

    tokens: Size


class Hold(OnSlot, frozen=True, tag="hold", kw_only=True):
    """Keep a handle, as a caller may, and look at it again after every later step.

    `state`: the state as returned. `result`: what the last update returned. `inputs`: the arrays
    that the caller passed to it. `copy`: a deep copy of the cache.
    """

    what: Held


class Reload(OnSlot, frozen=True, tag="reload", kw_only=True):
    """Put `type(cache).from_state(cache.state[, cache.meta_state])` into slot `to`.

    A `state` or `meta_state` that is given stands for the cache's own, lists all the way down, as a
    file has it.
    """

    to: Name = "a"
    state: Annotated[tuple[StateItem, ...], Meta(max_length=12)] | None = None
    meta_state: MetaItem | None = None


class Copy(OnSlot, frozen=True, tag="copy", kw_only=True):
    """Put `copy.deepcopy(cache)` into slot `to`."""

    to: Name = "b"


class Quantize(OnSlot, frozen=True, tag="quantize", kw_only=True):
    """Put `cache.to_quantized(group_size=..., bits=...)` into slot `to`."""

    to: Name = "a"
    group_size: Annotated[int, Meta(ge=0, le=1024)] = 64
    bits: Annotated[int, Meta(ge=0, le=64)] = 4


class Transfer(OnSlot, frozen=True, tag="transfer", kw_only=True):
    """`cache.state = other.state` (in 0.31 `meta_state` too), the other being at `source`."""

    source: Address = "b"


class Filter(OnSlot, frozen=True, tag="filter", kw_only=True):
    """`filter(indices)`, batch rows to keep, as an int32 array or as a list.

    An array of its own is given as it is, or, `as_list`, as what its `tolist()` returns. `as_slice`
    they are what a slice is made of: (stop,), (start, stop) or (start, stop, step). What is `given`
    stands for them all, as it is.
    """

    indices: Annotated[tuple[Index, ...], Meta(max_length=MAX_ROWS)] | AnyRecipe
    as_list: bool = False
    as_slice: bool = False
    given: Given | None = None

    @property
    def rows(self) -> Any:
        """The rows as the call gets them."""
        if self.given is not None:
            return build_item(self.given)
        indices = build_item(self.indices)
        if self.as_slice:
            return slice(*numbers_in(self.indices)[:3]) if len(indices) else slice(None)
        if isinstance(indices, mx.array):
            return indices.tolist() if self.as_list else indices
        return indices if self.as_list else mx.array(indices, mx.int32)


class Extend(OnSlot, frozen=True, tag="extend", kw_only=True):
    """`extend(peer)`: append the batch rows of the cache at `peer`."""

    peer: Address = "b"


class Extract(OnSlot, frozen=True, tag="extract", kw_only=True):
    """Put `extract(index)`, one batch row, or `extract(given)` into slot `to`."""

    index: OddIndex
    to: Name = "e"
    given: Given | None = None


class Merge(OnSlot, frozen=True, tag="merge", kw_only=True):
    """Put `type(cache).merge([cache, *peers])` into slot `to`, without peers that are not there.

    `bare`, `merge(cache)`, with no list.
    """

    peers: Addresses = ()
    to: Name = "m"
    bare: bool = False


class Prepare(OnSlot, frozen=True, tag="prepare", kw_only=True):
    """`prepare(...)` with the paddings and lengths that are given, as lists of one number a row.

    `fit` cuts or repeats lists to the batch size of the reference's cache. An array is given as it
    is.
    """

    left_padding: Numbers | None = None
    lengths: Numbers | None = None
    right_padding: Numbers | None = None
    fit: bool = False


class Finalize(OnSlot, frozen=True, tag="finalize", kw_only=True):
    """`finalize()`."""


class Advance(OnSlot, frozen=True, tag="advance", kw_only=True):
    """`advance(n)`, or `advance(given)`."""

    n: Count
    given: Given | None = None


class GetItem(OnSlot, frozen=True, tag="get_item", kw_only=True):
    """`cache[index]`."""

    index: Count


class SetItem(OnSlot, frozen=True, tag="set_item", kw_only=True):
    """`cache[index] = value`, mostly an array or None."""

    index: Count
    value: Given | None


class CausalMask(Step, frozen=True, tag="causal_mask", kw_only=True):
    """`create_causal_mask(n, offset, window_size, right_padding, left_padding)`."""

    n: Dimension
    offset: Dimension = 0
    window: Window | None = None
    right_padding: tuple[int, ...] | None = None
    left_padding: tuple[int, ...] | None = None


class AttentionMask(Step, frozen=True, tag="attention_mask", kw_only=True):
    """`create_attention_mask(n, offset, return_array, window_size)` of the cache module."""

    n: Dimension
    offset: Dimension = 0
    return_array: bool = False
    window: Window | None = None


AnyCacheStep = (
    Construct | Update | Fetch | Trim | FrontTrim | Mask | SetState | SetMetaState | Transfer
    | Depends | Reserve | Hold | Reload | Copy | Quantize | Filter | Extend | Extract | Merge
    | Prepare | Finalize | Advance | GetItem | SetItem | CausalMask | AttentionMask
)  # fmt: skip
