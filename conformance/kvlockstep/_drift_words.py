"""A difference between two targets in plain words, and when two differences say the same."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any

import mlx.core as mx

from kvlockstep._contract import DERIVED
from kvlockstep._divergence import Divergence, Run
from kvlockstep._explain import first_difference, tell_kind
from kvlockstep._labels import Labels
from kvlockstep._snapshots import Raised, Sequenced, Snapshot

# How a field of another cache than the step's own is named, see the engine.
_OWNERS = {
    "child: ": "a child's ",
    "list: ": "its list's ",
    "peer: ": "the peer's ",
    "other cache: ": "another cache's ",
}
_LIST = "CacheList"
_OUTCOMES = ("raises ", "returns, ", "message")
# A state that is taken and given back: one thing to a porter, by whichever method.
_ROUND_TRIPS = ("reload", "transfer")
# What differs between the texts of one error: quoted names, arrays, numbers, counts of values.
_VOLATILE = (
    (re.compile(r"array\(.*\)", re.DOTALL), "array"),
    (re.compile(r"'[^']*'"), "'...'"),
    (re.compile(r"-?\d+(?:\.\d+)?(?:,\s*-?\d+(?:\.\d+)?)*"), "#"),
    (re.compile(r"(?:too many|not enough) values to unpack.*"), "values to unpack"),
)
_FEW = 8
_LONG = 4
_LONGEST = 160


def key_of(divergence: Divergence, flipped: bool = False) -> Hashable:
    """Return what is the same for differences that say the same.

    Errors go by their kind and text without its numbers, whichever operation met them; what is
    derived, and what another cache shows, by its field and kind; what is stored by its operation
    too. What a child of a list shows is told with the child's own class: of the list, once.
    `flipped`: the first target is the actual side.
    """
    signature = divergence.signature
    cache = cache_of(divergence)
    sides = divergence.expected, divergence.actual
    if flipped:
        sides = sides[::-1]
    owner, name = _split(signature.field)
    bare = name.partition("[")[0].removeprefix("held ")
    operation = signature.operation
    if operation in _ROUND_TRIPS:
        operation = "round trip"
    if owner == "child: ":
        return cache, owner, "derived" if bare in DERIVED else operation
    if signature.field.startswith(_OUTCOMES) or any(isinstance(one, Raised) for one in sides):
        return cache, "outcome", *map(_outcome_of, sides)
    if bare in DERIVED:
        return cache, bare, cache == _LIST or _aspect(*sides)
    if owner == "other cache: " or name.startswith("held "):
        return cache, owner, name.partition("[")[0], _aspect(*sides)
    if operation in ("round trip", "set_state"):
        return cache, operation, owner, bare
    return cache, operation, owner, bare, _aspect(*sides)


def cache_of(divergence: Divergence) -> str:
    """Return the class that a divergence is told of: the list's, where its list shows it."""
    signature = divergence.signature
    return _LIST if signature.field.startswith("list: ") else signature.cache


def is_refused(divergence: Divergence) -> bool:
    """Tell whether both sides raise, in their own way."""
    return isinstance(divergence.expected, Raised) and isinstance(divergence.actual, Raised)


def _outcome_of(value: Any) -> Hashable:
    if not isinstance(value, Raised):
        return "no error"
    text = value.message
    for pattern, instead in _VOLATILE:
        text = pattern.sub(instead, text)
    return value.kind, text


def _aspect(one: Any, other: Any) -> Hashable:
    """Return in what two values differ, as far as it tells one cause from another."""
    if isinstance(one, Snapshot) and isinstance(other, Snapshot):
        if one.dtype != other.dtype:
            return "dtype"
        if len(one.shape) != len(other.shape):
            return "rank"
        return "content" if one.shape == other.shape else "shape"
    kinds = _kind_of(one), _kind_of(other)
    return kinds if kinds[0] != kinds[1] else "items"


def _kind_of(value: Any) -> Hashable:
    if isinstance(value, Sequenced):
        return value.kind.__name__
    return "array" if isinstance(value, Snapshot) else type(value).__name__


def say(divergence: Divergence, run: Run) -> tuple[str, str]:
    """Return in one sentence each what the expected and the actual side did."""
    labels = Labels(run.log)
    expected, actual = divergence.expected, divergence.actual
    name = divergence.where
    if divergence.signature.field == "half changed":
        before, after = tell(expected, labels), tell(actual, labels)
        return (
            f"raises, and leaves {_name(name)} changed, from {before} to {after}",
            f"raises, and leaves {_name(name)} as it was",
        )
    told = _say(name, expected, labels), _say(name, actual, labels)
    if told[0] == told[1] and isinstance(expected, Snapshot) and isinstance(actual, Snapshot):
        index, left, right = first_difference(expected, actual)
        place = f"with element {index} of bits"
        return f"{told[0]}, {place} {left}", f"{told[1]}, {place} {right}"
    return told


def _say(name: str, value: Any, labels: Labels) -> str:
    if name.startswith(_OUTCOMES):
        if isinstance(value, Raised):
            return tell(value, labels)
        return "goes through" if value is None else f"returns {tell(value, labels)}"
    if isinstance(value, Raised):
        return f"reading {_name(name)} {tell(value, labels)}"
    if name.startswith("result"):
        item = name.removeprefix("result")
        return f"returns{f' as item {item[1:-1]}' if item else ''} {tell(value, labels)}"
    if name == "class":
        return f"the cache is a {value}"
    return f"{_name(name)} is {tell(value, labels)}"


def tell(value: Any, labels: Labels) -> str:
    """Return a frozen value in plain words: row ids for buffers, numbers for counts."""
    match value:
        case Raised():
            return f"raises {value.kind}: {_shorten(value.message)}".rstrip(": ")
        case Snapshot():
            return _tell_array(value, labels)
        case mx.array():
            return tell_kind(value)
        case Sequenced(kind, items):
            return _tell_items(kind, items, labels)
        case tuple() | list():
            return _tell_items(type(value), value, labels)
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case _:
            return f"a {type(value).__name__}"


def _tell_items(kind: type, items: Sequence[Any], labels: Labels) -> str:
    inside = ", ".join(tell(item, labels) for item in items)
    return f"({inside})" if kind is tuple else f"[{inside}]"


def _shorten(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _tell_array(array: Snapshot, labels: Labels) -> str:
    told = tell_kind(array)
    if array.failed:
        return f"{told} that cannot be evaluated: {array.failed}"
    rows = labels.of(array)
    if rows is not None:
        return f"{told} with rows {' '.join(_runs(rows.split(' ')))}"
    if 0 < len(array.data) <= _FEW * array.dtype.size:
        return f"{told} of {array.array().tolist()}"
    return told


def _runs(rows: list[str]) -> Iterator[str]:
    """Yield the rows, with runs of zeros, of unknown ones and of successive tokens shortened."""
    number = 0

    def kind(row: str) -> Hashable:
        nonlocal number
        number += 1
        return int(row) - number if row.isdigit() else row

    for _, group in groupby(rows, kind):
        run = list(group)
        if len(run) < _LONG:
            yield from run
        elif run[0].isdigit():
            yield f"{run[0]} to {run[-1]}"
        else:
            yield f"{run[0]}x{len(run)}"


def _split(field: str) -> tuple[str, str]:
    for owner in _OWNERS:
        if field.startswith(owner):
            return owner, field.removeprefix(owner)
    return "", field


def _name(where: str) -> str:
    owner, name = _split(where)
    held = name.startswith("held ")
    name = name.removeprefix("held ")
    return f"{_OWNERS.get(owner, '')}{'the kept ' if held else ''}`{name}`"
