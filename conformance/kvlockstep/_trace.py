"""Traces: what to do to which cache, as data.

A trace is a list of steps on named slots. It says nothing of how it was found, so it replays
for ever: it does not depend on Hypothesis, on this package's generator or on the target. The
JSON Schema of a trace file is made from the classes below (`kvlockstep schema`).

Arrays are recipes, not bytes: a shape, a dtype and a fill. A size may be written relative to
the reference's cache as it stands before the step ("room+1", "window"), so that any part of a
trace is a trace and still aims at the same boundary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

FORMAT = "kvlockstep-trace"
VERSION = 1

MAX_DIMENSION = 4096
MAX_STEPS = 10_000

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,15}$(?!\n)")]
Relative = Annotated[
    str,
    Meta(
        pattern=r"^(offset|capacity|room|rows|window|step)([+-][0-9]{1,4})?$(?!\n)",
        description="a size of the reference's cache before the step, plus or minus a number",
    ),
]
Dimension = Annotated[int, Meta(ge=0, le=MAX_DIMENSION)]
Size = Dimension | Relative
Count = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Dtype = Literal["float32", "float16", "bfloat16", "int32", "uint32", "uint8", "bool", "complex64"]
Mode = Literal["value", "in-place"]
Held = Literal["state", "result", "inputs", "copy"]
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
# One item of a `state`: an array, a scalar, nothing, or a quantized triple.
StateItem = AnyRecipe | int | bool | None | tuple[AnyRecipe, ...]


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
    """A step on the cache in `slot`; without one there, the step does nothing."""

    slot: Name = "a"


class Construct(OnSlot, frozen=True, tag="construct", kw_only=True):
    """Put `cache(**args)` into the slot."""

    cache: str
    args: dict[str, int | float | None] = {}


class Update(OnSlot, frozen=True, tag="update", kw_only=True):
    """`update_and_fetch(keys, values)`; without `values`, keys are passed as both."""

    keys: AnyRecipe
    values: AnyRecipe | None = None


class Fetch(OnSlot, frozen=True, tag="fetch", kw_only=True):
    """`keys_and_values()` (0.32)."""


class Trim(OnSlot, frozen=True, tag="trim", kw_only=True):
    """`trim(n)`."""

    n: Count | float | Relative


class FrontTrim(OnSlot, frozen=True, tag="front_trim", kw_only=True):
    """`maybe_trim_front()`."""


class Mask(OnSlot, frozen=True, tag="mask", kw_only=True):
    """`make_mask(n, window_size=window, return_array=return_array)`."""

    n: Dimension
    window: Annotated[int, Meta(ge=-16, le=MAX_DIMENSION)] | Relative | None = None
    return_array: bool = False


class SetState(OnSlot, frozen=True, tag="set_state", kw_only=True):
    """`cache.state = state`."""

    state: Annotated[tuple[StateItem, ...], Meta(max_length=12)]


class SetMetaState(OnSlot, frozen=True, tag="set_meta_state", kw_only=True):
    """`cache.meta_state = values` (0.31)."""

    values: Annotated[tuple[str, ...], Meta(max_length=12)]


class Depends(OnSlot, frozen=True, tag="depends", kw_only=True):
    """`cache.keys = mx.depends(cache.keys, ...)`, as mlx-lm's pipelined models do."""


class Hold(OnSlot, frozen=True, tag="hold", kw_only=True):
    """Keep a handle, as a caller may, and look at it again after every later step.

    `state`: the state as returned. `result`: what the last update returned. `inputs`: the arrays
    that the caller passed to it. `copy`: a deep copy of the cache.
    """

    what: Held


class Reload(OnSlot, frozen=True, tag="reload", kw_only=True):
    """Put `type(cache).from_state(cache.state[, cache.meta_state])` into slot `to`."""

    to: Name = "a"


class Copy(OnSlot, frozen=True, tag="copy", kw_only=True):
    """Put `copy.deepcopy(cache)` into slot `to`."""

    to: Name = "b"


class Quantize(OnSlot, frozen=True, tag="quantize", kw_only=True):
    """Put `cache.to_quantized(group_size=..., bits=...)` into slot `to`."""

    to: Name = "a"
    group_size: Annotated[int, Meta(ge=0, le=1024)] = 64
    bits: Annotated[int, Meta(ge=0, le=64)] = 4


class CausalMask(Step, frozen=True, tag="causal_mask", kw_only=True):
    """`create_causal_mask(n, offset, window_size, right_padding, left_padding)`."""

    n: Dimension
    offset: Dimension = 0
    window: Annotated[int, Meta(ge=-16, le=MAX_DIMENSION)] | None = None
    right_padding: tuple[int, ...] | None = None
    left_padding: tuple[int, ...] | None = None


