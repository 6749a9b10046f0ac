"""Differences on their way to divergences: collected, settled, and each told once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress
from operator import ne
from typing import Any, Literal, NamedTuple, get_args

import mlx.core as mx
from msgspec import Struct

from kvlockstep._compare import Errors, is_own, same_error, same_scalar
from kvlockstep._divergence import Divergence, Signature
from kvlockstep._facts import Context, facts_of
from kvlockstep._operations import destination, operands
from kvlockstep._sizes import Sizes
from kvlockstep._snapshots import (
    Raised,
    Sequenced,
    Snapshot,
    bytes_of_all,
    evaluate,
    freeze,
    settle,
    settled,
    snapshots_in,
)
from kvlockstep._trace import AnyStep, Mode

# What a finding means. `stored`: a field of the cache itself differs, the two sides have parted,
# and what follows would only repeat it. `aftermath`: parted too, by an outcome that was found
# before. After any other the trace goes on: an `outcome`, a `result`, what is `seen` of a cache
# through its methods, a reference left `half changed` by an error.
Meaning = Literal["outcome", "half changed", "stored", "aftermath", "seen", "result"]
_RANKS = {meaning: rank for rank, meaning in enumerate(get_args(Meaning))}
_ENDING = ("stored", "aftermath")

# A field's name, and the indices into the containers that it holds.
Path = tuple[Any, ...]
_CONTAINERS = (tuple, list, dict, Sequenced)
_NO_SCALARS = (mx.array, Raised, Snapshot, *_CONTAINERS)


class Place(Struct, frozen=True, gc=False):
    """Where something was compared: in which step, with what meaning.

    `address` is that of the live cache whose field it was; empty for anything else.
    """

    at: int
    meaning: Meaning
    address: str = ""


# Two arrays whose bytes are yet to be compared.
Awaited = tuple[Place, Path, mx.array, mx.array]


class Finding(NamedTuple):
    """A difference and its place."""

    place: Place
    field: str
    expected: Any
    actual: Any


class Logged(Struct, frozen=True, gc=False):
    """What a step acted on, for the signature and the facts of a divergence."""

    step: AnyStep
    cache: str
    operation: str
    sizes: Sizes
    context: Context


class Findings:
    """The differences of one trace."""

    def __init__(self, errors: Errors, mode: Mode = "value", own: str | None = None) -> None:
        self._errors = errors
        # The class of the target's own errors.
        self._own = own
        self._mode = mode
        self._found: list[Finding] = []
        # How many of them have let go of live arrays.
        self._settled = 0
        # Arrays of the same shape and dtype, whose bytes are yet to be compared.
        self._pairs: list[Awaited] = []
        # Those met in this step: one may be seen in several fields, `keys`, `state`, the result.
        self._met: dict[mx.array, mx.array] = {}
        # What the reference's arrays held when they were last seen, by their ids.
        self.contents: dict[int, Snapshot] = {}
        self.ended = False

    def add(self, place: Place, path: Path, expected: Any, actual: Any) -> None:
        """Take note of a difference; of a result it is told in which item, not where in that."""
        indices = path[1:2] if path[0] == "result" else path[1:]
        field = path[0] + "".join(f"[{index}]" for index in indices)
        self._found.append(Finding(place, field, expected, actual))
        self.ended = self.ended or place.meaning in _ENDING

    def compare(self, place: Place, path: Path, expected: Any, actual: Any) -> None:
        """Compare two values, live or frozen; the bytes of arrays are compared when settled."""
        kind = type(expected)
        if kind is not type(actual):
            same = not isinstance(expected, _NO_SCALARS) and same_scalar(expected, actual)
        elif kind is mx.array:
            same = self._compare_arrays(place, path, expected, actual)
        elif kind is tuple or kind is list:
            same = self._compare_items(place, path, expected, actual)
        elif kind is int or kind is str:
            same = expected == actual
        elif kind is Sequenced:
            same = expected.kind is actual.kind
            same = same and self._compare_items(place, path, expected.items, actual.items)
        elif isinstance(expected, dict):
            same = self._compare_items(place, path, [*expected.items()], [*actual.items()])
        elif isinstance(expected, _CONTAINERS):
            same = self._compare_items(place, path, expected, actual)
        elif kind is Raised:
            # What the reference was before and after its error is not the target's.
            own = None if place.meaning == "half changed" else self._own
            same = same_error(expected, actual, self._errors) and is_own(actual, own)
        elif kind is Snapshot:
            same = self._compare_snapshots(place, path, expected, actual)
        else:
            same = same_scalar(expected, actual)
        if not same:
            self.add(place, path, freeze(expected, self._mode), freeze(actual, self._mode))

    def _compare_arrays(
        self, place: Place, path: Path, expected: mx.array, actual: mx.array
    ) -> bool:
        """Tell whether shape and dtype are the same; the bytes are yet to be compared."""
        if self._met.get(expected) is actual:
            return True
        shape, dtype = expected.shape, expected.dtype
        if not (shape == actual.shape and dtype == actual.dtype):
            return False
        self._met[expected] = actual
        seen = id(expected)
        if self._mode == "value":
            expected, actual = expected[...], actual[...]
        self.contents[seen] = Snapshot(expected, dtype, shape)
        self._pairs.append((place, path, expected, actual))
        return True

    def _compare_snapshots(
        self, place: Place, path: Path, expected: Snapshot, actual: Snapshot
    ) -> bool:
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            return False
        if expected.failed or actual.failed:
            return expected.failed == actual.failed
        self._pairs.append((place, path, expected.array(), actual.array()))
        return True

    def _compare_items(self, place: Place, path: Path, expected: Any, actual: Any) -> bool:
        """Tell whether two sequences are as long; what is in them is compared."""
        if len(expected) != len(actual):
            return False
        met = self._met
        for index, one in enumerate(expected):
            other = actual[index]
            if one is other or (type(one) is mx.array and met.get(one, one) is other):
                continue
            self.compare(place, (*path, index), one, other)
        return True

    def end_step(self) -> None:
        """Let go of the live arrays; in in-place mode take and compare their bytes first."""
        self._met.clear()
        if self._mode == "in-place":
            self.settle()
            new = self._found[self._settled :]
            expected = snapshots_in(*(finding.expected for finding in new))
            ours = settle([*self.contents.values(), *expected])
            theirs = settle(snapshots_in(*(finding.actual for finding in new)))
            self.ended |= bool(ours or theirs)
            self._settled = len(self._found)

    def settle(self) -> None:
        """Evaluate the arrays that wait for it, each side by itself, and compare their bytes."""
        pairs, self._pairs = self._pairs, []
        mine, others = [one for _, _, one, _ in pairs], [other for _, _, _, other in pairs]
        ours, theirs = evaluate(mine), evaluate(others)
        self.ended |= bool(ours or theirs)
        unlike: Iterable[Awaited] = pairs if ours != theirs else ()
        if ours or theirs:
            for seen in self.contents.values():
                seen.settle(ours)
        else:
            # One by one, for the bytes of all steps together would not fit a processor's cache.
            unlike = compress(pairs, map(ne, bytes_of_all(mine), bytes_of_all(others)))
        for place, path, one, other in unlike:
            self.add(place, path, settled(one, ours), settled(other, theirs))

    def are_outcomes(self) -> bool:
        """Whether nothing was found but how steps ended, which is told by the step itself."""
        return all(f.place.meaning in ("outcome", "half changed") for f in self._found)

    def divergences(self, contract: str, log: dict[int, Logged]) -> Iterator[Divergence]:
        """Yield the divergences in order.

        Of a step: its outcome, whether it left the reference half changed, and the first field
        that differs. What is seen to go on differing in the same way is told once.
        """
        end = min((f.place.at for f in self._found if f.place.meaning in _ENDING), default=None)
        told: set[tuple[int, str]] = set()
        known: set[tuple[str, object, object]] = set()
        for place, field, expected, actual in sorted(self._found, key=_order):
            if end is not None and place.at > end:
                break
            group = place.meaning if place.meaning in ("outcome", "half changed") else "field"
            if place.meaning == "seen":
                lasting = field.rpartition(": ")[2], _kind_of(expected), _kind_of(actual)
                if lasting in known:
                    continue
                known.add(lasting)
            if place.meaning == "aftermath" or (place.at, group) in told:
                continue
            told.add((place.at, group))
            settle(snapshots_in(expected, actual))
            logged = log[place.at]
            where = _relation(place.address, logged.step) + field
            name = place.meaning if place.meaning == "half changed" else where
            signature = Signature(contract, logged.cache, logged.operation, name)
            facts = facts_of(logged.step, logged.sizes, logged.context)
            yield Divergence(signature, place.at, where, expected, actual, facts)


def _relation(address: str, step: AnyStep) -> str:
    """Say what the cache at an address is to the one that the step was on."""
    peers = operands(step)
    own = [slot for slot in (getattr(step, "slot", ""), destination(step)) if slot]
    if not address or address in own:
        return ""
    if any(address.startswith(f"{slot}.") for slot in own):
        return "child: "
    if any(slot.startswith(f"{address}.") for slot in own):
        return "list: "
    near = any(address == peer or address.startswith(f"{peer}.") for peer in peers)
    return "peer: " if near else "other cache: "


def _order(finding: Finding) -> tuple[int, int]:
    return finding.place.at, _RANKS[finding.place.meaning]


def _kind_of(value: Any) -> object:
    """Return what makes a lasting difference the same one: its kind, not its content."""
    if isinstance(value, Snapshot):
        return "array", value.dtype
    if isinstance(value, Sequenced):
        return value.kind, len(value.items)
    if isinstance(value, Raised):
        return "raised", value.kind
    return type(value)
