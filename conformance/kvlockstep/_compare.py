"""Comparing what the two sides showed. Array bytes are compared later, when they are settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from kvlockstep._snapshots import Raised, Sequenced, Snapshot

Errors = Literal["type+message", "type", "raises"]


class Difference(NamedTuple):
    """The reference showed `expected` in `field`, the target `actual`."""

    field: str
    expected: Any
    actual: Any


class Pair(NamedTuple):
    """Two snapshots of the same shape and dtype, whose bytes are yet to be compared."""

    field: str
    expected: Snapshot
    actual: Snapshot


def compare(field: str, expected: Any, actual: Any, errors: Errors) -> Iterator[Difference | Pair]:
    """Yield the differences that show at once, and the pairs whose bytes must be compared."""
    kind, other = type(expected), type(actual)
    if kind is int and kind is other:
        if expected != actual:
            yield Difference(field, expected, actual)
        return
    if kind is not other and kind.__qualname__ != other.__qualname__:
        yield Difference(field, expected, actual)
    elif kind is Snapshot:
        if expected.dtype != actual.dtype or expected.shape != actual.shape:
            yield Difference(field, expected, actual)
        else:
            yield Pair(field, expected, actual)
    elif kind is Sequenced:
        if expected.kind is not actual.kind or len(expected.items) != len(actual.items):
            yield Difference(field, expected, actual)
        else:
            pairs = zip(expected.items, actual.items, strict=True)
            for index, (left, right) in enumerate(pairs):
                yield from compare(f"{field}[{index}]", left, right, errors)
    elif kind is Raised:
        if not same_error(expected, actual, errors):
            yield Difference(field, expected, actual)
    elif expected is not actual and not _same_scalar(expected, actual):
        yield Difference(field, expected, actual)


def same_error(expected: Raised, actual: Raised, errors: Errors) -> bool:
    """Tell whether the target's error is the reference's, as far as the target promises.

    `type`: a handler written for the reference's error catches the target's too.
    """
    match errors:
        case "raises":
            return True
        case "type":
            return isinstance(actual.error, type(expected.error))
        case "type+message":
            same_type = type(actual.error).__qualname__ == type(expected.error).__qualname__
            return same_type and actual.message == expected.message


def _same_scalar(expected: object, actual: object) -> bool:
    if isinstance(expected, (bool, int, float, str, bytes, type(None))):
        return repr(expected) == repr(actual)
    # Any other object is compared by the name of its class: it has no bytes to look at.
    return type(expected).__qualname__ == type(actual).__qualname__
