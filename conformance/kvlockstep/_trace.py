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

from kvlockstep._prompt_steps import AnyPromptStep
from kvlockstep._recipes import MAX_DIMENSION
from kvlockstep._steps import AnyCacheStep

FORMAT = "kvlockstep-trace"
VERSION = 1

MAX_STEPS = 10_000

AnyStep = AnyCacheStep | AnyPromptStep
Mode = Literal["value", "in-place"]
Look = Literal["always", "last"]


class Trace(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Steps to run in lockstep, and the few settings that they need.

    `step_size` stands in for the classes' growth step of 256 on both sides, so that growth and
    wraps happen within a few tokens. `mode` says when arrays are evaluated: `value`, once at the
    end; `in-place`, after every step, when MLX may donate buffers and write into them.
    `look` says when the target's caches are looked at: `always`, after every step, or `last`, when
    the trace ends, so that nothing asks a cache for its buffers in between; results and handles are
    compared at every step. `releases` names the contracts that the trace is meant for; empty means
    all.
    """

    steps: Annotated[tuple[AnyStep, ...], Meta(max_length=MAX_STEPS)]
    step_size: Annotated[int, Meta(ge=0, le=MAX_DIMENSION)] = 256
    mode: Mode = "value"
    look: Look = "always"
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


def given(value: Struct) -> dict[str, Any]:
    """Return the fields of `value` that are not at their defaults."""
    names = value.__struct_fields__
    # Defaults belong to the last fields. msgspec's own `omit_defaults` knows strings by identity.
    defaults = dict(zip(reversed(names), reversed(value.__struct_defaults__), strict=False))
    fields = {name: getattr(value, name) for name in names}
    return {
        name: field
        for name, field in fields.items()
        if name not in defaults or field != _default(defaults[name])
    }


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it, without the fields that are at their defaults."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if not isinstance(value, Struct):
        return value
    config = value.__struct_config__
    tag = {} if config.tag_field is None else {config.tag_field: config.tag}
    return tag | {name: _plain(field) for name, field in given(value).items()}


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