class AttentionMask(Step, frozen=True, tag="attention_mask", kw_only=True):
    """`create_attention_mask(n, offset, return_array, window_size)` of the cache module."""

    n: Dimension
    offset: Dimension = 0
    return_array: bool = False
    window: Annotated[int, Meta(ge=-16, le=MAX_DIMENSION)] | None = None


AnyStep = (
    Construct | Update | Fetch | Trim | FrontTrim | Mask | SetState | SetMetaState | Depends
    | Hold | Reload | Copy | Quantize | CausalMask | AttentionMask
)  # fmt: skip


class Trace(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Steps to run in lockstep, and the few settings that they need.

    `step_size` stands in for the classes' growth step of 256 on both sides, so that growth and
    wraps happen within a few tokens. `mode` says when arrays are evaluated: `value`, once at the
    end; `in-place`, after every step, when MLX may donate buffers and write into them.
    `releases` names the contracts that the trace is meant for; empty means all.
    """

    steps: Annotated[tuple[AnyStep, ...], Meta(max_length=MAX_STEPS)]
    step_size: Annotated[int, Meta(ge=1, le=MAX_DIMENSION)] = 256
    mode: Mode = "value"
    releases: tuple[str, ...] = ()
    note: str = ""
    source: str = ""

    def part(self, steps: Sequence[AnyStep]) -> Trace:
        """Return the same trace with other steps."""
        return msgspec.structs.replace(self, steps=tuple(steps))


class TraceFile(Trace, frozen=True, kw_only=True):
    """A trace as it stands in a file: a `Trace` with the name and version of its format."""

    format: Literal["kvlockstep-trace"]
    version: Literal[1]


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it, without the fields that are at their defaults."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, Struct):
        return value
    config, names = value.__struct_config__, value.__struct_fields__
    tag = {} if config.tag_field is None else {config.tag_field: config.tag}
    # Defaults belong to the last fields. msgspec's own `omit_defaults` knows strings by identity.
    defaults = dict(zip(reversed(names), reversed(value.__struct_defaults__), strict=False))
    given = {name: getattr(value, name) for name in names}
    return tag | {
        name: _plain(item)
        for name, item in given.items()
        if name not in defaults or item != _default(defaults[name])
    }


def _default(default: Any) -> Any:
    """Return a default itself: msgspec keeps an empty dict as the factory that makes one."""
    factory = getattr(default, "factory", None)
    return default if factory is None else factory()


def is_valid(trace: Trace) -> bool:
    """Tell whether a trace made in memory could be read from a file."""
    try:
        msgspec.convert(msgspec.to_builtins(trace), Trace)
    except msgspec.ValidationError:
        return False
    return True


class TraceError(ValueError):
    """A trace file that this reader does not take; the message names the offending field."""


class _Header(Struct):
    format: str
    version: int


def dumps(trace: Trace) -> str:
    """Return `trace` as the text of a trace file: JSON, one step a line.

    Raises `ValueError` for a number that JSON does not have: NaN, infinity.
    """
    fields = _plain(trace)
    steps = ",\n".join(f"    {json.dumps(step, allow_nan=False)}" for step in fields.pop("steps"))
    head = {"format": FORMAT, "version": VERSION, **fields}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    return "\n".join(["{", *lines, '  "steps": [', steps, "  ]", "}", ""])


def loads(text: str | bytes, name: str = "trace") -> Trace:
    """Return the trace that `text` describes.

    Raises `TraceError`, with `name` and the offending field, for anything else: no JSON, another
    format, an unknown version, a missing, unknown or out-of-range field.
    """
    try:
        header = msgspec.json.decode(text, type=_Header)
        if header.format != FORMAT:
            raise TraceError(f"{name}: expected format {FORMAT!r}, got {header.format!r}")
        if header.version != VERSION:
            raise TraceError(
                f"{name}: this reader knows version {VERSION} of the trace format, "
                f"got version {header.version}"
            )
        fields = msgspec.to_builtins(msgspec.json.decode(text, type=TraceFile))
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise TraceError(f"{name}: {error}") from error
    except RecursionError as error:
        raise TraceError(f"{name}: expected a trace, got something nested too deeply") from error
    del fields["format"], fields["version"]
    return msgspec.convert(fields, Trace)


def read(path: Path) -> Trace:
    """Return the trace in the file `path`; raises `TraceError` or `OSError`."""
    return loads(path.read_bytes(), str(path))


def write(trace: Trace, path: Path) -> None:
    """Write `trace` to `path`, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(trace), encoding="utf-8")


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a trace file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{FORMAT}, version {VERSION}",
        **msgspec.json.schema(TraceFile),
    }
