"""Undefined zones: what is never run on the reference, each with its reason.

There a release reads or computes outside of anything defined, so that there is no answer to
compare with. What a port does there is a property test's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

import kvreference
from kvlockstep._arrays import numbers_in
from kvlockstep._recipes import AnyRecipe, Given, Literals, Slice
from kvlockstep._sizes import Sizes, all_in, children_of
from kvlockstep._steps import Depends, Extract, Filter, Finalize, Quantize, Update
from kvlockstep._trace import AnyStep

# What may be in an array whose numbers a trace does not spell out.
_ANY = 1 << 31


@dataclass(frozen=True)
class Zone:
    """`holds(step, cache, sizes)` tells whether a step would enter the zone, in these releases."""

    operations: tuple[type, ...]
    holds: Callable[[Any, Any, Sizes], bool]
    reason: str
    releases: tuple[str, ...] = ()


def _is_outside(index: int, sizes: Sizes) -> bool:
    return not -sizes["batch"] <= index < sizes["batch"]


def _rows_of(step: Filter | Extract) -> Iterator[int]:
    """Yield the rows that a step names."""
    if step.given is not None:
        yield from _integers_in(step.given)
    elif isinstance(step, Extract):
        yield int(step.index)
    else:
        yield from numbers_in(step.indices)


def _is_slice(step: Filter) -> bool:
    return isinstance(step.given, Slice) or (step.given is None and step.as_slice)


def _integers_in(given: Given | None) -> Iterator[int]:
    if isinstance(given, tuple):
        for one in given:
            yield from _integers_in(one)
    elif isinstance(given, Literals):
        yield from map(int, given.values)
    elif isinstance(given, AnyRecipe):
        yield _ANY
    elif isinstance(given, int):
        yield given


def _is_zero(number: object) -> bool:
    return isinstance(number, int) and number == 0


def _is_empty_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) and not value


def _is_on_cuda() -> bool:
    return mx.default_device().type == mx.gpu and mx.cuda.is_available()


def _holds_nothing(cache: Any) -> bool:
    buffers = (getattr(cache, name, None) for name in ("keys", "values"))
    return any(isinstance(buffer, mx.array) and not buffer.size for buffer in buffers)


def _brings_nothing(step: Update) -> bool:
    recipes = (step.keys, step.values)
    return any(recipe is not None and 0 in recipe.shape for recipe in recipes)


def _before(release: str) -> tuple[str, ...]:
    return kvreference.PINNED[: kvreference.PINNED.index(release)]


_NOTHING_ON_CUDA = (
    "on CUDA mx.quantize divides by the elements of an array that has none and kills the process "
    "(SIGFPE)"
)
_ONE_BIT_ON_CUDA = "on CUDA mx.quantize with bits=1 leaves its results as memory was: garbage"

ZONES = (
    Zone(
        (Quantize,),
        lambda step, *_: step.group_size == 0,
        "mx.quantize divides by a group size of 0 and kills the process (SIGFPE)",
    ),
    Zone(
        (Update,),
        lambda _, cache, __: _is_zero(getattr(cache, "group_size", None)),
        "mx.quantize divides by a group size of 0 and kills the process (SIGFPE)",
    ),
    Zone(
        (Quantize,),
        lambda _, cache, __: _holds_nothing(cache) and _is_on_cuda(),
        _NOTHING_ON_CUDA,
    ),
    Zone(
        (Update,),
        lambda step, cache, _: (
            hasattr(cache, "group_size") and _brings_nothing(step) and _is_on_cuda()
        ),
        _NOTHING_ON_CUDA,
    ),
    Zone((Quantize,), lambda step, *_: step.bits == 1 and _is_on_cuda(), _ONE_BIT_ON_CUDA),
    Zone(
        (Update,),
        lambda _, cache, __: getattr(cache, "bits", None) == 1 and _is_on_cuda(),
        _ONE_BIT_ON_CUDA,
    ),
    Zone(
        (Depends,),
        lambda _, cache, __: _is_empty_list(getattr(cache, "keys", None)),
        "mx.depends of no arrays kills the process (SIGSEGV)",
    ),
    Zone(
        (Filter,),
        lambda step, _, sizes: (
            not _is_slice(step) and any(_is_outside(one, sizes) for one in _rows_of(step))
        ),
        "filter with an index out of range reads past the buffer: garbage, or SIGSEGV",
    ),
    Zone(
        (Filter,),
        lambda step, *_: _is_slice(step) and step.rows.step == 0,
        "MLX divides by a slice's step of 0 and kills the process (SIGFPE)",
    ),
    Zone(
        (Extract,),
        lambda step, cache, sizes: (
            _has(cache, "BatchKVCache") and any(_is_outside(i, sizes) for i in _rows_of(step))
        ),
        "BatchKVCache.extract with an index out of range reads past left_padding: garbage, "
        "or SIGSEGV",
        releases=_before("0.32.0"),
    ),
    Zone(
        (Extract,),
        lambda step, cache, sizes: (
            _has(cache, "BatchRotatingKVCache")
            and any(_is_outside(i, sizes) for i in _rows_of(step))
        ),
        "BatchRotatingKVCache.extract with an index out of range reads past offset: garbage, or "
        "SIGSEGV",
        releases=_before("0.31.2"),
    ),
    Zone(
        (Finalize, Update),
        lambda _, cache, __: _rolls_by_floats(cache),
        "the offset or the lengths of a BatchRotatingKVCache are floating, after trim(1.5) or an "
        "empty list, and a roll by them fails when MLX evaluates it, whenever that may be",
    ),
)

_ZONES_OF = {
    operation: tuple(zone for zone in ZONES if operation in zone.operations)
    for operation in {operation for zone in ZONES for operation in zone.operations}
}


def _has(cache: Any, name: str) -> bool:
    return any(type(one).__name__ == name for one in all_in([cache]))


def _rolls_by_floats(cache: Any) -> bool:
    lengths = getattr(cache, "_lengths", None)
    if lengths is None:
        return any(map(_rolls_by_floats, children_of(cache)))
    return any(
        isinstance(counts, mx.array) and mx.issubdtype(counts.dtype, mx.floating)
        for counts in (cache.offset, lengths)
    )


def zone_of(
    step: AnyStep, cache: Any, sizes: Sizes, releases: Collection[str | None]
) -> Zone | None:
    """Return the undefined zone that `step`, its sizes all numbers, would enter, or None.

    `releases` are those that the two sides follow; None, one that is not known, may be any.
    """
    for zone in _ZONES_OF.get(type(step), ()):
        if not zone.holds(step, cache, sizes):
            continue
        if not zone.releases or any(r is None or r in zone.releases for r in releases):
            return zone
    return None
